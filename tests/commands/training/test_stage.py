"""The training of both stages as their commands run it."""

from __future__ import annotations

import io
import platform

import pytest
import torch

from commands.shared.console import METRICS, Console, read_evaluations
from commands.training.stage import CHECKPOINTS, StageOutput, train_stage
from commands.training.trackers import NoTracker
from tests.world_model.small import FUTURE, encoder, frames
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import TrainerConfig


class Batches:
    """The same clips, step after step."""

    def iterate(self, start, stop):
        for _ in range(start, stop):
            yield {"pixels": frames(4, 5)}


class Alarmed:
    """A monitor that warns at every evaluation, first of one thing, then of another."""

    def __init__(self):
        self.seen = 0

    def __call__(self, step):
        self.seen += 1
        return {"feature_std": 1.0}

    def find_warning(self, evaluations):
        return f"{'this' if self.seen < 3 else 'that'} is odd: {self.seen}"


class Counting:
    """A monitor that measures the step, and keeps which steps it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, step):
        return {"measured": float(step)}

    def find_warning(self, evaluations):
        self.shown.append([row["measured"] for row in evaluations])


def run(folder, monitor, **keys):
    trainer = TrainerConfig(batch_size=4, warmup=1, **{"precision": "fp32", **keys})
    model = PretrainModel(encoder(), FUTURE, trainer.steps)
    output = StageOutput("pretrain", folder, Console(io.StringIO()))
    train_stage(model, Batches(), trainer, output, NoTracker(), monitor)


def test_a_warning_is_told_once_a_kind(tmp_path, capsys):
    monitor = Alarmed()
    run(tmp_path, monitor, steps=5, evaluate_every=1, checkpoint_every=5)
    told = [line for line in capsys.readouterr().err.splitlines() if "is odd" in line]
    assert monitor.seen == 6
    assert [line.partition("step ")[2] for line in told] == ["0: this is odd: 1", "2: that is odd: 3"]


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_processor_that_emulates_it_is_warned_of(capability, warned, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    run(tmp_path, Counting(), steps=1, precision="bf16")
    assert ("precision=bf16 takes about ten times as long" in capsys.readouterr().err) == warned


def test_warnings_of_a_resumed_run_compare_with_its_first_evaluation(tmp_path):
    run(tmp_path, Counting(), steps=4, evaluate_every=2, checkpoint_every=2)
    (newest := max((tmp_path / CHECKPOINTS).iterdir())).unlink()
    assert "4" in newest.name
    monitor = Counting()
    run(tmp_path, monitor, steps=4, evaluate_every=2, checkpoint_every=2)
    assert monitor.shown == [[0, 2], [0, 2, 4]]
    assert [row["step"] for row in read_evaluations(tmp_path / METRICS)] == [0, 2, 4], "step 2 is evaluated again"
