"""All checks and measurements that need a GPU, one after the other, into one JSON file and one page.

Each step is a command of its own with a time limit; its output is kept in STEP.log. A step that fails or takes too long
stops no other. Started again, the script leaves out the steps that have finished.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
JEPA = (sys.executable, "-m", "commands")
GPU_TESTS = tuple(
    f"tests/{name}.py" for name in ("devices/test_cuda", "planners/test_cem", "planners/test_compilation")
)
TAIL = 40  # last lines of a step's output that the page shows
# Sizes of V-JEPA 2-AC (arXiv 2506.09985, appendix B): 256 patch tokens, predictor of 24 blocks x 1024, 800 x 10.
VJEPA2_AC = (
    "encoder=vit_large",
    "dynamics=tokens",
    "dynamics.history=1",
    "dynamics.horizon=2",
    "dynamics.predictor.width=1024",
    "dynamics.predictor.depth=24",
    "dynamics.predictor.heads=16",
    "planner=cem_vjepa2",
    "planner.cost.view=tokens",
    "planner.draws=device",
)
TINY = (
    "data=debug",
    "encoder=tiny",
    "trainer@pretrain=debug",
    "trainer@posttrain=debug",
    "protocol.episodes=1",
    "protocol.budget=4",
    "protocol.oracle_cost.episodes=0",
    "planner.samples=12",
    "planner.iterations=2",
    "planner.elites=4",
    "planner.draws=device",
)


@dataclass(frozen=True)
class Step:
    """A command, its time limit in seconds, and the JSON files that it writes, below the run folder."""

    name: str
    command: tuple[str, ...]
    limit_s: int
    results: tuple[str, ...] = ()


def list_steps(out: Path, device: str, tiny: bool) -> list[Step]:
    """All steps, the most important first."""
    runs, on = f"runs={out / 'runs'}", f"device={device}"

    def bench(name: str, what: str, *words: str, limit_s: int) -> Step:
        command = (*JEPA, "bench", what, *words, on, runs, f"name={name}", *(("seconds=0.05",) if tiny else ()))
        return Step(name, command, limit_s, (f"bench/{name}/bench.json",))

    def bench_training(size: str, batch: int, limit_s: int) -> Step:
        words = (f"encoder={size}", "objective=vjepa2", "objective.frames=16", "pretrain.precision=bf16")
        return bench(f"pretrain_{size}", "pretrain", *words, f"pretrain.batch_size={batch}", limit_s=limit_s)

    demo = (*JEPA, "demo", "recipe=none", on, runs, "name=demo", *(TINY if tiny else ()))
    tests = (sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *GPU_TESTS)
    steps = [
        Step("doctor", (*JEPA, "doctor", on), 120),
        Step("golden", (*JEPA, "doctor", "golden=tests/golden", on), 180),
        Step("fingerprint", (*JEPA, "doctor", f"fingerprint={out / 'fingerprint.json'}", on), 180),
        Step("tests", tests, 300),
        Step("demo", demo, 480, ("demo/demo/results.json",)),
    ]
    if tiny:
        sizes = ("encoder=tiny", "planner.samples=12", "planner.iterations=2", "planner.elites=4")
        return [*steps, bench("plan", "plan", *sizes, limit_s=120), bench_training("tiny", 2, 120)]
    return [
        *steps,
        # LeWM's, and 64 tokens of a ViT-S; fp32 beside bf16; as they are, with blocks compiled, and in CUDA graphs
        bench("plan_two_sizes", "rollout", "planner.compile_iteration=true", limit_s=420),
        bench("plan_vjepa2_ac", "plan", *VJEPA2_AC, limit_s=240),
        bench_training("vit_small", 64, limit_s=150),
        bench_training("vit_large", 16, limit_s=240),
    ]


def run_step(step: Step, out: Path) -> dict[str, Any]:
    """Run a step, keep its output in a log, and return its record."""
    log, began = out / f"{step.name}.log", time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        try:
            code: int | str = subprocess.run(
                step.command, cwd=HOME, stdout=file, stderr=subprocess.STDOUT, timeout=step.limit_s
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {step.limit_s} s"
    paths = [out / "runs" / name for name in step.results]
    return {
        "step": step.name,
        "code": code,
        "seconds": round(time.perf_counter() - began, 1),
        "command": " ".join(step.command[step.command.index("-m") + 1 :]),
        "results": {str(path.name): json.loads(path.read_text()) for path in paths if path.exists()},
        "output": log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:],
    }


def write_page(records: Sequence[dict[str, Any]], path: Path) -> None:
    """A page of all steps: a table, then the end of each one's output."""
    lines = ["# GPU check", "", "| step | exit code | seconds |", "|---|---|---|"]
    lines += [f"| {record['step']} | {record['code']} | {record['seconds']} |" for record in records]
    for record in records:
        lines += ["", f"## {record['step']}", "", f"`{record['command']}`", "", "```text", *record["output"], "```"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that have not finished; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HOME / "runs" / "gpu_check", help="folder of results")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, on the CPU")
    parser.add_argument("--only", metavar="STEP", nargs="+", help="names of the steps to run")
    options = parser.parse_args(argv)
    out = options.out.resolve()
    steps = list_steps(out, "cpu" if options.tiny else "cuda", options.tiny)
    names = [step.name for step in steps]
    if strange := set(options.only or ()) - set(names):
        parser.error(f"--only {' '.join(sorted(strange))}: there is no such step (steps: {', '.join(names)})")
    out.mkdir(parents=True, exist_ok=True)
    store = out / "gpu_check.json"
    records = json.loads(store.read_text()) if store.exists() else []
    finished = {record["step"] for record in records if record["code"] == 0}
    records = [record for record in records if record["step"] in finished]
    for step in steps:
        if step.name in finished or options.only and step.name not in options.only:
            continue
        record = run_step(step, out)
        print(f"{step.name}: exit code {record['code']}, {record['seconds']} s", flush=True)
        records.append(record)
        store.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        write_page(records, out / "gpu_check.md")
    print(f"results: {store}, {out / 'gpu_check.md'}")
    return int(any(record["code"] != 0 for record in records))


if __name__ == "__main__":
    sys.exit(main())
