"""Rollout videos: the episode, the goal image beside it, and when the goal was within reach.

MP4 (H.264) through imageio-ffmpeg; where no ffmpeg works, GIF through Pillow. Both play inside a page.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from commands.shared.runs import replace_atomically, write_atomic
from envs.task_spec import TaskSpec

Frame = NDArray[np.uint8]
PANE_PX = 256  # wanted size of a pane; frames are enlarged by whole factors, 64 px by 4
MARGIN_PX, HEADER_PX, BAR_PX, TEXT_PX = 8, 30, 10, 19
LAST_FRAME_S = 0.8  # the last frame stays, so that a loop shows where it ends
BACKGROUND, TEXT, FUTURE, OUTSIDE, WITHIN = (
    (24, 26, 29),
    (232, 230, 227),
    (52, 56, 62),
    (128, 134, 142),
    (64, 200, 140),
)


def write_videos(rollouts: Rollouts, cases: Cases, task: TaskSpec, folder: Path | str) -> list[Path]:
    """Write a video of every recorded episode (rollouts.frames, [n, T+1, H, W, 3] uint8) in real time.

    Left the episode with its time and distance, right the goal image; below, a bar that fills with time and
    is green where the distance is within the first threshold, as is the frame around the episode. Returns the
    paths in the order of the cases, none if no frames were recorded.
    """
    if rollouts.frames is None or rollouts.goal_frames is None:
        return []
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (frames, goal) in enumerate(zip(rollouts.frames, rollouts.goal_frames, strict=True)):
        pictures = compose_pictures(frames, goal, rollouts.distances[number], task)
        name = f"{number:02d}-episode{cases.episodes[number]}-start{cases.starts[number]}"
        paths.append(write_video(pictures, 1 / task.control_step_s, folder / name))
    return paths


def compose_pictures(
    frames_THWC: Frame, goal_HWC: Frame, distances_T: NDArray[np.float64], task: TaskSpec
) -> list[Frame]:
    """The pictures of one video, uint8 [height, width, 3] of even size, one an observed step."""
    assert len(frames_THWC) == len(distances_T), (len(frames_THWC), len(distances_T))
    within = distances_T <= task.thresholds[0]
    goal = _enlarge(goal_HWC)
    height, width = goal.shape[:2]
    top, right = HEADER_PX + MARGIN_PX // 2, 2 * MARGIN_PX + width
    bar = slice(top + height + MARGIN_PX, top + height + MARGIN_PX + BAR_PX)
    total = np.array([bar.stop + MARGIN_PX, right + width + MARGIN_PX])
    total += total % 2  # H.264 with halved chroma wants even sizes
    edges = np.linspace(MARGIN_PX, right + width, len(frames_THWC) + 1).round().astype(int)
    pictures = []
    for step, frame in enumerate(frames_THWC):
        picture = np.full((*total, 3), BACKGROUND, np.uint8)
        if within[step]:
            picture[top - 3 : top + height + 3, MARGIN_PX - 3 : MARGIN_PX + width + 3] = WITHIN
        picture[top : top + height, MARGIN_PX : MARGIN_PX + width] = _enlarge(frame)
        picture[top : top + height, right : right + width] = goal
        picture[bar, edges[0] : edges[-1]] = FUTURE
        for past in range(step + 1):
            picture[bar, edges[past] : edges[past + 1]] = WITHIN if within[past] else OUTSIDE
        state = f"{step * task.control_step_s:.1f} s   {distances_T[step]:.2f} {task.distance_unit}"
        pictures.append(
            _label(picture, [(MARGIN_PX, state, WITHIN if within[step] else TEXT), (right, "goal image", TEXT)])
        )
    return pictures


def _enlarge(frame: Frame) -> Frame:
    factor = max(1, round(PANE_PX / max(frame.shape[:2])))
    return frame.repeat(factor, 0).repeat(factor, 1)


def _label(picture: Frame, labels: Sequence[tuple[int, str, tuple[int, int, int]]]) -> Frame:
    """The picture with texts in its header: (left, text, colour) each."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(TEXT_PX)
    for left, text, colour in labels:
        draw.text((left, HEADER_PX // 2), text, colour, font, anchor="lm")
    return np.asarray(image)


def write_video(pictures: Sequence[Frame], frames_per_s: float, stem: Path) -> Path:
    """Write stem.mp4, or stem.gif where no ffmpeg works; whole or not at all."""
    pictures = [*pictures, *[pictures[-1]] * round(LAST_FRAME_S * frames_per_s)]
    try:
        return _write_mp4(pictures, frames_per_s, stem.with_name(f"{stem.name}.mp4"))
    except (ImportError, RuntimeError, OSError):  # no package, no binary, no H.264 in it
        return _write_gif(pictures, frames_per_s, stem.with_name(f"{stem.name}.gif"))


def _write_mp4(pictures: Sequence[Frame], frames_per_s: float, path: Path) -> Path:
    import imageio_ffmpeg

    height, width = pictures[0].shape[:2]
    with replace_atomically(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (width, height),
            fps=frames_per_s,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-crf", "18", "-movflags", "+faststart"],
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
        writer.close()
        if not temporary.exists() or temporary.stat().st_size == 0:
            raise RuntimeError(f"ffmpeg wrote no {path.name}")
    return path


def _write_gif(pictures: Sequence[Frame], frames_per_s: float, path: Path) -> Path:
    from PIL import Image

    first, *rest = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    first.save(buffer, "gif", save_all=True, append_images=rest, duration=max(20, round(1000 / frames_per_s)), loop=0)
    write_atomic(path, buffer.getvalue())
    return path
