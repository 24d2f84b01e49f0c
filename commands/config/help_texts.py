"""Help texts of a configuration's keys: the strings below the fields of its dataclasses, with their ranges in words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from annotated_types import Interval

from commands.config.schema import choose_class, get_field_types


def collect_help_texts(cls: type, mapping: Mapping[str, Any]) -> dict[str, str]:
    """Return {"a.b": help text} of all keys; `mapping` decides which class of a union applies."""
    ranges = _get_ranges(cls)
    texts = {key: _add_range(text, ranges.get(key)) for key, text in _read_docstrings(cls).items()}
    for key, hint in get_field_types(cls).items():
        inner = choose_class(hint, mapping.get(key))
        if inner is not None and isinstance(mapping.get(key), Mapping):
            texts |= {f"{key}.{name}": text for name, text in collect_help_texts(inner, mapping[key]).items()}
    return texts


@cache
def _get_ranges(cls: type) -> dict[str, str]:
    """Return {key: range in words} of the keys whose type, or that of its items, has a range."""
    found = {key: _find_bounds(hint) for key, hint in typing.get_type_hints(cls, include_extras=True).items()}
    return {key: _describe_range(bounds) for key, bounds in found.items() if bounds}


def _find_bounds(hint: Any) -> dict[str, Any]:
    """Return {"ge": 1} for Annotated[int, Ge(1)], also of one inside a union or a container; {} without a range."""
    if typing.get_origin(hint) is not typing.Annotated:
        return next((bounds for bounds in map(_find_bounds, typing.get_args(hint)) if bounds), {})
    parts = [part for item in hint.__metadata__ for part in (item if isinstance(item, Interval) else [item])]
    return {key: getattr(part, key) for part in parts for key in ("ge", "gt", "le", "lt") if hasattr(part, key)}


def _add_range(text: str, words: str | None) -> str:
    if words is None:
        return text
    return f"{text[:-1]}; {words})" if text.endswith(")") else f"{text} ({words})"


def _describe_range(bounds: Mapping[str, Any]) -> str:
    if "le" not in bounds and "lt" not in bounds:
        return f">= {bounds['ge']}" if "ge" in bounds else f"> {bounds['gt']}"
    low = f"{bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
    return f"{low} to {bounds['le']}" if "le" in bounds else f"{low} to below {bounds['lt']}"


@cache
def _read_docstrings(cls: type) -> dict[str, str]:
    """Return {field: the string below it}, those of base classes included."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))) if dataclasses.is_dataclass(base) else None
        except OSError:  # a class without source, made by make_dataclass
            continue
        body = tree.body[0].body if tree is not None and isinstance(tree.body[0], ast.ClassDef) else []
        for line, after in zip(body, body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(text, ast.Constant):
                texts[line.target.id] = " ".join(str(text.value).split())
    return texts
