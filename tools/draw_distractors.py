"""Draws docs/images/distractors_TASK.png: sixteen draws of distractors at two intensities, and an episode where they
change.

python tools/draw_distractors.py [TASK ...]
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from commands.report.sheet import draw_sheet

TASKS = ("reacher",)
BACKGROUNDS, INTENSITIES = ("noise", "leaves"), (0.1, 0.3)
SIZE_PX, COLUMNS = 80, 8
COLOURS = 256  # for a small file
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"

Frames = list[NDArray[np.uint8]]


def draw_starts(task: str, distraction: dict[str, Any]) -> Frames:
    """First frames [H, W, 3] of a row of episodes."""
    with closing(envs.make(task, variation="distracting", distraction=distraction, size=SIZE_PX)) as env:
        return [env.reset(seed=seed)[0]["pixels"] for seed in range(COLUMNS)]


def film_episode(task: str, distraction: dict[str, Any]) -> Frames:
    """Frames [H, W, 3] of one episode of the task's own behaviour, an environment step apart."""
    with closing(envs.make(task, variation="distracting", distraction=distraction, size=SIZE_PX)) as env:
        rng, memory = np.random.default_rng(0), dict[str, Any]()
        frames = [env.reset(seed=0)[0]["pixels"]]
        while len(frames) < COLUMNS:
            frames.append(env.step(env.sample_scripted_action(rng, memory))[0]["pixels"])
    return frames


def main(tasks: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for task in tasks:
        step_s = envs.get_task(task).control_step_s
        strips = {}
        for intensity in INTENSITIES:
            rows = [draw_starts(task, {"intensity": intensity, "background": name}) for name in BACKGROUNDS]
            caption = f"intensity {intensity:g}: sixteen episodes, background {' and '.join(BACKGROUNDS)}"
            strips[caption] = [frame for row in rows for frame in row]
        dynamic = {"intensity": INTENSITIES[-1], "dynamic": True, "background": BACKGROUNDS[-1]}
        strips[f"intensity {INTENSITIES[-1]:g}, dynamic: one episode, a frame every {step_s:g} s"] = film_episode(
            task, dynamic
        )
        sheet = draw_sheet(strips, COLUMNS).quantize(COLOURS)
        sheet.save(FOLDER / f"distractors_{task.replace('/', '_')}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(TASKS))
