"""Presets of scene variation: from which ranges the factors of variation of an episode are drawn.

`seen` draws from the training ranges. `unseen` draws episodes of the split eval from values that training never has,
and all others from the training ranges. `moving` draws from the training ranges, and adds nuisance that moves within
an episode (`envs.motion`). Imports no simulator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from envs.task_spec import suggest_names

Preset = Literal["none", "seen", "unseen", "moving"]
PRESETS: tuple[str, ...] = get_args(Preset)

# Groups of factors that change images and no motion: what a preset varies where no factors are named.
APPEARANCE = ("texture", "colour", "light", "camera")
MOTION = "motion"  # the group that `moving` switches on


def require_preset(variation: str) -> None:
    """ValueError for an unknown preset."""
    if variation not in PRESETS:
        hint = suggest_names(str(variation), PRESETS)
        raise ValueError(f"variation={variation!r} is unknown; {hint}choices: {', '.join(PRESETS)}")


def choose_factors(variation: str, factors: Sequence[str] | str) -> tuple[str, ...]:
    """Groups or names of the factors that a preset switches on; ValueError for an unknown preset."""
    require_preset(variation)
    wanted = (factors,) if isinstance(factors, str) else tuple(factors)
    return wanted or (APPEARANCE if variation != "none" else ())


def arrange_factors(
    values: NDArray[np.float64], names: Sequence[str], defaults: Mapping[str, float]
) -> NDArray[np.float64]:
    """Values `[..., F]` of the factors in `defaults`, from values `[..., n]` of `names`, defaults for all others.

    Raises `ValueError` for a name without a default, and for another number of values.
    """
    if lacking := [name for name in names if name not in defaults]:
        raise ValueError(f"this environment has no factor {', '.join(lacking)}; make it with factors={lacking}")
    if values.shape[-1] != len(names):
        raise ValueError(f"a state with {values.shape[-1]} factors cannot be one of the factors {list(names)}")
    columns = [
        values[..., list(names).index(name)] if name in names else np.full(values.shape[:-1], default)
        for name, default in defaults.items()
    ]
    return np.stack(columns, axis=-1) if columns else np.zeros((*values.shape[:-1], 0))
