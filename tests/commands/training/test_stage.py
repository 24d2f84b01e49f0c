"""The training of both stages as their commands run it."""

from __future__ import annotations

import io

from commands.shared.console import Console
from commands.training.stage import train_stage
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


def test_a_warning_is_told_once_a_kind(tmp_path, capsys):
    trainer = TrainerConfig(steps=5, batch_size=4, warmup=1, evaluate_every=1, checkpoint_every=5, precision="fp32")
    monitor = Alarmed()
    train_stage(
        PretrainModel(encoder(), FUTURE, 5), Batches(), trainer, tmp_path, monitor, Console(io.StringIO()), "pretrain"
    )
    told = [line for line in capsys.readouterr().err.splitlines() if "is odd" in line]
    assert monitor.seen == 6
    assert [line.partition("step ")[2] for line in told] == ["0: this is odd: 1", "2: that is odd: 3"]
