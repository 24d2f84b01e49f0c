"""Random changes of one file of a data set or a model: JSON, HDF5, npz, parquet, tensors, and raw bytes.

Each change leaves a file that a careless program, a broken disk or someone with bad intent could have left. Some lead
out of the folder: links, external HDF5 datasets, absolute paths, and paths that climb.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from data.mapped import MappedFile

ODD_VALUES: tuple[Any, ...] = (
    None,
    0,
    -1,
    -5.5,
    7,
    1e300,
    float("nan"),
    float("inf"),
    10**12,
    10**30,
    True,
    "",
    "x",
    "\u0000",
    "../../etc/passwd",
    [],
    [1],
    [[1, 2], [3]],
    ["a"] * 3,
    {},
    {"a": 1},
)
ODD_CELLS: tuple[Any, ...] = (None, float("nan"), -5, 10**12, [], [1.0], "x", {"bytes": b"x", "path": None})
ODD_ATTRIBUTES: tuple[Any, ...] = (0, -1, "x", 1.5, [1, 2], b"b", np.nan, "{}", "[]")
MOST_TRIES = 30  # until a change alters a file's bytes
# Raised where a library cannot hold a change; the file then stays as it was.
IMPOSSIBLE = (TypeError, ValueError, OSError, RuntimeError, KeyError, IndexError, AttributeError)


def restore_checksums(path: Path) -> None:
    """Make the checksums of a trajectory file those of its content, as someone with bad intent would."""
    with contextlib.suppress(*IMPOSSIBLE):
        with h5py.File(path, "r+") as file:
            file.attrs["info_crc32"] = zlib.crc32(file.attrs["info"].encode())
        mapped = MappedFile(path, "r")
        checksums = [mapped.compute_checksum(index, int(n)) for index, n in enumerate(mapped.episode["length"])]
        with h5py.File(path, "r+") as file:
            file["episode/crc32"][...] = checksums


class Mutator:
    """Draws changes of the files below `root`. outside: a folder that no reader may open, with copies of these files.

    links: whether a file may become a symbolic link to its copy outside.
    """

    def __init__(self, rng: random.Random, root: Path, outside: Path, links: bool) -> None:
        self.rng, self.root, self.outside, self.links = rng, root, outside, links
        self.by_suffix: dict[str, Callable[[Path], None]] = {
            ".json": self.change_json,
            ".hdf5": self.change_hdf5,
            ".h5": self.change_hdf5,
            ".npz": self.change_npz,
            ".parquet": self.change_parquet,
            ".safetensors": self.change_safetensors,
            ".pt": self.change_checkpoint,
        }

    def change_file(self, path: Path) -> None:
        """Change a file, so that its bytes differ from what they were."""
        before = path.read_bytes()
        for _ in range(MOST_TRIES):
            if self.links and self.rng.random() < 0.05:
                path.unlink()
                path.symlink_to(os.path.relpath(self.find_copy(path), path.parent))
                return
            change = self.by_suffix.get(path.suffix, self.change_bytes)
            try:
                (self.change_bytes if self.rng.random() < 0.25 else change)(path)
            except IMPOSSIBLE:
                path.write_bytes(before)
            if path.read_bytes() != before:
                return
        raise AssertionError(f"{path} could not be changed in {MOST_TRIES} tries")

    def find_copy(self, path: Path) -> Path:
        """The copy of a file outside."""
        return self.outside / path.relative_to(self.root)

    # -- bytes and JSON

    def change_bytes(self, path: Path) -> None:
        """Flip some bits, or cut the file."""
        content = bytearray(path.read_bytes())
        for _ in range(self.rng.choice((1, 3, 20))):
            content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        cut = self.rng.randrange(len(content)) if self.rng.random() < 0.2 else len(content)
        path.write_bytes(bytes(content[:cut]))

    def change_json(self, path: Path) -> None:
        path.write_text(json.dumps(self.change_value(json.loads(path.read_text()))))

    def change_value(self, value: Any, depth: int = 0) -> Any:
        """One value somewhere in a tree becomes another one, or goes away. Texts that hold JSON are such trees, too."""
        rng = self.rng
        if isinstance(value, dict) and value and (depth < 1 or rng.random() < 0.8):
            key = rng.choice(list(value))
            inner, draw = value[key], rng.random()
            if isinstance(inner, (dict, list)) and inner and draw < 0.7:
                return {**value, key: self.change_value(inner, depth + 1)}
            if isinstance(inner, str) and inner[:1] in ("{", "[") and draw < 0.7:
                return {**value, key: self.change_text(inner, depth)}
            if isinstance(inner, str) and "/" in inner and draw < 0.4:
                return {**value, key: self.redirect(inner)}
            if draw < 0.85:
                return {**value, key: rng.choice(ODD_VALUES)}
            return {name: item for name, item in value.items() if name != key}
        if isinstance(value, list) and value and rng.random() < 0.6:
            index = rng.randrange(len(value))
            return [*value[:index], rng.choice(ODD_VALUES), *value[index + 1 :]]
        return rng.choice(ODD_VALUES)

    def change_text(self, text: str, depth: int) -> str:
        """Change JSON inside a text; a path template, which begins with a brace as well, leads outside."""
        try:
            return json.dumps(self.change_value(json.loads(text), depth + 1))
        except ValueError:
            return self.redirect(text)

    def redirect(self, text: str) -> str:
        """The same path, but of the copies outside."""
        name = self.outside.name
        return self.rng.choice((f"../{name}/{text}", f"{self.outside}/{text}", f"x/../../{name}/{text}"))

    # -- arrays

    def change_array(self, array: np.ndarray) -> Any:
        """Rows of another number, width, type or value."""
        rng = self.rng

        def spoil_one() -> np.ndarray:
            spoiled = array.astype(np.float64)
            spoiled.flat[rng.randrange(max(spoiled.size, 1))] = rng.choice((np.nan, np.inf, 1e300))
            return spoiled

        changes: tuple[Callable[[], Any], ...] = (
            spoil_one,
            lambda: array[:-1],
            lambda: array[:0],
            lambda: array.T,
            lambda: array.reshape(-1),
            lambda: np.concatenate([array, array]),
            lambda: np.stack([array, array], -1),
            lambda: array.astype(np.complex128),
            lambda: array.astype(np.int8),
            lambda: array.astype(">f8"),
            lambda: np.full(array.shape, b"x"),
            lambda: np.array(["a", "b"], dtype=object),
            lambda: np.float64(3),
            lambda: np.zeros(3),
        )
        return rng.choice(changes)()

    def change_npz(self, path: Path) -> None:
        with np.load(path) as file:
            columns = dict(file)
        for _ in range(self.rng.choice((1, 1, 2))):
            name = self.rng.choice(list(columns))
            if self.rng.random() < 0.2:
                del columns[name]
            else:
                columns[name] = self.change_array(columns[name])
        np.savez(path, **columns)

    def change_parquet(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        columns = pyarrow.parquet.read_table(path).to_pydict()
        for _ in range(self.rng.choice((1, 1, 2))):
            name = self.rng.choice(list(columns))
            rows = columns[name]
            if self.rng.random() < 0.2:
                del columns[name]
                continue
            index = self.rng.randrange(len(rows)) if self.rng.random() < 0.6 else None
            cell = self.rng.choice((*ODD_CELLS, {"bytes": None, "path": self.redirect("marker.txt")}))
            columns[name] = [cell if index in (row, None) else old for row, old in enumerate(rows)]
        pyarrow.parquet.write_table(pyarrow.table(columns), path)

    # -- HDF5

    def change_hdf5(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            names: list[str] = []
            file.visit(names.append)
            for _ in range(self.rng.choice((1, 1, 1, 2, 5))):
                name = self.rng.choice(names)
                if name in file:
                    self.change_item(file, name, self.find_copy(path))

    def change_item(self, file: h5py.File, name: str, copy: Path) -> None:
        """Change, rename, remove or redirect a group or a dataset."""
        rng, item, draw = self.rng, file[name], self.rng.random()
        if draw < 0.15 and item.attrs:
            self.change_attribute(item.attrs)
        elif draw < 0.3:
            del file[name]
        elif draw < 0.38:
            file.move(name, name + rng.choice(("_copy", "x", "_old")))
        elif draw < 0.46:
            self.link_outside(file, name, copy)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            rows = item[()]
            del file[name]
            file[name] = h5py.Empty("f8") if rng.random() < 0.1 else self.change_array(np.asarray(rows))
        else:
            del file[name]
            file[name] = rng.choice((np.zeros(3), h5py.SoftLink("/nowhere"), file["/"]))

    def change_attribute(self, attributes: h5py.AttributeManager) -> None:
        name = self.rng.choice(list(attributes))
        value = attributes[name]
        if isinstance(value, str) and value.startswith("{") and self.rng.random() < 0.8:
            attributes[name] = json.dumps(self.change_value(json.loads(value)))
        else:
            attributes[name] = self.rng.choice(ODD_ATTRIBUTES)

    def link_outside(self, file: h5py.File, name: str, copy: Path) -> None:
        """A group or dataset whose content lies in another file."""
        dataset = file[name] if isinstance(file[name], h5py.Dataset) else None
        shape, dtype = (dataset.shape, dataset.dtype) if dataset is not None else (None, None)
        del file[name]
        if not shape or dtype.kind == "O" or self.rng.random() < 0.4:
            file[name] = h5py.ExternalLink(str(copy), f"/{name}")
        elif self.rng.random() < 0.5:
            file.create_dataset(
                name, shape, dtype, external=[(str(self.outside / "marker.txt"), 0, h5py.h5f.UNLIMITED)]
            )
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource(str(copy), name, shape=shape)
            file.create_virtual_dataset(name, layout)

    # -- weights

    def change_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of another shape, type or value."""
        spoiled = tensor.clone()
        if tensor.is_floating_point() and tensor.numel():
            spoiled.view(-1)[self.rng.randrange(tensor.numel())] = self.rng.choice((float("nan"), float("inf")))
        changes = (
            spoiled,
            tensor[:1] if tensor.ndim else tensor[None],
            tensor.flatten(),
            tensor[None],
            torch.zeros(()),
            torch.zeros(0),
            tensor.to(torch.int8),
            tensor.to(torch.complex64),
            torch.cat([tensor, tensor]) if tensor.ndim else tensor,
            tensor.half(),
        )
        return self.rng.choice(changes).contiguous().clone()

    def change_tensors(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of which some are changed, renamed or missing."""
        for _ in range(self.rng.choice((1, 1, 3))):
            name, draw = self.rng.choice(list(tensors)), self.rng.random()
            if draw < 0.3:
                del tensors[name]
            elif draw < 0.5:
                tensors[f"{name}x"] = tensors.pop(name)
            elif draw < 0.6:
                tensors[f"module.{name}"] = tensors[name].clone()
            else:
                tensors[name] = self.change_tensor(tensors[name])
        return tensors

    def change_safetensors(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        if about and "json" in about and self.rng.random() < 0.8:  # without its checksums, which would refuse first
            about = {"json": json.dumps({key: v for key, v in json.loads(about["json"]).items() if key != "crc32"})}
        save_file(self.change_tensors(load_file(path)), path, about)

    def change_checkpoint(self, path: Path) -> None:
        content = torch.load(path, weights_only=True)
        key = self.rng.choice(list(content))
        if self.rng.random() < 0.15 or not isinstance(content[key], dict):
            content[key] = self.rng.choice(ODD_VALUES)
        elif all(isinstance(value, torch.Tensor) for value in content[key].values()):
            content[key] = self.change_tensors(dict(content[key]))
        else:
            content[key] = self.change_value(content[key])
        torch.save(content, path)
