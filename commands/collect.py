"""`jepa collect`: let a behaviour policy act in an environment and write an HDF5 trajectory file."""

from __future__ import annotations

from dataclasses import dataclass

from commands.config.keys import CollectKeys
from commands.shared.console import Console
from commands.shared.runs import RunFolder
from commands.transfer.collection import FILE, check_collection, collect_into, write_preview
from data.store import Reader


@dataclass(frozen=True, kw_only=True)
class Config(CollectKeys):
    """Keys of `jepa collect`."""


def check(config: Config) -> None:
    """Unknown environments and values out of range, before anything is written."""
    check_collection(config)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Collect into the run folder, resuming an interrupted run."""
    summary = collect_into(folder.path / FILE, config, console)
    write_preview(Reader(folder.path / FILE, verify=False), folder.path / "preview.gif")
    console.say(f"collect: {summary}")
    folder.finish(summary)
