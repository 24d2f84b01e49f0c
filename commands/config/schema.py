"""Frozen dataclasses as the schema of a configuration: defaults, ranges, and strict conversion.

A default, its range and its help text stand in one place, the dataclass: a range is part of the type, such as
`Annotated[int, Ge(1)]`, and the help text is the string below the field. YAML files hold what a choice sets
differently (`help_texts` collects the texts). pydantic converts and checks the values; messages name the dotted key.

A field whose type is a union of dataclasses (planners, objectives) takes the class whose literal fields, such as
`name: Literal["cem"]`, agree with the mapping.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, overload

import pydantic

from commands.shared.errors import UsageError, describe_choices, join_lines, join_names

T = TypeVar("T")
TYPE_NAMES = ("int", "float", "bool", "str")  # pydantic appends them to the location of a value, and TYPE_FORMS, too
TYPE_FORMS = ("list[", "literal[")
REQUIRED = "???"  # value of a key without a default (OmegaConf's own mark)
WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list, as [a,b]",
    "list": "a list, as [a,b]",
    "dict": "a mapping, as {key: value}",
    "path": "a path",
}

LARGEST_INT = 2**63 - 1  # of a whole number, which numpy and torch hold in 64 bits

BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "above",
    "less_than_equal": "at most",
    "less_than": "below",
}


@overload
def build(hint: type[T], mapping: Mapping[str, Any], where: str = "") -> T: ...
@overload
def build(hint: object, mapping: Mapping[str, Any], where: str = "") -> Any: ...
def build(hint: Any, mapping: Mapping[str, Any], where: str = "") -> Any:
    """Return the mapping, defaults filled in, as an instance of a dataclass, or of the right one of a union.

    where: dotted key of `mapping`, for messages ("trainer"). Raises UsageError for a key that is unknown or missing and
    for a value of another type; a ValueError of `__post_init__` becomes one, too.
    """
    cls = choose_class(hint, mapping)
    assert cls is not None, hint
    if not isinstance(mapping, Mapping):
        raise UsageError(f"{where or cls.__name__}={mapping!r}: it holds keys, as {join_names(get_field_types(cls))}")
    hints, mapping = get_field_types(cls), fill_defaults(cls, mapping)
    for key in mapping.keys() - hints.keys():
        raise UsageError(f"'{_join(where, key)}' is no key{describe_choices(str(key), hints, 'keys', most=30)}")
    for key in hints:
        if mapping[key] == REQUIRED:
            raise UsageError(f"{_join(where, key)} is missing: give {_join(where, key)}=...")
    return _validate(
        cls, {key: _convert(hints[key], value, _join(where, key)) for key, value in mapping.items()}, where
    )


def override(config: T, over: Mapping[str, Any], where: str = "") -> T:
    """Return the dataclass with the values of a nested mapping in place of its own; UsageError as of `build`."""
    cls: type = type(config)
    hints = get_field_types(cls)
    if over.keys() - hints.keys():  # refused, or retired
        return build(cls, fill_defaults(cls, over, _to_plain(config)), where)
    values = {key: getattr(config, key) for key in hints}  # parts without a new value stay as they are
    for key, value in over.items():
        merged = _merge(hints[key], value, _to_plain(values[key]))
        values[key] = _convert(hints[key], merged, _join(where, key))
    return _validate(cls, values, where)


def _validate(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of a dataclass; UsageError for values that its types or its `__post_init__` refuse."""
    try:
        return _get_adapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        deepest = max(error.errors(), key=lambda each: len(each["loc"]))  # of a union, the type that fits furthest
        raise UsageError(_format_error(deepest, where)) from error


def fill_defaults(cls: type, mapping: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the mapping with the values of `base` wherever it has none, in the order of the fields of `cls`.

    base: values for all keys; None takes the defaults of `cls`, and '???' where a value must be given. A part that
    becomes one of another class takes the defaults of that class. Keys that `cls` had before, in its class variable
    `retired`, are left out where they have the value that had no effect.
    """
    base = _get_defaults(cls) if base is None else base
    hints = get_field_types(cls)
    filled = {key: _merge(hints[key], mapping[key], base[key]) if key in mapping else base[key] for key in hints}
    retired = getattr(cls, "retired", {}).items()
    return filled | {key: value for key, value in mapping.items() if key not in hints and (key, value) not in retired}


def complete_stored(cls: type, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with a value for every key: `fill_defaults`, but for keys whose default is another
    than what a configuration without them meant. A class has these values in its class variable `superseded`."""
    return fill_defaults(cls, _add_superseded(cls, mapping))


def _add_superseded(cls: type, mapping: Mapping[str, Any]) -> dict[str, Any]:
    out = {**getattr(cls, "superseded", {}), **mapping}
    for key, hint in get_field_types(cls).items():
        inner = choose_class(hint, mapping.get(key))
        if inner is not None and isinstance(mapping.get(key), Mapping):
            out[key] = _add_superseded(inner, mapping[key])
    return out


def is_superseded(cls: type, mapping: Mapping[str, Any]) -> bool:
    """Whether a stored configuration lacks a key whose default is another than what it meant (`complete_stored`)."""
    return complete_stored(cls, mapping) != fill_defaults(cls, mapping)


def _merge(hint: Any, value: Any, old: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    current = choose_class(hint, old) if isinstance(old, Mapping) else None
    cls = choose_class(hint, value, current)
    if cls is not None:
        return fill_defaults(cls, value, old if cls is current else None)
    old = old if isinstance(old, Mapping) else {}
    return {**old, **{key: _merge(Any, item, old.get(key)) for key, item in value.items()}}


@cache
def get_field_types(cls: type) -> dict[str, Any]:
    """Return {name: type} of the fields that a configuration may set: all but those with `repr=False`, which the
    program sets itself."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init and field.repr}


def has_key(cls: type, key: str, config: Any) -> bool:
    """Whether a dotted key exists (see `find_types`)."""
    return bool(find_types(cls, key, config))


def find_types(cls: type, key: str, config: Any) -> list[Any]:
    """Return the types that a dotted key may have where each part is of the class that `config` holds; [] for no key.

    A part that is null or a word in `config` may become any class of its type; a dict may have any key.
    """
    name, _, rest = key.partition(".")
    hint = get_field_types(cls).get(name)
    if hint is None or not rest:
        return [] if hint is None else [hint]
    part = config.get(name) if isinstance(config, Mapping) else None
    inner = choose_class(hint, part)
    if inner is None:
        return [Any] if typing.get_origin(hint) is dict else []
    classes = [inner] if isinstance(part, Mapping) else _classes(hint)
    return [found for option in classes for found in find_types(option, rest, part)]


def read_text(hint: Any, value: Any, text: str) -> Any:
    """Return the value of a key as its type needs it: the text itself where only text fits, as for a folder 1e3."""
    options = set(_options(hint))
    if str not in options or options & {int, float, bool}:
        return value
    if isinstance(value, list):
        return [str(item) if type(item) is int else item for item in value]
    return text if isinstance(value, (bool, int, float)) else value


def choose_class(hint: Any, value: Any, usual: type | None = None) -> type | None:
    """Return the dataclass that a field of this type holds, None where it holds none.

    Of several, the one whose literal fields agree with `value`, and that has all of its keys if one does. usual: the
    one that is tried first.
    """
    options = _classes(hint)
    if len(options) < 2 or not isinstance(value, Mapping):
        return options[0] if options else None
    ordered = sorted(options, key=lambda option: option is not usual)
    agree = [option for option in ordered if _tags_agree(option, value)] or ordered
    return next((option for option in agree if value.keys() <= get_field_types(option).keys()), agree[0])


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Build the dataclasses inside a value, and refuse what pydantic would convert too kindly: true to 1, "3" to 3."""
    options, words, inner = *_list_scalars(hint), choose_class(hint, value)
    if inner is not None and isinstance(value, Mapping):
        _require_tags(_classes(hint), value, where)
        return build(inner, value, where)
    if inner is not None and value is not None and value not in words:
        one_of = f"is one of {join_names(words)}, or " if words else ""
        raise UsageError(f"{where}={value}: {where} {one_of}holds keys, as {join_names(get_field_types(inner))}")
    if isinstance(value, (list, tuple)) and typing.get_origin(hint) is tuple:
        item_hint = typing.get_args(hint)[0]
        return [_convert(item_hint, item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and typing.get_origin(hint) is dict:
        item_hint = typing.get_args(hint)[1]
        return {key: _convert(item_hint, item, f"{where}.{key}") for key, item in value.items()}
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}={value}: {where} must be a finite number")
    if isinstance(value, int) and abs(value) > LARGEST_INT and str not in options:
        raise UsageError(f"{where}={value}: {where} must have less than 20 digits")
    if number and str in options and not options & {int, float}:
        return str(value)  # a name that YAML reads as a number
    if options and options <= {int, float, bool} and isinstance(value, (bool, int, float, str)):
        fits = bool in options if isinstance(value, bool) else number and options != {bool}
        if not fits:
            wanted = WANTED["bool" if options == {bool} else "int" if options == {int} else "float"]
            raise UsageError(f"{where}={value}: {where} must be {wanted}")
    return value


@cache
def _get_tags(cls: type) -> dict[str, Any]:
    """Fields of a single literal, such as `name: Literal["cem"]`, with its value."""
    literals = {key: hint for key, hint in get_field_types(cls).items() if typing.get_origin(hint) is typing.Literal}
    values = {key: typing.get_args(hint) for key, hint in literals.items()}
    return {key: only[0] for key, only in values.items() if len(only) == 1}


def _tags_agree(cls: type, value: Mapping[str, Any]) -> bool:
    """Whether every field of a single literal has that value in the mapping."""
    return all(value.get(key, tag) == tag for key, tag in _get_tags(cls).items())


def _require_tags(classes: Sequence[type], value: Mapping[str, Any], where: str) -> None:
    """UsageError for a tag that none of several classes has."""
    if len(classes) < 2 or any(_tags_agree(option, value) for option in classes):
        return
    for key, given in value.items():
        choices = list(dict.fromkeys(_get_tags(option)[key] for option in classes if key in _get_tags(option)))
        if choices and given not in choices:
            place = _join(where, key)
            raise UsageError(
                f"{place}={given} is no choice here{describe_choices(str(given), list(map(str, choices)))}"
            )


@cache
def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


@cache
def _list_scalars(hint: Any) -> tuple[frozenset[Any], list[Any]]:
    """The options of a type but None, and the words of those that are literals."""
    literals = [option for option in _options(hint) if typing.get_origin(option) is typing.Literal]
    return frozenset(_options(hint)) - {type(None)}, [word for item in literals for word in typing.get_args(item)]


@cache
def _classes(hint: Any) -> tuple[type, ...]:
    """The dataclasses among the options of a type."""
    return tuple(option for option in _options(hint) if dataclasses.is_dataclass(option) and isinstance(option, type))


@cache
def _get_adapter(cls: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


@cache
def _get_defaults(cls: type) -> Mapping[str, Any]:
    """Return the defaults of all keys as YAML would write them. A dataclass without a default gives those of its own
    keys, anything else '???'."""
    defaults = {}
    for field in dataclasses.fields(cls):
        hint = get_field_types(cls).get(field.name)
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            inner = choose_class(hint, None)
            default = REQUIRED if inner is None else dict(_get_defaults(inner))
        defaults[field.name] = _to_plain(default)
    return {key: defaults[key] for key in get_field_types(cls)}


def _to_plain(value: Any) -> Any:
    """Return a value as YAML would write it: nested dicts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _to_plain(getattr(value, name)) for name in get_field_types(type(value))}
    return [_to_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _format_error(error: Any, where: str) -> str:
    """Return one of pydantic's errors as one sentence: the key, its value, what it must be."""
    if error["type"] == "value_error" and not error["loc"]:
        return f"{where}: {join_lines(error['ctx']['error'])}" if where else join_lines(error["ctx"]["error"])
    parts = [str(part) for part in error["loc"] if part not in TYPE_NAMES and not str(part).startswith(TYPE_FORMS)]
    key, value = _join(where, ".".join(parts)), error["input"]
    if error["type"] in ("literal_error", "enum"):
        choices = [part.strip(" '\"") for part in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{key}={value} is no choice{describe_choices(str(value), choices)}"
    if error["type"] in ("missing", "too_long", "tuple_type") and len(error["loc"]) > 1:
        return f"{key.rpartition('.')[0]}={value}: the list has another length"
    bound = BOUNDS.get(error["type"])
    if bound is not None:
        return f"{key}={value} is out of range: it must be {bound} {next(iter(error['ctx'].values())):.15g}"
    wanted = WANTED.get(error["type"].split("_")[0])
    return f"{key}={value}: {key} must be {wanted}" if wanted else f"{key}={value}: {join_lines(error['msg'])}"
