"""`jepa demo`: collect -> pretrain -> posttrain -> plan on one task, on the machine at hand, with one report.

Each phase writes into its own folder below the run's and leaves a mark when it is done, so that an
interrupted demo goes on with the phase it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from commands import collect as collect_command
from commands import plan as plan_command
from commands import posttrain as posttrain_command
from commands import pretrain as pretrain_command
from commands.collect import FILE, collect_into, write_preview
from commands.shared.console import Console, duration
from commands.shared.runs import RunFolder, read_json, write_json
from data.store import Reader

PHASES = ("collect", "pretrain", "posttrain", "plan")


def check(config: dict[str, Any]) -> None:
    """Everything that can be known at once, of all phases, before the first begins."""
    collect_command.check(config)
    pretrain_command.configs(stage(config, "pretrain"))
    posttrain_command.check(stage(config, "posttrain"))
    plan_command.check(config)


def stage(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration of a training stage: the demo keeps both stages' trainers apart under the stage's
    name."""
    return {**config, "trainer": config[name]}


def run(config: dict[str, Any], folder: RunFolder, console: Console) -> None:
    """All phases, each gone on with where it stopped."""
    base = folder.path
    paths = {name: base / name for name in PHASES}
    for path in paths.values():
        path.mkdir(exist_ok=True)
    data = str(paths["collect"] / FILE)
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}

    def phase(name: str, work: Callable[[], Any]) -> Any:
        done = paths[name] / "done.json"
        if done.exists():
            kept = read_json(done)
            seconds[name], peaks[name] = kept["seconds"], kept["peak_mib"]
            return kept["result"]
        began = time.perf_counter()
        result = work()
        seconds[name] = round(time.perf_counter() - began, 2)
        peaks[name] = round(plan_command.peak_mib())
        write_json(done, {"seconds": seconds[name], "peak_mib": peaks[name], "result": result})
        console.say(f"{name}: {result if isinstance(result, str) else 'done'} [{duration(seconds[name])}]")
        return result

    phase("collect", lambda: _collect(paths["collect"] / FILE, config, console))
    phase(
        "pretrain",
        lambda: pretrain_command.pretrain(stage(config, "pretrain"), data, paths["pretrain"], console),
    )
    phase(
        "posttrain",
        lambda: posttrain_command.posttrain(
            stage(config, "posttrain"), data, str(paths["pretrain"]), paths["posttrain"], console
        ),
    )
    results = phase(
        "plan",
        lambda: plan_command.plan(
            config, data, str(paths["posttrain"]), paths["plan"], console, _sections(paths, seconds)
        ),
    )
    results["peak_mib"] = peaks  # of this process until the end of each phase
    results["seconds"] = {**seconds, "total": round(sum(seconds.values()), 2)}
    write_json(base / "results.json", results)
    total = duration(sum(seconds.values()))
    console.say(f"report: {paths['plan'] / 'report.html'}")
    folder.finish(
        f"{plan_command.headline(results)}; {total} in all, peak memory {results['plan']['peak_mib'] / 1024:.1f} GiB"
    )
    console.say(f"all phases: {total}, peak memory {results['plan']['peak_mib'] / 1024:.1f} GiB")


def _collect(path: Any, config: dict[str, Any], console: Console) -> str:
    summary = collect_into(path, config, console)
    write_preview(Reader(path, verify=False), path.parent / "preview.gif")
    return summary


def _sections(paths: dict[str, Any], seconds: dict[str, float]) -> list[tuple[str, Any]]:
    """What the report shows of the phases before planning."""
    rows = "".join(f"<tr><td>{name}</td><td>{value:.1f} s</td></tr>" for name, value in seconds.items())
    return [
        ("Seconds per phase before planning", f"<table>{rows}</table>"),
        ("Stage 1 on held-out video", paths["pretrain"] / "curves.png"),
        ("Stage 2: open-loop error by horizon", paths["posttrain"] / "open_loop.png"),
    ]
