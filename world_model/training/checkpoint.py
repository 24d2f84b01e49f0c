"""Checkpoints and model folders: tensors as safetensors, everything else as JSON, written atomically.

A model folder holds model.safetensors and model.json (`kind`, `config`, `schema`). A training checkpoint is one
safetensors file with the step in its metadata, renamed to its final name when complete. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data.checks import check_regular, read_json, resolve_inside, shorten
from world_model.distributed import is_sharded

CHECKSUMS = "crc32"  # of the tensors, in the metadata of a file
LARGEST_WEIGHT = 1e18  # its square is finite in fp32
SCHEMA = 3  # of model.json; before 3, objectives and encoders had other keys


class CheckpointError(ValueError):
    """A checkpoint or model folder that cannot be used; the message has its path and the cause."""


def get_first_line(error: BaseException) -> str:
    """First line of an error's text, for a message of one sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def list_some(names: Iterable[str]) -> str:
    """The first four names, for a message."""
    return ", ".join(list(map(str, names))[:4]) or "none"


def write_atomic(path: Path, write: Any) -> None:
    """Call write(temporary path), flush to disk, then rename onto `path`; CheckpointError if that fails."""
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be written: {get_first_line(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """One safetensors file with JSON metadata and a checksum of every tensor, atomically."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # Sorted, so that equal tensors make equal files: a resumed optimiser has its state in another order.
    checksums = {name: zlib.crc32(_view_bytes(contiguous[name])) for name in sorted(contiguous)}
    text = json.dumps({**metadata, CHECKSUMS: checksums})  # one text: safetensors writes several in any order
    write_atomic(path, lambda temporary: save_file(contiguous, temporary, {"json": text}))


def load_tensors(path: Path, stem: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors whose names begin with `stem`, without it, and metadata of a file of `save_tensors`.

    Raises CheckpointError where it is missing, cut short or damaged. Files without checksums are read as they are.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("json", "{}"))
            checksums = metadata.pop(CHECKSUMS, {})
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(stem)}
        for name, tensor in tensors.items():
            if checksums and zlib.crc32(_view_bytes(tensor)) != checksums[name]:
                raise ValueError(f"{name} differs from its checksum")
        return {name.removeprefix(stem): tensor for name, tensor in tensors.items()}, metadata
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a complete checkpoint ({error}); delete it to resume from the one before it, or run the "
            "training command again"
        ) from error


def _view_bytes(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Short SHA-256 over names, shapes and bytes: the identity of a set of weights."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(_view_bytes(value))
    return digest.hexdigest()[:16]


def save_model(folder: Path, model: nn.Module, kind: str, config: dict[str, Any]) -> None:
    """Write a model folder. config: what `load_model_folder` returns to rebuild the model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", model.state_dict(), {"schema": SCHEMA, "kind": kind})
    text = json.dumps({"schema": SCHEMA, "kind": kind, "config": config}, indent=1)
    write_atomic(folder / "model.json", lambda temporary: temporary.write_text(text + "\n"))


def read_model_kind(folder: Path) -> str | None:
    """Kind of the model in a folder; None without a readable model.json."""
    try:
        return read_json(resolve_inside(folder, "model.json", folder)).get("kind")
    except (OSError, ValueError):
        return None


def load_model_folder(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a model folder of that kind; CheckpointError with one sentence otherwise."""
    path = resolve_inside(folder, "model.json", folder)
    if not path.exists():
        raise CheckpointError(f"{folder} is not a model folder (no model.json)")
    try:
        description = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if description.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{folder} is of another version (schema {description.get('schema')} of model.json, this one reads "
            f"{SCHEMA}): train it again"
        )
    if description.get("kind") != kind:
        raise CheckpointError(f"{folder} holds a {description.get('kind')!r} model, a {kind!r} model is needed here")
    if not isinstance(description.get("config"), dict):
        raise CheckpointError(f"{path} has config={shorten(description.get('config'))}: it must hold keys")
    return description["config"], load_tensors(resolve_inside(folder, "model.safetensors", folder))[0]


def _is_usable(tensor: Tensor) -> bool:
    """Whether all numbers have finite squares; one flipped bit makes a weight of 0.01 one of 1e36. Of a sharded tensor
    every process looks at its own part, which may be empty."""
    tensor = tensor.to_local() if is_sharded(tensor) else tensor
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    return bool(torch.linalg.vector_norm(tensor, torch.inf) <= LARGEST_WEIGHT)


def check_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """CheckpointError unless these are the model's weights. The model may lie on torch's meta device."""
    check_weights_of(model.state_dict(), tensors, source)


def check_weights_of(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """CheckpointError unless the tensors have the names and shapes of the expected ones. It lists missing, unexpected
    and mis-shaped names, and those that hold numbers which are not finite."""
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    problems += [f"{name} holds nan, inf or a number above 1e18" for name in tensors if not _is_usable(tensors[name])]
    if problems:
        rest = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(f"{source} does not fit this model: {'; '.join(problems[:6])}{rest}")


def load_weights(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load strictly; CheckpointError as of `check_weights`."""
    check_weights(model, tensors, source)
    model.load_state_dict(tensors)


def make_config_dict(config: Any) -> dict[str, Any]:
    """A frozen dataclass as plain JSON data."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
