"""`--multirun`: several values of a key are several runs, by Hydra's own sweeper and launcher.

Every run is composed and checked before the first one starts. Hydra's launcher plugins work as they do
elsewhere (`hydra/launcher=submitit_slurm`); the default one runs them one after another in this process.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands.config.choices import CONFIGS, HYDRA_VERSION, open_loader
from commands.config.compose import (
    Composed,
    compose,
    compose_defaults,
    expand_overrides,
    get_choices,
    parse_overrides,
    resolve_config,
)
from commands.evaluation.pooling import pool_runs
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, join_lines

# Where Hydra keeps its own record of a sweep, beside the run folders; nothing of ours is read from there.
SWEEP_DIR = "hydra.sweep.dir={runs}/{command}/.multirun"
QUIET = (
    "hydra.job.chdir=false",
    "hydra.output_subdir=null",
    "hydra.sweep.subdir=.",
    "hydra/job_logging=disabled",
)


def list_jobs(command: str, words: list[str]) -> list[list[str]]:
    """Return the words of each run a --multirun line stands for: the product of all values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.errors import HydraException

    with open_loader() as loader:
        overrides = [item for item in parse_overrides(command, words, loader) if not item.is_hydra_override()]
        try:
            return [list(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch]
        except HydraException as error:
            raise UsageError(join_lines(error)) from error


def run_sweep(command: Any, words: list[str], run: Callable[[Composed, Composed], int]) -> int:
    """Check all runs, let Hydra run them all, also after one that fails, pool those that differ in their seed alone,
    and return the worst exit code. `run` takes a run's configuration and the standard one, and returns an exit code.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    usual = compose_defaults(command.name)
    _check_launcher(words)
    steering = [word for word in words if word.startswith(("hydra.", "hydra/"))]
    swept = expand_overrides(command.name, [word for word in words if word not in steering])
    folders: dict[Path, Composed] = {}
    if not any(word.startswith("hydra/sweeper") for word in steering):
        folders = _check_all(command, list_jobs(command.name, swept), usual)
    runs = next((word.partition("=")[2] for word in swept if word.startswith("runs=")), usual.config.get("runs"))
    where = SWEEP_DIR.format(runs=runs or "runs", command=command.name)
    logs = Path(where.partition("=")[2]) / ".submitit"
    codes: list[int] = []
    home = os.getpid()

    def job(config: Any) -> int:
        full = OmegaConf.merge({"hydra": HydraConfig.get()}, config)
        code = run(Composed(command.name, resolve_config(command.name, full), get_choices(full)), usual)
        codes.append(code)
        if code and os.getpid() != home:
            # In another process (a launcher plugin) only an exception finds its way back to the sweeper.
            raise RunError(f"a run failed with exit code {code}: what it said is in the files of {logs}")
        return code

    _hydra_main(job, command.name, [where, *QUIET, *steering, *swept])
    pool_runs(folders, command.free, Console())
    return max(codes, default=0)


def _check_launcher(words: list[str]) -> None:
    """UsageError for a launcher whose package is not there."""
    if not any(word.startswith("hydra/launcher=submitit") for word in words):
        return
    try:
        importlib.import_module("hydra_plugins.hydra_submitit_launcher")
    except ImportError:
        raise UsageError(
            "hydra/launcher=submitit_... needs a package that is not here: jepa doctor says how to install [slurm]"
        ) from None


def _check_all(command: Any, lines: list[list[str]], usual: Composed) -> dict[Path, Composed]:
    """Compose each run, and refuse two that would share a folder; returns the runs by folder."""
    from commands.cli.main import find_run_folder

    folders: dict[Path, Composed] = {}
    words: dict[Path, str] = {}
    for line in lines:
        composed = compose(command.name, line)
        if not command.folder:
            continue
        path = find_run_folder(command, composed, usual).path
        if path in folders:
            raise UsageError(
                f"'{words[path]}' and '{' '.join(line)}' would share the folder {path}: "
                "leave name= out, so that each run finds its own"
            )
        folders[path], words[path] = composed, " ".join(line)
    return folders


def _hydra_main(job: Any, command: str, words: list[str]) -> None:
    import hydra
    from hydra.errors import HydraException

    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["jepa", "--multirun", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what went wrong, instead of printing a traceback
    try:
        hydra.main(config_path=f"pkg://{CONFIGS}", config_name=command, version_base=HYDRA_VERSION)(job)()
    except HydraException as error:
        raise UsageError(join_lines(error)) from error
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error
