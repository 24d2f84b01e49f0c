"""A command of the command line, and the folder that a run of it is kept in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commands.config.compose import Composed
    from commands.shared.runs import RunFolder


@dataclass(frozen=True)
class Command:
    """A command, and the keys that are not part of its run's identity.

    folder: whether it keeps a run folder. grows: keys that set how far a run goes; a larger value resumes the same
    folder. free: keys that change no result. bare_key: the key of a bare word (`jepa bench render` is
    `jepa bench what=render`). together: whether the processes of torchrun work together; else the first runs alone.
    each: a group of which several choices (env=a,b) are one command: it runs once for each, and joins their results.
    """

    name: str
    folder: bool = True
    grows: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    bare_key: str | None = None
    together: bool = False
    each: str | None = None


def find_run_folder(command: Command, composed: Composed) -> RunFolder:
    """Return the folder of this configuration's run."""
    from commands.config.compose import compose_defaults, get_config_class
    from commands.config.run_names import make_run_name
    from commands.config.schema import complete_stored
    from commands.shared.runs import RunFolder

    name = make_run_name(composed, compose_defaults(command.name), (*command.grows, *command.free))
    complete = partial(complete_stored, get_config_class(command.name))
    return RunFolder(command.name, name, composed.config, command.grows, command.free, complete, composed.overrides)
