"""One iteration of a search as one compiled function (torch.compile), replayed on GPUs as CUDA graphs.

A compiled iteration fuses small operations across layers and imagined steps. With a CUDA graph the host starts a whole
iteration by one call, where it would else start thousands of kernels one by one. Shapes are static: each number of
candidates is compiled by itself until torch sees that it varies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., Any]


@cache
def compile_step(step: Step, device_type: str) -> Step:
    """`step`, compiled at its first call, which takes minutes."""
    if device_type != "cuda":
        return torch.compile(step)
    graphed = torch.compile(step, mode="reduce-overhead")

    def replay(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return copy_tensors(graphed(*inputs))  # the next replay writes over them

    return replay


def copy_tensors(value: Any) -> Any:
    """The value with copies of all tensors in its tuples, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(copy_tensors(item) for item in value)
    if isinstance(value, dict):
        return {key: copy_tensors(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: copy_tensors(getattr(value, item.name)) for item in fields(value)})
    return value
