"""Draws docs/tasks.png: of every task a start, and a goal some steps of its own behaviour later.

python tools/gallery.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import envs

SIZE_PX, LINE_PX, GAP_PX, COLUMNS = 128, 16, 6, 5


def start_and_goal(name: str) -> list[np.ndarray]:
    """Two frames [H, W, 3] of one episode, as far apart in time as the task's start and goal."""
    env = envs.make(name, size=SIZE_PX)
    rng, memory = np.random.default_rng(3), {}
    frames = [env.reset(seed=3)[0]["pixels"]]
    for _ in range(env.task.goal_offset):
        frames.append(env.step(env.sample_scripted_action(rng, memory))[0]["pixels"])
    env.close()
    return [frames[0], frames[-1]]


def main() -> None:
    names = sorted(envs.TASKS, key=lambda name: (name.startswith("dmc/"), name))
    width, height = 2 * SIZE_PX + GAP_PX, SIZE_PX + LINE_PX
    rows = -(-len(names) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 2 * GAP_PX), rows * (height + GAP_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(names):
        left, top = number % COLUMNS * (width + 2 * GAP_PX), number // COLUMNS * (height + GAP_PX)
        draw.text((left, top + 2), f"{name}: start, goal", fill="black")
        for place, frame in enumerate(start_and_goal(name)):
            sheet.paste(Image.fromarray(frame), (left + place * (SIZE_PX + GAP_PX), top + LINE_PX))
    sheet.save(Path(__file__).resolve().parent.parent / "docs" / "tasks.png", optimize=True)


if __name__ == "__main__":
    main()
