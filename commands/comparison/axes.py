"""The axes of a table: named variants, each a list of overrides that every method gets alike.

The key `axes` states the variants of each axis, the key `vary` those that make rows. The rows of a table are the
product of its methods and these variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from commands.config.compose import nest_overrides
from commands.shared.errors import UsageError, describe_choices
from commands.shared.runs import flatten
from commands.tables.tidy import RESERVED

Axes = Mapping[str, Mapping[str, Sequence[Any]]]  # axis -> variant -> overrides
Variant = Mapping[str, str]  # axis -> name of its variant

SHARED_PARTS = ("env", "data", "protocol", "seed", "on_damaged")  # parts that all rows share


def list_variants(axes: Axes, vary: Mapping[str, Sequence[str]]) -> list[Variant]:
    """The product of the variants that are asked for, the last axis fastest; one without any for no axis. Raises
    UsageError for an unknown axis or variant, an axis without any, a variant that is named twice, and one that sets
    what is equal in a table."""
    for axis, names in vary.items():
        if axis not in axes:
            raise UsageError(f"vary.{axis}: there is no such axis{describe_choices(axis, axes, 'axes')}")
        if not names:
            known = ", ".join(axes[axis])
            raise UsageError(f"vary.{axis}=[] names no variant: give some of [{known}], or leave vary.{axis} out")
        for name in names:
            if name not in axes[axis]:
                raise UsageError(f"vary.{axis}: {name} is no variant{describe_choices(name, axes[axis])}")
        if len(set(names)) < len(names):
            raise UsageError(f"vary.{axis}=[{','.join(names)}] names a variant twice")
        if axis in RESERVED:
            raise UsageError(f"axes.{axis}: tables have a column of this name: give the axis another one")
    for key in list_decided_keys(axes, vary):
        if key.partition(".")[0] in SHARED_PARTS:
            raise UsageError(f"axes: {key} is equal in all rows of a table: make one table for each of its values")
    return [dict(zip(vary, names, strict=True)) for names in product(*vary.values())]


def merge_overrides(axes: Axes, variant: Variant) -> dict[str, Any]:
    """The overrides of all variants as one nested mapping. Raises UsageError for one that is not key=value."""
    merged: list[Any] = []
    for axis, name in variant.items():
        try:
            merged.append(nest_overrides(axes[axis][name]))
        except UsageError as error:
            raise UsageError(f"axes.{axis}.{name}: {error}") from error
    return nest_overrides(merged)


def list_decided_keys(axes: Axes, vary: Mapping[str, Sequence[str]]) -> list[str]:
    """Dotted keys that a variant of the axes in use sets."""
    nested = (merge_overrides(axes, {axis: name}) for axis, names in vary.items() for name in names)
    return sorted({key for overrides in nested for key in flatten(overrides)})
