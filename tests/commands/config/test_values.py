"""Values of another kind and numbers out of range are refused by their key, for every key of every command."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Interval

from commands.cli.main import COMMANDS
from commands.config.compose import get_config_class
from commands.config.help_texts import collect_help_texts
from commands.config.schema import build, choose_class, get_field_types
from commands.shared.errors import UsageError

# Keys that may have any finite value.
FREE = {"GoalCost.power"}
FAR = -(10**9)


def list_classes() -> list[type]:
    """Every dataclass of a command's keys, with those of their parts."""
    found: dict[type, None] = {}

    def visit(hint: Any) -> None:
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if hint not in found:
                found[hint] = None
                for inner in get_field_types(hint).values():
                    visit(inner)
        for part in typing.get_args(hint):
            visit(part)

    for name in COMMANDS:
        visit(get_config_class(name))
    return list(found)


def find_number(hint: Any) -> type | None:
    """The type of a key's number, also of one inside a union or a list; None where it holds none."""
    if hint in (int, float):
        return hint
    inner = () if typing.get_origin(hint) is typing.Literal else typing.get_args(hint)
    return next((number for number in map(find_number, inner) if number), None)


def wrap(hint: Any, value: float) -> Any:
    """The value as a key of this type holds it: alone, as often as a tuple needs it, or in a mapping."""
    options = [hint, *typing.get_args(hint)]
    if any(typing.get_origin(option) is dict for option in options):
        return {"reacher": value}
    if pair := next((option for option in options if typing.get_origin(option) is tuple), None):
        return [value] * (1 if Ellipsis in typing.get_args(pair) else len(typing.get_args(pair)))
    return value


def fill_required(cls: type) -> dict[str, Any]:
    """Values of the keys without a default, also of parts."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        hint = get_field_types(cls).get(item.name)
        if hint is None or item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING:
            continue
        part = choose_class(hint, None)
        values[item.name] = fill_required(part) if part else 1 if find_number(hint) else "reacher"
    return values


NUMBERS = [
    pytest.param(cls, name, hint, id=f"{cls.__module__}.{cls.__name__}.{name}")
    for cls in list_classes()
    for name, hint in get_field_types(cls).items()
    if find_number(hint)
]


@pytest.mark.parametrize(("cls", "name", "hint"), NUMBERS)
def test_no_number_is_infinite_or_far_below_its_range(cls, name, hint):
    wrong = [] if f"{cls.__name__}.{name}" in FREE else [FAR]
    wrong += [float("nan"), float("inf")] if find_number(hint) is float else []
    for value in wrong:
        with pytest.raises(UsageError, match=rf"{name}\b.*{value}"):
            build(cls, fill_required(cls) | {name: wrap(hint, value)})


STRANGE = ["abc", "1", "", [1, 2], [], [[1]], {"a": 1}, {}, None, True, 1.5, 3, -1]


def fits(hint: Any, value: Any) -> bool:
    """Whether a type admits a value, as the documents say: a number may be a name, a name is no number."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(fits(option, value) for option in inner)
    if kind is typing.Literal:
        return value in inner
    if kind is dict:
        return isinstance(value, dict) and all(fits(inner[1], item) for item in value.values())
    if kind in (list, tuple) and isinstance(value, list):
        hints = inner[:1] * len(value) if kind is list or Ellipsis in inner else inner
        return len(hints) == len(value) and all(map(fits, hints, value))
    if dataclasses.is_dataclass(hint):
        return value == {}
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str, int, float), type(None): (type(None),)}
    return hint is Any or type(value) in kinds.get(hint, ())


@pytest.mark.parametrize("cls", list_classes(), ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_value_of_another_kind_is_refused_by_its_key(cls):
    for name, hint in get_field_types(cls).items():
        for value in STRANGE:
            if not fits(hint, value):
                with pytest.raises(UsageError, match=name):
                    build(cls, fill_required(cls) | {name: value})


@dataclass(frozen=True)
class Sizes:
    """Keys with every kind of range."""

    count: Annotated[int, Ge(1)] = 1
    """things (all of one kind)"""
    rate: Annotated[float, Gt(0)] | None = None
    """things per second; null: not limited"""
    share: tuple[Annotated[float, Interval(ge=0, lt=1)], ...] = ()
    """shares of things"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"count": 0}, "count=0 is out of range: it must be at least 1"),
        ({"rate": 0}, "rate=0 is out of range: it must be above 0"),
        ({"share": [0.5, 1.0]}, "share.1=1.0 is out of range: it must be below 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(words, said):
    with pytest.raises(UsageError) as caught:
        build(Sizes, words)
    assert str(caught.value) == said


def test_help_texts_end_with_the_range():
    assert collect_help_texts(Sizes, {}) == {
        "count": "things (all of one kind; >= 1)",
        "rate": "things per second; null: not limited (> 0)",
        "share": "shares of things (0 to below 1)",
    }
