"""Several choices of one group as one command: `jepa compare env=reacher,push_t` runs once for each task.

Each part is the run that the command with this choice alone would be, in the same run folder. All are checked before
the first one starts. What joins them is in a run folder of its own. A part that fails stops no other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from commands.cli.command import Command, find_run_folder
from commands.cli.sweep import list_jobs
from commands.config.compose import Composed, compose, get_module_name
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, join_names


def list_parts(command: Command, overrides: Sequence[str]) -> dict[str, list[str]]:
    """The overrides of each part by its choice; one part where the group has one choice, none where it is not given.
    UsageError for a choice that is named twice."""
    given = [text for text in overrides if text.partition("=")[0] == command.each]
    if not given:
        return {}
    jobs = [job[0] for job in list_jobs(command.name, given[-1:])]
    choices = [job.partition("=")[2] for job in jobs]
    if twice := [choice for choice in choices if choices.count(choice) > 1]:
        raise UsageError(f"{given[-1]} names {twice[0]} twice: name each once")
    others = [text for text in overrides if text not in given]
    return {choice: [*others, job] for choice, job in zip(choices, jobs, strict=True)}


def run_parts(
    command: Command,
    overrides: Sequence[str],
    parts: dict[str, list[str]],
    run: Callable[[Composed], int],
    console: Console,
) -> int:
    """Check all parts, run one after another, join them, and return the exit code. `run` takes the configuration of a
    part and returns an exit code. RunError names the parts that failed."""
    module = importlib.import_module(get_module_name(command.name))
    composed = {choice: compose(command.name, words) for choice, words in parts.items()}
    name = next(iter(composed.values())).config["name"]
    if name is not None:  # each part has a folder of its own
        named = {choice: f"name={name}-{choice.replace('/', '-')}" for choice in parts}
        composed = {choice: compose(command.name, [*words, named[choice]]) for choice, words in parts.items()}
    folder = find_run_folder(command, _join_configurations(command, composed, overrides, name))
    folder.check()
    if (finished := folder.describe_finished()) is not None:
        console.say(finished)
        return 0
    for choice, part in composed.items():
        try:
            module.check(part.keys)
        except (ValueError, UsageError) as error:
            raise UsageError(f"{command.each}={choice}: {error}") from error
    with folder:
        codes: dict[str, int] = {}
        for number, (choice, part) in enumerate(composed.items()):
            console.say(f"{command.each}={choice}, {number + 1} of {len(composed)}")
            codes[choice] = run(part)
        runs = [find_run_folder(command, part).path for part in composed.values()]
        joined = module.join([part.keys for part in composed.values()], runs, folder, console)
        failed = [choice for choice, code in codes.items() if code]
        if failed:
            raise RunError(
                f"{command.each}={join_names(failed)} failed, as said above, and {len(codes) - len(failed)} of "
                f"{len(codes)} did not: the same command goes on"
            )
        if not composed[next(iter(composed))].config.get("table_only"):
            folder.finish(f"{len(codes)} parts, joined in {joined}")
    return 0


def _join_configurations(
    command: Command, parts: dict[str, Composed], overrides: Sequence[str], name: str | None
) -> Composed:
    """The configuration that the common run folder is found by: that of the first part, and what differs in others."""
    assert command.each is not None
    first = next(iter(parts.values()))
    differ = {
        choice: {key: value for key, value in part.config.items() if value != first.config[key]}
        for choice, part in parts.items()
    }
    config = {**first.config, "name": name, "parts": differ}
    choices = {**first.choices, command.each: "+".join(parts)}
    return replace(first, config=config, choices=choices, overrides=tuple(overrides))
