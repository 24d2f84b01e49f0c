"""Kills commands at random moments, starts them again, and compares what they leave with an undisturbed run.

    python tools/kill_check.py [kills=100] [seed=0] [folder=runs/kill_check] [commands=[collect,plan]]

Each command runs at debug sizes: first undisturbed, in a process of its own; then again and again, killed by SIGKILL
with its whole process group after a random time, until it finishes. Every round begins in a new folder. Afterwards
both folders must hold files of the same names, with equal trajectories, weights, pictures, metrics and results; times
and memory alone may differ. The exit code is 1 where anything else does.

So that a kill costs no imports, this process imports the commands once and forks for every start.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

HOME = Path(__file__).resolve().parent.parent
LIMIT_S = 600.0  # longest undisturbed start
MOST_KILLS = 10  # of one round; then it runs to its end
SHORT = 0.3  # part of a run's time within which half of the kills fall, so that a round sees several
STEPS = {"steps": 24, "checkpoint_every": 3, "evaluate_every": 8, "log_every": 2}
TRAINING = ("trainer=debug", *(f"trainer.{key}={value}" for key, value in STEPS.items()), "name=run")
PLANNING = (
    "protocol.episodes=1",
    "protocol.budget=4",
    "protocol.oracle_cost.episodes=1",
    "planner.samples=12",
    "planner.elites=4",
    "planner.iterations=2",
)
SHORT_STEPS = ("steps=5", "checkpoint_every=2", "log_every=2")
STAGES = tuple(f"{stage}.{key}" for stage in ("pretrain", "posttrain") for key in SHORT_STEPS)
DATA, ENCODER, MODEL = "inputs/collect/run", "inputs/pretrain/run", "inputs/posttrain/run"
COMMANDS: dict[str, tuple[str, ...]] = {
    "collect": ("data=debug", "data.episodes=16", "workers=1", "name=run"),
    "pretrain": (f"data={DATA}", "encoder=tiny", *TRAINING),
    "posttrain": (f"data={DATA}", f"encoder={ENCODER}", *TRAINING),
    "plan": (f"data={DATA}", f"model={MODEL}", *PLANNING, "videos=1", "workers=1", "name=run"),
    "compare": (
        "objectives=[lewm]",
        "budgets=[steps]",
        "vary.metric=[none,biharmonic]",
        "trials=2",
        "trial_episodes=1",
        "data=debug",
        "encoder=tiny",
        "trainer@pretrain=debug",
        "trainer@posttrain=debug",
        *STAGES,
        *PLANNING,
        "workers=1",
        "name=run",
    ),
}
INPUTS = {
    "collect": (),
    "pretrain": (DATA,),
    "posttrain": (DATA, ENCODER),
    "plan": (DATA, MODEL),
    "compare": (),
}
# What may differ between two runs: keys of times and of memory, and these as they stand in texts.
VARIABLE_KEYS = {"seconds", "ms_p50", "ms_p95", "peak_mib"}
MEASURED = re.compile(r"\d[\d.,e+-]*(</td><td>| )?(s|ms|min|h|MiB|GiB)\b")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of the check."""

    kills: Annotated[int, Ge(1)] = 100
    """kills, shared by the commands (>= 1)"""
    seed: Annotated[int, Ge(0)] = 0
    """seed of the moments (>= 0)"""
    folder: str = "runs/kill_check"
    """folder of all runs; it must not exist yet"""
    commands: tuple[str, ...] = tuple(COMMANDS)
    """commands to kill"""


@dataclass
class Tally:
    """What was done to one command."""

    command: str
    kills: int = 0
    starts: int = 0
    rounds: int = 0
    undisturbed_s: float = 0.0
    differences: list[str] = field(default_factory=list)


# --- starting and killing


def import_commands() -> None:
    """Import all that the commands need, so that a forked process has it; torch and numpy compute on one thread."""
    import importlib

    for name in ("commands.cli.main", *(f"commands.{name}" for name in COMMANDS)):
        importlib.import_module(name)
    gc.freeze()


def start_command(command: str, folder: Path) -> int:
    """Start a command in a process group of its own and return its number; it works in `folder`."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        sys.argv = [str(HOME / "commands" / "__main__.py"), command, *COMMANDS[command]]
        from commands.cli.main import main

        code = main(sys.argv[1:])
        sys.stdout.flush()
    finally:
        os._exit(code)


def wait_for(process: int, limit_s: float) -> int | None:
    """Return the exit code of a process; None if it is still at work after `limit_s`."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def kill_group(process: int) -> None:
    """Kill a process and all that it started."""
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def make_folder(folder: Path, command: str, inputs: Path) -> Path:
    """A folder of one round: copies of what the command reads, and an empty folder for temporary files."""
    (folder / "tmp").mkdir(parents=True)
    for name in INPUTS[command]:
        shutil.copytree(inputs / Path(name).relative_to("inputs"), folder / name)
    return folder


def run_process(command: str, folder: Path) -> None:
    """Run a command undisturbed as a user does, in a process of its own; RuntimeError if it fails."""
    env = {**os.environ, "PYTHONPATH": str(HOME), "TMPDIR": str(folder / "tmp")}
    words = [sys.executable, "-m", "commands", command, *COMMANDS[command]]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"jepa {command} fails undisturbed: {done.stderr.strip()[-500:]}")


def run_round(command: str, folder: Path, rng: random.Random, most: int, tally: Tally) -> None:
    """Start a command until it finishes, and kill it `most` times at most."""
    kills = 0
    while True:
        tally.starts += 1
        process = start_command(command, folder)
        last = kills == most
        delay_s = rng.uniform(0, tally.undisturbed_s) * rng.choice((1, SHORT))
        code = wait_for(process, LIMIT_S if last else delay_s)
        if code is None:
            kill_group(process)
            kills += 1
            tally.kills += 1
            if last:
                tally.differences.append(f"{folder.name}: it hangs")
                return
        else:
            if code:
                tally.differences.append(f"{folder.name}: exit code {code}, see {folder.with_suffix('.log')}")
            return


# --- comparing


def drop_variable(value: Any) -> Any:
    """A JSON value without times and memory."""
    if isinstance(value, dict):
        return {key: drop_variable(item) for key, item in value.items() if key not in VARIABLE_KEYS}
    if isinstance(value, list):
        return [drop_variable(item) for item in value]
    return MEASURED.sub("_", value) if isinstance(value, str) else value


def read_content(path: Path) -> Any:
    """What must be equal in two files of one name."""
    if path.name == ".lock":
        return None  # the number of the last process
    if path.suffix == ".h5":
        from data.store import Reader

        return Reader(path).file_checksum
    if path.suffix == ".json":
        return drop_variable(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [drop_variable(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix in (".html", ".md"):
        return MEASURED.sub("_", path.read_text())
    return path.read_bytes()


def list_files(folder: Path) -> set[str]:
    """Names of all files below a folder, and of its empty folders."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())}


def find_difference(one: Any, other: Any, place: str = "") -> str:
    """Where two values differ first."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        key = next(key for key in one if one[key] != other[key])
        return find_difference(one[key], other[key], f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        index = next(index for index in range(len(one)) if one[index] != other[index])
        return find_difference(one[index], other[index], f"{place}[{index}]")
    if isinstance(one, str) and isinstance(other, str):
        start = max(0, len(os.path.commonprefix([one, other])) - 40)
        one, other = one[start:], other[start:]
    return f"{place} {str(one)[:80]!r} against {str(other)[:80]!r}"


def compare_folders(expected: Path, found: Path) -> list[str]:
    """What differs between an undisturbed run and one that was killed; empty where nothing does."""
    wanted, present = list_files(expected), list_files(found)
    differences = [f"{found.name}: {name} is missing" for name in sorted(wanted - present)]
    differences += [f"{found.name}: {name} is left behind" for name in sorted(present - wanted)]
    for name in sorted(wanted & present):
        if (expected / name).is_dir():
            continue
        one, other = read_content(expected / name), read_content(found / name)
        if one != other:
            differences.append(f"{found.name}: {name} differs: {find_difference(one, other)}")
    return differences


# --- the check


def check_command(command: str, kills: int, folder: Path, rng: random.Random) -> Tally:
    """Kill a command `kills` times, over as many rounds as that takes."""
    tally = Tally(command)
    expected, inputs = folder / command / "undisturbed", folder / "inputs"
    run_process(command, make_folder(expected, command, inputs))
    forked = make_folder(folder / command / "forked", command, inputs)
    began = time.monotonic()
    code = wait_for(start_command(command, forked), LIMIT_S)
    tally.undisturbed_s = time.monotonic() - began
    if code != 0:
        raise RuntimeError(f"jepa {command} fails in a forked process: see {forked.with_suffix('.log')}")
    tally.differences += compare_folders(expected, forked)
    while tally.kills < kills:
        tally.rounds += 1
        found = make_folder(folder / command / f"round-{tally.rounds:03d}", command, inputs)
        run_round(command, found, rng, min(MOST_KILLS, kills - tally.kills), tally)
        differences = compare_folders(expected, found)
        tally.differences += differences
        if not differences:
            shutil.rmtree(found)
    return tally


def format_table(tallies: Sequence[Tally]) -> str:
    """A line for each command, then every difference."""
    lines = ["| command | kills | starts | rounds | undisturbed, s | differences |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {t.command} | {t.kills} | {t.starts} | {t.rounds} | {t.undisturbed_s:.1f} | {len(t.differences)} |"
        for t in tallies
    ]
    return "\n".join(lines + [f"{t.command} {line}" for t in tallies for line in t.differences])


def main(argv: Sequence[str]) -> int:
    """Run the check; 1 if anything differs, 2 for a wrong key."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(HOME))
    from commands.config.compose import nest_overrides
    from commands.config.schema import build
    from commands.shared.errors import UsageError, describe_choices

    try:
        config = build(Config, nest_overrides(argv))
        for name in set(config.commands) - set(COMMANDS):
            raise UsageError(f"commands: there is no {name}{describe_choices(name, COMMANDS)}")
        folder = Path(config.folder).resolve()
        if folder.exists():
            raise UsageError(f"folder={config.folder} exists: choose another, or move it away")
    except UsageError as error:
        print(f"kill_check: {error}", file=sys.stderr)
        return 2
    import_commands()
    began = time.monotonic()
    needed = {name for command in config.commands for name in INPUTS[command]}
    needed |= {name for path in tuple(needed) for name in INPUTS[Path(path).parent.name]}
    for command in [command for command in COMMANDS if any(Path(path).parent.name == command for path in needed)]:
        made = make_folder(folder / "made" / command, command, folder / "inputs")
        run_process(command, made)
        shutil.copytree(made / "runs" / command / "run", folder / "inputs" / command / "run")
    tallies = []
    for number, command in enumerate(config.commands):
        kills = config.kills * (number + 1) // len(config.commands) - config.kills * number // len(config.commands)
        tallies.append(check_command(command, kills, folder, random.Random(f"{config.seed} {command}")))
        print(format_table(tallies[-1:]), flush=True)
    print(f"\n{format_table(tallies)}\n{sum(t.kills for t in tallies)} kills, {time.monotonic() - began:.0f} s")
    return int(any(tally.differences for tally in tallies))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
