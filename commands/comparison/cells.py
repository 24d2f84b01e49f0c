"""The cells of a table: one row with one budget of stage 1 and one seed, as the keys of its pipeline.

A finished cell leaves a JSON record with its whole configuration. A record belongs to a cell if the two configurations
agree once defaults are filled in, so a new key orphans no record, unless it says that the record meant something else
(`superseded`). The record of a tuned cell has the configuration of the trial that was chosen, and belongs to a cell of
the same trials.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from commands.comparison.axes import Variant
from commands.comparison.budgets import Budget, TrainingFlops, count_training_flops, fit_steps
from commands.comparison.efforts import list_efforts
from commands.comparison.one_stage import BEST_VIEW, STAGE2
from commands.comparison.search import Setting, draw_settings
from commands.comparison.table_keys import (
    NOTHING,
    MethodVariant,
    TableKeys,
    list_rows,
    make_cell_keys,
    make_search_space,
    read_arm,
)
from commands.config.schema import fill_defaults, is_superseded
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError
from commands.shared.runs import get_identity, read_json, to_json_value
from commands.tables.rows import ALL_BUDGETS, CANDIDATES, ORACLE, TIME, format_row
from commands.tables.sharing import FREE, SCALED
from world_model.training.loop import TrainerConfig

ORACLE_PARTS = ("env", "data", "planner", "protocol", "seed", "on_damaged")  # keys that matter for it
# A further measurement, which changes no other number: a record that has it also serves where it is not asked for.
ORACLE_COST = "protocol.oracle_cost"
# Budgets whose steps follow from counted operations. Counts differ between versions by less than this share.
COUNTED = ("flops", "total")
STEPS, STEPS_TOLERANCE = "pretrain.steps", 0.01


@dataclass(frozen=True)
class Tuning:
    """How a row is tuned. trials: settings that are asked for; episodes: of `val`, that each is judged on; share: of
    the training steps, that each takes; seed: the training seed that they are judged with; space: as the configuration
    has it, without what axes decide.

    drawn: each setting with its pipeline, before the steps of a budget; fewer than `trials` in a smaller space. chosen:
    what the record of the first seed says of its tuning, for cells of further seeds.
    """

    trials: int
    episodes: int
    share: float
    seed: int
    space: Mapping[str, Any]
    drawn: tuple[tuple[Setting, PipelineKeys], ...] = field(repr=False)
    chosen: Mapping[str, Any] | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """What a record is found by."""
        return {name: to_json_value(getattr(self, name)) for name in ("trials", "episodes", "share", "seed", "space")}

    def find_trial(self, setting: Mapping[str, Any]) -> int | None:
        """Number of the trial of a recorded setting; None where it is none of these."""
        settings = [to_json_value(drawn) for drawn, _ in self.drawn]
        return settings.index(setting) if setting in settings else None


@dataclass(frozen=True)
class Cell:
    """One row of the table with one budget, one effort and one seed. keys: its pipeline with the published setting.
    trained_as: the objective of its stage 1. val_episodes: starts and goals of `val` that views are judged on.
    keeps_files: whether its models stay, with their pages and figures."""

    objective: str
    budget: str
    seed: int
    keys: PipelineKeys
    variant: Variant = field(default_factory=dict)
    tuning: Tuning | None = None
    trained_as: str = ""
    effort: str = CANDIDATES
    val_episodes: int = 50
    keeps_files: bool = False

    @property
    def task(self) -> str:
        """The task, as the beginning of a file's name."""
        return self.keys.env.name.replace("/", "_")

    @property
    def method(self) -> str:
        """The objective of its stage 1: its own, or that of its arm."""
        return self.trained_as or self.objective

    @property
    def is_arm(self) -> bool:
        """Whether its method is one of the table's own, so that others may plan with the same model."""
        return self.method != self.objective

    @property
    def row(self) -> MethodVariant:
        """The row that it belongs to."""
        return MethodVariant(self.objective, self.variant)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration as the record holds it: nested plain values, without keys that change no number."""
        parts = ORACLE_PARTS if self.objective == ORACLE else [item.name for item in fields(PipelineKeys)]
        apart = (*FREE, "name", "runs", *(() if self.keys.has_stage2 else STAGE2))
        config = {key: to_json_value(getattr(self.keys, key)) for key in parts if key not in apart}
        if self.objective == ORACLE and self.keys.dynamics.frame_skip is not None:  # null: the task's own
            config["dynamics"] = {"frame_skip": self.keys.dynamics.frame_skip}
        return config

    @property
    def chooses_view(self) -> bool:
        """Whether its model plans in the view that is best on `val`."""
        return self.keys.planner.cost.view == BEST_VIEW

    @property
    def name(self) -> str:
        """Name of its record."""
        identity = self.config if self.tuning is None else {**self.config, "tuning": self.tuning.spec}
        if self.effort == TIME:  # its candidates follow from measured times
            identity = {**identity, "effort": TIME}
        if self.chooses_view:
            identity = {**identity, "val_episodes": self.val_episodes}
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{self.task}-{self.objective}-{self.budget}-seed{self.seed}-{key}"

    @cached_property
    def flops(self) -> TrainingFlops | None:
        """Arithmetic of its training; None for the oracle."""
        return None if self.objective == ORACLE else count_training_flops(self.keys)

    def make_trial(self, number: int) -> Cell:
        """The cell with the setting of a trial in place of the published one, at the same budget."""
        assert self.tuning is not None
        keys = self.tuning.drawn[number][1]
        if number and self.budget in get_args(Budget) and self.budget != "steps":
            assert self.flops is not None
            keys = fit_steps(keys, self.budget, self.flops)
        keys = replace(keys, planner=self.keys.planner, protocol=self.keys.protocol)  # those of its effort
        return replace(self, keys=keys if number else self.keys, tuning=None)

    def shorten(self, share: float) -> Cell:
        """The cell with a share of its training steps in all stages."""

        def cut(trainer: TrainerConfig) -> TrainerConfig:
            return replace(trainer, steps=max(1, round(share * trainer.steps)) if trainer.steps else 0)

        keys = replace(self.keys, pretrain=cut(self.keys.pretrain), posttrain=cut(self.keys.posttrain))
        if keys.clone is not None:
            keys = replace(keys, clone=replace(keys.clone, trainer=cut(keys.clone.trainer)))
        return replace(self, keys=keys)

    def find_record(self, *folders: Path) -> Path | None:
        """The record of this cell in the first of the folders that has one; None where it is not finished."""
        pattern = f"{self.task}-{self.objective}-*-seed{self.seed}-*.json"
        paths = (path for folder in folders for path in sorted(folder.glob(pattern)))
        return next((path for path in paths if self._agrees(read_json(path))), None)

    def read_record(self, path: Path) -> dict[str, Any]:
        """A record as one of this cell's row and budget; older records state neither variant nor all FLOPs."""
        record = {**read_json(path), "budget": self.budget, "effort": self.effort, "variant": dict(self.variant)}
        if "flops" not in record and self.flops is not None:
            record["flops"] = self.flops.to_record()
        return record

    def _agrees(self, record: Mapping[str, Any]) -> bool:
        if self.chooses_view and record.get("views", {}).get("episodes") != self.val_episodes:
            return False
        tuned, cell = record.get("tuning"), self
        if (tuned is None) != (self.tuning is None):
            return False
        if tuned is not None and self.tuning is not None:
            number = self.tuning.find_trial(tuned["setting"])
            if number is None or any(tuned.get(key) != value for key, value in self.tuning.spec.items()):
                return False
            cell = self.make_trial(number)
        if self.effort == TIME and record.get("effort") != TIME:
            return False
        return cell.has_config(record["config"])

    def has_config(self, recorded: Mapping[str, Any]) -> bool:
        """Whether a recorded configuration is that of this cell, but for keys that change none of its numbers."""
        if not is_current(recorded):
            return False
        if self.objective == ORACLE and recorded.get("dynamics") != self.config.get("dynamics"):
            return False  # of the dynamics it has the model step alone
        complete = fill_defaults(PipelineKeys, recorded)
        asks = self.objective != ORACLE and self.keys.protocol.oracle_cost.episodes > 0
        apart = FREE if asks else (*FREE, ORACLE_COST)
        if self.effort == TIME:
            apart = (*apart, *SCALED)
        compared = [key for key in self.config if self.objective != ORACLE or key in ORACLE_PARTS]
        found = get_identity({key: complete[key] for key in compared}, apart)
        wanted = get_identity({key: self.config[key] for key in compared}, apart)
        if self.budget in COUNTED and STEPS in wanted:
            near = abs(found[STEPS] - wanted[STEPS]) <= STEPS_TOLERANCE * wanted[STEPS]
            found[STEPS] = wanted[STEPS] if near else found[STEPS]
        return found == wanted


def is_current(recorded: Mapping[str, Any]) -> bool:
    """Whether a record's configuration has the keys of this version, and its loss the formulas of this version."""
    return recorded.keys() <= {item.name for item in fields(PipelineKeys)} and not is_superseded(PipelineKeys, recorded)


def make_cells(config: TableKeys) -> list[Cell]:
    """All cells, seed by seed; the first trained row sets the budgets of equal arithmetic."""
    rows, cells = list_rows(config)[0], []
    first = next((row for row in rows if row.is_trained), None)
    plans_as = None if first is None else make_cell_keys(config, first.objective, config.seed, first.variant)
    limit = None
    if plans_as is not None and set(config.budgets) != {"steps"}:
        limit = count_training_flops(plans_as)
    for seed in range(config.seed, config.seed + config.seeds):
        for row in rows:
            keys, tuning = make_cell_keys(config, row.objective, seed, row.variant), make_tuning(config, row, seed)
            reference = None if row == first or row.objective == ORACLE else plans_as
            fitted = dict.fromkeys(config.budgets, keys)
            if limit is not None and row.is_trained:
                try:
                    fitted = {budget: fit_steps(keys, budget, limit) for budget in config.budgets}
                except UsageError as error:
                    raise UsageError(f"row {format_row(row.objective, row.variant)}: {error}") from error
            # Trials may have steps of other arithmetic than the published setting, so each budget tunes by itself.
            same = len(fitted) > 1 and len({each.pretrain.steps for each in fitted.values()}) == 1 and tuning is None
            for budget, fit in list(fitted.items())[: 1 if same else None]:
                cell = Cell(
                    row.objective,
                    ALL_BUDGETS if same else budget,
                    seed,
                    fit,
                    row.variant,
                    tuning,
                    trained_as=read_arm(config.arms, row.objective)[0],
                    val_episodes=config.trial_episodes,
                    keeps_files=config.keep_models,
                )
                for effort, each in list_efforts(config.efforts, fit, reference).items():
                    cells.append(replace(cell, keys=each, effort=effort))
    return cells


def make_tuning(config: TableKeys, row: MethodVariant, seed: int) -> Tuning | None:
    """The trials of a row; None where it has the published setting alone."""
    if config.trials == 1 or row.objective == ORACLE:
        return None
    space = make_search_space(config, row.objective)
    drawn = draw_settings(
        space,
        config.trials,
        f"{config.seed}-{row.objective}",
        lambda setting: make_cell_keys(config, row.objective, seed, row.variant, setting or NOTHING),
    )
    stated = {key: {distribution.kind: list(distribution.values)} for key, distribution in space.items()}
    return Tuning(config.trials, config.trial_episodes, config.trial_share, config.seed, stated, tuple(drawn))
