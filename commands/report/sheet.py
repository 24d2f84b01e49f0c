"""Frames in rows on one picture, each strip of them under its caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Frame = NDArray[np.uint8]
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
