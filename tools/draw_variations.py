"""Draws docs/images/variation_TASK.png: sixteen draws of each preset of scene variation, and a scene that moves.

python tools/draw_variations.py [TASK ...]
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

import envs
from commands.report.sheet import draw_sheet
from envs.goal_env import GoalEnv

TASKS = ("reacher", "push_t", "two_rooms")
CAPTIONS = {
    "seen": "seen: sixteen episodes from the training ranges",
    "unseen": "unseen: sixteen episodes of the split eval, from values and floors that training never has",
    "moving": "moving: sixteen first frames, from the training ranges, with a shadow, a lamp and a floor that move",
}
SIZE_PX, COLUMNS, DRAWS, STEPS = 96, 8, 16, 5
BITS = 5  # of a colour's channel, for a small file
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"

Frames = list[NDArray[np.uint8]]


def draw_preset(name: str, variation: str) -> Frames:
    """First frames [H, W, 3] of episodes of a preset, in the split where it differs from training."""
    with closing(envs.make(name, variation=variation, size=SIZE_PX)) as env:
        return [env.reset(seed=seed, options={"split": "eval"})[0]["pixels"] for seed in range(DRAWS)]


def film_episode(env: GoalEnv) -> Frames:
    """Frames [H, W, 3] of one episode, some steps of its own behaviour apart."""
    rng, memory = np.random.default_rng(0), {}
    frames = [env.reset(seed=0)[0]["pixels"]]
    for _ in range(COLUMNS - 1):
        for _ in range(STEPS):
            observation = env.step(env.sample_scripted_action(rng, memory))[0]
        frames.append(observation["pixels"])
    return frames


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        strips = {caption: draw_preset(name, variation) for variation, caption in CAPTIONS.items()}
        with closing(envs.make(name, variation="moving", size=SIZE_PX)) as env:
            seconds = STEPS * env.task.control_step_s
            strips[f"moving: one episode, a frame every {seconds:g} s"] = film_episode(env)
        sheet = ImageOps.posterize(draw_sheet(strips, COLUMNS), BITS)
        sheet.save(FOLDER / f"variation_{name.replace('/', '_')}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(TASKS))
