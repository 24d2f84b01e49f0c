"""A stand-in for a CUDA device: tests find tensors of two devices that meet, on a machine without a GPU.

Tensors on the stand-in are CPU tensors of the class `OnCuda` that report the device `cuda:0`. Inside `cuda_stand_in()`
an operation on tensors of both devices raises as on a GPU, and so does all else that CUDA refuses: `.numpy()` on the
device, a CPU generator for a draw there, a CPU tensor indexed by one of the device. Values are kept, unlike in torch's
FakeTensorMode, so that results can be compared with those of the CPU; test_cuda_stand_in.py holds both to one rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
MEMORY_BYTES = 8 << 30  # of the device, by which planners size their chunks

TO_NUMPY = (Tensor.numpy, Tensor.__array__)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
# Functions that take tensors of two devices; the second of these looks at types alone.
ACROSS_DEVICES = (Tensor.copy_, torch._has_compatible_shallow_copy_type, torch._foreach_copy_)
# CPU tensors without axes count as numbers, but not here.
TENSORS_ONLY = (torch.cat, torch.stack)


class OnCuda(Tensor):
    """A CPU tensor that reports the device `cuda:0`."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            copy = self.detach().clone().requires_grad_(self.requires_grad)
            if isinstance(self, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy, self.requires_grad)
            memo[id(self)] = copy
        return memo[id(self)]


class _StandIn(TorchFunctionMode):
    """Sees every call, also those without a tensor of the device, such as `torch.zeros(3, device="cuda")`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


@contextmanager
def cuda_stand_in() -> Iterator[torch.device]:
    """Give the device `cuda:0`, which torch then seems to have."""
    autocast = torch.autocast
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.device_count": lambda: 1,
            "torch.cuda.is_bf16_supported": lambda: True,
            "torch.cuda.get_device_properties": lambda device: SimpleNamespace(total_memory=MEMORY_BYTES),
            "data.loader.pin_batch": lambda batch: batch,  # called by threads, which do not see the stand-in
            "torch.autocast": lambda device_type, *args, **kwargs: autocast("cpu", *args, **kwargs),
        }.items():
            stack.enter_context(mock.patch(name, value))
        # A parameter moved by `Module.to` becomes another object: only that can be of another class.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(_StandIn())
        yield CUDA


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of a torch function, on the device that it would have on a GPU; RuntimeError where two meet."""
    if func == Tensor.device.__get__:
        return _device(args[0])
    if func == Tensor.is_cuda.__get__:
        return _is_on_cuda(args[0])
    if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
        return _move(func, args, kwargs)
    if func in TO_NUMPY and _is_on_cuda(args[0]):
        raise TypeError("can't convert cuda:0 device type tensor to numpy; copy it to the host first")
    if func is Tensor.pin_memory:
        _refuse(_is_on_cuda(args[0]), func, "only CPU tensors can be pinned")
        return args[0]
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if kwargs.get("device") is None:
        on_cuda = _meeting_place(func, args, kwargs)
    else:
        on_cuda = torch.device(kwargs["device"]).type == "cuda"
        kwargs["device"] = "cpu"
    generator = kwargs.get("generator")
    _refuse(on_cuda and generator is not None, func, "a CPU generator cannot draw on cuda")
    return _plain(func, args, kwargs, on_cuda)


def _meeting_place(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the function runs on the device, given the tensors that it takes."""
    tensors = _tensors((args, tuple(kwargs.values())))
    elsewhere = [tensor for tensor in tensors if not _is_on_cuda(tensor)]
    if len(elsewhere) == len(tensors):
        return False
    owns_result = func in ACROSS_DEVICES or func in INDEXING
    on_cuda = _is_on_cuda(tensors[0])
    if func in INDEXING:
        indices = _tensors((args[1],))
        _refuse(not on_cuda and any(map(_is_on_cuda, indices)), func, "indices on cuda and a tensor on cpu")
        values = [value for value in args[2:] if isinstance(value, Tensor) and value.ndim]
        _refuse(bool(indices) and any(_is_on_cuda(value) != on_cuda for value in values), func, "values elsewhere")
    if owns_result:
        return on_cuda
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__") or name.startswith("__i") and name != "__invert__"
    _refuse(in_place and not on_cuda, func, "the result on cpu and an argument on cuda")
    _refuse(func in TENSORS_ONLY and bool(elsewhere), func, "a tensor on cpu")
    _refuse(any(tensor.ndim for tensor in elsewhere), func, "found cuda:0 and cpu")
    return True


def _move(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """The tensor on the device asked for; itself where it is there, of that type."""
    tensor, rest = args[0], args[1:]
    if func is Tensor.cpu:
        on_cuda, rest, kwargs = False, ("cpu",), kwargs
    elif func is Tensor.cuda:
        on_cuda, rest, kwargs = True, ("cpu",), {}
    elif rest and isinstance(rest[0], Tensor):
        on_cuda, rest = _is_on_cuda(rest[0]), (rest[0].dtype, *rest[1:])
    else:
        device = torch._C._nn._parse_to(*rest, **kwargs)[0]
        on_cuda = _is_on_cuda(tensor) if device is None else device.type == "cuda"
        rest = tuple("cpu" if isinstance(one, str | torch.device) else one for one in rest)
        kwargs = {name: "cpu" if name == "device" else value for name, value in kwargs.items()}
    moves = on_cuda != _is_on_cuda(tensor)
    return _plain(Tensor.to, (tensor, *rest), {**kwargs, "copy": True} if moves else kwargs, on_cuda)


def _plain(func: Any, args: Any, kwargs: dict[str, Any], on_cuda: bool) -> Any:
    """Run the function on the CPU, and label the tensors that come out."""
    with torch._C.DisableTorchFunctionSubclass():
        return _label(func(*args, **kwargs), on_cuda)


def _label(result: Any, on_cuda: bool) -> Any:
    """The result, its tensors being of the class that reports the device."""
    if isinstance(result, tuple | list):
        labelled = [_label(one, on_cuda) for one in result]
        return type(result)(labelled)  # torch's named tuples take a sequence, too
    if not isinstance(result, Tensor) or isinstance(result, OnCuda) == on_cuda:
        return result
    kind = OnCuda if on_cuda else Tensor
    if result.is_leaf and result.requires_grad:
        return result.detach().as_subclass(kind).requires_grad_()
    return result.as_subclass(kind)


def _tensors(arguments: Any) -> list[Tensor]:
    """All tensors of nested tuples and lists."""
    found = []
    for one in arguments:
        if isinstance(one, Tensor):
            found.append(one)
        elif isinstance(one, tuple | list):
            found += _tensors(one)
    return found


def _is_on_cuda(tensor: Any) -> bool:
    return isinstance(tensor, OnCuda)


def _device(tensor: Tensor) -> torch.device:
    return CUDA if _is_on_cuda(tensor) else torch.device("cpu")


def _refuse(wrong: bool, func: Any, why: str) -> None:
    if wrong:
        name = getattr(func, "__name__", func)
        raise RuntimeError(f"expected all tensors to be on the same device: {name}: {why}")
