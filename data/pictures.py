"""Pictures of every kind as uint8 RGB, and the preprocessing by which a picture of any size becomes a model's frame.

Files are read by Pillow: turned as their EXIF tag says, 16 bit scaled to 8, alpha laid on white, grey repeated in three
channels. Arrays are brought to the same form. What cannot be shown in 8 bits for certain is refused with its shape and
type. Whatever changes a picture's values is told, once a sentence.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pictures = NDArray[np.uint8]
View = Literal["whole", "centre"]
Filter = Literal["bilinear"]
Tell = Callable[[str], None]
ReadPictures = Callable[[tuple[int, int], View], Pictures]  # height and width, view -> pictures [T, H, W, 3]
LEAST_PX = 8  # side below which an array [T,H,W,C] is no stack of pictures
CHANNELS = (1, 3, 4)  # grey, colour, colour with alpha
DEPTH_16 = 257  # levels of 16 bits for one of 8
WHITE = 255
GREY_MODES = ("1", "L", "LA", "La")
DEEP_GREY_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # of PNG and TIFF
FILTERS = {"bilinear": Image.Resampling.BILINEAR}


class PictureError(ValueError):
    """A picture cannot be used; the message is one sentence for the user."""


# --- preprocessing


@dataclass(frozen=True)
class Preprocessing:
    """How a picture of any size becomes a frame of a model. Model folders state it in model.json."""

    size_hw: tuple[int, int]
    """height and width of the frames that the model takes, pixels"""
    crop: View = "centre"
    """centre: the largest part of the frame's shape in the middle of a picture; whole: all of it, squeezed"""
    filter: Filter = "bilinear"
    """filter of resizing; it averages where a picture gets smaller"""
    stored_hw: tuple[int, int] | None = None
    """size in which the training data were stored, to which a picture is brought first; null: that of the frames"""

    def prepare(self, frames_HWC: Pictures) -> Pictures:
        """Frames [..., h, w, 3] of pictures [..., H, W, 3]; those of the right size are returned as they are."""
        if frames_HWC.shape[-3:-1] == self.size_hw:
            return frames_HWC
        if self.stored_hw is not None:
            frames_HWC = resize_pictures(frames_HWC, self.stored_hw, self.crop, self.filter)
        return resize_pictures(frames_HWC, self.size_hw, self.crop, self.filter)

    def describe(self, frame_hw: Sequence[int]) -> str:
        """What it does to frames of a size, for a line of output."""
        given, wanted = (f"{height}x{width}" for height, width in (frame_hw, self.size_hw))
        return f"frames of {given} pixels are resized to the encoder's {wanted} (crop: {self.crop}, {self.filter})"


def resize_pictures(
    frames_HWC: Pictures, size_hw: tuple[int, int], crop: View, filter: Filter = "bilinear"
) -> Pictures:
    """Pictures [..., H, W, 3] cropped to the shape of a size, then resized to it; a crop of that size is only cut."""
    top, left, height, width = find_crop(frames_HWC.shape[-3:-1], size_hw, crop)
    cut = frames_HWC[..., top : top + height, left : left + width, :]
    if (height, width) == size_hw:
        return np.ascontiguousarray(cut)
    resized = np.empty((*cut.shape[:-3], *size_hw, 3), np.uint8)
    for index in np.ndindex(cut.shape[:-3]):
        picture = Image.fromarray(np.ascontiguousarray(cut[index]))
        resized[index] = np.asarray(picture.resize((size_hw[1], size_hw[0]), FILTERS[filter]))
    return resized


def find_crop(picture_hw: Sequence[int], size_hw: Sequence[int], crop: View) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of a picture that is shown, whole pixels."""
    height, width = picture_hw
    if crop == "whole":
        return 0, 0, height, width
    scale = min(height / size_hw[0], width / size_hw[1])
    part_h, part_w = (max(1, round(side * scale)) for side in size_hw)
    return (height - part_h) // 2, (width - part_w) // 2, part_h, part_w


def join_cameras(read_each: Sequence[ReadPictures]) -> ReadPictures:
    """One reader of several cameras: their pictures in equal parts of a frame, from left to right."""

    def read(size_hw: tuple[int, int], view: View) -> Pictures:
        height, width = size_hw
        parts = [read_one((height, width // len(read_each)), view) for read_one in read_each]
        if len(counts := {len(part) for part in parts}) > 1:
            raise PictureError(f"its cameras have {min(counts)} to {max(counts)} pictures: one number is needed")
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)

    return read


# --- files


def read_picture(path: Path, tell: Tell) -> Pictures:
    """An image file as uint8 [H,W,3], upright. PictureError names the file and what is wrong."""
    if not path.exists():
        raise PictureError(f"{path}: there is no such file")
    if not path.is_file():
        raise PictureError(f"{path} is no regular file")
    return decode_picture(path.read_bytes(), str(path), tell)


def decode_picture(encoded: bytes, where: str, tell: Tell) -> Pictures:
    """The picture [H,W,3] in the bytes of an image file, upright. PictureError names `where` and what is wrong."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if getattr(image, "n_frames", 1) > 1:
                tell(f"{where} holds {image.n_frames} pictures: the first is taken")  # type: ignore[attr-defined]
            upright = ImageOps.exif_transpose(image)
            return _convert_image(upright, where, tell)
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: of a broken PNG
        raise PictureError(f"{where} cannot be read as an image ({error})") from error


def _convert_image(image: Image.Image, where: str, tell: Tell) -> Pictures:
    """A decoded image of any mode as uint8 [H,W,3]."""
    if image.mode == "F" or image.mode in DEEP_GREY_MODES:
        return convert_pictures(np.asarray(image)[None, ..., None], where, tell)[0]
    if image.mode in GREY_MODES:
        tell(f"{where} is grey: it gets three equal channels")
    if image.has_transparency_data:
        return convert_pictures(np.asarray(image.convert("RGBA"))[None], where, tell)[0]
    return np.array(image.convert("RGB"))


# --- arrays


def is_pictures(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array [T,...] is a stack of pictures that `convert_pictures` takes."""
    return looks_like_pictures(shape, dtype) and find_fault(shape, dtype) is None


def looks_like_pictures(shape: Sequence[int], dtype: Any) -> bool:
    """Whether an array [T,...] may be a stack of pictures, channels first or last, of a type that is read or not. Grey
    ones are uint8: maps of other types, as of depth, are no pictures."""
    if len(shape) == 3:
        return min(shape[1:]) >= LEAST_PX and np.dtype(dtype) == np.uint8
    if len(shape) != 4 or np.dtype(dtype).kind not in "uif":
        return False
    channels = CHANNELS if np.dtype(dtype) == np.uint8 else CHANNELS[1:]
    last, first = (*shape[1:3], shape[3]), (*shape[2:4], shape[1])
    return any(min(sides) >= LEAST_PX and count in channels for *sides, count in (last, first))


def find_fault(shape: Sequence[int], dtype: Any) -> str | None:
    """Why an array [T,...] that looks like pictures is refused: its row's shape and type, and what to do; else None."""
    kind, row = np.dtype(dtype), list(shape[1:])
    if len(row) == 3 and row[2] not in CHANNELS:
        return f"is {kind} {row}, channels first: save it as [{row[1]}, {row[2]}, {row[0]}]"
    if kind.kind != "f" and not (kind.kind == "u" and kind.itemsize <= 2):
        return f"is {kind} {row}: save it as uint8 in 0..255"
    return None


def convert_pictures(frames: NDArray[Any], where: str, tell: Tell) -> Pictures:
    """A stack of pictures [T,H,W], or [T,H,W,C] with 1, 3 or 4 channels, as uint8 [T,H,W,3].

    uint8 stays, uint16 and floats in 0..1 are scaled. PictureError for channels first, other types and other values.
    """
    if fault := find_fault(frames.shape, frames.dtype):
        raise PictureError(f"{where} {fault}")
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.ndim != 4 or frames.shape[3] not in CHANNELS:
        raise PictureError(f"{where} is {frames.dtype} {list(frames.shape)}: pictures are [T, H, W, 3] or [T, H, W]")
    levels = _scale_to_levels(frames, where, tell)
    if levels.shape[3] == 1:
        tell(f"{where} is grey: it gets three equal channels")
        return levels.repeat(3, axis=3)
    return levels if levels.shape[3] == 3 else _lay_on_white(levels, where, tell)


def _scale_to_levels(frames: NDArray[Any], where: str, tell: Tell) -> Pictures:
    """Values of 16 bits, or floats in 0..1, as levels in 0..255."""
    if frames.dtype == np.uint8:
        return np.ascontiguousarray(frames)
    if frames.dtype.kind == "u":
        tell(f"{where} has 16 bits: it is scaled to 8")
        return ((frames.astype(np.uint32) + DEPTH_16 // 2) // DEPTH_16).astype(np.uint8)
    low, high = (float(value) for value in (frames.min(), frames.max()))
    if not (math.isfinite(low + high) and 0 <= low and high <= 1):
        raise PictureError(f"{where} is {frames.dtype} from {low:g} to {high:g}: save it as uint8, or scaled to 0..1")
    tell(f"{where} is {frames.dtype} in 0..1: it is scaled to 0..255")
    return np.rint(frames.astype(np.float64) * 255).astype(np.uint8)


def _lay_on_white(frames_THW4: Pictures, where: str, tell: Tell) -> Pictures:
    """Colours where alpha is full, white where it is 0."""
    colour, alpha = frames_THW4[..., :3], frames_THW4[..., 3:].astype(np.uint32)
    if (alpha == 255).all():
        return np.ascontiguousarray(colour)
    tell(f"{where} has alpha: it is laid on white")
    return ((colour * alpha + WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
