"""What benches measure: the step as configured, and two steps in turns."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from commands.benchmarks.official import import_official, time_in_turns
from commands.benchmarks.rollout import SETTINGS, compare_rollouts
from commands.cli.main import main
from commands.config.compose import load_config
from commands.shared.errors import UsageError
from commands.training.pretraining import make_random_stage1


@pytest.mark.parametrize("objective", ["vjepa2", "lewm"])
def test_the_step_of_stage_1_is_built_as_configured_with_actions_where_it_reads_them(objective):
    words = [f"objective={objective}", "encoder=tiny", "pretrain.batch_size=3"]
    config, cpu = load_config("bench", words), torch.device("cpu")
    model, batch = make_random_stage1(config.encoder, config.objective, config.pretrain, config.env.name, 0, cpu)
    assert batch["pixels"].shape[:2] == (3, model.config.frames)
    assert ("action" in batch) == (objective == "lewm")
    loss, _ = model.loss(batch, 0)
    assert torch.isfinite(loss)


class Slow:
    """A step that takes its time, and trains as many tokens as it says."""

    name = "official"

    def __init__(self, seconds: float, tokens: int) -> None:
        self.seconds, self.tokens = seconds, tokens

    def sample_masks(self) -> None:
        return None

    def __call__(self, _: object) -> int:
        time.sleep(self.seconds)
        return self.tokens


def test_two_steps_are_timed_in_turns_by_the_tokens_they_train():
    found = time_in_turns(Slow(0.01, 150), [Slow(0.02, 100)], clips=4, budget_s=0.0)  # type: ignore[list-item]
    assert 20 < found["official"]["clips_s"] <= 200  # 4 clips in 20 ms, or in longer on a busy machine
    assert found["official"]["tokens_s"] == pytest.approx(25 * found["official"]["clips_s"])
    assert found["ours"]["tokens_s"] > 1.5 * found["official"]["tokens_s"]


def test_another_folder_is_no_clone_of_the_official_code(tmp_path, capsys, monkeypatch):
    with pytest.raises(UsageError, match="no clone of github.com/facebookresearch/vjepa2"):
        import_official(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["bench", "pretrain", "encoder=tiny", "pretrain.batch_size=2", "seconds=0.01"]
    assert main([*words, "objective=future", f"official={tmp_path}"]) == 2
    assert "give objective=vjepa2" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_cached_plan_is_the_recomputed_one_with_fewer_operations(setting, monkeypatch):
    # Compiling takes minutes; that it changes nothing is asked in tests/world_model/test_predictor.py.
    monkeypatch.setattr("commands.benchmarks.rollout.compile_blocks", lambda model: None)
    shape = replace(setting.dynamics.predictor, width=32, depth=2, heads=2)
    small = replace(setting, dynamics=replace(setting.dynamics, predictor=shape), samples=20, iterations=2)
    found = compare_rollouts(replace(small, encoder=replace(small.encoder, width=32, heads=2)), torch.device("cpu"), 1)
    assert found.difference < 1e-5 and found.same_elites == 1.0
    assert found.loop_flops > 4 * found.flops > 0
    assert found.bf16_elites >= 0.5
