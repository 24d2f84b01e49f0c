"""Sixteen scenes of an evaluation where scenes vary: the start frames of its first episodes, and beside them the goal
images where these look different. Environments render them as the methods see them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import envs
from commands.evaluation.scenes import choose_preset, redraw_case
from commands.report import page
from commands.report.sheet import draw_sheet, enlarge, write_sheet
from envs.presets import APPEARANCE, DISTRACTION

if TYPE_CHECKING:
    from commands.evaluation.setup import EvaluationSetup
    from envs.goal_env import GoalEnv

Frame = NDArray[np.uint8]
TITLE = "The scenes of this evaluation"
COUNT, COLUMNS = 16, 8  # scenes; frames a row
GAP_PX, TEXT_PX = 2, 20
RANGE_TEXTS = {
    "seen": "values from the training ranges",
    "unseen": "values outside the training ranges",
    "moving": "values from the training ranges, and nuisance that moves within an episode",
    "distracting": "the plain scene with distractors",
    "color_easy": "the plain scene in other colours",
    "color_hard": "the plain scene in other colours",
    "video_easy": "the plain scene with a video in place of the sky",
    "video_hard": "the plain scene with a video in place of sky and floor",
}
GOAL_TEXTS = {
    "same": "goal images show the same scene",
    "other": "beside each start its goal image, another draw (other)",
    "clean": "beside each start its goal image, the plain scene (clean)",
}


def render_scenes(setup: EvaluationSetup, path: Path) -> str:
    """The section of a report on the scenes, with their picture written to `path`; empty where scenes do not vary."""
    protocol, recorded = setup.protocol, setup.reader.info.env_kwargs
    with closing(envs.make(setup.task.name, **setup.env_kwargs)) as env:
        on = env.get_factors()
        groups = list(dict.fromkeys(factor.group for factor in env.list_factors() if factor.name in on))
        if not groups or protocol.variation == "none":
            return ""
        options = _list_options(setup, env, groups)
        frames = [env.reset(seed=0, options=each)[0] for each in options]
    beside = protocol.goal_nuisance != "same"
    tiles = [_join_pair(each) if beside else enlarge(each["pixels"]) for each in frames]
    preset = protocol.variation or recorded.get("variation", "seen")
    caption = (
        f"{len(tiles)} scenes of {setup.task.name}: preset {preset}, split {protocol.split}; "
        f"{GOAL_TEXTS[protocol.goal_nuisance]}"
    )
    columns, gap = (COLUMNS // 2, 5 * GAP_PX) if beside else (COLUMNS, GAP_PX)
    write_sheet(draw_sheet({caption: tiles}, columns, gap, TEXT_PX), path)
    played = min(len(setup.cases.seeds), len(tiles))
    further = f", then the same starts in {len(tiles) - played} further scenes" if played < len(tiles) else ""
    text = (
        f"Start frames of the first {played} episodes{further}. Episodes differ in {', '.join(groups)}: "
        f"{RANGE_TEXTS[choose_preset(protocol, recorded)]}."
    )
    return page.render_section(TITLE, page.render_picture(path, caption), page.render_note(text))


def _list_options(setup: EvaluationSetup, env: GoalEnv, groups: list[str]) -> list[dict[str, Any]]:
    """Options of the environment's reset for the first cases, with further draws of their scenes where there are fewer
    than COUNT and their appearance can be drawn."""
    protocol, recorded = setup.protocol, setup.reader.info.env_kwargs
    options = setup.cases.list_reset_options()[:COUNT]
    if set(groups).isdisjoint((*APPEARANCE, DISTRACTION)):
        return options
    more = range(len(options), COUNT)
    return options + [redraw_case(options[i % len(options)], i, protocol, env, recorded) for i in more]


def _join_pair(observation: dict[str, Any]) -> Frame:
    """A start with its goal image on the right."""
    start, goal = enlarge(observation["pixels"]), enlarge(observation["goal_pixels"])
    return np.concatenate([np.pad(start, ((0, 0), (0, GAP_PX), (0, 0)), constant_values=255), goal], 1)
