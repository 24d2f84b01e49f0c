"""Data of stage 1: frames of a trajectory file in the encoder's size, whatever theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands.shared.console import Console
from commands.training.sources import VideoConfig, open_source
from data.pictures import Preprocessing
from data.store import Reader
from tests.data.made_sets import ours
from tests.world_model.small import FUTURE, SIZES

OBJECTIVE = replace(FUTURE, frames=3, frame_gap=1)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_file_of_any_picture_size_trains_an_encoder_and_the_model_folder_says_how(tmp_path, capsys, side):
    path = ours(Path(tmp_path / "trajectories.h5"))  # 32 x 32
    encoder = replace(SIZES, image_px=(side, side), patch_px=16)
    source = open_source(str(path), None, VideoConfig(), "error", encoder, OBJECTIVE, Console())
    recorded = Reader(path).column("pixels", 1)
    frames = source.clips["train"].gather(np.array([0]))["pixels"][0]
    np.testing.assert_array_equal(frames, Preprocessing((side, side)).prepare(recorded)[:3])
    same = side == 32
    said = f"frames of 32x32 pixels are resized to the encoder's {side}x{side} (crop: centre, bilinear)"
    assert (said in capsys.readouterr().out) is not same
    stated = {"size_hw": [side, side], "crop": "centre", "filter": "bilinear", "stored_hw": None if same else [32, 32]}
    assert source.describe()["preprocessing"] == stated
    assert (source.workers == 0) is same  # threads resize ahead
    assert next(source.read_segments(1)).shape == (4, side, side, 3)
