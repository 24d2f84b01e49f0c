"""`jepa compare`: several objectives on the same data with the same planner, as one table.

A cell is one objective with one budget of stage 1 and one seed: pretrain, posttrain, plan. What it is, is a
configuration, and its hash names the JSON file that a finished cell leaves in `cells`; the command skips cells that are
there, so a table grows over days and machines. All rows have the same encoder, data, dynamics, planner and, in the
embedding that is planned in, the same metric; objectives that learn dynamics themselves (lewm, pldm) keep the embedding
these were learned in, and are planned with them, too. `oracle` is a row, too: the true simulator with the task's own
distance, against which tasks are compared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from commands import collect as collect_command
from commands import plan as plan_command
from commands import posttrain as posttrain_command
from commands import pretrain as pretrain_command
from commands.bench import pretraining
from commands.collect import FILE, collect_into
from commands.config.compose import choices, compose, nested
from commands.evaluation.methods import MODEL_ROW, ORACLE_ROW, RANDOM_ROW
from commands.report import comparison
from commands.report.comparison import ORACLE
from commands.shared.console import Console, duration
from commands.shared.errors import UsageError, listed
from commands.shared.flops import count_flops
from commands.shared.runs import RunFolder, commit, identity, read_json, versions, write_json
from commands.training.model_folders import MODEL, load_encoder, model_kind, open_reader
from data.features import FeatureCache
from world_model.nn.reachability import ReachConfig
from world_model.training.checkpoint import tensors_hash
from world_model.training.loop import make_optimizer, train_step

UNTRAINED = "untrained"  # a row of its own: an encoder before its first step
ORACLE_PARTS = ("env", "data", "planner", "protocol", "seed", "device", "workers", "on_damaged")
BUDGETS = ("steps", "flops")
OWN = ("objectives", "budgets", "seeds", "cells", "small", "metric", "table_only")  # keys of this command alone
# Keys that change no number of a cell.
NO_PART = (
    "device",
    "workers",
    "videos",
    *(
        f"{stage}.{key}"
        for stage in ("pretrain", "posttrain")
        for key in ("evaluate_every", "checkpoint_every", "log_every", "parallel")
    ),
)


# Keys that are younger than the first finished cells, with the value that leaves everything as it was before them: a
# cell that has it keeps its hash.
ADDED = {
    "dynamics.proprio_model": "none",
    "dynamics.scene": False,
    "dynamics.predictor.conditioning": "tokens",
    "dynamics.predictor.checkpointing": "none",
    "dynamics.predictor.dropout": 0.0,
    **{f"dynamics.reach.{key}": value for key, value in asdict(ReachConfig()).items()},
    **{f"protocol.{key}": value for key, value in (("judge", "any"), ("thresholds", {}), ("keep_solved", False))},
    "protocol.says": "",
    "encoder.pool_stride": 4,
    "encoder.stem": "linear",
    "env.factors": [],
    "objective.metric.modes": 0,
    "objective.metric.of": "pooled",
    "objective.terms.centred": False,
    "planner.cost.change_penalty": 0.0,
    "planner.cost.token_keep": 1.0,
    "planner.mpc.reached_cost": 0.0,
    "planner.mpc.subgoal_steps": 0,
    "pretrain.compile": False,
    "posttrain.compile": False,
}


def file_name(config: dict[str, Any]) -> str:
    """The task's name as the beginning of a file's."""
    return str(config["env"]["name"]).replace("/", "_")


@dataclass(frozen=True)
class Cell:
    """One row of the table with one seed: what is run, and the file it leaves."""

    objective: str
    budget: str
    seed: int
    config: dict[str, Any]  # as of `jepa demo`
    flops_per_step: float

    @property
    def key(self) -> str:
        """Hash of the configuration."""
        values = identity(self.config, NO_PART)
        kept = {key: value for key, value in values.items() if key not in ADDED or value != ADDED[key]}
        text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{file_name(self.config)}-{self.objective}-{self.budget}-seed{self.seed}-{self.key}"


def check(config: dict[str, Any]) -> None:
    """Names, numbers, and every cell's own configuration, before the first is run."""
    for budget in config["budgets"]:
        if budget not in BUDGETS:
            raise UsageError(f"budgets: {budget} is none (choices: {listed(BUDGETS)})")
    if not config["objectives"] or not config["budgets"] or config["seeds"] < 1:
        raise UsageError("objectives and budgets must each hold at least one, and seeds be at least 1")
    strange = [name for name in config["small"] if name not in (ORACLE, *choices("objective"))]
    if strange:
        raise UsageError(
            f"small.{strange[0]}: there is no such objective (choices: {listed(choices('objective'), 30)})"
        )
    for name in config["objectives"]:
        cell = cell_config(config, name, config["seed"])
        collect_command.check(cell)
        plan_command.check(cell)
        if name != ORACLE:
            pretrain_command.configs({**cell, "trainer": cell["pretrain"]})
            posttrain_command.check({**cell, "trainer": cell["posttrain"]})


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """Every cell that is not there yet, then the table; with table_only=true the table of those that are there."""
    kept = Path(config["cells"])
    cells = all_cells(config)
    missing = [cell for cell in cells if not (kept / f"{cell.name}.json").exists()]
    console.say(f"{len(cells)} cells, {len(cells) - len(missing)} of them finished before, in {kept}")
    if config["table_only"] and len(missing) == len(cells):
        raise UsageError(f"table_only=true: no cell of this table is finished in {kept}")
    kept.mkdir(parents=True, exist_ok=True)
    if len(missing) < len(cells):  # those that are there may have come from another machine
        page = _write_page(kept, cells, config)
    if not config["table_only"]:
        for number, cell in enumerate(missing):
            console.say(f"cell {number + 1} of {len(missing)}: {cell.name}")
            run_cell(cell, folder.path, kept, console)
            page = _write_page(kept, cells, config)
        folder.finish(f"{len(cells)} cells, table in {page}")
    console.say(page.read_text(encoding="utf-8"))


def run_cell(cell: Cell, folder: Path, kept: Path, console: Console) -> None:
    """Collect its seed's data where they are not there, run the cell in `folder` and leave its record in `kept`."""
    data = folder / f"data-seed{cell.seed}" / FILE
    data.parent.mkdir(exist_ok=True)
    collect_into(data, cell.config, console)
    work = folder / cell.name
    record = (simulated if cell.objective == ORACLE else finished)(cell, str(data), work, console)
    write_json(kept / f"{cell.name}.json", record)
    shutil.rmtree(work, ignore_errors=True)  # the oracle writes none


def _write_page(kept: Path, cells: Sequence[Cell], config: dict[str, Any]) -> Path:
    """The table of those cells that are finished."""
    files = [kept / f"{cell.name}.json" for cell in cells]
    page = kept / f"{file_name(config)}.md"
    lines = comparison.page([read_json(file) for file in files if file.exists()], config["budgets"])
    page.write_text(lines, encoding="utf-8")
    everything = [read_json(file) for file in sorted(kept.glob("*.json"))]
    if len({record["task"] for record in everything}) > 1:
        (kept / "README.md").write_text(comparison.overview(everything), encoding="utf-8")
    return page


def cell_config(config: dict[str, Any], objective: str, seed: int) -> dict[str, Any]:
    """The configuration of `jepa demo` that a cell is; of the oracle, what matters for it."""
    known = choices("objective")
    if objective not in (UNTRAINED, ORACLE, *known):
        raise UsageError(f"objectives: {objective} is none (choices: {UNTRAINED}, {ORACLE}, {listed(known, 30)})")
    if objective == ORACLE:
        cell = {key: config[key] for key in ORACLE_PARTS} | {
            "dynamics": {"frame_skip": config["dynamics"]["frame_skip"]}
        }
        cell |= {"seed": seed, "videos": 0, "protocol": {**config["protocol"], "oracle": True}}
        return merged(cell, nested(config["small"].get(ORACLE, [])), f"small.{ORACLE}: ")
    name = untrained_as(config["encoder"]) if objective == UNTRAINED else objective
    cell = {key: value for key, value in config.items() if key not in OWN}
    cell |= {"objective": _published(name), "seed": seed, "videos": 0}
    cell["planner"] = merged(cell["planner"], {"cost": {"view": config["dynamics"]["space"]}}, "planner.")
    if "metric" in cell["objective"]:
        metric = None if config["metric"] is None else {**(cell["objective"]["metric"] or {}), "kind": config["metric"]}
        cell["objective"] = {**cell["objective"], "metric": metric}
    if name in config["small"]:
        cell = merged(cell, nested(config["small"][name]), f"small.{name}: ")
    if objective == UNTRAINED:
        cell["pretrain"] = {**cell["pretrain"], "steps": 0}
    return cell


def untrained_as(encoder: Mapping[str, Any]) -> str:
    """The objective whose encoder is taken before its first step: what a new keypoint pool embeds, or else principal
    components of new tokens."""
    return "future" if encoder.get("pool") == "keypoints" else "vjepa2"


@cache
def _published(objective: str) -> dict[str, Any]:
    return dict(compose("demo", [f"objective={objective}"]).config["objective"])


def merged(base: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`base` with the values of `over` in their places, which must exist."""
    made = dict(base)
    for key, value in over.items():
        if key not in made:
            raise UsageError(f"'{where}{key}' is no key (keys: {listed(made, 30)})")
        made[key] = merged(made[key], value, f"{where}{key}.") if isinstance(value, Mapping) else value
    return made


def all_cells(config: dict[str, Any]) -> list[Cell]:
    """All cells, steps of the equal-arithmetic budget worked out; the first trained objective sets that budget."""
    trained = [name for name in config["objectives"] if name not in (UNTRAINED, ORACLE)]
    flops = {name: step_flops(cell_config(config, name, 0)) for name in trained}
    reference = next(iter(flops.values()), 0.0)
    cells = []
    for seed in range(config["seed"], config["seed"] + config["seeds"]):
        for name in config["objectives"]:
            base = cell_config(config, name, seed)
            per_step = flops.get(name, 0.0)
            for budget in config["budgets"]:
                same = name not in trained or per_step == reference
                if same and budget != config["budgets"][0]:
                    continue  # the same cell under both budgets
                cell = base
                if budget == "flops" and not same:
                    steps = max(1, round(base["pretrain"]["steps"] * reference / per_step))
                    cell = merged(base, {"pretrain": {"steps": steps}}, "")
                cells.append(Cell(name, "both" if same else budget, seed, cell, per_step))
    return cells


def step_flops(config: dict[str, Any]) -> float:
    """Floating-point operations of one training step of stage 1: matrix products and attention, forward and back."""
    model, batch, trainer = pretraining({**config, "trainer": config["pretrain"]}, torch.device("cpu"))
    optimizer = make_optimizer(model, trainer)
    return count_flops(lambda: train_step(model, batch, optimizer, trainer, 0))


def finished(cell: Cell, data: str, work: Path, console: Console) -> dict[str, Any]:
    """Run a cell in the folder `work`, going on where it stopped; returns its record."""
    config, seconds = cell.config, {}
    paths = {name: work / name for name in ("pretrain", "posttrain", "plan", "plan_own")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = call()
        seconds[name] = round(time.perf_counter() - began, 1)
        console.say(f"{name} [{duration(seconds[name])}]")
        return made

    stages = {name: {**config, "trainer": config[name]} for name in ("pretrain", "posttrain")}
    timed("pretrain", lambda: pretrain_command.pretrain(stages["pretrain"], data, paths["pretrain"], console))
    encoder = str(paths["pretrain"])
    timed(
        "posttrain",
        lambda: posttrain_command.posttrain(stages["posttrain"], data, encoder, paths["posttrain"], console),
    )
    plan = timed("plan", lambda: plan_command.plan(config, data, str(paths["posttrain"]), paths["plan"], console))
    record = _record(cell, plan, MODEL_ROW) | {
        "steps": config["pretrain"]["steps"],
        "flops_per_step": cell.flops_per_step,
        "space": config["dynamics"]["space"],
        "pretrain": last_evaluation(paths["pretrain"]),
        "posttrain": last_evaluation(paths["posttrain"]),
        "seconds": seconds,
    }
    if model_kind(paths["pretrain"] / MODEL) == "dynamics":
        own = timed("plan_own", lambda: plan_command.plan(config, data, encoder, paths["plan_own"], console))
        record["plan_own"] = own["methods"][MODEL_ROW]
    features = FeatureCache(open_reader(data, config["on_damaged"]))
    features.path(tensors_hash(load_encoder(encoder)[0].state_dict()), config["dynamics"]["space"]).unlink()
    return record


def simulated(cell: Cell, data: str, work: Path, console: Console) -> dict[str, Any]:
    """The record of the oracle's cell, as far as it has the others' keys."""
    began = time.perf_counter()
    found = plan_command.floors(cell.config, data, console)
    return _record(cell, found, ORACLE_ROW) | {"seconds": {"plan": round(time.perf_counter() - began, 1)}}


def _record(cell: Cell, results: Mapping[str, Any], row: str) -> dict[str, Any]:
    """What every cell keeps: what it is, how the method of that row did beside random actions, and what ran it."""
    return {
        "objective": cell.objective,
        "budget": cell.budget,
        "seed": cell.seed,
        "task": cell.config["env"]["name"],
        "plan": results["methods"][row],
        "random": results["methods"][RANDOM_ROW],
        "thresholds": results["thresholds"],
        "unit": results["unit"],
        "commit": commit(),
        "versions": versions(),
        "key": cell.key,
        "config": identity(cell.config, NO_PART),
    }


def last_evaluation(folder: Path) -> dict[str, Any]:
    """The numbers of the last evaluation on val in metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records: Sequence[dict[str, Any]] = [json.loads(line) for line in lines]
    return [record for record in records if record["kind"] == "val"][-1]
