"""`jepa demo`: collect -> pretrain -> posttrain (-> clone) -> plan on one task, on this machine, with one report.

Each phase writes into its own folder below the run's and leaves a mark when it is done, so that an
interrupted demo resumes in the phase it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.evaluation.evaluate import evaluate_model, format_headline, measure_peak_mib
from commands.pipeline import PipelineKeys
from commands.shared.console import Console, format_duration
from commands.shared.runs import RunFolder, read_json, write_json
from commands.training.cloning import train_policy
from commands.training.posttraining import posttrain
from commands.training.pretraining import pretrain
from commands.training.stage import OPEN_LOOP_FIGURE
from commands.transfer.collection import FILE, collect_into, write_preview
from data.store import Reader

PHASES = ("collect", "pretrain", "posttrain", "clone", "plan")


@dataclass(frozen=True, kw_only=True)
class Config(PipelineKeys):
    """Keys of `jepa demo`."""


def check(config: Config) -> None:
    """Everything that can be known at once, of all phases, before the first begins."""
    config.check()


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """All phases, each gone on with where it stopped."""
    base = folder.path
    has = {"posttrain": config.has_stage2, "clone": config.clone is not None}
    paths = {name: base / name for name in PHASES if has.get(name, True)}
    for path in paths.values():
        path.mkdir(exist_ok=True)
    data = str(paths["collect"] / FILE)
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}

    def phase(name: str, work: Callable[[], Any]) -> Any:
        done = paths[name] / "done.json"
        if done.exists():
            record = read_json(done)
            seconds[name], peaks[name] = record["seconds"], record["peak_mib"]
            return record["result"]
        began = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - began, 2)
        peaks[name] = round(measure_peak_mib())
        write_json(done, {"seconds": seconds[name], "peak_mib": peaks[name], "result": result}, columns=True)
        console.say(f"{name}: {result if isinstance(result, str) else 'done'} [{format_duration(seconds[name])}]")
        return result

    phase("collect", lambda: _collect(paths["collect"] / FILE, config, console))
    phase("pretrain", lambda: pretrain(config.stage1, data, paths["pretrain"], console))
    if config.has_stage2:
        encoder = str(paths["pretrain"])
        phase("posttrain", lambda: posttrain(config.stage2, data, encoder, paths["posttrain"], console))
    model, evaluation = str(paths[config.last_stage]), config.evaluation
    if config.clone is not None:
        phase("clone", lambda: train_policy(config.stage3, data, model, paths["clone"], console))
        evaluation = evaluation.use_policy(str(paths["clone"]))
    sections = _make_sections(paths, seconds, config.last_stage)
    results = phase("plan", lambda: evaluate_model(evaluation, data, model, paths["plan"], console, sections))
    results["peak_mib"] = peaks  # of this process until the end of each phase
    results["seconds"] = {**seconds, "total": round(sum(seconds.values()), 2)}
    write_json(base / "results.json", results, columns=True)
    total = format_duration(sum(seconds.values()))
    console.say(f"report: {paths['plan'] / 'report.html'}")
    folder.finish(
        f"{format_headline(results)}; {total} in all, peak memory {results['plan']['peak_mib'] / 1024:.1f} GiB"
    )
    console.say(f"all phases: {total}, peak memory {results['plan']['peak_mib'] / 1024:.1f} GiB")
    console.say(f"plan again with this model: jepa plan model={model} data={data}")


def _collect(path: Path, config: Config, console: Console) -> str:
    summary = collect_into(path, config.collection, console)
    write_preview(Reader(path, verify=False), path.parent / "preview.gif")
    return summary


def _make_sections(paths: dict[str, Path], seconds: dict[str, float], last_stage: str) -> list[tuple[str, Any]]:
    """What the report shows of the phases before planning."""
    rows = "".join(f"<tr><td>{name}</td><td>{value:.1f} s</td></tr>" for name, value in seconds.items())
    return [
        ("Seconds per phase before planning", f"<table>{rows}</table>"),
        ("Stage 1 on held-out video", paths["pretrain"] / "curves.png"),
        ("Open-loop error by horizon", paths[last_stage] / OPEN_LOOP_FIGURE),
    ]
