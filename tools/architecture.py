"""Draws docs/architecture.svg: both trainings and planning, with the shape of every tensor in the small preset.

python tools/architecture.py

Sizes are those of `jepa demo` (docs/concepts/how_it_works.md) and its 50 evaluation episodes. One unit is one pixel of
a picture that is 900 wide. Letters are drawn as paths, on a card of its own colour: it looks the same everywhere.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import envs

WIDTH, HEIGHT = 900, 760
INK, GREY, LINE, CARD = "#1c2733", "#5b6875", "#c9d2dc", "#ffffff"
VIDEO, ACTION, PLAN = "#2f6fde", "#d9730d", "#16885a"  # a colour a lane
TINT = {VIDEO: "#eef4fe", ACTION: "#fdf3e9", PLAN: "#eaf6f0"}
SMALL, NORMAL, TITLE = 11.5, 12.5, 15
# Left and right edges of the columns.
INPUTS, ENCODER, POOL, PREDICTOR, LOSS = (30, 130), (230, 336), (432, 520), (600, 712), (800, 874)
FRAME = 33
REUSE = 424
FROZEN = (ENCODER[0], POOL[1])
LEGEND = (
    "B batch or episodes    T observed frames    N tokens    D width    "
    "S candidates    K planned steps    A action block    H W C image"
)

plt.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "jepa", "font.family": "DejaVu Sans"})


def draw_lane(ax: Axes, top: float, bottom: float, colour: str, title: str, note: str) -> None:
    """A tinted band with its title and what it needs."""
    ax.add_patch(
        FancyBboxPatch(
            (12, top), WIDTH - 24, bottom - top, boxstyle="round,pad=0,rounding_size=12", fc=TINT[colour], ec="none"
        )
    )
    number, words = title.split(" ", 1)
    ax.scatter([42], [top + 27], s=24**2, color=colour, zorder=3)
    ax.text(42, top + 27.5, number, size=14, weight="bold", color="white", ha="center", va="center_baseline", zorder=4)
    ax.text(64, top + 25, words, size=TITLE, weight="bold", color=colour)
    ax.text(64, top + 42, note, size=SMALL, color=GREY)


def draw_box(ax: Axes, columns: tuple[float, float], rows: tuple[float, float], words: str, colour: str) -> None:
    """A part of the model: the first line is its name, the others its sizes."""
    (left, right), (top, bottom) = columns, rows
    ax.add_patch(
        FancyBboxPatch(
            (left, top), right - left, bottom - top, boxstyle="round,pad=0,rounding_size=8", fc=CARD, ec=colour, lw=1.6
        )
    )
    lines = words.split("\n")
    middle, first = (left + right) / 2, (top + bottom) / 2 - 8 * (len(lines) - 1)
    for number, line in enumerate(lines):
        style = {"size": SMALL, "color": GREY} if number else {"size": NORMAL, "color": INK, "weight": "bold"}
        ax.text(middle, first + 16 * number, line, ha="center", va="center", **style)


def draw_arrow(ax: Axes, *points: tuple[float, float], colour: str = INK, dashed: bool = False) -> None:
    """A line along points with a head at its end."""
    style = {"lw": 1.5, "color": colour, "zorder": 1.5}
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, ls=(0, (3.5, 2.5)) if dashed else "-", solid_joinstyle="round", **style)
    ax.add_patch(
        FancyArrowPatch(
            points[-2], points[-1], arrowstyle="-|>", mutation_scale=11, shrinkA=0, shrinkB=0, lw=0, color=colour
        )
    )


def draw_shape(ax: Axes, x: float, y: float, name: str, sizes: str) -> None:
    """A tensor's name above an arrow at height y, and its sizes below it."""
    style = {"size": SMALL, "family": "DejaVu Sans Mono", "ha": "center"}
    ax.text(x, y - 7, name, color=INK, **style)
    ax.text(x, y + 16, sizes, color=GREY, **style)


def draw_flow(ax: Axes, left: float, right: float, y: float, name: str, sizes: str) -> None:
    """An arrow from one column to the next with its tensor's shape."""
    draw_arrow(ax, (left + 1, y), (right - 2, y))
    draw_shape(ax, (left + right) / 2, y, name, sizes)


def draw_film(ax: Axes, frames: list[np.ndarray], y: float) -> None:
    """Pictures [H, W, 3] side by side on a strip of film."""
    width = (FRAME + 2) * len(frames) + 2
    left = sum(INPUTS) / 2 - width / 2
    ax.add_patch(plt.Rectangle((left, y - FRAME / 2 - 8), width, FRAME + 16, fc=INK, ec="none", zorder=2))
    for number, frame in enumerate(frames):
        x = left + 2 + (FRAME + 2) * number
        ax.imshow(frame, extent=(x, x + FRAME, y + FRAME / 2, y - FRAME / 2), zorder=3, interpolation="none")
    for x in np.arange(left + 4, left + width - 4, 8.5):
        for side in (y - FRAME / 2 - 6, y + FRAME / 2 + 2.5):
            ax.add_patch(plt.Rectangle((x, side), 4.5, 3.5, fc="#e6ebf0", ec="none", zorder=3))


def draw_picture(ax: Axes, frame: np.ndarray, y: float) -> None:
    """One picture [H, W, 3] in a frame."""
    left, side = sum(INPUTS) / 2 - 25, 50
    ax.add_patch(plt.Rectangle((left - 3, y - 28), side + 6, side + 6, fc=CARD, ec=PLAN, lw=1.2, zorder=2))
    ax.imshow(frame, extent=(left, left + side, y + 25, y - 25), zorder=3, interpolation="none")


def record_frames(steps: int) -> list[np.ndarray]:
    """Frames [H, W, 3] of one reacher episode under its scripted behaviour, and last its goal image."""
    env = envs.make("reacher", size=160)
    rng, memory = np.random.default_rng(1), {}
    observation = env.reset(seed=1)[0]
    frames, goal = [observation["pixels"]], observation["goal_pixels"]
    for _ in range(steps):
        frames.append(env.step(env.sample_scripted_action(rng, memory))[0]["pixels"])
    env.close()
    return [frame[22:138, 22:138] for frame in (*frames, goal)]


def draw_pretraining(ax: Axes, frames: list[np.ndarray]) -> None:
    """Stage 1: video -> features of what comes later."""
    draw_lane(ax, 12, 204, VIDEO, "1 Pretrain: predict hidden or future features", "video alone: no actions, no labels")
    y = 112
    draw_film(ax, frames[4:9:2], y)
    ax.text(80, y + 45, "clip of 5 frames", size=SMALL, color=GREY, ha="center")
    rows = (y - 31, y + 31)
    draw_box(ax, ENCODER, rows, "Encoder\n4 blocks of\nwidth 128", VIDEO)
    draw_box(ax, POOL, rows, "Pool\nmetric of\nslow modes", VIDEO)
    draw_box(ax, PREDICTOR, rows, "Predictor\n2 blocks of\nwidth 128", VIDEO)
    draw_box(ax, LOSS, rows, "Loss\nL2 error,\nVICReg", VIDEO)
    draw_flow(ax, INPUTS[1], ENCODER[0], y, "frames_BTHWC", "48×5×64×64×3")
    draw_flow(ax, ENCODER[1], POOL[0], y, "tokens_BTND", "48×5×16×128")
    draw_flow(ax, POOL[1], PREDICTOR[0], y - 12, "z_BTD", "48×5×64")
    draw_flow(ax, PREDICTOR[1], LOSS[0], y, "ẑ_BTD", "48×3×64")
    draw_arrow(ax, (POOL[1] + 1, y + 22), (552, y + 22), (552, y + 62), (837, y + 62), (837, rows[1] + 2), colour=VIDEO)
    ax.text(697, y + 78, "targets: embeddings of later frames", size=SMALL, color=VIDEO, ha="center")


def draw_posttraining(ax: Axes, frames: list[np.ndarray]) -> None:
    """Stage 2: trajectories -> how actions move features."""
    draw_lane(ax, 216, 408, ACTION, "2 Posttrain: learn what actions do", "recorded trajectories of any behaviour")
    y = 316
    draw_film(ax, frames[4:9:2], y)
    ax.text(80, y + 45, "9 frames, and", size=SMALL, color=GREY, ha="center")
    ax.text(80, y + 60, "actions between", size=SMALL, color=GREY, ha="center")
    rows = (y - 31, y + 31)
    draw_box(ax, FROZEN, (y - 24, y + 24), "Encoder and pool\nfrozen", VIDEO)
    draw_box(ax, PREDICTOR, rows, "Dynamics\n2 blocks of\nwidth 96", ACTION)
    draw_box(ax, LOSS, rows, "Loss\n1 step and\n6 steps", ACTION)
    draw_flow(ax, INPUTS[1], FROZEN[0], y, "frames_BTHWC", "64×9×64×64×3")
    draw_flow(ax, FROZEN[1], PREDICTOR[0], y, "z_BTD", "64×9×64")
    draw_flow(ax, PREDICTOR[1], LOSS[0], y, "ẑ_BTD", "64×8×64")
    draw_arrow(ax, (134, y + 56), (632, y + 56), (632, rows[1] + 2))
    draw_shape(ax, 300, y + 56, "actions_BTA", "64×8×4")


def draw_planning(ax: Axes, frames: list[np.ndarray]) -> None:
    """Goal image -> action."""
    draw_lane(ax, 420, 724, PLAN, "3 Plan: reach a goal image", "no reward, no more training; 50 episodes at once")
    high, middle, low = 502, 584, 682
    draw_picture(ax, frames[-1], high)
    draw_film(ax, frames[4:9:2], middle)
    ax.text(80, high + 42, "goal image", size=SMALL, color=GREY, ha="center")
    ax.text(80, middle + 42, "last 3 frames", size=SMALL, color=GREY, ha="center")
    draw_box(ax, FROZEN, (high - 22, middle + 22), "Encoder and pool\nfrozen", VIDEO)
    draw_box(ax, PREDICTOR, (middle - 26, middle + 26), "Dynamics\nimagine", ACTION)
    draw_box(ax, LOSS, (high - 22, middle + 26), "Cost\ndistance\nto goal", PLAN)
    draw_box(ax, PREDICTOR, (low - 22, low + 28), "CEM, 4 rounds\nrefit to 12 best", PLAN)
    draw_flow(ax, INPUTS[1], FROZEN[0], high, "goal_BHWC", "50×64×64×3")
    draw_flow(ax, INPUTS[1], FROZEN[0], middle, "frames_BTHWC", "50×3×64×64×3")
    draw_arrow(ax, (FROZEN[1] + 1, high), (LOSS[0] - 2, high))
    draw_shape(ax, 560, high, "goal_BD", "50×64")
    draw_flow(ax, FROZEN[1], PREDICTOR[0], middle, "z_BTD", "50×3×64")
    draw_flow(ax, PREDICTOR[1], LOSS[0], middle, "z_BSKD", "50×96×6×64")
    draw_arrow(ax, (837, middle + 27), (837, low + 3), (PREDICTOR[1] + 2, low + 3), colour=PLAN)
    draw_shape(ax, 782, low + 3, "cost_BS", "50×96")
    draw_arrow(ax, (632, low - 23), (632, middle + 28), colour=PLAN)
    draw_shape(ax, 690, middle + 48, "actions_BSKA", "50×96×6×4")
    draw_arrow(ax, (PREDICTOR[0] - 1, low + 3), (80, low + 3), (80, middle + 50), colour=PLAN)
    draw_shape(ax, 340, low + 3, "actions_BA", "50×4: act, look again")


def draw_reuse(ax: Axes) -> None:
    """What one stage hands to the next."""
    ax.plot((283, 283, 476, 476), (147, 156, 156, 147), color=VIDEO, lw=1.5, solid_joinstyle="round")
    for top, bottom in ((156, 290), (342, 478)):
        draw_arrow(ax, (REUSE, top), (REUSE, bottom), colour=VIDEO, dashed=True)
    draw_arrow(ax, (684, 349), (684, 556), colour=ACTION, dashed=True)
    ax.text(REUSE + 9, 196, "frozen", size=SMALL, color=VIDEO)
    ax.text(693, 400, "trained dynamics", size=SMALL, color=ACTION)


def main() -> None:
    frames = record_frames(20)
    figure = plt.figure(figsize=(WIDTH / 72, HEIGHT / 72), facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.add_patch(
        FancyBboxPatch(
            (1, 1), WIDTH - 2, HEIGHT - 2, boxstyle="round,pad=0,rounding_size=16", fc=CARD, ec=LINE, lw=1, zorder=0
        )
    )
    draw_pretraining(ax, frames)
    draw_posttraining(ax, frames)
    draw_planning(ax, frames)
    draw_reuse(ax)
    ax.text(WIDTH / 2, HEIGHT - 15, LEGEND, size=SMALL, color=GREY, ha="center")
    ax.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    ax.set_aspect("auto")
    ax.axis("off")
    path = Path(__file__).resolve().parent.parent / "docs" / "architecture.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
