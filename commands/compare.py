"""`jepa compare`: several objectives on the same data with the same planner, as one table.

A cell is one objective with one budget of stage 1 and one seed: pretrain, posttrain, plan. A finished cell leaves a
JSON record in `cells`; the command skips cells that have one there or in `published`, so a table grows over days and
machines. What the methods share is found by comparing their configurations, and stands above the table. Objectives that
learn dynamics themselves (lewm, pldm) keep the embedding that these were learned in, and are planned with them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.comparison.cells import (
    ORACLE,
    UNTRAINED,
    Cell,
    TableKeys,
    is_current,
    make_cell_keys,
    make_cells,
)
from commands.comparison.execution import remove_ended_folders, run_cell
from commands.comparison.overview import format_overview
from commands.comparison.rows import make_rows
from commands.comparison.sharing import check_equal
from commands.comparison.tables import format_task_page
from commands.comparison.tidy import format_episodes_csv, format_seeds_csv
from commands.config.compose import list_choices
from commands.evaluation.scenes import check_scenes
from commands.shared.console import Console
from commands.shared.errors import UsageError, join_names
from commands.shared.runs import RunFolder, read_json
from commands.transfer.collection import check_collection


@dataclass(frozen=True, kw_only=True)
class Config(TableKeys):
    """Keys of `jepa compare`."""


def check(config: Config) -> None:
    """Names, numbers, and every cell's own configuration, before the first is run."""
    if not config.objectives or not config.budgets or config.seeds < 1:
        raise UsageError("objectives and budgets must each hold at least one, and seeds be at least 1")
    strange = [name for name in config.small if name not in (ORACLE, *list_choices("objective"))]
    if strange:
        raise UsageError(
            f"small.{strange[0]}: there is no such objective (choices: {join_names(list_choices('objective'), 30)})"
        )
    names = list(dict.fromkeys(config.objectives))
    for name in names:
        keys = make_cell_keys(config, name, config.seed)
        check_collection(keys.collection)
        check_scenes(keys.protocol, keys.env.name, keys.env.arguments)
        if name != ORACLE:
            keys.stage1.check()
            keys.stage2.check()
    if not config.mixed:
        cells = [Cell(name, "both", config.seed, make_cell_keys(config, name, config.seed), 0.0) for name in names]
        check_equal(make_rows([{**vars(cell), "config": cell.config, "plan": {}} for cell in cells]))


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Every cell that has no record yet, then the table; with table_only=true the table of those that have one."""
    own = folder.path / "cells" if config.cells is None else Path(config.cells)
    folders = [own] if config.published is None else [own, Path(config.published)]
    cells = make_cells(config)
    missing = [cell for cell in cells if cell.find_record(*folders, any_loss=config.mixed) is None]
    searched = join_names([str(path) for path in folders])
    console.say(f"{len(cells)} cells, {len(cells) - len(missing)} of them finished before, in {searched}")
    for path in folders:
        _warn_of_old_records(path, console)
    if not config.mixed:
        _warn_of_old_losses(missing, folders, console)
    if config.table_only and len(missing) == len(cells):
        raise UsageError(f"table_only=true: no cell of this table is finished in {searched}")
    own.mkdir(parents=True, exist_ok=True)
    remove_ended_folders(folder.path, [cell for cell in cells if cell not in missing])
    if len(missing) < len(cells):  # those that are there may have come from another machine
        table = _write_page(own, folders, cells, config, console)
    if not config.table_only:
        for number, cell in enumerate(missing):
            console.say(f"cell {number + 1} of {len(missing)}: {cell.name}")
            run_cell(cell, folder.path, own, config.keep_models, console)
            table = _write_page(own, folders, cells, config, console)
        folder.finish(f"{len(cells)} cells, table in {table}")
    console.say(table.read_text(encoding="utf-8"))


def _warn_of_old_records(folder: Path, console: Console) -> None:
    old = [path.name for path in sorted(folder.glob("*.json")) if not is_current(read_json(path)["config"])]
    if old:
        console.warn(
            f"jepa compare: {len(old)} records in {folder} are of an earlier version, whose keys differ, and are left "
            f"out ({join_names(old, 2)}): move them away; their cells run again"
        )


def _warn_of_old_losses(missing: Sequence[Cell], folders: Sequence[Path], console: Console) -> None:
    old = [path.name for path in (cell.find_record(*folders, any_loss=True) for cell in missing) if path is not None]
    if old:
        console.warn(
            f"jepa compare: {len(old)} cells were trained with another version of their loss, and are left out "
            f"({join_names(old, 2)}): they run again; or give mixed=true"
        )


def _write_page(own: Path, folders: Sequence[Path], cells: Sequence[Cell], config: Config, console: Console) -> Path:
    """Write the table of those cells that are finished into the folder `own`, as Markdown and CSV, and one of all tasks
    where it holds several; return the first."""
    paths = (cell.find_record(*folders, any_loss=config.mixed) for cell in cells)
    finished = [read_json(path) for path in paths if path is not None]
    table, main = own / f"{cells[0].task}.md", _find_main_objective(config)
    table.write_text(format_task_page(finished, config.budgets, main, config.mixed), encoding="utf-8")
    table.with_suffix(".csv").write_text(format_seeds_csv(finished), encoding="utf-8")
    if episodes := format_episodes_csv(finished):
        (own / f"{cells[0].task}_episodes.csv").write_text(episodes, encoding="utf-8")
    everything = [record for record in map(read_json, sorted(own.glob("*.json"))) if is_current(record["config"])]
    if len({record["task"] for record in everything}) > 1:
        try:
            (own / "README.md").write_text(format_overview(everything, config.mixed), encoding="utf-8")
        except UsageError as error:  # the table that was asked for may be one of equals
            console.warn(f"jepa compare: {own / 'README.md'} is not written: {error}")
    return table


def _find_main_objective(config: Config) -> str | None:
    """The first trained objective, which the others are compared with, as it sets the budget of equal arithmetic."""
    return next((name for name in config.objectives if name not in (ORACLE, UNTRAINED)), None)
