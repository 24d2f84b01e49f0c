"""Compiling of blocks (torch.compile), and what it needs."""

from __future__ import annotations

import os
import shutil
import tempfile

import torch
from torch import nn

from world_model.nn.stack import BlockStack

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def compile_blocks(model: nn.Module) -> None:
    """Compile the model's blocks at their first call: a minute, then faster steps and rollouts, whose results differ in
    the last digits. ValueError where `check_compiler` finds what it needs missing.
    """
    check_compiler(next(model.parameters()).device)
    for part in model.modules():
        if isinstance(part, BlockStack):
            part.compiled = True


def check_compiler(device: torch.device) -> None:
    """ValueError without a C++ compiler on a CPU, or where compiled code could not be written to the folder that
    CACHE_VARIABLE names."""
    compiler = os.environ.get("CXX") or "g++"
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ValueError(f"compiling needs a C++ compiler on a CPU and {compiler} is not installed")
    folder = os.environ.get(CACHE_VARIABLE)
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"compiled code is kept in {CACHE_VARIABLE}={folder}, which cannot be written to ({error.strerror}): name "
            "another folder, or do not compile"
        ) from error
