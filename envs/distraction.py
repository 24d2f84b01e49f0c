"""What distracts in scenes of the presets `distracting`, `color_*` and `video_*`, as keys. Imports no simulator.

`distracting` follows the Distracting Control Suite (Stone et al. 2021, arXiv 2101.02722; google-research/
distracting_control, suite_utils.py). With the intensity s, "static" draws within these limits once an episode, and
"dynamic" adds a random walk within them, a step every 0.02 s:

| kind | limits | step of the walk |
|---|---|---|
| camera, two angles about the point it looks at | +- s pi/2 each | velocity: std 0.1 s r / 4, at most 0.4 s r / 4 |
| camera, distance r to that point | (1 - 0.5 s) r to (1 + 1.5 s) r | the same velocity |
| camera, roll | +- s pi/2 | velocity: std s pi/300, at most s pi/50 |
| colour of each material, by channel | +- s, where 1 is full | std 0.03 s |
| background | one of 4 (s = 0.1), 8 (0.2) or all videos (0.3) | the next frame, back and forth |

The suite calls s = 0.1, 0.2 and 0.3 easy, medium and hard. The background is there as soon as s is above 0.

`color_*` and `video_*` follow the DMControl Generalization Benchmark (Hansen and Wang 2021, arXiv 2011.13389;
nicklashansen/dmcontrol-generalization-benchmark). `color_easy` and `color_hard` add to each colour a normal number of
std 0.1 or 0.2, once an episode (measured: their 100 settings each have 0.10 and 0.19). `video_easy` plays a video in
place of the sky, `video_hard` in place of sky and floor, a frame every 0.08 s (their four steps of 0.02 s).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, get_args

from annotated_types import Interval

from envs.presets import DISTRACTING
from envs.task_spec import suggest_names

Kind = Literal["background", "camera", "colour", "light"]
Background = Literal["noise", "leaves", "shadows", "video"]
STEP_S = 0.02  # of a walk: the control step of the suite's reacher
_AGENT_STEP_S = 0.08  # of DMC-GB's agents on reacher


@dataclass(frozen=True)
class Distraction:
    """Distractors of the preset distracting; the presets video_easy and video_hard read `video_folder` alone."""

    intensity: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """size of the distractors (0 to 1); 0 is the plain scene, and 0.1, 0.2, 0.3 are the suite's easy, medium, hard"""
    dynamic: bool = False
    """whether distractors change within an episode"""
    kinds: tuple[Kind, ...] = ("background", "camera", "colour")
    """what is changed: background, camera, colour or light, as [camera,colour]"""
    background: Background = "noise"
    """what is seen in place of sky and floor: noise, leaves, shadows (on all that is seen) or video"""
    video_folder: str | None = None
    """folder of at least two videos, for background=video, video_easy and video_hard"""


def list_changes(keys: Distraction) -> dict[str, Any]:
    """The keys that differ from their defaults, as JSON holds them."""
    usual = asdict(Distraction())
    changed = {key: value for key, value in asdict(keys).items() if value != usual[key]}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in changed.items()}


@dataclass(frozen=True)
class Setting:
    """What a preset asks for. replaces_floor: whether a background stands in place of the floor, too (None: where the
    camera looks down on it); is_normal: whether colours are normal numbers; frame_s: seconds that a picture of a video
    is shown."""

    intensity: float
    dynamic: bool
    kinds: tuple[str, ...]
    background: str = "noise"
    video_folder: str | None = None
    replaces_floor: bool | None = None
    is_normal: bool = False
    frame_s: float = STEP_S

    @property
    def shows_background(self) -> bool:
        """Whether a background is drawn."""
        return "background" in self.kinds

    @property
    def hides_floor(self) -> bool:
        """Whether a background is seen behind the scene; shadows lie on it."""
        return self.shows_background and self.background != "shadows"

    @property
    def is_sky_alone(self) -> bool:
        """Whether nothing changes but what is seen where there is no geom."""
        return self.kinds == ("background",) and self.replaces_floor is False

    def count_videos(self, offered: int) -> int:
        """Videos that are played of those of a split: 40 times the intensity, at least 2, and all from 0.3 on."""
        return offered if self.intensity >= 0.3 else min(offered, max(2, round(40 * self.intensity)))


def choose_setting(variation: str, distraction: Mapping[str, Any] | None, prefix: str = "") -> Setting | None:
    """What a preset distracts with; None where it does not. prefix: of the keys that a message names.

    Raises `ValueError` for keys that are unknown, that the preset does not read, or that contradict each other.
    """
    known = [field.name for field in fields(Distraction)]
    for key in distraction or {}:
        if key not in known:
            hint = suggest_names(str(key), known)
            raise ValueError(f"{prefix}distraction has no key {key!r}; {hint}choices: {', '.join(known)}")
    given: dict[str, Any] = dict(distraction or {})
    if "kinds" in given:
        given["kinds"] = (given["kinds"],) if isinstance(given["kinds"], str) else tuple(given["kinds"])
    keys = Distraction(**given)
    _require_used(variation, keys, prefix)
    if variation not in DISTRACTING:
        return None
    if variation == "distracting":
        _require_values(keys, prefix)
        return Setting(**asdict(keys))
    scheme, _, level = variation.partition("_")
    is_hard = level == "hard"
    if scheme == "color":
        return Setting(0.2 if is_hard else 0.1, False, ("colour",), is_normal=True)
    if keys.video_folder is None:
        raise ValueError(f"{prefix}variation={variation} plays videos: give {prefix}distraction.video_folder=FOLDER")
    return Setting(1.0, True, ("background",), "video", keys.video_folder, is_hard, frame_s=_AGENT_STEP_S)


def _require_used(variation: str, keys: Distraction, prefix: str) -> None:
    """ValueError for a key that the preset does not read, and that has another value than its default."""
    read = {"distracting": tuple(asdict(keys)), "video_easy": ("video_folder",), "video_hard": ("video_folder",)}
    for name, default in asdict(Distraction()).items():
        value = getattr(keys, name)
        if value != default and name not in read.get(variation, ()):
            users = ", ".join(preset for preset, names in read.items() if name in names)
            raise ValueError(
                f"{prefix}distraction.{name}={_format(value)} changes nothing in {prefix}variation={variation}: it is "
                f"for {users}"
            )


def _require_values(keys: Distraction, prefix: str) -> None:
    """ValueError for values of the preset distracting that are out of range, or that contradict each other."""
    if not 0.0 <= keys.intensity <= 1.0:
        raise ValueError(f"{prefix}distraction.intensity={keys.intensity:g} is out of range: give a number from 0 to 1")
    for name, values, choices in (
        ("kinds", keys.kinds, get_args(Kind)),
        ("background", (keys.background,), get_args(Background)),
    ):
        for value in values:
            if value not in choices:
                hint = suggest_names(str(value), choices)
                raise ValueError(
                    f"{prefix}distraction.{name}: {value!r} is unknown; {hint}choices: {', '.join(choices)}"
                )
    if not keys.kinds:
        raise ValueError(f"{prefix}distraction.kinds=[] changes nothing; choices: {', '.join(get_args(Kind))}")
    if keys.background != "noise" and "background" not in keys.kinds:
        raise ValueError(
            f"{prefix}distraction.background={keys.background} is not seen: add background to {prefix}distraction.kinds"
        )
    if keys.background == "video" and keys.video_folder is None:
        raise ValueError(
            f"{prefix}distraction.background=video plays videos: give {prefix}distraction.video_folder=FOLDER"
        )
    if keys.background != "video" and keys.video_folder is not None:
        raise ValueError(
            f"{prefix}distraction.video_folder={keys.video_folder} is not read with {prefix}distraction.background="
            f"{keys.background}: give background=video, or leave the folder out"
        )


def _format(value: Any) -> str:
    """A value as on the command line."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
