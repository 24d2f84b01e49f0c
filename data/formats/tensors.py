"""Tensors in files of torch.save, and lists of whole numbers in pickles. Nothing but a tensor is ever unpickled."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.checks import MIB, check_memory, check_regular
from data.formats.files import ExternalError

LARGEST_PICKLE = 64 * MIB
DAMAGE = (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
# Instructions of a pickle by which a list of whole numbers is written, and no other object can be.
INTEGERS = ("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2")
LISTS = ("PROTO", "FRAME", "MARK", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")
PLAIN = {*INTEGERS, *LISTS, "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "STOP"}


def open_tensor(path: Path) -> torch.Tensor:
    """The tensor in a file of torch.save, mapped into memory. ExternalError for a file that holds anything else."""
    check_regular(path)
    if not path.is_file():
        raise ExternalError(f"{path} is not there: copy the data set again")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    except (zipfile.BadZipFile, *DAMAGE) as error:
        raise ExternalError(
            f"{path} is no complete file of torch.save (or one from before torch 1.6): copy it, or save it, again"
        ) from error
    if packed:
        raise ExternalError(f"{path} is a compressed archive, which torch.save never writes: save it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of, as sparse tensors, is refused below
            tensor: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ExternalError(
            f"{path} holds Python objects, which are never unpickled: save it again as a tensor by torch.save"
        ) from error
    except DAMAGE as error:
        raise ExternalError(f"{path} cannot be read as a file of torch.save, or is cut short: copy it again") from error
    if not isinstance(tensor, torch.Tensor):
        raise ExternalError(f"{path} holds a {type(tensor).__name__}, and a tensor is needed: save it again as one")
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        raise ExternalError(f"{path} holds a tensor of {tensor.dtype}, {tensor.layout}: real numbers are needed")
    return tensor.detach()


def read_rows(tensor: torch.Tensor, where: str) -> NDArray[Any]:
    """A part of a tensor as an array; FileError if it would not fit into memory."""
    check_memory(where, tensor.numel() * tensor.element_size(), "its episodes are too long to be read")
    if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()  # NumPy has no bfloat16
    return np.ascontiguousarray(tensor.numpy())


def read_integers(path: Path) -> list[int]:
    """The whole numbers of a pickled list, read from its instructions without unpickling it."""
    check_regular(path)
    if (size := path.stat().st_size) > LARGEST_PICKLE:
        raise ExternalError(f"{path} has {size / MIB:.0f} MiB, and a list of at most {LARGEST_PICKLE // MIB} is read")
    try:
        steps = [(code.name, value) for code, value, _ in pickletools.genops(path.read_bytes())]
    except (ValueError, IndexError, OverflowError) as error:
        raise ExternalError(f"{path} cannot be read as a pickle, or is cut short: copy it again") from error
    if strange := [name for name, _ in steps if name not in PLAIN]:
        raise ExternalError(
            f"{path} holds more than a list of whole numbers ({strange[0]}), and Python objects are never unpickled: "
            f"write torch.save(torch.tensor(list(lengths)), '{path.stem}.pth') beside it"
        )
    return [int(value or 0) for name, value in steps if name in INTEGERS]
