"""Nested dicts into frozen dataclasses, strictly: every key known, every value of its field's type.

`.get(key, default)` hides a key that is written under one name and read under another; here a key that no
field reads is an error, and so is a field without a default that no key gives.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from commands.shared.errors import UsageError, listed, nearest, one_line

T = TypeVar("T")


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Return `cls(**mapping)` for a dataclass, nested dataclasses, tuples, Literals and Enums converted.

    `where` is the dotted place of `mapping` in the configuration, for messages ("trainer"). A ValueError of
    the class's own __post_init__ comes out as UsageError with that place. Raises UsageError for a key that is
    unknown or missing and for a value of another type, with the nearest names or the choices.
    """
    assert dataclasses.is_dataclass(cls) and isinstance(cls, type), f"{cls} is no dataclass"
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where or cls.__name__} is {mapping!r}: it holds keys, as {listed(_names(cls))}")
    names = _names(cls)
    for key in mapping:
        if key not in names:
            raise UsageError(f"'{_at(where, key)}' is no key{nearest(str(key), names)} (keys: {listed(names, 30)})")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.name in mapping:
            values[field.name] = convert(hints[field.name], mapping[field.name], _at(where, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{_at(where, field.name)} is missing: give {_at(where, field.name)}=...")
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{where}: {one_line(error)}" if where else one_line(error)) from error


def convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint` says, or raise UsageError naming `where`, the value and the type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _union(args, value, where)
    if origin is typing.Literal:
        return _choice({str(item): item for item in args}, value, where)
    if origin in (tuple, list):
        return _sequence(origin, args, value, where)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a mapping, as {key: value}")
        inner = args[1] if args else Any
        return {str(key): convert(inner, item, _at(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _choice({item.name: item for item in hint} | {str(i.value): i for i in hint}, value, where)
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and number and float(value).is_integer():
        return int(value)
    if hint is float and number:
        return float(value)
    if hint is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint in (None, type(None)) and value is None:
        return None
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint not in words and hint not in (None, type(None)):
        if isinstance(hint, type) and isinstance(value, hint):
            return value
        raise TypeError(f"{where}: a configuration cannot hold the type {hint}")
    raise _wrong(where, value, words.get(hint, "null"))


def _union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    rest = sorted((arg for arg in args if arg is not type(None)), key=lambda arg: not _agrees(arg, value))
    exact = [arg for arg in rest if isinstance(arg, type) and type(value) is arg]
    problem: UsageError | None = None
    for arg in exact + rest:
        try:
            return convert(arg, value, where)
        except UsageError as error:
            problem = problem or error
    raise problem or _wrong(where, value, "null")


def _agrees(hint: Any, value: Any) -> bool:
    """Whether a dataclass has all keys of a mapping, and its `kind`."""
    if not (isinstance(value, Mapping) and dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        return False
    if not value.keys() <= set(_names(hint)):
        return False
    kind = typing.get_args(typing.get_type_hints(hint).get("kind"))
    return not kind or value.get("kind", kind[0]) == kind[0]


def _choice(choices: dict[str, Any], value: Any, where: str) -> Any:
    key = str(value).lower() if isinstance(value, bool) else str(value)
    for name, item in choices.items():
        if name == key or isinstance(item, bool) and name.lower() == key:
            return item
    raise UsageError(f"{where}={value} is no choice{nearest(key, choices)} (choices: {listed(choices)})")


def _sequence(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, value, "a list, as [a,b]")
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise _wrong(where, value, f"a list of {len(args)}")
        return tuple(convert(arg, item, where) for arg, item in zip(args, value, strict=True))
    inner = args[0] if args else Any
    return origin(convert(inner, item, where) for item in value)


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _at(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _wrong(where: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"{where}={value}: {where} must be {wanted}")
