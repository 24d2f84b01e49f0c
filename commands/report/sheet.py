"""Frames in rows on one picture, each strip of them under its caption."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from commands.shared.runs import write_atomic

Frame = NDArray[np.uint8]
FRAME_PX = 128  # side that frames are enlarged to about, by whole factors
CAPTION_PX = 1.6  # height of a caption's line, in sizes of its text


def draw_sheet(
    strips: Mapping[str, Sequence[Frame]], columns: int = 8, gap_px: int = 2, text_px: int = 10
) -> Image.Image:
    """Strips of frames [H, W, 3] of one size below one another, with `columns` frames a row."""
    height, width = next(iter(strips.values()))[0].shape[:2]
    line, down, right = round(CAPTION_PX * text_px), height + gap_px, width + gap_px
    rows = {caption: -(-len(frames) // columns) for caption, frames in strips.items()}
    sheet = Image.new("RGB", (columns * right - gap_px, sum(line + count * down for count in rows.values())), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(text_px), 0
    for caption, frames in strips.items():
        draw.text((0, top + 2), caption, fill="black", font=font)
        for number, frame in enumerate(frames):
            row, column = divmod(number, columns)
            sheet.paste(Image.fromarray(frame), (column * right, top + line + row * down))
        top += line + rows[caption] * down
    return sheet


def enlarge(frame: Frame) -> Frame:
    """A frame enlarged by the whole factor that brings it nearest to FRAME_PX; larger ones stay."""
    factor = max(1, round(FRAME_PX / max(frame.shape[:2])))
    return frame.repeat(factor, 0).repeat(factor, 1)


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, whole or not at all."""
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    write_atomic(path, buffer.getvalue())
