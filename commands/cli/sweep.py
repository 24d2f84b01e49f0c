"""`--multirun`: several values of a key are several runs, by Hydra's own sweeper and launcher.

Every run is composed and checked before the first one starts. Launchers of Hydra's plugins work
(`hydra/launcher=submitit_slurm`); the default launcher runs one after another in this process.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from commands.cli.command import Command, find_run_folder
from commands.config.compose import (
    CONFIGS,
    HYDRA_VERSION,
    Composed,
    compose,
    compose_defaults,
    parse_overrides,
    quote_value,
)
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, join_lines
from commands.statistics.pooling import pool_runs

# Hydra keeps its own record of a sweep beside the run folders; the program reads nothing from there.
SWEEP_DIR = "hydra.sweep.dir={runs}/{command}/.multirun"
QUIET = (
    "hydra.job.chdir=false",
    "hydra.output_subdir=null",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=disabled",
)
# Hydra would take data=... for a choice of the group configs/data in a command where it is a file. So it gets the keys
# of a command as ++given.k0=..., ++given.k1=...; groups pass as they are.
GIVEN = "++given.k"


def list_jobs(command: str, overrides: list[str]) -> list[list[str]]:
    """Return the overrides of each run that a --multirun line stands for: the product of all values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    try:
        batches = BasicSweeper.split_arguments(parse_overrides(command, overrides), None)
    except HydraException as error:
        raise UsageError(join_lines(error)) from error
    return [list(job) for batch in batches for job in batch]


def run_sweep(command: Command, overrides: list[str], run: Callable[[Composed], int]) -> int:
    """Check all runs, let Hydra start them all, also after one that fails, pool those that differ in their seed alone,
    and return the worst exit code. `run` takes a run's configuration and returns an exit code.
    """
    from hydra.core.hydra_config import HydraConfig

    _check_launcher(overrides)
    hydra_overrides = [item for item in overrides if item.startswith(("hydra.", "hydra/"))]
    own = [quote_value(item) for item in overrides if item not in hydra_overrides]
    folders: dict[Path, Composed] = {}
    if not any(item.startswith("hydra/sweeper") for item in hydra_overrides):
        folders = _check_all(command, list_jobs(command.name, own))
    defaults = compose_defaults(command.name)
    runs = next((item.partition("=")[2] for item in own if item.startswith("runs=")), defaults.config.get("runs"))
    sweep_dir = SWEEP_DIR.format(runs=runs or "runs", command=command.name)
    keys = [item.partition("=")[0] for item in own]
    codes: list[int] = []
    home = os.getpid()

    def job(_: Any) -> int:
        code = run(compose(command.name, _restore_keys(HydraConfig.get().overrides.task, keys)))
        codes.append(code)
        if code and os.getpid() != home:
            # In another process (a launcher plugin) only an exception finds its way back to the sweeper.
            logs = Path(sweep_dir.partition("=")[2]) / ".submitit"
            raise RunError(f"a run failed with exit code {code}: its output is in the files of {logs}")
        return code

    passed = [
        item if keys[number] in defaults.choices else f"{GIVEN}{number}={item.partition('=')[2]}"
        for number, item in enumerate(own)
    ]
    _start_hydra(job, command.name, [sweep_dir, *QUIET, *hydra_overrides, *passed])
    pool_runs(folders, command.free, Console())
    return max(codes, default=0)


def _restore_keys(overrides: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the overrides with the keys that GIVEN stands for."""
    restored = []
    for item in overrides:
        key, _, value = item.partition("=")
        restored.append(f"{keys[int(key.removeprefix(GIVEN))]}={value}" if key.startswith(GIVEN) else item)
    return restored


def _check_launcher(overrides: list[str]) -> None:
    """Raise UsageError for a launcher whose package is not installed."""
    if not any(item.startswith("hydra/launcher=submitit") for item in overrides):
        return
    try:
        importlib.import_module("hydra_plugins.hydra_submitit_launcher")
    except ImportError:
        raise UsageError(
            "hydra/launcher=submitit_... needs a package that is not installed: jepa doctor prints how to install "
            "[slurm]"
        ) from None


def _check_all(command: Command, jobs: list[list[str]]) -> dict[Path, Composed]:
    """Compose each run, and refuse two that would share a folder; returns the runs by folder."""
    folders: dict[Path, Composed] = {}
    lines: dict[Path, str] = {}
    for job in jobs:
        composed = compose(command.name, job)
        if not command.folder:
            continue
        path = find_run_folder(command, composed).path
        if path in folders:
            raise UsageError(
                f"'{lines[path]}' and '{' '.join(job)}' would share the folder {path}: "
                "leave name= out, so that each run gets its own"
            )
        folders[path], lines[path] = composed, " ".join(job)
    return folders


def _start_hydra(job: Callable[[Any], int], command: str, overrides: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException

    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["jepa", "--multirun", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises the error instead of printing a traceback
    try:
        hydra.main(config_path=f"pkg://{CONFIGS}", config_name=command, version_base=HYDRA_VERSION)(job)()
    except HydraException as error:
        raise UsageError(join_lines(error)) from error
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
