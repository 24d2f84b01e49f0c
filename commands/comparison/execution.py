"""Running one cell of a table, and the record that it leaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from commands.comparison.cells import ORACLE, Cell
from commands.comparison.costs import count_stage2_flops
from commands.evaluation.evaluate import evaluate_baselines, evaluate_model
from commands.evaluation.methods import MODEL_METHOD, ORACLE_METHOD, RANDOM_METHOD
from commands.shared.console import METRICS, Console, format_duration, read_evaluations
from commands.shared.runs import get_commit, list_versions, write_json
from commands.training.feature_cache import make_cache_key
from commands.training.model_folders import MODEL, derive_preprocessing, load_encoder, open_reader, read_model_kind
from commands.training.posttraining import posttrain
from commands.training.pretraining import pretrain
from commands.transfer.collection import FILE, collect_into
from data.features import FeatureCache
from data.prepared import prepare_reader


def run_cell(cell: Cell, folder: Path, records: Path, keep: bool, console: Console) -> None:
    """Collect its seed's data unless they exist, run the cell in `folder` and leave its record in `records`.

    keep: whether its models stay in `folder`.
    """
    data = folder / f"data-seed{cell.seed}" / FILE
    data.parent.mkdir(exist_ok=True)
    collect_into(data, cell.keys.collection, console)
    work, ended = folder / cell.name, find_ended_folder(folder, cell)
    if ended.exists():  # killed before the record was written
        ended.rename(work)
    record = (run_oracle if cell.objective == ORACLE else run_pipeline)(cell, str(data), work, console)
    if not keep and work.exists():  # the oracle writes none
        work.rename(ended)
    write_json(records / f"{cell.name}.json", record, columns=True)
    shutil.rmtree(ended, ignore_errors=True)


def find_ended_folder(folder: Path, cell: Cell) -> Path:
    """Where the files of a cell that are not kept lie while its record is written: a command that is killed there finds
    them again, and tells them from those of a cell that keeps its models."""
    return folder / f".{cell.name}.ended"


def remove_ended_folders(folder: Path, finished: Iterable[Cell]) -> None:
    """Remove what a command that was killed after the record left of these cells."""
    for cell in finished:
        shutil.rmtree(find_ended_folder(folder, cell), ignore_errors=True)


def run_pipeline(cell: Cell, data: str, work: Path, console: Console) -> dict[str, Any]:
    """Train and evaluate a cell in the folder `work`, resuming where it stopped; returns its record."""
    keys, seconds = cell.keys, {}
    paths = {name: work / name for name in ("pretrain", "posttrain", "plan", "plan_own")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)

    def time_phase(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        seconds[name] = round(time.perf_counter() - began, 1)
        console.say(f"{name} [{format_duration(seconds[name])}]")
        return result

    encoder, model, evaluation = str(paths["pretrain"]), str(paths["posttrain"]), keys.evaluation
    time_phase("pretrain", lambda: pretrain(keys.stage1, data, paths["pretrain"], console))
    time_phase("posttrain", lambda: posttrain(keys.stage2, data, encoder, paths["posttrain"], console))
    plan = time_phase("plan", lambda: evaluate_model(evaluation, data, model, paths["plan"], console))
    encoder_sizes = keys.objective.adapt_encoder(keys.encoder)
    stage2_flops, features_flops = count_stage2_flops(encoder_sizes, keys.dynamics, keys.posttrain, keys.env.name)
    record = _record(cell, plan, MODEL_METHOD) | {
        "steps": keys.pretrain.steps,
        "flops_per_step": cell.flops_per_step,
        "posttrain_flops_per_step": stage2_flops,
        "features_flops_per_frame": features_flops,
        "loss_version": cell.loss_version,
        "space": keys.dynamics.space,
        "pretrain": read_evaluations(paths["pretrain"] / METRICS)[-1],
        "posttrain": read_evaluations(paths["posttrain"] / METRICS)[-1],
        "seconds": seconds,
    }
    if read_model_kind(paths["pretrain"] / MODEL) == "dynamics":
        own = time_phase("plan_own", lambda: evaluate_model(evaluation, data, encoder, paths["plan_own"], console))
        record["plan_own"] = own["methods"][MODEL_METHOD]
        record["outcomes"]["plan_own"] = own["outcomes"]["methods"][MODEL_METHOD]  # the goals are the same
    reader, trained = open_reader(data, keys.on_damaged), load_encoder(encoder)[0]
    reader = prepare_reader(reader, derive_preprocessing(reader.info, trained.config.image_px))
    FeatureCache(reader).build_path(make_cache_key(trained, reader), keys.dynamics.space).unlink()
    return record


def run_oracle(cell: Cell, data: str, work: Path, console: Console) -> dict[str, Any]:
    """The record of the oracle's cell, with those keys of the others that it has."""
    began = time.perf_counter()
    results = evaluate_baselines(cell.keys.evaluation, cell.keys.dynamics.frame_skip, data, console)
    return _record(cell, results, ORACLE_METHOD) | {"seconds": {"plan": round(time.perf_counter() - began, 1)}}


def _record(cell: Cell, results: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The record of a cell: its configuration, the results of a method and of random actions, the outcomes of all their
    episodes, and versions."""
    outcomes = results["outcomes"]
    return {
        "objective": cell.objective,
        "budget": cell.budget,
        "seed": cell.seed,
        "task": cell.keys.env.name,
        "plan": results["methods"][method],
        "random": results["methods"][RANDOM_METHOD],
        "outcomes": {
            "budget": outcomes["budget"],
            "goals": outcomes["goals"],
            "plan": outcomes["methods"][method],
            "random": outcomes["methods"][RANDOM_METHOD],
        },
        "thresholds": results["thresholds"],
        "unit": results["unit"],
        "commit": get_commit(),
        "versions": list_versions(),
        "config": cell.config,
    }
