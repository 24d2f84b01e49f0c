"""`jepa compare`: several objectives on the same data with the same planner, as one table.

A cell is one row with one budget of stage 1 and one seed: pretrain, posttrain, plan. A row is one objective in one
variant of each axis that is varied, such as the metric. A finished cell leaves a JSON record in `cells`; the command
skips cells that have one there or in `published`, so a table grows over days and machines. With trials=N all rows get
the same number of settings, judged on `val`. What the rows share is found by comparing their configurations, and stands
above the table. Without vary.metric, objectives that learn dynamics themselves (lewm, pldm) have no metric, and are
planned with these dynamics, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.comparison import law
from commands.comparison.axes import list_variants
from commands.comparison.cells import Cell, is_current, make_cells
from commands.comparison.control import check_arms, check_control
from commands.comparison.execution import remove_leftovers, run_cell
from commands.comparison.overview import format_overview
from commands.comparison.phases import remove_shared_trainings
from commands.comparison.rows import ORACLE, make_rows
from commands.comparison.search import list_extremes, read_space
from commands.comparison.sharing import check_equal
from commands.comparison.table_keys import (
    UNTRAINED,
    MethodVariant,
    TableKeys,
    find_search,
    list_rows,
    make_cell_keys,
    make_search_space,
)
from commands.comparison.tables import format_task_page
from commands.comparison.tidy import format_episodes_csv, format_seeds_csv
from commands.comparison.trials import SPLIT
from commands.config.compose import list_choices
from commands.evaluation.scenes import check_scenes
from commands.shared.console import Console
from commands.shared.errors import UsageError, describe_choices, join_names
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
    list_variants(config.axes, config.vary)
    check_arms(config.arms)
    rows, left_out = list_rows(config)
    if not rows:
        raise UsageError(f"no row is left: {join_names(f'{names[0]}: {reason}' for reason, names in left_out.items())}")
    for row in rows:
        keys = make_cell_keys(config, row.objective, config.seed, row.variant)
        check_collection(keys.collection)
        check_scenes(keys.protocol, keys.env.name, keys.env.arguments)
        if row.objective != ORACLE:
            keys.check_planner()
            keys.stage1.check()
            keys.stage2.check()
    check_control(config, rows)
    if not config.mixed:
        check_equal(make_rows([_sketch_record(config, row) for row in rows]))
    check_search(config, list({row.objective: row for row in rows if row.objective != ORACLE}.values()))


def _sketch_record(config: Config, row: MethodVariant) -> dict[str, Any]:
    """What is known of a row's record before it is run."""
    keys = make_cell_keys(config, row.objective, config.seed, row.variant)
    cell = Cell(row.objective, "both", config.seed, keys, 0.0, row.variant)
    return {**vars(cell), "config": cell.config, "plan": {}}


def check_search(config: Config, rows: Sequence[MethodVariant]) -> None:
    """Names, distributions and keys of all search spaces, and what trials need. rows: one of each method."""
    known = (UNTRAINED, *config.arms, *list_choices("objective"))
    for name, space in config.search.items():
        if name not in known:
            raise UsageError(f"search.{name}: there is no such objective{describe_choices(name, known, most=30)}")
        read_space(space, f"search.{name}")
    for row in rows:
        space = make_search_space(config, row.objective)
        for setting in list_extremes(space):
            make_cell_keys(config, row.objective, config.seed, row.variant, setting).stage1.check()
        if config.trials > 1 and not find_search(config, row.objective):
            raise UsageError(
                f"trials={config.trials}: search.{row.objective} states no key to draw: give "
                f"search.{row.objective}.pretrain.lr={{log: [1.0e-4,1.0e-2]}}, or trials=1"
            )
    if config.trials > 1 and config.protocol.split == SPLIT:
        raise UsageError(
            f"trials={config.trials} chooses on {SPLIT}, and protocol.split={SPLIT} would report on it, too: give "
            "protocol.split=eval, or trials=1"
        )


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Every cell that has no record yet, then the table; with table_only=true the table of those that have one."""
    own = folder.path / "cells" if config.cells is None else Path(config.cells)
    folders = [own] if config.published is None else [own, Path(config.published)]
    cells = make_cells(config)
    missing = [cell for cell in cells if cell.find_record(*folders) is None]
    searched = join_names([str(path) for path in folders])
    console.say(f"{len(cells)} cells, {len(cells) - len(missing)} of them finished before, in {searched}")
    for reason, names in list_rows(config)[1].items():
        console.say(f"rows left out: {join_names(names, 4)}: {reason}")
    for path in folders:
        _warn_of_old_records(path, console)
    if config.table_only and len(missing) == len(cells):
        raise UsageError(f"table_only=true: no cell of this table is finished in {searched}")
    own.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.path, own, [cell for cell in cells if cell not in missing])
    remove_shared_trainings(folder.path, missing)
    if len(missing) < len(cells):  # those that are there may have come from another machine
        table = _write_page(own, folders, cells, config, console)
    if not config.table_only:
        for number, cell in enumerate(missing):
            if cell.find_record(*folders) is None:  # another budget may have had the same steps
                console.say(f"cell {number + 1} of {len(missing)}: {cell.row.name}, {cell.name}")
                run_cell(add_choice(cell, cells, folders), folder.path, own, config.keep_models, console)
            remove_shared_trainings(folder.path, missing[number + 1 :])
            table = _write_page(own, folders, cells, config, console)
        folder.finish(f"{len(cells)} cells, table in {table}")
    console.say(table.read_text(encoding="utf-8"))


def add_choice(cell: Cell, cells: Sequence[Cell], folders: Sequence[Path]) -> Cell:
    """A cell of a further seed with the setting that the tuning of its row chose with the first seed."""
    if cell.tuning is None or cell.seed == cell.tuning.seed:
        return cell
    same = (other for other in cells if other.row == cell.row and other.budget == cell.budget)
    path = next(other for other in same if other.seed == cell.tuning.seed).find_record(*folders)
    assert path is not None, "cells of the first seed run first"
    return replace(cell, tuning=replace(cell.tuning, chosen=read_json(path)["tuning"]))


def _warn_of_old_records(folder: Path, console: Console) -> None:
    old = [path.name for path in sorted(folder.glob("*.json")) if not is_current(read_json(path)["config"])]
    if old:
        console.warn(
            f"jepa compare: {len(old)} records in {folder} are of an earlier version, whose keys or loss differ, and "
            f"are left out ({join_names(old, 2)}): move them away; their cells run again"
        )


def _write_page(own: Path, folders: Sequence[Path], cells: Sequence[Cell], config: Config, console: Console) -> Path:
    """Write the table of those cells that are finished into the folder `own`, as Markdown with what predicts success
    and as CSV, and one of all tasks where it holds several; return the first."""
    found = [(cell, path) for cell in cells if (path := cell.find_record(*folders)) is not None]
    records = [cell.read_record(path) for cell, path in found]
    table, main = own / f"{cells[0].task}.md", _find_main_objective(config)
    everything = [record for record in map(read_json, sorted(own.glob("*.json"))) if is_current(record["config"])]
    elsewhere = [record for (_, path), record in zip(found, records, strict=True) if path.parent != own]
    page = format_task_page(records, config.budgets, main, config.mixed)
    table.write_text(f"{page}{law.write_law(everything + elsewhere, own / law.FIGURE)}", encoding="utf-8")
    table.with_suffix(".csv").write_text(format_seeds_csv(records), encoding="utf-8")
    if episodes := format_episodes_csv(records):
        (own / f"{cells[0].task}_episodes.csv").write_text(episodes, encoding="utf-8")
    if len({record["task"] for record in everything}) > 1:
        try:
            (own / "README.md").write_text(format_overview(everything, config.mixed), encoding="utf-8")
        except UsageError as error:  # the table that was asked for may be one of equals
            console.warn(f"jepa compare: {own / 'README.md'} is not written: {error}")
    return table


def _find_main_objective(config: Config) -> str | None:
    """The first trained objective, which the others are compared with, as it sets the budget of equal arithmetic."""
    return next((name for name in config.objectives if name not in (ORACLE, UNTRAINED)), None)
