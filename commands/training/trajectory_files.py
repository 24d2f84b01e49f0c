"""Trajectory files as the stages read them: opened, with the step and the pictures that a model of them takes.

Files of environments in modules of others are refused until the user names the module (MODULES_VARIABLE).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import envs
from commands.config.schema import build
from commands.shared.errors import RunError, UsageError
from commands.shared.runs import FINISHED, read_json
from data.pictures import Preprocessing
from data.schema import StoreInfo
from world_model.actions import ActionSpec

MODULES_VARIABLE = "JEPA_MODULES"  # modules, separated by commas, that a data file's environment may import
TRUSTED_MODULES = ("gymnasium_robotics", "ogbench")


def find_frame_skip(info: StoreInfo) -> int:
    """Environment steps per model step: the task's own; 1 for a file of an unknown task, which was imported at the rate
    to train at."""
    task = envs.find_task(info.env_id)
    return 1 if task is None else task.frame_skip


def derive_preprocessing(info: StoreInfo, image_px: tuple[int, int]) -> Preprocessing:
    """How a picture becomes a frame as training on this file sees it: cropped as when the file was imported, brought to
    the size of the file's frames, then to the encoder's. Frames of several cameras are never cropped."""
    source, crop = info.source, "centre"
    while "import" in source:
        several = source["import"].get("cameras", 1) > 1
        crop, source = "whole" if several else source["import"]["view"], source["import"].get("origin", {})
    height, width, _ = info.frame_hwc
    stored_hw = None if (height, width) == image_px else (height, width)
    return build(Preprocessing, {"size_hw": image_px, "crop": crop, "stored_hw": stored_hw})


def check_actions(actions: ActionSpec, info: StoreInfo, source: str) -> None:
    """Raise UsageError unless the data's actions are of the size that the model was trained on."""
    if len(actions.low) != info.action_size:
        raise UsageError(
            f"{source} has actions of size {info.action_size} and the model was trained with "
            f"{len(actions.low)}: give data of the environment that the model was trained in"
        )


def open_reader(data: Any, on_damaged: str = "error") -> Any:
    """Open trajectory files given as a path, a list of paths, a glob, or a run folder of `jepa collect`.

    Raises UsageError for a file whose environment lies in a module (gym/MODULE:ID) that is not trusted.
    """
    from commands.transfer.collection import FILE
    from data.schema import StoreError
    from data.store import Reader

    paths = [data] if isinstance(data, str) else list(data)
    if not paths or "" in paths:
        raise UsageError(f"data={data or ''} names no file: give a trajectory file, or a run folder of jepa collect")
    full = [str(Path(path) / FILE) if Path(path).is_dir() else str(path) for path in paths]
    try:
        reader = Reader(full if len(full) > 1 else full[0], on_damaged=on_damaged)
    except StoreError as error:
        raise RunError(str(error)) from error
    for path in reader.paths:
        check_import_finished(path.parent)
    check_trusted_module(reader.info.env_id)
    return reader


def check_import_finished(folder: Path) -> None:
    """Raise RunError for the run folder of an import that was interrupted, whose file lacks episodes."""
    record = folder / "run.json"
    if not record.is_file() or (folder / FINISHED).exists():
        return
    content = read_json(record)
    if isinstance(content, dict) and content.get("command") == "import":
        raise RunError(f"{folder} is an import that is not finished: run its jepa import command again to complete it")


def check_trusted_module(env_id: str) -> None:
    """Raise UsageError for a data file's environment in a module that the user has not named."""
    module = env_id.removeprefix(envs.GYM).rpartition(":")[0]
    trusted = (*TRUSTED_MODULES, *os.environ.get(MODULES_VARIABLE, "").split(","))
    if env_id.startswith(envs.GYM) and module and module not in trusted and module not in sys.modules:
        raise UsageError(
            f"the data's environment {env_id} is in the module {module}, which would be imported and run: if you trust "
            f"it, set {MODULES_VARIABLE}={module}"
        )
