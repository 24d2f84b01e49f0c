"""Checks of what a file says before it is believed: where its paths lead, how much memory it asks for, its fields.

A data set or a model folder may have been made by anyone. A path in it must stay in its folder, a pipe or a device is
no file, what is loaded must fit into memory, and every field has a type. The packages `data` and `world_model` share
these functions, so this module imports no other of ours.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pydantic

T = TypeVar("T")
MIB, GIB = 2**20, 2**30
MEMORY_SHARE = 0.8  # of the free memory that the content of one file may take
LARGEST_JSON = 256 * MIB
LONGEST_VALUE = 80  # characters of a value that a message shows
# A field of a path template: {name}, or {name:03d} for a number of at least three digits.
FIELD = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?::0?(?P<width>\d{1,2})d?)?\}")


class FileError(ValueError):
    """A file says something that cannot be, or must not be followed; the message is one sentence for the user."""


# --- paths


def check_regular(path: Path) -> None:
    """FileError for a pipe, a socket or a device, which may be read for ever. What is missing is left to the caller."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileError(f"{path} is a pipe, a socket or a device: give a regular file")


def resolve_inside(root: Path, name: str, source: Path | str) -> Path:
    """The path that `name`, as the file `source` has it, gives in the folder `root`.

    FileError if it leads out of the folder: an absolute path, one with `..`, or a symbolic link on the way. Links of
    Hugging Face's cache, from models--OWNER--NAME/snapshots/REVISION to blobs beside snapshots, and from there to the
    blobs that all models share, stay inside.
    """
    top = root.resolve()
    inside = [top]
    for folder in (top, *top.parents):
        repo = folder.parent.parent
        if folder.parent.name == "snapshots":
            inside += [repo / "blobs", *([repo.parent / "blobs"] if "--" in repo.name else [])]
    try:
        path = root / name
        target = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links; a name too long, or with a zero byte
        raise FileError(f"{source} names {shorten(name)}, which is no path ({error})") from error
    climbs = os.path.isabs(name) or ".." in Path(name).parts
    if climbs or not any(target.is_relative_to(folder) for folder in inside):
        raise FileError(
            f"{source} names {shorten(name)}, which leads out of {root} and is not read: copy the file into the folder"
        )
    check_regular(path)
    return path


def fill_template(template: str, values: Mapping[str, str | int], source: Path | str) -> str:
    """A path template with its fields, {name} or {name:03d}, replaced by these values; FileError for other fields."""

    def fill(field: re.Match[str]) -> str:
        name, width = field["name"], field["width"]
        if name not in values or width is not None and not isinstance(values[name], int):
            raise FileError(_describe_template(template, field[0], values, source))
        return str(values[name]) if width is None else f"{values[name]:0{int(width)}d}"

    rest = FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        raise FileError(_describe_template(template, "a field", values, source))
    return FIELD.sub(fill, template)


def _describe_template(template: str, field: str, values: Mapping[str, Any], source: Path | str) -> str:
    known = ", ".join(f"{{{name}}}" if isinstance(value, str) else f"{{{name}:03d}}" for name, value in values.items())
    return f"{source} has the path template {shorten(template)} with {field} that is unknown: only {known} are filled"


# --- memory


def measure_memory() -> int:
    """Bytes of memory that are free, or, where the system does not say, that the machine has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(free) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, num_bytes: int, mend: str) -> None:
    """FileError if so many bytes would not fit into memory. mend: what the user can do."""
    free = measure_memory()
    if num_bytes > MEMORY_SHARE * free:
        raise FileError(
            f"{what} needs {_format_bytes(num_bytes)} of memory and {_format_bytes(free)} are free "
            f"({MEMORY_SHARE:.0%} of which may be taken): {mend}"
        )


def _format_bytes(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.1f} MiB"


# --- fields


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. FileError if it holds none; a missing file is an OSError."""
    check_regular(path)
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise FileError(f"{path} has {size / MIB:.0f} MiB, and JSON of at most {LARGEST_JSON // MIB} is read")
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: Any, source: str) -> dict[str, Any]:
    """The JSON object in a text. FileError names `source` if it holds none."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{source} is no JSON ({shorten(error)}): copy it again") from error
    if not isinstance(value, dict):
        raise FileError(f"{source} is {shorten(value)}, and a JSON object {{...}} is needed")
    return value


def parse_fields(schema: type[T], values: Any, source: Path | str) -> T:
    """The values as an instance of a pydantic model, a dataclass or another type; FileError names field and value."""
    try:
        parsed: T = _get_adapter(schema).validate_python(values)  # type: ignore[arg-type]  # types are hashable
        return parsed
    except pydantic.ValidationError as error:
        raise FileError(_describe_error(error.errors()[0], source)) from error


@cache
def _get_adapter(schema: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(schema)


def _describe_error(error: Any, source: Path | str) -> str:
    """One of pydantic's errors as one sentence."""
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{source} has no {field}"
    reason = str(error["msg"])
    for start, words in (("Input should be", "it must be"), ("Value error, ", ""), ("Assertion failed, ", "")):
        reason = reason.replace(start, words)
    if not field and error["type"] == "value_error":
        return f"{source}: {reason}"
    return f"{source} {f'has {field}=' if field else 'is '}{shorten(error['input'])}: {reason}"


def shorten(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    text = " ".join((str(value) if isinstance(value, str | Exception) else repr(value)).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
