"""Running one cell of a table, and the record that it leaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from commands.comparison.cells import Cell
from commands.comparison.phases import IMAGINED, SHARED, Phases
from commands.comparison.trials import TRIALS, find_trials, run_trials
from commands.comparison.validation import check_val_episodes
from commands.evaluation.evaluate import evaluate_baselines
from commands.evaluation.methods import MODEL_METHOD, ORACLE_COST_METHOD, ORACLE_METHOD, RANDOM_METHOD
from commands.shared.console import Console
from commands.shared.runs import get_commit, list_versions, write_json
from commands.tables.rows import ORACLE
from commands.transfer.collection import FILE, collect_into

FRAMES = "imagined"  # folder of the frames that the models of finished cells imagined, in the run folder


def run_cell(cell: Cell, folder: Path, records: Path, console: Console) -> None:
    """Collect its seed's data unless they exist, run the cell in `folder` and leave its record in `records`."""
    data = folder / f"data-seed{cell.seed}" / FILE
    data.parent.mkdir(exist_ok=True)
    collect_into(data, cell.keys.collection, console)
    work, ended = folder / cell.name, find_ended_folder(folder, cell)
    if ended.exists():  # killed before the record was written
        ended.rename(work)
    if cell.objective == ORACLE:
        record = run_oracle(cell, str(data), console)
    else:
        record = run_pipeline(cell, str(data), work, records, console)
        keep_frames(work, find_frames(folder, cell))
    if not cell.keeps_files and work.exists():  # the oracle writes none
        work.rename(ended)
    write_json(records / f"{cell.name}.json", record, columns=True)
    remove_leftovers(folder, records, [cell])


def find_frames(folder: Path, cell: Cell) -> Path:
    """Where the frames that a cell's model imagined are kept (`commands.offline.imagined_paths`)."""
    return folder / FRAMES / f"{cell.name}.npz"


def keep_frames(work: Path, path: Path) -> None:
    """Move imagined frames out of a cell's folder, which its record may be the end of."""
    for found in work.rglob(IMAGINED):
        path.parent.mkdir(exist_ok=True)
        found.replace(path)


def find_ended_folder(folder: Path, cell: Cell) -> Path:
    """Where the files of a cell that are not kept lie while its record is written: a command that is killed there finds
    them again, and tells them from those of a cell that keeps its models."""
    return folder / f".{cell.name}.ended"


def remove_leftovers(folder: Path, records: Path, finished: Iterable[Cell]) -> None:
    """Remove what these cells no longer need: files that are not kept, and the results of trials that their records
    have."""
    for cell in finished:
        shutil.rmtree(find_ended_folder(folder, cell), ignore_errors=True)
        if cell.tuning is not None:
            find_trials(records, cell).remove()
    if (records / TRIALS).is_dir() and not any((records / TRIALS).iterdir()):
        (records / TRIALS).rmdir()


def run_pipeline(cell: Cell, data: str, work: Path, records: Path, console: Console) -> dict[str, Any]:
    """Train and evaluate a cell in the folder `work`, resuming where it stopped; returns its record.

    records: folder of the table's records; finished trials are in its folder TRIALS.
    """
    shared = work.parent / SHARED
    if cell.tuning is not None:
        trial, plan, own, parts = run_trials(cell, data, work, shared, find_trials(records, cell), console)
        return add_own(make_record(trial, plan, MODEL_METHOD) | parts, own)
    if cell.chooses_view:
        check_val_episodes(cell.keys.evaluation, cell.val_episodes, cell.keys.frame_skip, data)
    phases = Phases(cell, cell.name, data, work, shared, console)
    parts = phases.train()
    plan, own = phases.plan(cell.keys.evaluation), phases.plan_own(cell.keys.evaluation)
    parts |= phases.measure_model()
    phases.remove_features()
    return add_own(make_record(cell, plan, MODEL_METHOD) | parts, own)


def add_own(record: dict[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record with the results of the model's own dynamics, if it has them, on the same goals."""
    if own is not None:
        record["plan_own"] = own["methods"][MODEL_METHOD]
        record["outcomes"]["plan_own"] = own["outcomes"]["methods"][MODEL_METHOD]
    return record


def run_oracle(cell: Cell, data: str, console: Console) -> dict[str, Any]:
    """The record of the oracle's cell, with those keys of the others that it has."""
    began = time.perf_counter()
    results = evaluate_baselines(cell.keys.evaluation, cell.keys.dynamics.frame_skip, data, console)
    return make_record(cell, results, ORACLE_METHOD) | {"seconds": {"plan": round(time.perf_counter() - began, 1)}}


def make_record(cell: Cell, results: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The record of a cell: its configuration, the results of a method, of random actions and, where it was played, of
    the true simulator with the method's cost; the outcomes of all their episodes, what planning costs, and versions."""
    outcomes, tested = results["outcomes"], results["methods"]
    played = {"plan": method, "oracle_cost": ORACLE_COST_METHOD, "random": RANDOM_METHOD}
    played = {part: name for part, name in played.items() if name in tested}
    return {
        "objective": cell.objective,
        "budget": cell.budget,
        "effort": cell.effort,
        "seed": cell.seed,
        "variant": dict(cell.variant),
        "task": cell.keys.env.name,
        **{part: tested[name] for part, name in played.items()},
        "outcomes": {
            "budget": outcomes["budget"],
            "goals": outcomes["goals"],
            **{part: outcomes["methods"][name] for part, name in played.items()},
        },
        **({"planning": results["plan"]} if "plan" in results else {}),
        "thresholds": results["thresholds"],
        "unit": results["unit"],
        "commit": get_commit(),
        "versions": list_versions(),
        "config": cell.config,
    }
