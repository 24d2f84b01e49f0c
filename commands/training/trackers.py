"""Trackers of experiments beside metrics.jsonl: TensorBoard and Weights & Biases, both extras.

A tracker gets every line of metrics.jsonl, and the pictures that a training draws. It changes no result.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from commands.shared.console import Console
from commands.shared.errors import DISTRIBUTION, UsageError
from commands.shared.runs import read_json

Logger = Literal["none", "tensorboard", "wandb"]
PROJECT = "jepa"  # of Weights & Biases; WANDB_PROJECT names another
NOT_LOGGED = ("step", "kind")  # of a line of metrics.jsonl


class Tracker(Protocol):
    """Where a training's numbers and pictures go, too."""

    def log(self, values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl: `step`, `kind` (train or val) and numbers."""

    def add_picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file of the run folder."""

    def close(self) -> None:
        """Write what is left."""


class NoTracker:
    """No tracker."""

    def log(self, values: Mapping[str, Any]) -> None:
        """Nothing."""

    def add_picture(self, name: str, path: Path, step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in FOLDER/tensorboard. start: step that a resumed run begins at, which hides what came later."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)

    def log(self, values: Mapping[str, Any]) -> None:
        """As of Tracker."""
        for name, value in _name_numbers(values).items():
            self._writer.add_scalar(name, value, values["step"])

    def add_picture(self, name: str, path: Path, step: int) -> None:
        """As of Tracker."""
        self._writer.add_image(name, _read_png(path), step, dataformats="HWC")

    def close(self) -> None:
        """As of Tracker."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, with the same id each time that the run folder is resumed. Without a login it is kept
    in FOLDER/wandb."""

    def __init__(self, folder: Path, console: Console) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12],
            dir=str(folder),
            config=_read_config(folder),
            mode=mode,
            resume=None if mode == "offline" else "allow",
        )
        if mode == "offline":
            console.say(f"wandb: no login, so the run is kept in {folder / 'wandb'}; `wandb sync` sends it")

    def log(self, values: Mapping[str, Any]) -> None:
        """As of Tracker."""
        self._run.log(_name_numbers(values), step=values["step"])

    def add_picture(self, name: str, path: Path, step: int) -> None:
        """As of Tracker."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """As of Tracker."""
        self._run.finish()


@contextmanager
def open_tracker(name: Logger, folder: Path, start: int, console: Console) -> Iterator[Tracker]:
    """The tracker of a training in `folder` that begins at a step; UsageError where its package is not installed."""
    try:
        tracker = _make_tracker(name, folder, start, console)
    except ImportError as error:
        raise UsageError(f"logger={name} needs an extra: pip install '{DISTRIBUTION}[{name}]' ({error})") from error
    try:
        yield tracker
    finally:
        tracker.close()


def _make_tracker(name: Logger, folder: Path, start: int, console: Console) -> Tracker:
    if name == "tensorboard":
        return TensorBoard(folder, start)
    return WeightsAndBiases(folder, console) if name == "wandb" else NoTracker()


def _name_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as "train/loss"."""
    numbers = {key: value for key, value in values.items() if key not in NOT_LOGGED and isinstance(value, (int, float))}
    return {f"{values['kind']}/{key}": float(value) for key, value in numbers.items()}


def _read_png(path: Path) -> Any:
    import imageio.v3 as iio

    return iio.imread(path)[..., :3]


def _read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run that the folder is, or is a part of."""
    stored = next(
        (place / "config.json" for place in (folder, folder.parent) if (place / "config.json").exists()), None
    )
    return {} if stored is None else read_json(stored)
