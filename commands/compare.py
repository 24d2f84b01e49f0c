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

from commands.comparison.axes import list_variants
from commands.comparison.cells import Cell, is_current, make_cells
from commands.comparison.control import check_arms, check_control, check_oracle_costs
from commands.comparison.efforts import check_efforts, equalise_time
from commands.comparison.execution import remove_leftovers, run_cell
from commands.comparison.one_stage import BEST_VIEW
from commands.comparison.pages import find_cell_folders, write_page, write_report, write_tasks_page
from commands.comparison.phases import remove_shared_trainings
from commands.comparison.search import list_extremes, read_space
from commands.comparison.table_keys import (
    UNTRAINED,
    MethodVariant,
    TableKeys,
    find_search,
    list_rows,
    make_cell_keys,
    make_search_space,
)
from commands.comparison.validation import SPLIT
from commands.config.compose import list_choices
from commands.evaluation.protocol import check_goals
from commands.evaluation.scenes import check_scenes
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, describe_choices, explain, join_names
from commands.shared.runs import RunFolder, read_json
from commands.tables.rows import ALL, ALL_BUDGETS, CANDIDATES, ORACLE, TIME, make_rows
from commands.tables.sharing import check_equal
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
    check_oracle_costs(config)
    rows, left_out = list_rows(config)
    if not rows:
        raise UsageError(f"no row is left: {join_names(f'{names[0]}: {reason}' for reason, names in left_out.items())}")
    for row in rows:
        keys = make_cell_keys(config, row.objective, config.seed, row.variant)
        check_collection(keys.collection)
        check_scenes(keys.protocol, keys.env.name, keys.env.arguments)
        check_goals(keys.protocol, keys.env.name, keys.data.frames)
        if row.objective != ORACLE:
            keys.check_planner()
            keys.stage1.check()
            if keys.has_stage2:
                keys.stage2.check()
            if keys.planner.cost.view == BEST_VIEW and keys.protocol.split == SPLIT:
                raise UsageError(
                    f"{row.name} chooses its view on {SPLIT}, and protocol.split={SPLIT} would report on it, too: give "
                    f"protocol.split=eval, or name a view, as small.{row.objective}=['planner.cost.view=pixels']"
                )
        if row.is_trained:
            check_efforts(config.efforts, keys, is_first=row == next(each for each in rows if each.is_trained))
    check_control(config, rows)
    if not config.mixed:
        check_equal(make_rows([_sketch_record(config, row) for row in rows]))
    check_search(config, list({row.objective: row for row in rows if row.objective != ORACLE}.values()))


def _sketch_record(config: Config, row: MethodVariant) -> dict[str, Any]:
    """What is known of a row's record before it is run."""
    keys = make_cell_keys(config, row.objective, config.seed, row.variant)
    cell = Cell(row.objective, ALL_BUDGETS, config.seed, keys, row.variant)
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
    """Every cell that has no record yet, then the table; with table_only=true the table of those that have one. A cell
    that fails is named, and the rest goes on."""
    folders = find_cell_folders(config, folder.path)
    own, cells = folders[0], make_cells(config)
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
        write_page(folders, cells, config, console, figures=False)
    failed: dict[str, Exception] = {}
    if not config.table_only:
        failed = _run_cells(missing, cells, folder, folders, config, console)
    if len(failed) < len(cells):
        table = write_page(folders, cells, config, console, figures=True)
        report = write_report(table, cells, folder.path)
        console.say(f"{table.read_text(encoding='utf-8')}\nreport: {report}")
    if failed:
        sentences = [f"{name}: {explain(error)[1]}" for name, error in failed.items()]
        raise RunError(
            f"{len(failed)} of {len(cells)} cells failed, and the same command runs them again: {'; '.join(sentences)}"
        ) from next(iter(failed.values()))
    if not config.table_only:
        folder.finish(f"{len(cells)} cells, table in {table}")


def _run_cells(
    missing: Sequence[Cell],
    cells: Sequence[Cell],
    folder: RunFolder,
    folders: Sequence[Path],
    config: Config,
    console: Console,
) -> dict[str, Exception]:
    """Run the cells that are missing, and write the page after each; the errors of those that failed, by name."""
    failed: dict[str, Exception] = {}
    for number, cell in enumerate(missing):
        if cell.find_record(*folders) is None:  # another budget may have had the same steps
            console.say(f"cell {number + 1} of {len(missing)}: {cell.row.name}, {cell.name}")
            try:
                chosen = add_time(add_choice(cell, cells, folders), cells, folders)
                run_cell(chosen, folder.path, folders[0], console)
            except Exception as error:
                failed[cell.name] = error
                console.warn(f"jepa compare: {cell.name} failed: {explain(error)[1]}")
                continue
        needed = [other for other in missing if other.name in failed]
        remove_shared_trainings(folder.path, [*missing[number + 1 :], *needed])
        write_page(folders, cells, config, console, figures=False)
    return failed


def join(configs: Sequence[Config], runs: Sequence[Path], folder: RunFolder, console: Console) -> str | None:
    """Write the page of several tasks, and its report into their common run folder; return the page's path, None where
    no cell is finished. runs: the run folders of the tables, in the order of their configurations."""
    page = write_tasks_page(configs, runs, folder.path, console)
    return None if page is None else str(page)


def add_choice(cell: Cell, cells: Sequence[Cell], folders: Sequence[Path]) -> Cell:
    """A cell of a further seed or effort, with the setting that the tuning of its row chose with the first seed and
    equal candidates. RunError where that one has failed."""
    if cell.tuning is None or cell.seed == cell.tuning.seed and cell.effort in (CANDIDATES, ALL):
        return cell
    same = (other for other in cells if other.row == cell.row and other.budget == cell.budget)
    first = next(each for each in same if each.seed == cell.tuning.seed and each.effort in (CANDIDATES, ALL))
    path = first.find_record(*folders)
    if path is None:
        raise RunError(f"it takes the setting that {first.name} chooses, which is not finished")
    return replace(cell, tuning=replace(cell.tuning, chosen=read_json(path)["tuning"]))


def add_time(cell: Cell, cells: Sequence[Cell], folders: Sequence[Path]) -> Cell:
    """A cell of equal wall time with the candidates that follow from the measured plans of its own row and of the first
    trained one. RunError where one of them has not planned."""
    if cell.effort != TIME:
        return cell
    times = []
    for effort in (CANDIDATES, ALL):  # its own row, then the first trained one
        base = next(
            other
            for other in cells
            if other.seed == cell.seed
            and other.effort == effort
            and other.objective != ORACLE
            and (effort == ALL or (other.row, other.budget) == (cell.row, cell.budget))
        )
        path = base.find_record(*folders)
        planning = None if path is None else read_json(path).get("planning")
        if planning is None:
            raise RunError(f"its candidates follow from the plan times of {base.name}, which has none: run that again")
        times.append(planning["ms_p50"] / planning["environments"])
    return replace(cell, keys=equalise_time(cell.keys, *times))


def _warn_of_old_records(folder: Path, console: Console) -> None:
    old = [path.name for path in sorted(folder.glob("*.json")) if not is_current(read_json(path)["config"])]
    if old:
        console.warn(
            f"jepa compare: {len(old)} records in {folder} are of an earlier version, whose keys or loss differ, and "
            f"are left out ({join_names(old, 2)}): move them away; their cells run again"
        )
