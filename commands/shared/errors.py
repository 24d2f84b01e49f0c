"""What a user may have done wrong, as exceptions that carry one sentence and an exit code.

`UsageError` (exit 2) says that the command as typed cannot mean anything; `RunError` (exit 1) that it could
not be done here and now. Both messages hold what is wrong, the value, the choices and the next command.
`explain` turns whatever a command raised into that one sentence; the packages below `commands` raise plain
`ValueError` and `OSError`, so that they need not know this file.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

DISTRIBUTION = "jepa-lab"  # the name that pip knows
PACKAGES = ("commands", "configs", "data", "envs", "jepa", "planners", "world_model")

HOME = Path(__file__).resolve().parents[2]  # of our packages

# Likeness (0 to 1, difflib) below which a name is no guess worth making.
LEAST_ALIKE = 0.6
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate")  # of torch on a CPU and a GPU, of numpy
NO_CUDA = ("Torch not compiled with CUDA enabled", "Found no NVIDIA driver", "No CUDA GPUs are available")


class UserError(Exception):
    """A mistake that one sentence explains. Not raised itself; see the two below."""

    exit_code = 1


class UsageError(UserError):
    """The command line or a configuration value is wrong: nothing has been started or written."""

    exit_code = 2


class RunError(UserError):
    """The command is right and cannot go on: a file, a device or a folder is not what it should be."""


def find_shadow() -> str | None:
    """Return a sentence about the first of our packages that another one of the same name hides, or None."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        folders = [Path(folder).resolve() for folder in (spec.submodule_search_locations or [])] if spec else []
        if folders[:1] != [HOME / name]:
            location = folders[0] if folders else (spec.origin if spec else "nowhere")
            return (
                f"Python finds the package '{name}' at {location} instead of {HOME / name}: rename that one, or take "
                "its parent out of Python's path (PYTHONPATH, the folder of your script, or with -m the current folder)"
            )
    return None


def suggest_names(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean a or b?" for the names in `known` closest to `word`, or "" where none is close.

    A word without a dot is also compared with the last part of dotted names: `lr` finds `trainer.lr`.
    """
    scores: dict[str, float] = {}
    for name in set(known):
        parts = [name] if "." in word else [name, name.rpartition(".")[2]]
        scores[name] = max(difflib.SequenceMatcher(None, word.lower(), part.lower()).ratio() for part in parts)
    best = max(scores.values(), default=0.0)
    if best < LEAST_ALIKE:
        return ""
    closest = sorted((name for name in scores if scores[name] > best - 0.1), key=lambda name: (-scores[name], name))
    return f"; did you mean {' or '.join(closest[:3])}?"


def join_names(names: Iterable[str], most: int = 12) -> str:
    """Return the names with commas, cut after `most` of them."""
    names = list(names)
    more = f", ... ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_choices(word: str, known: Iterable[str], noun: str = "choices", most: int = 12) -> str:
    """Return the end of a message about an unknown word: the nearest names, then the allowed ones."""
    known = list(known)
    return f"{suggest_names(word, known)} ({noun}: {join_names(known, most)})"


def is_disk_full(error: BaseException) -> bool:
    """Tell whether `error` means that no space is left, also where a library wraps the system's own error."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return True
    text = str(error)
    return "No space left on device" in text or "Disk quota exceeded" in text


def is_memory_short(error: BaseException) -> bool:
    """Tell whether `error` means that memory could not be allocated, whichever library asked for it."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one sentence for an exception that left a command."""
    if isinstance(error, UserError):
        return error.exit_code, join_lines(error)
    if is_disk_full(error):
        path = getattr(error, "filename", None)
        where = f" while writing {path}" if path else ""
        return 1, (
            f"the disk is full{where}: free some space, or write elsewhere with runs=FOLDER; "
            "what was finished is kept and the same command goes on"
        )
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    if is_memory_short(error):
        asked = re.search(r"allocate (\d+) bytes", str(error))
        size = f": {int(asked[1]) / 2**30:.3g} GiB were asked for at once" if asked else ""
        return 1, (
            f"memory does not suffice{size}{place}; choose smaller sizes, as of the encoder, of a batch "
            "(trainer.batch_size), or of the search (planner.samples, planner.chunk_elements)"
        )
    if any(text in str(error) for text in NO_CUDA):
        return 1, "CUDA was asked for and this machine has none that torch can use: device=auto or device=cpu"
    if isinstance(error, ValueError):
        return 1, join_lines(error)
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        name = error.filename if error.filename is not None else join_lines(error)
        return 1, f"{os.strerror(error.errno) if error.errno else 'cannot open'}: {name}"
    if isinstance(error, OSError):
        return 1, join_lines(error)
    if type(error) is RuntimeError and frames and _is_raised_here(frames[-1]):
        return 1, join_lines(error)
    return 1, f"{type(error).__name__}: {join_lines(error)}{place}; --traceback shows where it came from"


def _is_raised_here(frame: traceback.FrameSummary) -> bool:
    """Tell a `raise RuntimeError("a sentence")` of our packages from an error inside a library they
    called."""
    folder = Path(frame.filename).resolve()
    ours = folder.is_relative_to(HOME) and folder.relative_to(HOME).parts[0] in PACKAGES
    return ours and (frame.line or "").lstrip().startswith("raise ")


def join_lines(error: BaseException) -> str:
    """Return the message of an exception without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
