"""One evaluation: a model plans to goal images of held-out episodes, next to baselines and an oracle."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from commands.config.groups import make_planner
from commands.evaluation.arithmetic import count_planning_flops, format_flops
from commands.evaluation.batches import compare_batches
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Policy, Rollouts
from commands.evaluation.judging import detect_success, summarise
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import (
    ORACLE_COST_METHOD,
    ORACLE_METHOD,
    RANDOM_METHOD,
    ZERO_METHOD,
    make_agent,
    make_policies,
    plans_with_simulator,
    play_policy,
)
from commands.evaluation.models import describe_view
from commands.evaluation.oracle import OraclePolicy
from commands.evaluation.outcomes import list_steps, tabulate_outcomes
from commands.evaluation.precision import measure_precision
from commands.evaluation.proposals import make_proposals
from commands.evaluation.protocol import SCHEMA
from commands.evaluation.scenes import name_scenes
from commands.evaluation.setup import EvaluationSetup, load_baseline_setup, load_setup
from commands.evaluation.values import bind_value
from commands.report.draws import render_scenes
from commands.report.imagined import TITLE as STRIP_TITLE
from commands.report.imagined import write_strip
from commands.report.planning import write_report
from commands.report.recording import Viewer, write_recording
from commands.report.videos import write_videos
from commands.shared.console import Console
from commands.shared.devices import warn_of_emulated_bf16
from commands.shared.runs import to_json_value, write_atomic, write_json
from envs.task_spec import TaskSpec


@dataclass(frozen=True)
class Played:
    """What `play_methods` returns: the episodes of every method, the seconds that each took, and videos of the first
    method, which is under test."""

    runs: dict[str, Rollouts]
    seconds: dict[str, float]
    videos: list[Path]

    @property
    def rollouts_under_test(self) -> Rollouts:
        """The episodes of the method under test."""
        return next(iter(self.runs.values()))


def evaluate_model(
    keys: EvaluationKeys,
    data: Any,
    model: str,
    folder: Path,
    console: Console,
    extra: Sequence[tuple[str, str | Path]] | None = (),
    viewer: Viewer = "none",
    options: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluate a model; writes results.json, episodes.jsonl, videos and report.html into `folder`. Returns the content
    of results.json.

    model: a run folder, or MODULE:CLASS with its `options`. extra: further sections of the report, (title, file or
    HTML); None: no report. viewer: `rerun` also writes a recording.
    """
    setup = load_setup(keys, data, model, options=options)
    dynamics = setup.model
    warn_of_emulated_bf16("plan", keys.planner.precision, dynamics.spec.device.type, console)
    if (note := describe_view(keys.planner.cost.view, dynamics)) is not None:
        console.say(note)
    proposals = make_proposals(keys.planner, setup, console)
    bound = replace(keys, planner=bind_value(keys.planner, dynamics))
    played = play_methods(make_policies(bound, setup, proposals), keys, setup, console, folder / "videos")
    results = collect_results(played, setup, keys)
    assert setup.protocol.budget is not None
    agent = make_agent(dynamics, bound.planner, proposals)
    results["plan"] |= count_planning_flops(agent, setup.protocol.budget)
    if keys.planner.precision != "fp32":
        results["plan"]["elite_overlap"] = measure_precision(setup, bound.planner)
        console.say(f"best candidates in {keys.planner.precision} as in fp32: {results['plan']['elite_overlap']:.0%}")
    results["model"] = {"folder": model, **setup.source}
    tested, sections = played.rollouts_under_test, None if extra is None else list(extra)
    if keys.compare_batches:
        results["batches"] = compare_batches(setup, bound, tested, console, proposals)
    if sections is not None and tested.frames is not None and "pixels" in dynamics.spec.views:
        write_strip(dynamics, tested, folder / "imagined.png")
        sections.insert(0, (STRIP_TITLE, folder / "imagined.png"))
    if viewer == "rerun":
        write_recording(dynamics, tested, setup.cases, setup.task, folder / "episodes.rrd")
        console.say(f"recording: rerun {folder / 'episodes.rrd'}")
    write_evaluation(results, played, setup, folder, console, sections)
    return results


def write_evaluation(
    results: dict[str, Any],
    played: Played,
    setup: EvaluationSetup,
    folder: Path,
    console: Console,
    sections: Sequence[tuple[str, str | Path]] | None = (),
) -> None:
    """Write results.json, episodes.jsonl and report.html into `folder`. sections: further ones of the report; None: no
    report."""
    task, cases = setup.task, setup.cases
    results["data"] = {"file": [str(path) for path in setup.reader.paths], "checksum": setup.reader.file_checksum}
    write_json(folder / "results.json", results, columns=True)
    write_atomic(folder / "episodes.jsonl", format_episodes(played.runs, cases, task))
    console.say(f"{format_starts(results)}\n{format_headline(results)}")
    if sections is None:
        return
    scenes = render_scenes(setup, folder / "scenes.png")
    write_report(results, played.runs, cases, task, played.videos, folder / "report.html", sections, scenes)
    console.say(f"report: {folder / 'report.html'}")


def evaluate_baselines(keys: EvaluationKeys, skip: int | None, data: Any, console: Console) -> dict[str, Any]:
    """Methods that need no model (random actions, no action, the oracle), each as in results.json, and the
    outcomes of all episodes.

    skip: environment steps per model step of the oracle's plans; None: the task's own.
    """
    setup = load_baseline_setup(keys, skip, data)
    runs = play_methods(make_policies(keys, setup), keys, setup, console).runs
    return {
        "unit": setup.task.distance_unit,
        "thresholds": list(setup.task.thresholds),
        "methods": summarise_methods(runs, setup, keys),
        "outcomes": tabulate_runs(runs, setup, keys),
    }


def tabulate_runs(runs: Mapping[str, Rollouts], setup: EvaluationSetup, keys: EvaluationKeys) -> dict[str, Any]:
    """The outcome of every episode of every method (`commands.evaluation.outcomes`)."""
    distances = {name: run.played_distances for name, run in runs.items()}
    steps = count_replan_steps(setup, keys) if setup.protocol.judge == "replan" else None
    return tabulate_outcomes(distances, setup.cases, setup.task, steps)


def count_replan_steps(setup: EvaluationSetup, keys: EvaluationKeys) -> int:
    """Environment steps from one plan to the next."""
    return int(keys.planner.mpc.receding_steps * setup.frame_skip)


def play_methods(
    policies: Mapping[str, Policy],
    keys: EvaluationKeys,
    setup: EvaluationSetup,
    console: Console,
    folder: Path | None = None,
) -> Played:
    """Play the episodes of every method, and close the oracles. The first is under test; its videos are written into
    `folder`, before the next method is played."""
    warn_of_time_limit(setup, console)
    played = Played({}, {}, [])
    few_cases = setup.cases.take(setup.protocol.oracle_cost.episodes)
    for name, policy in policies.items():
        began = time.perf_counter()
        is_tested = name == next(iter(policies))
        cases = few_cases if name == ORACLE_COST_METHOD else setup.cases
        with closing(policy) if isinstance(policy, OraclePolicy) else nullcontext():
            run = play_policy(policy, name, setup, console, keys.videos if is_tested else 0, cases, keys.env_workers)
        played.runs[name], played.seconds[name] = run, round(time.perf_counter() - began, 2)
        console.say(f"{name:22s} {_format_rates(run, setup.task)}, {played.seconds[name]} s")
        if is_tested and folder is not None and run.frames is not None:
            played.videos.extend(write_videos(run, cases, setup.task, folder))
            console.say(f"videos: {folder}")
    return played


def warn_of_time_limit(setup: EvaluationSetup, console: Console) -> None:
    """Print where the budget goes beyond the simulator's own episodes."""
    assert setup.protocol.budget is not None
    if sentence := setup.task.describe_time_limit(setup.protocol.budget):
        console.warn(f"jepa plan: {sentence} here: protocol.budget={setup.task.time_limit} stops there")


def summarise_methods(
    runs: dict[str, Rollouts], setup: EvaluationSetup, keys: EvaluationKeys
) -> dict[str, dict[str, Any]]:
    """`methods` of results.json."""
    steps, judge = count_replan_steps(setup, keys), setup.protocol.judge
    return {name: summarise(run.played_distances, setup.cases, setup.task, steps, judge) for name, run in runs.items()}


def collect_results(played: Played, setup: EvaluationSetup, keys: EvaluationKeys) -> dict[str, Any]:
    """The content of results.json that follows from the episodes played."""
    runs = played.runs
    task, protocol, cases = setup.task, setup.protocol, setup.cases
    methods, tested = summarise_methods(runs, setup, keys), next(iter(runs))
    rates, limit = methods[tested], str(task.thresholds[0])
    times = np.array(runs[tested].plan_ms or [float("nan")])
    return {
        "schema": SCHEMA,
        "task": task.name,
        "unit": task.distance_unit,
        "thresholds": list(task.thresholds),
        "success_rate": rates[protocol.judge][limit],
        "success_rate_ci95": rates[f"{protocol.judge}_ci95"][limit],
        "held_rate": rates["held"][limit],
        "episodes": len(cases.seeds),
        "baselines": {
            key: methods[name][protocol.judge][limit]
            for key, name in (("random", RANDOM_METHOD), ("zero", ZERO_METHOD))
        },
        "oracle": methods[ORACLE_METHOD][protocol.judge][limit] if ORACLE_METHOD in methods else None,
        "seconds": played.seconds,
        "methods": methods,
        "outcomes": tabulate_runs(runs, setup, keys),
        "protocol": asdict(protocol),
        "planner": to_json_value(keys.planner),
        "oracle_planner": keys.planner.name if plans_with_simulator(make_planner(keys.planner)) else "cem",
        "control_step_s": task.control_step_s,
        "plan": {
            "ms_p50": float(np.median(times)),
            "ms_p95": float(np.quantile(times, 0.95)),
            "environments": len(cases.seeds),
            "device": keys.device if setup.model is None else str(setup.model.spec.device),
            "peak_mib": measure_peak_mib(),
            "precision": keys.planner.precision,
        },
        "starts": cases.count_starts(),
        "left_out": {"solved_at_start": cases.solved_starts, "nearer_than_least_distance": cases.too_near},
        "proprio": setup.proprio,
    }


def measure_peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


def format_episodes(runs: dict[str, Rollouts], cases: Cases, task: TaskSpec) -> str:
    """A line of JSON per method and episode: its source, environment steps to success by kind and threshold (null where
    never), and the distance after every step."""
    speed = {name: list_steps(run.played_distances, task) for name, run in runs.items()}
    lines = [
        {
            "method": name,
            "number": number,
            "episode": int(cases.episodes[number]),
            "start": int(cases.starts[number]),
            "seed": cases.seeds[number],
            "steps_to_success": {
                kind: {threshold: steps[number] for threshold, steps in limits.items()}
                for kind, limits in speed[name].items()
            },
            "distances": [round(float(distance), 4) for distance in distances],
        }
        for name, run in runs.items()
        for number, distances in enumerate(run.played_distances)
    ]
    return "".join(json.dumps(to_json_value(line)) + "\n" for line in lines)


def format_headline(results: dict[str, Any]) -> str:
    """The result in one line."""
    low, high = results["success_rate_ci95"]
    threshold, unit = results["thresholds"][0], results["unit"]
    oracle = "" if results["oracle"] is None else f", oracle {results['oracle']:.0%}"
    known = "" if results["proprio"] == "none" else f" (robot state known, {results['proprio']})"
    measure = results["protocol"].get("measures", {}).get(results["task"])
    judged = "" if measure is None else f", {measure}"
    task = f"{results['task']}{judged}{name_scenes(results['protocol'])}{known}"
    flops = results["plan"].get("episode_flops")
    effort = "" if flops is None else f" of {format_flops(flops)}"
    return (
        f"{task}: {results['success_rate']:.0%} within {threshold} {unit} (95 % interval {low:.0%} "
        f"to {high:.0%}), held {results['held_rate']:.0%}; random {results['baselines']['random']:.0%}, zero action "
        f"{results['baselines']['zero']:.0%}{oracle}; {results['episodes']} episodes{effort}"
    )


def format_starts(results: dict[str, Any]) -> str:
    """Where the starts come from, and success of the method under test by their motion, in one line."""
    starts, tested = results["starts"], next(iter(results["methods"].values()))
    least, most = starts["least"], starts["most"]
    each = f"{most}" if least == most else f"{least} to {most}"
    kinds = [f"{group['successes']} of {group['episodes']} {group['motion']}" for group in tested["by_motion"]]
    reached = f"; reached from {', '.join(kinds)} starts" if kinds else ""
    return f"starts come from {starts['episodes']} episodes, {each} each{reached}"


def _format_rates(run: Rollouts, task: TaskSpec) -> str:
    rates = " ".join(f"{detect_success(run.played_distances, limit).mean():.0%}" for limit in task.thresholds)
    held = detect_success(run.played_distances, task.thresholds[0], task.held_steps).mean()
    return f"within {'/'.join(map(str, task.thresholds))} {task.distance_unit}: {rates}, held {held:.0%}"
