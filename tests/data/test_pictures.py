"""Pictures of every kind become uint8 RGB or are refused by name, and those of any size a model's frames."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pictures import (
    PictureError,
    Preprocessing,
    convert_pictures,
    decode_picture,
    find_crop,
    is_pictures,
    looks_like_pictures,
    read_picture,
)

RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
LEVELS = np.rint(255 * COLOURS).astype(np.uint8)


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(encoded: bytes) -> tuple[np.ndarray, list[str]]:
    told: list[str] = []
    return decode_picture(encoded, "goal.png", told.append), told


def test_a_frame_of_the_right_size_is_returned_as_it_is():
    frames = np.zeros((2, 24, 32, 3), np.uint8)
    for crop in ("centre", "whole"):
        assert Preprocessing((24, 32), crop, stored_hw=(96, 96)).prepare(frames) is frames


def test_a_camera_s_frame_is_cut_in_the_middle_and_averaged():
    camera = np.zeros((480, 640, 3), np.uint8)
    camera[:, 80:560] = 90
    camera[:240, 80:560, 0] = 30
    seen = Preprocessing((64, 64)).prepare(camera)
    assert seen.shape == (64, 64, 3) and seen.dtype == np.uint8
    assert (seen[:31, :, 0] == 30).all() and (seen[33:, :, 0] == 90).all() and (seen[..., 1] == 90).all()
    whole = Preprocessing((64, 64), "whole").prepare(camera)
    assert (whole[:, :7] == 0).all() and (whole[:, 9:55, 1] == 90).all() and (whole[:, 57:] == 0).all()
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert Preprocessing((64, 64)).prepare(noise).std() < noise.std() / 6  # 64 values are averaged, none is picked


def test_a_crop_of_the_right_size_is_cut_and_not_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Preprocessing((24, 24)).prepare(noise), noise[:, :, 8:32])


@pytest.mark.parametrize(("picture_hw", "size_hw"), [((480, 640), (64, 64)), ((33, 21), (8, 16)), ((7, 500), (64, 64))])
def test_a_crop_is_the_largest_part_of_its_shape_in_the_middle(picture_hw, size_hw):
    top, left, height, width = find_crop(picture_hw, size_hw, "centre")
    assert height == picture_hw[0] or width == picture_hw[1]
    assert 0 <= top <= picture_hw[0] - height and abs(picture_hw[0] - height - 2 * top) <= 1
    assert 0 <= left <= picture_hw[1] - width and abs(picture_hw[1] - width - 2 * left) <= 1
    assert abs(height / width - size_hw[0] / size_hw[1]) <= max(1 / width, height / width**2)


def test_a_picture_passes_through_the_size_in_which_training_data_were_stored():
    camera = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    stored = Preprocessing((96, 96)).prepare(camera)
    trained = Preprocessing((64, 64)).prepare(stored)
    np.testing.assert_array_equal(Preprocessing((64, 64), stored_hw=(96, 96)).prepare(camera), trained)
    np.testing.assert_array_equal(Preprocessing((64, 64), stored_hw=(96, 96)).prepare(stored), trained)
    assert (Preprocessing((64, 64)).prepare(camera) != trained).any()


def test_a_phone_s_picture_comes_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    turned = np.ascontiguousarray(np.rot90(LEVELS))
    found, told = decode(save(Image.fromarray(turned), exif=exif))
    np.testing.assert_array_equal(found, LEVELS)
    assert told == []


@pytest.mark.parametrize(
    ("image", "kind", "expected", "says"),
    [
        (Image.fromarray(LEVELS), "PNG", LEVELS, None),
        (Image.fromarray(LEVELS).quantize(256), "PNG", LEVELS, None),
        (Image.fromarray(LEVELS[..., 0]), "PNG", LEVELS[..., :1], "is grey: it gets three equal channels"),
        (Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG", LEVELS[..., :1], "has 16 bits: it is scaled to 8"),
        (Image.fromarray((RAMP * 65535).astype(np.uint16)), "TIFF", LEVELS[..., :1], "has 16 bits"),
        (Image.fromarray(RAMP.astype(np.float32)), "TIFF", LEVELS[..., :1], "in 0..1: it is scaled to 0..255"),
        (Image.fromarray(LEVELS).convert("RGBA"), "PNG", LEVELS, None),  # nothing shows through
    ],
    ids=["colour", "palette", "grey", "16 bit", "16 bit TIFF", "float", "full alpha"],
)
def test_a_file_of_any_depth_shows_what_it_holds(image, kind, expected, says):
    found, told = decode(save(image, kind))
    assert found.shape == (24, 32, 3) and found.dtype == np.uint8
    tolerance = 40 if image.mode == "P" else 1
    np.testing.assert_allclose(found.astype(int), np.broadcast_to(expected, (24, 32, 3)).astype(int), atol=tolerance)
    assert bool(told) == (says is not None) and (says is None or any(says in note for note in told)), told


def test_alpha_is_laid_on_white_and_said():
    alpha = np.rint(255 * RAMP).astype(np.uint8)
    found, told = decode(save(Image.fromarray(np.dstack([LEVELS, alpha]))))
    expected = 255 * (1 - RAMP[..., None] + RAMP[..., None] * COLOURS)
    np.testing.assert_allclose(found, expected, atol=1.5)
    assert told == ["goal.png has alpha: it is laid on white"]


def test_the_first_of_several_pictures_is_taken_and_said():
    image = Image.fromarray(LEVELS)
    found, told = decode(save(image, "TIFF", save_all=True, append_images=[Image.fromarray(255 - LEVELS)]))
    np.testing.assert_array_equal(found, LEVELS)
    assert told == ["goal.png holds 2 pictures: the first is taken"]


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (b"no picture at all", "goal.png cannot be read as an image"),
        (save(Image.fromarray(LEVELS))[:100], "goal.png cannot be read as an image"),
        (save(Image.fromarray(300 * RAMP.astype(np.float32)), "TIFF"), "is float32 from 0 to 300: save it as uint8"),
        (save(Image.fromarray((RAMP * 255).astype(np.int32)), "TIFF"), r"is int32 \[24, 32, 1\]: save it as uint8"),
    ],
)
def test_a_file_that_cannot_be_shown_for_certain_is_refused_by_name(encoded, says):
    with pytest.raises(PictureError, match=says) as raised:
        decode(encoded)
    assert "\n" not in str(raised.value)


def test_only_regular_files_are_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    for name, says in (("pipe.png", "is no regular file"), ("none.png", "there is no such file")):
        with pytest.raises(PictureError, match=says):
            read_picture(tmp_path / name, print)
    Path(tmp_path / "goal.png").write_bytes(save(Image.fromarray(LEVELS)))
    np.testing.assert_array_equal(read_picture(tmp_path / "goal.png", print), LEVELS)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (LEVELS[None], LEVELS),
        (LEVELS[None, ..., 0], LEVELS[..., :1]),
        (LEVELS[None, ..., :1], LEVELS[..., :1]),
        (COLOURS[None].astype(np.float32), LEVELS),
        (COLOURS[None].astype(np.float16), LEVELS),
        ((COLOURS[None] * 65535).astype(np.uint16), LEVELS),
        ((COLOURS[None] * 65535).astype(">u2"), LEVELS),
        (np.dstack([LEVELS, np.full((24, 32), 255, np.uint8)])[None], LEVELS),
    ],
    ids=["uint8", "no channel", "one channel", "float32", "float16", "uint16", "big-endian", "four channels"],
)
def test_an_array_of_any_kind_becomes_levels(frames, expected):
    found = convert_pictures(frames, "camera", lambda note: None)
    np.testing.assert_allclose(found[0].astype(int), np.broadcast_to(expected, (24, 32, 3)).astype(int), atol=1)
    assert found.dtype == np.uint8 and found.shape == (1, 24, 32, 3)
    assert looks_like_pictures(frames.shape, frames.dtype) and is_pictures(frames.shape, frames.dtype)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (
            LEVELS[None].transpose(0, 3, 1, 2),
            r"camera is uint8 \[3, 24, 32\], channels first: save it as \[24, 32, 3\]",
        ),
        (COLOURS[None].transpose(0, 3, 1, 2), r"camera is float64 \[3, 24, 32\], channels first"),
        (LEVELS[None].astype(np.int64), r"camera is int64 \[24, 32, 3\]: save it as uint8"),
        (255 * COLOURS[None], "camera is float64 from 0 to 255"),
        (COLOURS[None] - 0.5, "camera is float64 from -0.5 to 0.5"),
        (np.full((1, 24, 32, 3), np.nan), "camera is float64 from nan to nan"),
    ],
)
def test_an_array_that_cannot_be_shown_for_certain_is_refused_with_shape_and_type(frames, says):
    assert looks_like_pictures(frames.shape, frames.dtype)
    with pytest.raises(PictureError, match=says):
        convert_pictures(frames, "camera", print)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 4), "uint8"), ((9, 24, 32, 1), "float32"), ((9, 24, 32), "uint16"), ((9, 3, 3, 3), "uint8")],
)
def test_vectors_matrices_and_depth_are_no_pictures(shape, dtype):
    assert not looks_like_pictures(shape, dtype)
