"""What several models imagined from the same moments, beside what happened: a video, and a picture of all steps.

Every column of the video, and every row of the picture, is one model; the first is what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont

from commands.report.sheet import write_sheet
from commands.report.videos import BACKGROUND, Frame, write_video

TRUE = "recorded"
PANE_PX, GAP_PX, TEXT_PX, HEADER_PX = 128, 6, 13, 22
STEPS_PER_S = 3  # model steps
NAME_PX = 110  # column of names beside the picture


def write_side_by_side(recorded_NTHWC: Frame, imagined: Mapping[str, Frame], stem: Path) -> Path:
    """Write stem.mp4, or stem.gif: a row a moment, a column a model. imagined: [N, T - 1, H, W, 3] by model; the first
    frame of all columns is the recorded one."""
    columns = {TRUE: recorded_NTHWC}
    columns |= {name: np.concatenate([recorded_NTHWC[:, :1], frames], 1) for name, frames in imagined.items()}
    stacked = np.stack([enlarge_frames(frames) for frames in columns.values()])  # [columns, N, T, H, W, 3]
    pictures = []
    count, moments, steps, height, width = stacked.shape[:5]
    for step in range(steps):
        cells = np.full((count, moments, height + GAP_PX, width + GAP_PX, 3), BACKGROUND, np.uint8)
        cells[:, :, :height, :width] = stacked[:, :, step]
        joined = rearrange(cells, "m n h w c -> (n h) (m w) c")
        header = np.full((HEADER_PX, joined.shape[1], 3), BACKGROUND, np.uint8)
        names = [f"{name}, step {step}" if name == TRUE else name for name in columns]
        pictures.append(make_even(_write_names(np.concatenate([header, joined]), names, width + GAP_PX)))
    return write_video(pictures, STEPS_PER_S, stem)


def write_strips(recorded_NTHWC: Frame, imagined: Mapping[str, Frame], path: Path) -> None:
    """Write a picture: a row a model, the moments beside one another, each with its steps from left to right."""
    rows = {TRUE: recorded_NTHWC[:, 1:], **imagined}
    count, steps, height, width = recorded_NTHWC[:, 1:].shape[:4]
    part = steps * (width + 1) + 2 * GAP_PX
    sheet = Image.new("RGB", (NAME_PX + count * part, len(rows) * (height + GAP_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for row, (name, frames_NTHWC) in enumerate(rows.items()):
        top = row * (height + GAP_PX)
        draw.text((4, top + height // 2), name, fill="black", font=font, anchor="lm")
        for number, frames in enumerate(frames_NTHWC):
            for step, frame in enumerate(frames):
                sheet.paste(Image.fromarray(frame), (NAME_PX + number * part + step * (width + 1), top))
    write_sheet(sheet, path)


def enlarge_frames(frames: Frame) -> Frame:
    """Frames [..., H, W, 3] enlarged by the whole factor that brings them nearest to PANE_PX."""
    factor = max(1, round(PANE_PX / max(frames.shape[-3:-1])))
    return frames.repeat(factor, -3).repeat(factor, -2)


def make_even(picture: Frame) -> Frame:
    """A picture of even height and width, which H.264 wants, on the background."""
    height, width = (size + size % 2 for size in picture.shape[:2])
    even = np.full((height, width, 3), BACKGROUND, np.uint8)
    even[: picture.shape[0], : picture.shape[1]] = picture
    return even


def _write_names(picture: Frame, names: list[str], column_px: int) -> Frame:
    """The picture with a name above each column, cut where it is longer."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT_PX)
    for number, name in enumerate(names):
        while len(name) > 1 and draw.textlength(name, font) > column_px - GAP_PX:
            name = name[:-1]
        draw.text((number * column_px + 2, HEADER_PX // 2), name, (232, 230, 227), font, anchor="lm")
    return np.asarray(image)
