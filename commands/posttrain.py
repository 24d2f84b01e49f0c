"""`jepa posttrain`: stage 2, a frozen encoder and recorded trajectories -> latent dynamics."""

from __future__ import annotations

from dataclasses import dataclass

from commands.config.keys import Files
from commands.shared.console import Console
from commands.shared.runs import RunFolder
from commands.training.encoder_sources import check_encoder
from commands.training.posttraining import PosttrainKeys, posttrain


@dataclass(frozen=True, kw_only=True)
class Config(PosttrainKeys):
    """Keys of `jepa posttrain`."""

    encoder: str
    """run folder of jepa pretrain, or owner/name on the hub; or pretrained (made elsewhere, at path=), or timm"""
    data: Files
    """trajectory file, a list of them, a glob, or a run folder of jepa collect"""


def check(config: Config) -> None:
    """What can be known before a folder is made."""
    config.check()
    check_encoder(config, config.encoder)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Train, and keep the last dynamics with its encoder in one model folder."""
    result = posttrain(config, config.data, config.encoder, folder.path, console)
    console.say(f"posttrain: {result}")
    folder.finish(result)
