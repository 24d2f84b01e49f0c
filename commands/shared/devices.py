"""The torch device that a command computes on."""

from __future__ import annotations

import platform

from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError, join_names, suggest_names

DEVICES = ("auto", "cpu", "cuda", "mps")


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


def emulates_bf16(device: str) -> bool:
    """Whether bf16 products are emulated on a device, about ten times slower than in fp32: on x86 without AVX-512."""
    import torch

    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device == "cpu" and on_x86 and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def warn_of_emulated_bf16(command: str, precision: str, device: str, console: Console) -> None:
    """Warn where bf16 is asked for on a device that emulates it."""
    if precision == "bf16" and emulates_bf16(device):
        console.warn(
            f"jepa {command}: this processor has no bf16 instructions: precision=bf16 takes about ten times as long as "
            "precision=fp32"
        )
