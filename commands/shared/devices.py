"""The torch device that a command computes on, and the machine's memory."""

from __future__ import annotations

import os

from commands.shared.errors import RunError, UsageError, join_names, suggest_names

DEVICES = ("auto", "cpu", "cuda", "mps")


def measure_memory() -> int | None:
    """Return the machine's memory in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def require_memory(needed: float, what: str) -> None:
    """Raise UsageError where `what` needs more bytes than the machine has."""
    memory = measure_memory()
    if memory is not None and needed > memory:
        raise UsageError(
            f"{what} need {needed / 2**30:.3g} GiB of memory, and this machine has {memory / 2**30:.3g} GiB"
        )


def resolve_device(name: str) -> str:
    """Return the torch device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises UsageError for another word and RunError for a device that this machine does not have.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in DEVICES or index and not index.isdigit():
        raise UsageError(
            f"device={name} is no device{suggest_names(name, DEVICES)} (choices: {join_names(DEVICES)}, cuda:1)"
        )
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda" and torch.cuda.device_count() <= int(index or 0):
        raise RunError(
            f"device={name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here; "
            "use device=auto or device=cpu (jepa doctor has details)"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RunError("device=mps: this machine has no Apple GPU that torch can use; use device=auto or device=cpu")
    return name
