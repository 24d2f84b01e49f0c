"""`jepa pretrain`: stage 1, video -> encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from commands.config.keys import Files
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder
from commands.training.pretraining import PretrainKeys, pretrain
from commands.training.stage import CHECKPOINTS
from world_model.training.loop import Checkpoints

REQUIRED = "required"  # start= of a recipe that goes on from another run


@dataclass(frozen=True, kw_only=True)
class Config(PretrainKeys):
    """Keys of `jepa pretrain`."""

    data: Files
    """trajectory file, a list of them, a glob, or a run folder of jepa collect; or video_folder: video at path="""
    start: str | None = None
    """run folder of jepa pretrain to take weights and optimiser state from; null: random weights"""


def check(config: Config) -> None:
    """What can be known before a folder is made."""
    config.check(config.data)
    find_start(config)


def find_start(config: Config) -> Path | None:
    """The checkpoints of the run that this one begins with; UsageError where its folder holds none."""
    if config.start is None:
        return None
    if config.start == REQUIRED:
        raise UsageError("this recipe goes on from another run: give start=runs/pretrain/NAME")
    folder = Path(config.start) / CHECKPOINTS
    if not Checkpoints(folder).list_paths():
        raise UsageError(
            f"start={config.start} holds no {CHECKPOINTS}/step-*.safetensors: give a run folder of jepa pretrain"
        )
    return folder


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Train, and keep the last encoder."""
    result = pretrain(config, config.data, folder.path, console, find_start(config))
    console.say(f"pretrain: {result}")
    folder.finish(result)
