"""`jepa compare`: several objectives on the same data with the same planner, as one table.

A cell is one objective with one budget of stage 1 and one seed: pretrain, posttrain, plan. A finished cell leaves a
JSON record in `cells`; the command skips cells that have one there or in `published`, so a table grows over days and
machines. All methods have the same encoder, data, dynamics, planner and, in the embedding that is planned in, the same
metric; objectives that learn dynamics themselves (lewm, pldm) keep the embedding that these were learned in, and are
planned with them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands.comparison import tables
from commands.comparison.cells import ORACLE, Cell, TableKeys, is_current, make_cell_keys, make_cells
from commands.comparison.execution import remove_ended_folders, run_cell
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
    for name in config.objectives:
        keys = make_cell_keys(config, name, config.seed)
        check_collection(keys.collection)
        check_scenes(keys.protocol, keys.env.name, keys.env.arguments)
        if name != ORACLE:
            keys.check_planner()
            keys.stage1.check()
            keys.stage2.check()


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Every cell that has no record yet, then the table; with table_only=true the table of those that have one."""
    own = folder.path / "cells" if config.cells is None else Path(config.cells)
    folders = [own] if config.published is None else [own, Path(config.published)]
    cells = make_cells(config)
    missing = [cell for cell in cells if cell.find_record(*folders) is None]
    searched = join_names([str(path) for path in folders])
    console.say(f"{len(cells)} cells, {len(cells) - len(missing)} of them finished before, in {searched}")
    for path in folders:
        _warn_of_old_records(path, console)
    if config.table_only and len(missing) == len(cells):
        raise UsageError(f"table_only=true: no cell of this table is finished in {searched}")
    own.mkdir(parents=True, exist_ok=True)
    remove_ended_folders(folder.path, [cell for cell in cells if cell not in missing])
    if len(missing) < len(cells):  # those that are there may have come from another machine
        table = _write_page(own, folders, cells, config)
    if not config.table_only:
        for number, cell in enumerate(missing):
            console.say(f"cell {number + 1} of {len(missing)}: {cell.name}")
            run_cell(cell, folder.path, own, config.keep_models, console)
            table = _write_page(own, folders, cells, config)
        folder.finish(f"{len(cells)} cells, table in {table}")
    console.say(table.read_text(encoding="utf-8"))


def _warn_of_old_records(folder: Path, console: Console) -> None:
    old = [path.name for path in sorted(folder.glob("*.json")) if not is_current(read_json(path)["config"])]
    if old:
        console.warn(
            f"jepa compare: {len(old)} records in {folder} are of an earlier version, whose keys differ, and are left "
            f"out ({join_names(old, 2)}): move them away; their cells run again"
        )


def _write_page(own: Path, folders: Sequence[Path], cells: Sequence[Cell], config: Config) -> Path:
    """Write the table of those cells that are finished into the folder `own`, and one of all tasks where it holds
    several; return the first."""
    finished = [path for path in (cell.find_record(*folders) for cell in cells) if path is not None]
    table = own / f"{cells[0].task}.md"
    table.write_text(tables.format_task_page([read_json(path) for path in finished], config.budgets), encoding="utf-8")
    everything = [record for record in map(read_json, sorted(own.glob("*.json"))) if is_current(record["config"])]
    if len({record["task"] for record in everything}) > 1:
        (own / "README.md").write_text(tables.format_overview(everything), encoding="utf-8")
    return table
