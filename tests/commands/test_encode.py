"""Features of trajectories and videos in one file."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from commands.cli.main import main
from commands.training.model_folders import save_encoder
from data.store import Reader
from tests.data.made_videos import made_video
from tests.world_model.small import SIZES, encoder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["collect", "env=two_rooms", "data=debug", "data.episodes=3", "data.frames=5", "name=small"]) == 0
    save_encoder(folder / "enc", encoder(), {"env": "two_rooms"})
    return folder


def encode(work, monkeypatch, *words):
    monkeypatch.chdir(work)
    return main(["encode", "encoder=enc", "device=cpu", *words])


@pytest.mark.parametrize(("kind", "shape"), [("pooled", (15, 12)), ("tokens", (15, 16, 24))])
def test_every_frame_of_a_trajectory_file_has_its_features(work, monkeypatch, capsys, kind, shape):
    assert encode(work, monkeypatch, "data=runs/collect/small", f"features={kind}", f"name={kind}") == 0
    assert f"{kind} features of 15 frames of 3 episodes" in capsys.readouterr().out
    reader = Reader("runs/collect/small/trajectories.h5")
    with h5py.File(f"runs/encode/{kind}/features.h5") as file:
        assert file["features"].shape == shape and file["name"].asstr()[:].tolist() == ["0", "1", "2"]
        assert file["start"][:].tolist() == [0, 5, 10] and file["length"][:].tolist() == [5, 5, 5]
        assert file.attrs["features"] == kind and json.loads(file.attrs["preprocessing"])["size_hw"] == [64, 64]
        found, times = file["features"][5:10], file["time_s"][5:10]
    frames = torch.from_numpy(np.array(reader.column("pixels", 1)))[None]
    model = encoder()
    with torch.no_grad():
        wanted = model.embed_frames(frames)[0] if kind == "pooled" else model.encode_frames(frames)[0]
    if kind == "tokens":
        wanted = torch.nn.functional.layer_norm(wanted, wanted.shape[-1:])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5 if kind == "pooled" else 2e-3)
    np.testing.assert_allclose(times, np.arange(5) * 0.1, atol=1e-6)


def test_videos_are_encoded_at_the_rate_asked_for(work, monkeypatch):
    made_video(work / "films" / "a.mp4", np.arange(20) / 10)
    for words, frames in (((), 20), (("fps=5",), 10)):
        assert encode(work, monkeypatch, "video=films", f"name=films{frames}", *words) == 0
        with h5py.File(f"runs/encode/films{frames}/features.h5") as file:
            assert file["features"].shape == (frames, 12) and file["name"].asstr()[0] == "films/a.mp4"
            assert file["time_s"][-1] == pytest.approx((frames - 1) / (5 if words else 10))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "give data= (trajectories) or video="),
        (("data=runs/collect/small", "video=films"), 2, "and not both"),
        (("video=nothing",), 2, "video=nothing: there is no such file or folder"),
        (("data=runs/collect/small", "encoder=bare", "features=pooled"), 2, "this encoder has no embedding of a frame"),
    ],
)
def test_what_cannot_be_encoded_is_refused(work, monkeypatch, capsys, words, code, said):
    save_encoder(work / "bare", encoder(config=replace(SIZES, pool=None)), {"env": "two_rooms"})
    assert encode(work, monkeypatch, *words, "name=refused") == code
    assert said in capsys.readouterr().err and not (work / "runs/encode/refused").exists()
