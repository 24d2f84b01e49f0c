"""Pictures of data sets of other programs: what is decoded counts, whatever is declared; odd kinds become colour in 8
bits, which is said, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from commands.shared.errors import UsageError
from data.formats.dataset import select_pictures
from tests.commands.transfer.test_external import NEEDS_ARROW, take
from tests.data import made_sets

CAMERA = "observation.images.front"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def change_robomimic(change, demos=range(4), name="agentview_image") -> dict[int, np.ndarray]:
    """A robomimic file in which a camera's pictures of some demonstrations are changed; the pictures before."""
    made_sets.robomimic(Path("set.hdf5"))
    before = {}
    with h5py.File("set.hdf5", "r+") as file:
        for number in range(4):
            observed = file[f"data/demo_{number}/obs"]
            before[number] = observed[name][()]
            if number in demos:
                del observed[name]
                observed[name] = change(before[number])
    return before


def add_alpha(frames: np.ndarray) -> np.ndarray:
    return np.concatenate([frames, np.full((*frames.shape[:3], 1), 255, np.uint8)], -1)


@pytest.mark.parametrize(
    ("change", "demos", "says"),
    [
        (lambda frames: (frames / 255).astype(np.float32), [2], "is float32 in 0..1: it is scaled to 0..255"),
        (lambda frames: frames.astype(np.uint16) * 257, range(4), "has 16 bits: it is scaled to 8"),
        (add_alpha, range(4), None),
    ],
    ids=["one demonstration as floats", "16 bits", "full alpha"],
)
def test_pictures_of_another_type_come_in_as_they_look(change, demos, says, capsys):
    before = change_robomimic(change, demos)
    file = take("robomimic", "set.hdf5")
    for number, frames in before.items():
        np.testing.assert_array_equal(file.column("pixels", number), frames)
    said = capsys.readouterr().err
    assert ("agentview_image" in said) == (says is not None) and (says is None or said.count(says) == 1)


def test_grey_pictures_get_three_channels_and_that_is_said(capsys):
    before = change_robomimic(lambda frames: frames[..., 0])
    file = take("robomimic", "set.hdf5")
    np.testing.assert_array_equal(file.column("pixels", 1), before[1][..., :1].repeat(3, -1))
    assert "agentview_image is grey: it gets three equal channels" in capsys.readouterr().err


def test_a_colour_camera_is_taken_before_a_grey_one():
    arrays = {"mask": np.zeros((2, 9, 9), np.uint8), "camera": np.zeros((2, 9, 9, 3), np.uint8), "x": np.zeros((2, 9))}
    assert list(select_pictures(arrays)) == ["camera", "mask"]


def test_an_episode_of_another_kind_is_left_out_and_named(capsys):
    change_robomimic(lambda frames: frames.transpose(0, 3, 1, 2), demos=[1])
    assert take("robomimic", "set.hdf5").episodes().tolist() == [0, 2, 3]
    said = capsys.readouterr().err
    assert "left out 1: set.hdf5/demo_1: agentview_image is uint8 [3, 32, 32], channels first" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda frames: frames.transpose(0, 3, 1, 2),
            r"agentview_image is uint8 \[3, 32, 32\], channels first: save it",
        ),
        (lambda frames: frames.astype(np.int32), r"agentview_image is int32 \[32, 32, 3\]: save it as uint8"),
    ],
)
def test_pictures_that_cannot_be_read_are_named_with_shape_and_type(change, says):
    change_robomimic(change)
    with pytest.raises(UsageError, match=f"set.hdf5: {says}"):
        take("robomimic", "set.hdf5", columns={"pixels": "agentview_image"})
    change_robomimic(change)
    with h5py.File("set.hdf5", "r+") as file:
        for demo in file["data"].values():
            del demo["obs/robot0_eye_in_hand_image"]
    with pytest.raises(UsageError, match=f"set.hdf5: {says}"):
        take("robomimic", "set.hdf5")


def declare(shape: list[int]) -> None:
    """A LeRobot set's meta/info.json declares another shape than its pictures have, which is [24, 32, 3]."""
    info = json.loads(Path("set/meta/info.json").read_text())
    info["features"][CAMERA]["shape"] = shape
    Path("set/meta/info.json").write_text(json.dumps(info))


@NEEDS_ARROW
@pytest.mark.parametrize("video", [True, False], ids=["video", "images"])
@pytest.mark.parametrize("shape", [[24, 32, 1], [24, 32, 4], [3, 24, 32], [480, 640, 3]])
def test_the_size_of_lerobot_s_pictures_is_that_of_those_decoded(shape, video, capsys):
    made_sets.lerobot(Path("set"), video=video)
    declare(shape)
    file = take("lerobot", "set")
    assert file.info.frame_hwc == (24, 24, 3) and file.column("pixels", 0).std() > 10
    said = capsys.readouterr()
    assert f"pixels <- {CAMERA} 32x24;" in said.out
    differs = f"{CAMERA} is declared as [480, 640, 3] and holds pictures of 24x32 pixels"
    assert (differs in said.err) == (480 in shape) and "is declared" not in said.err.replace(differs, "")


@NEEDS_ARROW
def test_lerobot_s_images_with_alpha_or_16_bits_are_shown_as_they_look_and_said(monkeypatch, capsys):
    half = made_sets.coded

    def with_alpha(frame: np.ndarray, kind: str) -> bytes:
        return half(np.dstack([frame, np.full(frame.shape[:2], 128, np.uint8)]), kind)

    monkeypatch.setattr(made_sets, "coded", half)
    made_sets.lerobot(Path("plain"), video=False)
    monkeypatch.setattr(made_sets, "coded", with_alpha)
    made_sets.lerobot(Path("alpha"), video=False)
    monkeypatch.setattr(made_sets, "coded", lambda frame, kind: half(frame[..., 0].astype(np.uint16) * 257, kind))
    made_sets.lerobot(Path("deep"), video=False)
    frames = {name: take("lerobot", name, f"to_{name}").column("pixels", 0) for name in ("plain", "alpha", "deep")}
    np.testing.assert_allclose(frames["alpha"], 127 + frames["plain"] / 2, atol=1.5)
    np.testing.assert_array_equal(frames["deep"], frames["plain"][..., :1].repeat(3, -1))
    said = capsys.readouterr().err
    assert said.count(f"{CAMERA} has alpha: it is laid on white") == 1 and said.count("has 16 bits") == 1


def test_the_size_of_minari_s_jpegs_is_that_of_those_decoded():
    made_sets.minari(Path("set"))
    path = Path("set/data/metadata.json")
    described = json.loads(path.read_text())
    space = json.loads(described["observation_space"])
    space["subspaces"]["rgb"]["shape"] = [480, 640, 3]
    path.write_text(json.dumps({**described, "observation_space": json.dumps(space)}))
    assert take("minari", "set", fps=10).info.frame_hwc == (32, 32, 3)


def test_import_resizes_as_a_model_s_preprocessing_does():
    from data.pictures import Preprocessing

    change_robomimic(lambda frames: frames.repeat(2, 1).repeat(3, 2))
    with h5py.File("set.hdf5") as source:
        recorded = source["data/demo_0/obs/agentview_image"][()]
    for view in ("centre", "whole"):
        file = take("robomimic", "set.hdf5", view, size=16, view=view)
        np.testing.assert_array_equal(file.column("pixels", 0), Preprocessing((16, 16), view).prepare(recorded))


def test_a_turned_picture_comes_upright(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6

    def encode_turned(frame: np.ndarray, kind: str) -> bytes:
        path = Path("turned.jpg")
        Image.fromarray(np.ascontiguousarray(np.rot90(frame))).save(path, kind, exif=exif, quality=95)
        return path.read_bytes()

    made_sets.minari(Path("plain"))
    monkeypatch.setattr(made_sets, "coded", encode_turned)
    made_sets.minari(Path("turned"))
    plain, found = (take("minari", name, f"to_{name}", fps=10).column("pixels", 0) for name in ("plain", "turned"))
    np.testing.assert_allclose(found.astype(int), plain.astype(int), atol=12)
