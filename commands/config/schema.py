"""Frozen dataclasses as the schema of a configuration: defaults, help texts, and strict conversion.

A default and its help text stand in one place, the dataclass: the help text is the string below the field. YAML files
hold what a choice sets differently. Values are converted and checked by pydantic; messages name the dotted key.

A field whose type is a union of dataclasses (the planners, the objectives) takes the class whose literal fields, such
as `name: Literal["cem"]`, agree with the mapping.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import pydantic

from commands.shared.errors import UsageError, describe_choices, join_lines, join_names

T = TypeVar("T")
TYPE_NAMES = ("int", "float", "bool", "str", "list[str]")  # which pydantic appends to the place of a value
REQUIRED = "???"  # the value of a key that must be given (OmegaConf's own mark)


def build(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Return `cls(**mapping)`; nested mappings become the dataclasses that `cls` names.

    where: dotted key of `mapping`, for messages ("trainer"). Raises UsageError for a key that is unknown or missing and
    for a value of another type, with the nearest names or the choices; a ValueError of `__post_init__` becomes one,
    too.
    """
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where or cls.__name__}={mapping!r}: it holds keys, as {join_names(get_field_types(cls))}")
    kind: Any = cls
    hints, mapping = get_field_types(kind), fill_defaults(kind, mapping)
    for key in mapping:
        if key not in hints:
            raise UsageError(f"'{_at(where, key)}' is no key{describe_choices(str(key), hints, 'keys', most=30)}")
    missing = [key for key in hints if mapping[key] == REQUIRED]
    if missing:
        raise UsageError(f"{_at(where, missing[0])} is missing: give {_at(where, missing[0])}=...")
    values = {key: _nested(hints[key], value, _at(where, key)) for key, value in mapping.items()}
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        raise UsageError(_sentence(error.errors()[0], where)) from error


def override(config: T, over: Mapping[str, Any], where: str = "") -> T:
    """Return the dataclass with the values of a nested mapping in place of its own; UsageError as of `build`."""
    return build(type(config), fill_defaults(type(config), over, config), where)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) and old else value
    return merged


def fill_defaults(cls: type, mapping: Mapping[str, Any], defaults: Any = None) -> dict[str, Any]:
    """Return the mapping with the values of `defaults`, an instance of `cls`, wherever it has none.

    defaults: None takes the defaults of `cls`, and '???' where a value must be given.
    """
    filled = dict(mapping)
    for key, hint in get_field_types(cls).items():
        default = _default(cls, key) if defaults is None else getattr(defaults, key)
        if key not in mapping:
            inner = choose_class(hint, None)
            filled[key] = fill_defaults(inner, {}) if default == REQUIRED and inner is not None else _plain(default)
        elif isinstance(mapping[key], Mapping):
            inner = choose_class(hint, mapping[key], type(default))
            if inner is None:
                filled[key] = _merge(default if isinstance(default, Mapping) else {}, mapping[key])
            else:
                filled[key] = fill_defaults(inner, mapping[key], default if type(default) is inner else None)
    return {key: filled[key] for key in [*get_field_types(cls), *(set(filled) - set(get_field_types(cls)))]}


def collect_help_texts(cls: type, mapping: Mapping[str, Any]) -> dict[str, str]:
    """Return {"a.b": help text} of all keys; `mapping` decides which class of a union applies."""
    found = dict(_docstrings(cls))
    for key, hint in get_field_types(cls).items():
        inner = choose_class(hint, mapping.get(key))
        if inner is not None and isinstance(mapping.get(key), Mapping):
            found |= {f"{key}.{name}": text for name, text in collect_help_texts(inner, mapping[key]).items()}
    return found


@cache
def get_field_types(cls: type) -> dict[str, Any]:
    """Return {name: type} of the fields that a configuration may set: all but those with `repr=False`, which the
    program sets itself."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init and field.repr}


def get_type_at(cls: type, key: str) -> Any:
    """Return the type of a dotted key, in any of the classes that its parts may be; None where there is no such key."""
    name, _, rest = key.partition(".")
    hint = get_field_types(cls).get(name)
    if not rest or hint is None:
        return hint
    found = (get_type_at(option, rest) for option in _classes(hint))
    return next((inner for inner in found if inner is not None), None)


def has_alternatives(hint: Any) -> bool:
    """Whether a field of this type holds a dataclass or something else, such as null, a word or another class."""
    return bool(_classes(hint)) and len(_parts(hint)) > 1


def is_union(hint: Any) -> bool:
    """Whether a field of this type holds one of several dataclasses."""
    return len(_classes(hint)) > 1


def choose_class(hint: Any, value: Any, usual: type | None = None) -> type | None:
    """Return the dataclass that a field of this type holds, None where it holds none.

    Of several, the one whose literal fields agree with `value`, and that has all of its keys if one does. usual: the
    one that is tried first.
    """
    options = _classes(hint)
    if len(options) < 2 or not isinstance(value, Mapping):
        return options[0] if options else None
    options = sorted(options, key=lambda option: option is not usual)
    agree = [option for option in options if _tags_agree(option, value)] or options
    return next((option for option in agree if value.keys() <= get_field_types(option).keys()), agree[0])


def _nested(hint: Any, value: Any, where: str) -> Any:
    inner = choose_class(hint, value)
    _check_scalar(set(_parts(hint)) - {type(None)}, value, where)
    if inner is not None and isinstance(value, Mapping):
        return build(inner, value, where)
    words = [
        word for part in _parts(hint) if typing.get_origin(part) is typing.Literal for word in typing.get_args(part)
    ]
    if inner is not None and isinstance(value, str) and value not in words:
        choices = f" (choices: {join_names(words)})" if words else ""
        raise UsageError(
            f"{where}={value} is no choice{choices}, and it holds keys, as {join_names(get_field_types(inner))}"
        )
    if typing.get_origin(hint) is tuple and isinstance(value, (list, tuple)):
        (item, *_) = typing.get_args(hint)
        return [_nested(item, entry, f"{where}[{number}]") for number, entry in enumerate(value)]
    return value


def _check_scalar(kinds: set[Any], value: Any, where: str) -> None:
    """Raise UsageError where pydantic would convert too kindly: true to 1, "3" to 3."""
    if not kinds or not kinds <= {int, float, bool} or not isinstance(value, (bool, int, float, str)):
        return
    fits = bool in kinds if isinstance(value, bool) else not isinstance(value, str) and bool(kinds & {int, float})
    if not fits:
        wanted = "true or false" if kinds == {bool} else "a whole number" if kinds == {int} else "a number"
        raise UsageError(f"{where}={value}: {where} must be {wanted}")


def _tags_agree(cls: type, value: Mapping[str, Any]) -> bool:
    """Whether every field of a single literal, such as `name: Literal["cem"]`, has that value in the mapping."""
    tags = {
        key: typing.get_args(hint)
        for key, hint in get_field_types(cls).items()
        if typing.get_origin(hint) is typing.Literal
    }
    return all(value.get(key, only[0]) == only[0] for key, only in tags.items() if len(only) == 1)


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _classes(hint: Any) -> list[type]:
    """The dataclasses among the parts of a type."""
    return [part for part in _parts(hint) if dataclasses.is_dataclass(part) and isinstance(part, type)]


def _default(cls: type, key: str) -> Any:
    field = next(field for field in dataclasses.fields(cls) if field.name == key)
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    """A default as YAML would write it: nested dicts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in get_field_types(type(value))}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


@cache
def _docstrings(cls: type) -> dict[str, str]:
    """Return {field: the string below it}, those of base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for line, after in zip(body, body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(text, ast.Constant):
                found[line.target.id] = " ".join(str(text.value).split())
    return found


def _at(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _sentence(error: Any, where: str) -> str:
    """One of pydantic's errors as one sentence: the key, its value, what it must be."""
    if error["type"] == "value_error" and not error["loc"]:
        return f"{where}: {join_lines(error['ctx']['error'])}" if where else join_lines(error["ctx"]["error"])
    key, value = _at(where, ".".join(str(part) for part in error["loc"] if part not in TYPE_NAMES)), error["input"]
    if error["type"] in ("literal_error", "enum"):
        choices = [part.strip(" '\"") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{key}={value} is no choice{describe_choices(str(value), choices)}"
    if error["type"] in ("missing", "too_long", "tuple_type") and len(error["loc"]) > 1:
        return f"{key.rpartition('.')[0]}={value}: the list has another length"
    wanted = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "text",
        "tuple": "a list, as [a,b]",
        "list": "a list, as [a,b]",
        "dict": "a mapping, as {key: value}",
        "path": "a path",
    }.get(error["type"].split("_")[0])
    return f"{key}={value}: {key} must be {wanted}" if wanted else f"{key}={value}: {join_lines(error['msg'])}"
