"""`jepa inspect PATH`: what a run folder, a model folder, a trajectory file or a finished cell of a table holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.shared.console import Console, format_table
from commands.shared.errors import RunError, UsageError, join_names
from commands.shared.hub import resolve_model
from commands.shared.runs import FINISHED, flatten, read_json
from commands.training.model_folders import MODEL, WORLD_MODEL, load_encoder, load_world_model
from commands.training.trajectory_files import open_reader
from commands.transfer.collection import FILE
from data.schema import SPLITS
from data.store import Reader
from world_model.training.checkpoint import read_model_kind

Rows = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of `jepa inspect`."""

    path: str
    """run folder, model folder, trajectory file (.h5), record of a cell (.json), or owner/name on the hub"""
    verify: bool = False
    """whether every number of a trajectory file is read and compared with its checksum"""


def check(config: Config) -> None:
    """Refuse a path that does not exist."""
    if not resolve_model(config.path).exists():
        raise UsageError(f"path={config.path}: there is no such file or folder")


def run(config: Config, folder: None, console: Console) -> None:
    """Print one line a fact, for all that the path holds."""
    parts = list(describe_path(resolve_model(config.path), config.verify))
    if not parts:
        raise RunError(f"{config.path} is no run folder, model folder, trajectory file or record of jepa")
    for title, rows in parts:
        console.say(f"{title}\n{format_table(rows)}\n")


def describe_path(path: Path, verify: bool) -> Iterable[tuple[str, Rows]]:
    """A title and its facts for everything of ours at a path."""
    if path.suffix == ".json":
        if (rows := describe_cell(read_json(path))) is not None:
            yield f"finished cell {path}", rows
        return
    if path.is_file():
        yield f"trajectory file {path}", describe_data(path, verify)
        return
    if (path / "run.json").exists():
        yield f"run folder {path}", describe_run(path)
    if (path / FILE).exists():
        yield f"trajectory file {path / FILE}", describe_data(path / FILE, verify)
    for model in (path, path / MODEL):
        if read_model_kind(model) is not None:
            yield f"model folder {model}", describe_model(model)


def describe_run(folder: Path) -> Rows:
    """Command, versions and result of a run folder."""
    record = read_json(folder / "run.json")
    last = record["starts"][-1] if record.get("starts") else {}
    finished = folder / FINISHED
    result = read_json(finished).get("summary") or "finished" if finished.exists() else "not finished"
    return [
        ("command", f"jepa {' '.join(last.get('argv', [str(record.get('command'))]))}"),
        ("result", result),
        ("seed", str(record.get("seed"))),
        ("commit", str(last.get("commit"))),
        ("versions", join_names([f"{name} {number}" for name, number in last.get("versions", {}).items()], 20)),
    ]


def describe_model(folder: Path) -> Rows:
    """Sizes of a model, and what it was trained on."""
    if read_model_kind(folder) == WORLD_MODEL:
        return describe_world_model(folder)
    encoder, about = load_encoder(folder)
    description = read_json(folder / "model.json")
    config, sizes = description["config"], encoder.config
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    pool = "none" if sizes.pool is None else f"{sizes.pool.kind}, {sizes.pool.dim} numbers"
    rows = [
        ("kind", description["kind"]),
        ("frames", f"{sizes.image_px[0]} x {sizes.image_px[1]} pixels"),
        (
            "encoder",
            f"{sizes.depth} blocks x {sizes.width}, patches of {sizes.patch_px}, {weights / 1e6:.2f} M weights",
        ),
        ("embedding", pool),
    ]
    if "dynamics" in config:
        dynamics, actions = config["dynamics"], config["actions"]
        rows += [
            (
                "dynamics",
                f"of {dynamics['space']} features, {dynamics['history']} frames, {dynamics['horizon']} steps ahead",
            ),
            *([("samples", describe_flow(dynamics))] if dynamics.get("flow") else []),
            ("actions", f"{len(actions['low'])} numbers, held for {actions['frame_skip']} environment steps"),
        ]
    return rows + [
        (key, _format(about[key])) for key in ("objective", "env", "env_kwargs", "pretrained", "timm") if key in about
    ]


def describe_world_model(folder: Path) -> Rows:
    """The same of a world model of one stage."""
    model, about = load_world_model(folder)
    spec, weights = model.spec, sum(parameter.numel() for parameter in model.parameters())
    return [
        ("kind", WORLD_MODEL),
        ("frames", f"{spec.frame_hw[0]} x {spec.frame_hw[1]} pixels"),
        ("weights", f"{weights / 1e6:.2f} M"),
        ("dynamics", f"{spec.history} frames, {spec.max_horizon} steps ahead, views {join_names(spec.views, 9)}"),
        ("actions", f"{spec.action_dim} numbers, held for {spec.frame_skip} environment steps"),
    ] + [(key, _format(about[key])) for key in ("objective", "env", "env_kwargs") if key in about]


def describe_flow(dynamics: Mapping[str, Any]) -> str:
    """What flow matching draws, and the sizes of its network, from the dynamics of model.json."""
    flow, drawn = dynamics["flow"], "features" if dynamics["pixels"] is None else "pixels"
    if flow.get("kind") == "transformer":
        unit, parts, sizes = "the whole frame", "blocks", dynamics["predictor"]
    else:  # a head, which older folders hold without its kind
        unit, parts, sizes = "each token", "layers", flow
    return (
        f"{drawn} of {unit} by flow matching, {flow['steps']} Euler steps, {sizes['depth']} {parts} x {sizes['width']}"
    )


def describe_data(path: Path, verify: bool) -> Rows:
    """Environment, episodes and columns of a trajectory file."""
    reader = open_reader(str(path)) if verify else Reader(path, verify=False)
    info = reader.info
    episodes = {split: len(reader.episodes(split)) for split in SPLITS}
    height, width, _ = info.frame_hwc
    bounds = zip(info.action_names, info.action_low, info.action_high, strict=True)
    return [
        ("environment", f"{info.env_id} {_format(info.env_kwargs)}".strip()),
        ("episodes", f"{len(reader.episodes())} of {reader.num_planned}: {_format(episodes)}"),
        (
            "frames",
            f"{reader.lengths(reader.episodes()).sum()} of {height} x {width} pixels, {1 / info.step_s:.4g} a second",
        ),
        ("actions", join_names([f"{name} ({low:g} to {high:g})" for name, low, high in bounds])),
        (
            "truth",
            join_names([f"{n} [{u}]" if u else n for n, u in zip(info.truth_names, info.truth_units, strict=True)]),
        ),
        ("columns", join_names([f"{column.name} {list(column.shape)} {column.dtype}" for column in info.columns])),
        ("factors", join_names([column.name for column in info.factors], 40) or "none"),
        ("made by", _format(info.source)),
        ("checksum", f"{reader.file_checksum}{', verified' if verify else ''}"),
    ]


def describe_cell(record: Any) -> Rows | None:
    """Method, seed and success of a cell of `jepa compare`; None for another file."""
    if not isinstance(record, Mapping) or not {"objective", "task", "plan", "random", "thresholds"} <= record.keys():
        return None
    unit = record["unit"]

    def rates(outcome: Mapping[str, Any]) -> str:
        return join_names(
            [f"{outcome['any'][str(limit)]:.0%} within {limit:g} {unit}" for limit in record["thresholds"]]
        )

    first = str(record["thresholds"][0])
    return [
        ("method", f"{record['objective']} on {record['task']}, seed {record['seed']}"),
        ("success", f"{rates(record['plan'])}; held {record['plan']['held'][first]:.0%}"),
        ("random actions", rates(record["random"])),
        ("episodes", str(record["plan"]["episodes"])),
        ("seconds", _format(record.get("seconds", {}))),
        ("commit", str(record.get("commit"))),
    ]


def _format(value: Any) -> str:
    """A nested value in one line: a mapping as its leaves, with dotted keys."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_format(item)}" for key, item in flatten(dict(value)).items())
    return f"{value:g}" if isinstance(value, float) else str(value)
