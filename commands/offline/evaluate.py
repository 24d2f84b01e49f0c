"""`jepa plan offline=true`: a model plans at recorded moments, and its plans are compared with what the robot did.

For data without a simulator. At a moment, the goal image is the frame that was recorded `goal_offset` environment steps
later, so the recorded actions are one way to reach it. The measures are those of
`commands.offline.measures`, and the error of the predicted features by horizon, beside copying.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import envs
from commands.config.groups import make_planner
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import MODEL_METHOD, RANDOM_METHOD
from commands.evaluation.models import is_lewm_model, is_module_model, set_flow_steps
from commands.evaluation.values import bind_value
from commands.offline.horizons import measure_open_loop
from commands.offline.measures import (
    ERRORS,
    MEAN_METHOD,
    NEAREST_METHOD,
    RECORDED_SOURCE,
    Methods,
    OfflineSetup,
    make_offline_setup,
    measure_errors,
    measure_plans,
    measure_ranks,
)
from commands.offline.moments import PlannedMoments
from commands.report.offline import write_offline_report
from commands.shared.console import Console, format_table
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError
from commands.shared.runs import to_json_value, write_atomic, write_json
from commands.statistics.intervals import format_mean, format_share
from commands.training.model_folders import load_dynamics, read_environment, read_preprocessing
from commands.training.trajectory_files import check_actions, check_trusted_module, open_reader
from data.prepared import prepare_reader
from world_model.training.loop import keep_freed_memory


def plans_offline(offline: bool | None, model_folder: str) -> bool:
    """Whether an evaluation is offline; null: where the environment that the model was trained in does not exist
    here."""
    if offline is not None:
        return offline
    if is_module_model(model_folder) or is_lewm_model(model_folder):
        return False
    env_id = read_environment(model_folder)
    if env_id is None:
        return False
    check_trusted_module(env_id)
    return envs.find_task(env_id) is None


def check_offline(keys: EvaluationKeys, goal: Any, viewer: str) -> None:
    """Raise UsageError for keys that need a simulator."""
    protocol, why = keys.protocol, "needs a simulator, and this evaluation is offline (there is none, or offline=true)"
    if goal is not None:
        raise UsageError(f"goal={goal} {why}: leave goal out, or use commands.agent.Agent on the robot")
    if viewer != "none":
        raise UsageError(f"viewer={viewer} {why}: leave viewer out")
    if keys.compare_batches:
        raise UsageError(f"compare_batches=true {why}: leave compare_batches out")
    for key, usual in (("goal_nuisance", "same"), ("variation", None), ("start_velocity", "recorded")):
        if (value := getattr(protocol, key)) != usual:
            raise UsageError(f"protocol.{key}={value} {why}: leave protocol.{key} out")
    if protocol.min_goal_distance:
        raise UsageError(
            f"protocol.min_goal_distance={protocol.min_goal_distance:g} is a true distance, which recorded data do not "
            "have: leave it out, or choose a larger protocol.goal_offset"
        )
    if (source := keys.planner.proposal.source) != "none":
        raise UsageError(f"planner.proposal.source={source} {why}: offline plans begin without proposals, leave it out")
    if protocol.split == "train":
        raise UsageError("protocol.split=train: offline baselines take their actions from train; choose val or eval")


def evaluate_offline(
    keys: EvaluationKeys, data: Any, model_folder: Any, folder: Path, console: Console
) -> dict[str, Any]:
    """Evaluate a model at recorded moments; writes results.json, moments.jsonl, pictures and report.html."""
    keep_freed_memory()
    model, source = load_dynamics(model_folder, resolve_device(keys.device))
    set_flow_steps(keys.planner, model, str(model_folder))
    reader = prepare_reader(
        open_reader(data, keys.on_damaged), read_preprocessing(source, model.encoder.config.image_px)
    )
    check_actions(model.actions, reader.info, str(data))
    if reader.info.env_id != source["env"]:
        console.warn(f"jepa plan: {data} holds {reader.info.env_id} and the model was trained on {source['env']}")
    planner, protocol = make_planner(keys.planner), keys.protocol
    cost = bind_value(keys.planner, model).cost
    setup = make_offline_setup(model, reader, planner, cost, protocol)
    if len(setup.moments) < protocol.episodes:
        console.warn(
            f"jepa plan: split {protocol.split} serves {len(setup.moments)} moments, not protocol.episodes="
            f"{protocol.episodes}"
        )
    results, planned, methods = measure_plans(setup, planner, cost, protocol.seed, console)
    episodes = np.unique(setup.moments.index.episode).tolist()
    results["open_loop"] = measure_open_loop(model, reader, episodes, protocol.seed, steps=planner.horizon)
    results |= {
        "split": protocol.split,
        "seed": protocol.seed,
        "note": protocol.note,
        "asked": protocol.episodes,
        "planner": to_json_value(keys.planner),
        "model": {"folder": str(model_folder), **source},
        "data": {"file": [str(path) for path in reader.paths], "checksum": reader.file_checksum},
    }
    write_json(folder / "results.json", results)
    write_atomic(folder / "moments.jsonl", format_moments(setup, planned, methods))
    write_offline_report(results, setup, planned, methods, keys.videos, folder)
    console.say(f"{format_errors(results)}\n{format_offline_headline(results)}\nreport: {folder / 'report.html'}")
    return results


def format_moments(setup: OfflineSetup, planned: PlannedMoments, methods: Methods) -> str:
    """A line of JSON per moment: where it was recorded, the error of every method, and the ranks."""
    errors, ranks, index = measure_errors(setup, methods), measure_ranks(planned), setup.moments.index
    lines = [
        {
            "episode": int(index.episode[row]),
            "frame": int(index.last[row]),
            "action_error": {name: {key: round(float(e[key][row]), 4) for key in ERRORS} for name, e in errors.items()},
            "rank": {name: round(float(rank[row]), 4) for name, rank in ranks.items()},
            "cost": {"planned": float(planned.cost[row]), "recorded": float(planned.recorded_cost[row])},
        }
        for row in range(len(setup.moments))
    ]
    return "".join(json.dumps(to_json_value(line)) + "\n" for line in lines)


def format_errors(results: dict[str, Any]) -> str:
    """A table of the error of every method, with intervals where there are any."""
    rows = []
    for name, errors in results["action_error"].items():
        rows.append([name])
        for key in ERRORS:
            rows[-1].append(format_mean(errors[key]))
    return format_table(rows, ["action error, std of train", *ERRORS.values()])


def format_offline_headline(results: dict[str, Any]) -> str:
    """The result in one line."""
    errors, rank = results["action_error"], results["rank"][RECORDED_SOURCE]

    def show(name: str) -> str:
        first, average = (errors[name][key]["mean"] for key in ("first_step", "average_action"))
        return f"{first:.2f} and {average:.2f}"

    others = ", ".join(f"{name} {show(name)}" for name in (NEAREST_METHOD, MEAN_METHOD, RANDOM_METHOD))
    share = format_share(rank["rank"])
    return (
        f"{results['task']}, offline: planned actions {show(MODEL_METHOD)} std from the recorded ones (first step and "
        f"average action); {others}; {share} of other recorded sequences cost less than the recorded actions (chance "
        f"50%); {results['moments']} moments of {results['episodes']} episode{'s' * (results['episodes'] > 1)}"
    )
