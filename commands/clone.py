"""`jepa clone`: a policy towards goals from recorded actions, by imitation or implicit V-learning, without a model of
the dynamics; to start a search with, or to act without one."""

from __future__ import annotations

from dataclasses import dataclass

from commands.config.keys import Files
from commands.shared.console import Console
from commands.shared.runs import RunFolder
from commands.training.cloning import CloneKeys, train_policy
from commands.training.model_folders import find_model_folder


@dataclass(frozen=True, kw_only=True)
class Config(CloneKeys):
    """Keys of `jepa clone`."""

    model: str
    """run folder of jepa posttrain, or owner/name on the hub: its frozen features, frame skip and encoder sizes"""
    data: Files
    """trajectory file, a list of them, a glob, or a run folder of jepa collect"""


def check(config: Config) -> None:
    """Refuse a model that is not there before a folder is made."""
    find_model_folder(config.model)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Train, and keep the last policy in a folder of its own."""
    result = train_policy(config, config.data, config.model, folder.path, console)
    console.say(f"clone: {result}")
    folder.finish(result)
