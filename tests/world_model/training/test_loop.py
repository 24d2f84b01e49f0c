"""The loop: resume bit for bit, even after SIGKILL; schedules; what it does with a loss that is not finite."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.world_model.small import VJEPA2, encoder, frames
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.checkpoint import CheckpointError
from world_model.training.loop import (
    BF16_PARAMETERS,
    Checkpoints,
    Hooks,
    TrainerConfig,
    learning_rate,
    make_optimizer,
    resolve_precision,
    train,
)
from world_model.training.loss_watch import LossWatch, TrainingError

CONFIG = TrainerConfig(steps=10, batch_size=2, warmup=3, checkpoint_every=5, evaluate_every=4, log_every=1)
CPU = torch.device("cpu")


def batch_at(step: int) -> dict[str, torch.Tensor]:
    return {"pixels": frames(2, 8, seed=step)}


def run(folder: Path, config: TrainerConfig = CONFIG, batches=batch_at) -> tuple[PretrainModel, list[dict]]:
    """Train (or go on training) a masked model with an EMA teacher in `folder`."""
    model = PretrainModel(encoder(seed=3), VJEPA2, steps=10)
    lines: list[dict] = []
    train(
        model,
        batches,
        make_optimizer(model, config),
        config,
        Checkpoints(folder),
        Hooks(log=lines.append),
        CPU,
    )
    return model, lines


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


@pytest.mark.slow
def test_ten_steps_equal_five_killed_and_resumed_five_bit_for_bit(tmp_path):
    whole, _ = run(tmp_path / "whole")
    script = f"""
import os, signal, pathlib
from tests.world_model.training.test_loop import run, batch_at
def batches(step):
    if step == 7:  # two steps after the checkpoint of step 5
        os.kill(os.getpid(), signal.SIGKILL)
    return batch_at(step)
run(pathlib.Path({str(tmp_path / "killed")!r}), batches=batches)
"""
    root = Path(__file__).parents[3]
    died = subprocess.run([sys.executable, "-c", script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    assert died.returncode == -signal.SIGKILL
    assert Checkpoints(tmp_path / "killed").find_newest_step() == 5
    resumed, lines = run(tmp_path / "killed")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [6, 7, 8, 9, 10]
    assert_equal(weights_of(whole), weights_of(resumed))


@pytest.mark.slow
def test_more_steps_go_on_from_the_last(tmp_path):
    constant = replace(CONFIG, schedule="constant")
    whole, _ = run(tmp_path / "a", constant)
    run(tmp_path / "b", replace(constant, steps=5))
    longer, lines = run(tmp_path / "b", constant)
    assert lines[0]["step"] == 6
    assert_equal(weights_of(whole), weights_of(longer))


class Many(nn.Module):
    """A loss of twelve parameters, whose numbers sort otherwise as texts."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.full((2, 2), float(index)) for index in range(12))

    def loss(self, batch, step):
        value = sum((part * batch["x"]).square().mean() for part in self.parts)
        return value, {"term": value}

    def after_step(self, step):
        pass


def test_a_resumed_run_logs_the_lines_and_saves_the_files_of_an_undisturbed_one(tmp_path):
    config = replace(CONFIG, steps=9, checkpoint_every=3, log_every=2, clip_norm=0.0)

    def train_many(folder: Path, last: int) -> list[dict]:
        def batches(step):
            if step == last:
                raise KeyboardInterrupt
            return {"x": torch.tensor([1.0 + step])}

        model, lines = Many(), []
        with contextlib.suppress(KeyboardInterrupt):
            train(model, batches, make_optimizer(model, config), config, Checkpoints(folder), Hooks(lines.append), CPU)
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    whole = train_many(tmp_path / "whole", 9)
    begun = [line for line in train_many(tmp_path / "killed", 5) if line["step"] <= 3]
    assert begun + train_many(tmp_path / "killed", 9) == whole
    assert [line["step"] for line in whole] == [1, 2, 4, 6, 8]
    for path in Checkpoints(tmp_path / "whole").list_paths():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


def test_a_run_begins_with_weights_teacher_and_optimiser_of_another_and_counts_from_zero(tmp_path):
    five = replace(CONFIG, steps=5)
    before, _ = run(tmp_path / "a", five)
    model = PretrainModel(encoder(seed=4), VJEPA2, steps=10)
    optimizer = make_optimizer(model, CONFIG)
    checkpoints = Checkpoints(tmp_path / "b", begin=tmp_path / "a")
    assert checkpoints.restore(model, optimizer) == 0 and checkpoints.find_newest_step() == 0
    assert_equal(weights_of(before), weights_of(model))
    state = optimizer.state_dict()["state"]
    assert len(state) and all(one["step"] == 5 and one["exp_avg_sq"].any() for one in state.values())
    lines: list[dict] = []
    train(model, batch_at, optimizer, five, checkpoints, Hooks(log=lines.append), CPU)
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    after = weights_of(model)
    assert checkpoints.restore(model, optimizer) == 5, "its own checkpoint comes before that of the other run"
    assert_equal(after, weights_of(model))


class Scaled(nn.Module):
    """Its loss is a function of the sum of its weights times the batch."""

    def __init__(self, apply=lambda value: value) -> None:
        super().__init__()
        self.weight, self.apply_to_value = nn.Parameter(torch.ones(2, 2)), apply

    def loss(self, batch, step):
        value = self.apply_to_value(self.weight.sum() * batch["x"].mean())
        return value, {"term": value.detach()}

    def after_step(self, step):
        pass


def test_a_loss_that_is_not_finite_stops_with_step_source_and_checkpoint(tmp_path):
    def batches(step):
        bad = float("nan") if step == 6 else 1.0
        return {"x": torch.tensor([bad]), "episode": torch.tensor([42]), "start": torch.tensor([7])}

    model = Scaled()
    with pytest.raises(
        TrainingError, match=r"step 6: term is not .*term nan.*episode \[42\], start \[7\].*step-00000005"
    ):
        train(model, batches, make_optimizer(model, CONFIG), CONFIG, Checkpoints(tmp_path), Hooks(), CPU)
    assert model.weight.isfinite().all()
    assert Checkpoints(tmp_path).find_newest_step() == 5


def test_a_gradient_that_is_not_finite_stops_before_weights_change_and_is_not_saved(tmp_path):
    def batches(step):
        return {"x": torch.tensor([0.0 if step == 6 else 1.0])}

    model = Scaled(lambda value: value.square().sqrt())  # at 0 it is finite, and its gradient is not
    with pytest.raises(TrainingError, match=r"the gradient is not finite at step 6 \(term 0\);.*step-00000005"):
        train(model, batches, make_optimizer(model, CONFIG), CONFIG, Checkpoints(tmp_path), Hooks(), CPU)
    assert model.weight.isfinite().all() and Checkpoints(tmp_path).find_newest_step() == 5


def test_a_watch_that_is_asked_later_names_the_first_step_whose_loss_was_not_finite():
    watch = LossWatch(at_once=False)
    for step, loss in enumerate([1.0, float("inf"), float("nan")]):
        watch.add(
            step,
            torch.tensor(loss),
            torch.tensor(1.0),
            {"term": torch.tensor(loss)},
            {"episode": torch.tensor([40 + step])},
        )
    with pytest.raises(
        TrainingError, match=r"step 1: term is not \(term inf\); batch from episode \[41\]; there is no checkpoint yet"
    ):
        watch.check()
    watch = LossWatch(at_once=False)
    watch.add(0, torch.tensor(1.0), torch.tensor(1.0), {}, {})
    watch.check()
    watch.check()


def test_a_checkpoint_cut_short_is_named_and_not_used(tmp_path):
    run(tmp_path, replace(CONFIG, steps=5))
    path = Checkpoints(tmp_path).list_paths()[-1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="step-00000005.*not a complete checkpoint"):
        run(tmp_path)


def test_schedules_are_pure_functions_of_the_step():
    config = TrainerConfig(steps=100, warmup=10, lr=1.0, lr_end=0.1, schedule="wsd", decay_share=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[79] == 1.0
    assert (
        rates[80] == 1.0 and 0.1 < rates[99] < 0.2 and all(a >= b for a, b in zip(rates[80:], rates[81:], strict=False))
    )
    cosine = replace(config, schedule="cosine")
    assert learning_rate(cosine, 55) == pytest.approx(0.55) and learning_rate(cosine, 100) == pytest.approx(0.1)
    assert learning_rate(replace(config, schedule="constant"), 99) == 1.0


def test_biases_and_norms_are_not_decayed():
    model = encoder()
    decayed, free = make_optimizer(model, CONFIG).param_groups
    assert decayed["weight_decay"] == 0.04 and free["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in free["params"])


def test_auto_precision_is_bf16_on_a_cpu_for_models_that_gain_by_it_alone(monkeypatch):
    cpu, small, large = CPU, [torch.zeros(10)], [torch.zeros(BF16_PARAMETERS)]
    for can in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda can=can: can)
        assert resolve_precision(cpu, "auto", small) == "fp32"
        assert resolve_precision(cpu, "auto", large) == ("bf16" if can else "fp32")
        assert resolve_precision(cpu, "bf16", small) == "bf16" and resolve_precision(cpu, "fp32", large) == "fp32"
