"""Commands under torchrun: which process runs, prints and writes. Without torchrun nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from commands.shared.devices import resolve_device
from commands.shared.errors import RunError, UsageError


def is_distributed() -> bool:
    """Whether this process is one of torchrun's several."""
    world = os.environ.get("WORLD_SIZE", "")
    return world.isdigit() and int(world) > 1


def get_rank() -> int:
    """Number of this process; 0 for the first one, and where there is one alone."""
    return int(os.environ.get("RANK", "0")) if is_distributed() else 0


def is_idle(line: Any, commands: Mapping[str, Any]) -> bool:
    """Whether this process has nothing to do: beside the first one, unless the command is worked on together."""
    if get_rank() == 0:
        return False
    return line.command is None or line.help or line.version or not commands[line.command].together


@contextmanager
def join_processes(command: Any, device: str) -> Iterator[bool]:
    """Join the other processes for a command that they work on together; yield whether this one prints."""
    if not is_distributed() or not command.together:
        yield True
        return
    import torch

    from world_model.distributed import DistributedError, connect_processes, read_launch

    name = resolve_device(device)
    if ":" in name or name == "mps":
        raise UsageError(f"device={name} is one device for several processes: device=auto, device=cuda or device=cpu")
    try:
        with connect_processes(read_launch(), torch.device(name)):
            yield get_rank() == 0
    except DistributedError as error:
        raise RunError(str(error)) from error
