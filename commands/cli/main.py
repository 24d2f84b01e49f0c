"""`jepa COMMAND [group=choice] [key=value ...]`: read the words, check them, run one command, exit 0, 1 or 2.

How a command is written. `commands/NAME.py` (`import_.py` for `import`) holds the body, and `configs/NAME.yaml` the
groups that it offers. The module defines

    class Config: a frozen dataclass, the keys of the command with defaults and help texts
    def run(config: Config, folder: RunFolder | None, console: Console) -> int | None

`folder` is the locked run folder (None for a command without one); call `folder.finish(summary)` as the last thing.
None or 0 is success. It may also define

    def check(config: Config) -> None

which runs before the folder is made, for what can be known at once (a data file that is missing, sizes that do not
fit): a ValueError or UsageError there is exit code 2 and leaves nothing behind. Any exception out of `run` becomes one
sentence and exit code 1 (`errors.explain`); with --traceback it is shown whole. A command that runs once for each of
several choices (`Command.each`) also defines

    def join(configs, runs, folder, console) -> str | None

which gets the configurations and run folders of all, and returns the path of what it wrote into `folder`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from types import FrameType
from typing import TYPE_CHECKING

from commands.cli.command import Command, find_run_folder
from commands.shared import processes
from commands.shared.devices import resolve_device
from commands.shared.errors import DISTRIBUTION, RunError, UsageError, describe_choices, explain, find_shadow

if TYPE_CHECKING:
    from commands.config.compose import Composed
    from commands.shared.console import Console

OPTIONS = {
    "--help": "help",
    "-h": "help",
    "--multirun": "multirun",
    "-m": "multirun",
    "--traceback": "traceback",
    "--version": "version",
}


TRAINING_FREE = ("device", "workers", "logger", "trainer.checkpoint_every", "trainer.parallel")
COMMANDS = {
    command.name: command
    for command in (
        Command("doctor", folder=False),
        Command("collect", free=("workers", "device")),
        Command("import", free=("device",)),
        Command("pretrain", grows=("trainer.steps",), free=(*TRAINING_FREE, "video.workers"), together=True),
        Command("posttrain", grows=("trainer.steps",), free=TRAINING_FREE, together=True),
        Command("clone", grows=("trainer.steps",), free=TRAINING_FREE),
        Command("encode", free=("device",)),
        Command("plan", free=("workers", "env_workers", "videos")),
        Command("probe"),
        Command(
            "compare",
            grows=(
                *("objectives", "budgets", "seeds", "small", "axes", "vary", "trials", "trial_episodes", "search"),
                *("efforts", "oracle_costs"),
            ),
            free=("workers", "logger", "cells", "published", "table_only", "keep_models"),
            each="env",
        ),
        Command("export", folder=False),
        Command("bench", bare_key="what"),
        Command("inspect", folder=False, bare_key="path"),
        Command("demo", free=("workers", "videos", "logger")),
    )
}


@dataclass(frozen=True)
class Line:
    """The parts of a command line."""

    command: str | None
    overrides: list[str]
    help: bool = False
    multirun: bool = False
    traceback: bool = False
    version: bool = False


def read_line(argv: Sequence[str]) -> Line:
    """Take the command line apart; UsageError for an unknown command, option or bare word."""
    flags = {}
    for option in (word for word in argv if word.startswith("-")):
        if option not in OPTIONS:
            raise UsageError(f"{option} is no option{describe_choices(option, OPTIONS, 'options')}")
        flags[OPTIONS[option]] = True
    words = [word for word in argv if not word.startswith("-")]
    if words[:1] == ["help"]:
        words, flags = words[1:2], {**flags, "help": True}
    if not words:
        return Line(None, [], **flags)
    name, *overrides = words
    if name not in COMMANDS:
        raise UsageError(f"{name} is no command{describe_choices(name, COMMANDS, 'commands')}")
    if key := COMMANDS[name].bare_key:
        overrides = [word if "=" in word or word.startswith("~") else f"{key}={word}" for word in overrides]
    return Line(name, overrides, **flags)


def run_once(command: Command, composed: Composed, console: Console) -> int:
    """Find the folder of one configuration, check it, run the command, and return the exit code."""
    from commands.config.compose import get_module_name

    module, config = importlib.import_module(get_module_name(command.name)), composed.keys
    folder = find_run_folder(command, composed) if command.folder else None
    if folder is not None:
        folder.writes = processes.get_rank() == 0
        folder.check()
        finished = folder.describe_finished()
        if finished is not None:
            console.say(finished)
            return 0
        if config.device not in ("auto", "cpu"):
            resolve_device(config.device)
    if hasattr(module, "check"):
        try:
            module.check(config)
        except ValueError as error:
            raise UsageError(str(error)) from error
    if folder is None:
        return module.run(config, None, console) or 0
    with folder:
        console.say(f"{'resuming' if folder.resumed else 'writing to'} {folder.path}")
        return module.run(config, folder, console) or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `jepa`. Returns the exit code: 0 success, 1 failure, 2 wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    show = "--traceback" in argv
    label = "jepa"
    _stop_on_sigterm()
    _replace_closed_streams()
    try:
        line = read_line(argv)
        label = f"jepa {line.command}" if line.command else "jepa"
        if processes.is_idle(line, COMMANDS):
            return 0
        return _dispatch(line)
    except KeyboardInterrupt:
        if processes.get_rank() == 0:
            print(f"{label}: stopped; the same command goes on from what is saved", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output (head, less) left; closing stdout again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return print_error(error, label, show)


def print_error(error: BaseException, label: str, show: bool) -> int:
    """Print the one sentence for an exception (the traceback before it where asked); return the exit code."""
    code, sentence = explain(error)
    if processes.get_rank():
        if code == UsageError.exit_code:  # the first process prints it, too
            return code
        label = f"{label}, process {processes.get_rank()}"
    if show:
        traceback.print_exception(error)
    print(f"{label}: {sentence}", file=sys.stderr)
    return code


def _run_or_print_error(command: Command, show: bool, composed: Composed) -> int:
    """Run one configuration of a sweep; its failure is printed and stops no other."""
    from commands.shared.console import Console

    try:
        return run_once(command, composed, Console())
    except Exception as error:
        return print_error(error, f"jepa {command.name}", show)


def _dispatch(line: Line) -> int:
    if line.version:
        print(f"jepa {_version()}")
        return 0
    if line.command is None:
        from commands.cli.help import format_overview

        print(format_overview(COMMANDS))
        return 0 if line.help else 2
    if sentence := find_shadow():
        raise RunError(sentence)
    command = COMMANDS[line.command]
    if line.help:
        from commands.cli.choices import list_parts
        from commands.cli.help import format_command_help

        words = next(iter(list_parts(command, line.overrides).values()), line.overrides)
        print(format_command_help(command, words))
        return 0
    if line.multirun:
        if processes.is_distributed() and command.together:
            raise UsageError("--multirun starts runs of one process: without torchrun, or one torchrun a configuration")
        from commands.cli.sweep import run_sweep

        return run_sweep(command, line.overrides, partial(_run_or_print_error, command, line.traceback))
    return run_line(command, line.overrides, line.traceback)


def run_line(command: Command, overrides: list[str], show: bool = False) -> int:
    """Run the configuration of one command line and return the exit code. show: whether tracebacks are shown of parts
    that fail and stop no other."""
    from commands.shared.console import Console, make_silent_console
    from commands.shared.runs import find_finished

    if command.folder and (finished := find_finished(command.name, overrides)):
        if processes.get_rank() == 0:
            print(finished)
        return 0
    from commands.config.compose import compose

    if command.each:
        from commands.cli.choices import list_parts, run_parts

        if len(parts := list_parts(command, overrides)) > 1:
            return run_parts(command, overrides, parts, partial(_run_or_print_error, command, show), Console())
    composed = compose(command.name, overrides)
    with processes.join_processes(command, str(composed.config.get("device"))) as is_first:
        return run_once(command, composed, Console() if is_first else make_silent_console())


def _version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0 (not installed)"


def _replace_closed_streams() -> None:
    """Let output go nowhere where the caller has closed stdout or stderr (>&-), which Python then sets to None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _stop_on_sigterm() -> None:
    """Treat SIGTERM (Slurm, containers) as Ctrl-C, so that files are closed and locks released."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    sys.exit(main())
