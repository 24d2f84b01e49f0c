"""The cells of a table: one objective with one budget of stage 1 and one seed, as the keys of its pipeline.

A finished cell leaves a JSON record with its whole configuration. A record belongs to a cell if the two configurations
agree once defaults are filled in, so a new key orphans no record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge

from commands.config.compose import list_choices, load_config, nest_overrides
from commands.config.schema import fill_defaults, override
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError, join_names
from commands.shared.flops import count_flops
from commands.shared.runs import get_identity, read_json, to_json_value
from commands.training.pretraining import make_random_stage1
from world_model.encoder import EncoderConfig
from world_model.nn.pools import KeypointPoolConfig
from world_model.objectives.end_to_end import EndToEndConfig
from world_model.objectives.families import ObjectiveConfig
from world_model.objectives.future import FutureConfig
from world_model.objectives.metric import Kind, MetricConfig
from world_model.training.loop import make_optimizer, train_step

UNTRAINED = "untrained"  # method: an encoder before its first step
ORACLE = "oracle"  # method: the true simulator with the task's true distance
ORACLE_PARTS = ("env", "data", "planner", "protocol", "seed", "on_damaged")  # keys that matter for it
Budget = Literal["steps", "flops"]
# Keys that change no number of a cell.
FREE = (
    "device",
    "workers",
    "videos",
    "logger",
    *(
        f"{stage}.{key}"
        for stage in ("pretrain", "posttrain")
        for key in ("evaluate_every", "checkpoint_every", "log_every", "parallel")
    ),
)


@dataclass(frozen=True, kw_only=True)
class TableKeys(PipelineKeys):
    """Keys of a table: the pipeline that all methods share, and the methods."""

    objective: ObjectiveConfig = field(default_factory=FutureConfig, repr=False)  # each method has its own
    videos: int = field(default=0, repr=False)
    objectives: list[str] = field(default_factory=list)
    """methods: names of objectives, untrained, oracle"""
    budgets: list[Budget] = field(default_factory=lambda: ["steps", "flops"])
    """steps: equal steps of stage 1; flops: the arithmetic of the first trained method"""
    seeds: Annotated[int, Ge(1)] = 1
    """training seeds, from `seed` on, each with data of its own that all methods share"""
    cells: str | None = None
    """folder to which finished cells, one JSON file each, and their table are written; null: cells in the run folder"""
    published: str | None = "docs/objectives"
    """folder of cells that were finished before, which are read and never written; null: none"""
    table_only: bool = False
    """whether to make the table of finished cells and run none"""
    keep_models: bool = False
    """whether the models of finished cells stay in the run folder, to plan with them again"""
    metric: Kind | None = "biharmonic"
    """objective.metric.kind of all methods but those that learn dynamics themselves; null: no metric"""
    mixed: bool = False
    """whether one table may mix cells of different tasks' settings, data, protocols or versions of a loss"""
    small: dict[str, list[Any]] = field(default_factory=dict)
    """overrides of an objective's published values at this scale, as words or {objective: {...}}"""

    @property
    def shared(self) -> PipelineKeys:
        """The pipeline of all methods."""
        return PipelineKeys(**{item.name: getattr(self, item.name) for item in fields(PipelineKeys)})


@dataclass(frozen=True)
class Cell:
    """One method of the table with one seed."""

    objective: str
    budget: str
    seed: int
    keys: PipelineKeys
    flops_per_step: float

    @property
    def task(self) -> str:
        """The task, as the beginning of a file's name."""
        return self.keys.env.name.replace("/", "_")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as the record holds it: nested plain values, without keys that change no number."""
        parts = ORACLE_PARTS if self.objective == ORACLE else [item.name for item in fields(PipelineKeys)]
        return {key: to_json_value(getattr(self.keys, key)) for key in parts if key not in (*FREE, "name", "runs")}

    @property
    def name(self) -> str:
        """Name of its record."""
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.task}-{self.objective}-{self.budget}-seed{self.seed}-{key}"

    @property
    def loss_version(self) -> int:
        """Version of the loss that it is trained with (`FamilyConfig.loss_version`)."""
        return 1 if self.objective == ORACLE else self.keys.objective.loss_version

    def find_record(self, *folders: Path, any_loss: bool = False) -> Path | None:
        """The record of this cell in the first of the folders that has one; None where it is not finished. any_loss:
        whether one of another version of the loss will do."""
        pattern = f"{self.task}-{self.objective}-*-seed{self.seed}-*.json"
        paths = (path for folder in folders for path in sorted(folder.glob(pattern)))
        return next((path for path in paths if self._agrees(read_json(path), any_loss)), None)

    def _agrees(self, record: Mapping[str, Any], any_loss: bool) -> bool:
        recorded = record["config"]
        if not is_current(recorded) or not (any_loss or get_loss_version(record) == self.loss_version):
            return False
        complete = fill_defaults(PipelineKeys, recorded)
        return get_identity({key: complete[key] for key in self.config}, FREE) == get_identity(self.config, FREE)


def is_current(recorded: Mapping[str, Any]) -> bool:
    """Whether a record's configuration has the keys of this version."""
    return recorded.keys() <= {item.name for item in fields(PipelineKeys)}


def get_loss_version(record: Mapping[str, Any]) -> int:
    """Version of the loss that a record was trained with; 1 where it names none."""
    return int(record.get("loss_version", 1))


def make_cells(config: TableKeys) -> list[Cell]:
    """All cells; the first trained objective sets the budget of equal arithmetic."""
    trained = [name for name in config.objectives if name not in (UNTRAINED, ORACLE)]
    flops = {name: count_step_flops(make_cell_keys(config, name, 0)) for name in trained}
    reference = next(iter(flops.values()), 0.0)
    cells = []
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.objectives:
            keys = make_cell_keys(config, name, seed)
            per_step = flops.get(name, 0.0)
            for budget in config.budgets:
                same = name not in trained or per_step == reference
                if same and budget != config.budgets[0]:
                    continue  # the same cell under both budgets
                cell = keys
                if budget == "flops" and not same:
                    steps = max(1, round(keys.pretrain.steps * reference / per_step))
                    cell = replace(keys, pretrain=replace(keys.pretrain, steps=steps))
                cells.append(Cell(name, "both" if same else budget, seed, cell, per_step))
    return cells


def make_cell_keys(config: TableKeys, objective: str, seed: int) -> PipelineKeys:
    """The pipeline of a method with a seed. Raises UsageError for an unknown objective or override."""
    known = list_choices("objective")
    if objective not in (UNTRAINED, ORACLE, *known):
        raise UsageError(f"objectives: {objective} is none (choices: {UNTRAINED}, {ORACLE}, {join_names(known, 30)})")
    keys = replace(config.shared, seed=seed, videos=0)
    if objective == ORACLE:
        keys = replace(keys, protocol=replace(keys.protocol, oracle=True))
        return _apply_overrides(keys, config.small.get(ORACLE, []), ORACLE)
    name = get_untrained_objective(keys.encoder) if objective == UNTRAINED else objective
    cost = replace(keys.planner.cost, view=keys.dynamics.space)
    published = _load_published(name)
    if not isinstance(published, EndToEndConfig):
        metric = None if config.metric is None else replace(published.metric or MetricConfig(), kind=config.metric)
        published = replace(published, metric=metric)
    keys = replace(keys, objective=published, planner=replace(keys.planner, cost=cost))
    keys = _apply_overrides(keys, config.small.get(name, []), name)
    return replace(keys, pretrain=replace(keys.pretrain, steps=0)) if objective == UNTRAINED else keys


def get_untrained_objective(encoder: EncoderConfig) -> str:
    """The objective whose encoder is taken before its first step: what a new keypoint pool embeds, or else principal
    components of new tokens."""
    return "future" if isinstance(encoder.pool, KeypointPoolConfig) else "vjepa2"


def _apply_overrides(keys: PipelineKeys, overrides: Sequence[Any], method: str) -> PipelineKeys:
    try:
        return override(keys, nest_overrides(overrides))
    except UsageError as error:
        raise UsageError(f"small.{method}: {error}") from error


@cache
def _load_published(objective: str) -> ObjectiveConfig:
    return load_config("demo", [f"objective={objective}"]).objective


def count_step_flops(keys: PipelineKeys) -> float:
    """Floating-point operations of one training step of stage 1: matrix products and attention, forward and back."""
    stage, cpu = keys.stage1, torch.device("cpu")
    model, batch = make_random_stage1(stage.encoder, stage.objective, stage.trainer, keys.env.name, stage.seed, cpu)
    optimizer = make_optimizer(model, stage.trainer)
    return count_flops(lambda: train_step(model, batch, optimizer, stage.trainer, 0))
