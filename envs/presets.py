"""Presets of scene variation: from which ranges the factors of variation of an episode are drawn.

`seen` draws from the training ranges. `unseen` draws episodes of the split eval from values that training never has,
and all others from the training ranges. `moving` draws from the training ranges, and adds nuisance that moves within
an episode (`envs.motion`). The presets of DISTRACTING show the plain scene with distractors, as two published suites do
(`envs.distraction`). Imports no simulator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from envs.task_spec import suggest_names

Distracting = Literal["distracting", "color_easy", "color_hard", "video_easy", "video_hard"]
Preset = Literal[
    "none", "seen", "unseen", "moving", "distracting", "color_easy", "color_hard", "video_easy", "video_hard"
]
PRESETS: tuple[str, ...] = get_args(Preset)
DISTRACTING: tuple[str, ...] = get_args(Distracting)

# Groups of factors that change images and no motion: what a preset varies where no factors are named.
APPEARANCE = ("texture", "colour", "light", "camera")
MOTION = "motion"  # the group that `moving` switches on
DISTRACTION = "distraction"  # the group that the presets of DISTRACTING switch on
SCALED = ("unseen", "moving")  # presets whose nuisance has a strength
MOST_STRENGTH = 2.0


def require_preset(variation: str) -> None:
    """ValueError for an unknown preset."""
    if variation not in PRESETS:
        hint = suggest_names(str(variation), PRESETS)
        raise ValueError(f"variation={variation!r} is unknown; {hint}choices: {', '.join(PRESETS)}")


def require_strength(variation: str | None, strength: float, prefix: str = "") -> None:
    """ValueError for a strength that is out of range, or that a preset has none of. prefix: of the keys named."""
    if not 0.0 <= strength <= MOST_STRENGTH:
        raise ValueError(f"{prefix}strength={strength:g} is out of range: give a number from 0 to {MOST_STRENGTH:g}")
    if strength != 1.0 and variation not in SCALED:
        preset = "null" if variation is None else variation
        choices = " or ".join(f"{prefix}variation={name}" for name in SCALED)
        own = f" ({prefix}distraction.intensity scales it)" if variation == "distracting" else ""
        raise ValueError(
            f"{prefix}strength={strength:g} scales nothing in {prefix}variation={preset}{own}: choose {choices}, or "
            "leave the strength at 1"
        )


def choose_factors(variation: str, factors: Sequence[str] | str) -> tuple[str, ...]:
    """Groups or names of the factors that a preset switches on; ValueError for an unknown preset."""
    require_preset(variation)
    wanted = (factors,) if isinstance(factors, str) else tuple(factors)
    return wanted or (APPEARANCE if variation in ("seen", "unseen", "moving") else ())


def choose_env_kwargs(
    variation: str | None, recorded: Mapping[str, Any], distraction: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments of an environment with another preset; None: the recorded one.

    recorded: those of a data file. distraction: of a preset of DISTRACTING, as `envs.distraction.Distraction`.
    """
    if variation is None:
        return dict(recorded)
    kwargs = {key: value for key, value in recorded.items() if key != DISTRACTION}
    if variation in DISTRACTING:
        return {**kwargs, "variation": variation, DISTRACTION: dict(distraction or {})}
    # `none` keeps the factors switched on, at their defaults: then states keep their layout.
    return {**kwargs, "variation": "seen" if variation == "none" else variation}
