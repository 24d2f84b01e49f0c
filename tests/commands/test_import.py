"""`jepa import`: the file that is written, that it goes on where it stopped, and what it says where data is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from commands import import_
from commands.cli import main as cli
from data.formats.droid_example import SERIAL, write_example
from data.store import Reader
from world_model.nn.poses import find_euler_angles, integrate_actions, make_rotation_matrix

SMALL = {"trajectories": 6, "rows": 45, "frame_hw": (32, 48)}


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_example(Path("arms"), **SMALL)
    return tmp_path


def jepa(*words: str, code: int = 0) -> None:
    assert cli.main(["import", "format=droid", "path=arms", "size=16", "name=x", *words]) == code, words


def reader() -> Reader:
    return Reader("runs/import/x/trajectories.h5")


def test_the_file_has_the_poses_and_the_actions_that_lead_from_each_to_the_next(work, capsys):
    jepa("fps=5")
    file = reader()
    assert file.info.env_id == "droid" and file.info.step_s == 0.2 and file.info.frame_hwc == (16, 16, 3)
    assert {file.split(e) for e in range(6)} == {"train", "val", "eval"} and len(file.episodes()) == 6
    for episode in range(6):
        pose = torch.from_numpy(np.array(file.column("state", episode)))
        action = torch.from_numpy(np.array(file.column("action", episode))).double()
        assert len(action) == len(pose) - 1 and len(pose) in (15, 16)
        following = integrate_actions(pose[:-1], action)
        torch.testing.assert_close(following[:, [0, 1, 2, 6]], pose[1:, [0, 1, 2, 6]], atol=1e-6, rtol=0)
        turned, wanted = make_rotation_matrix(following[:, 3:6]), make_rotation_matrix(pose[1:, 3:6])
        torch.testing.assert_close(turned, wanted, atol=1e-6, rtol=0)
        assert find_euler_angles(turned).isfinite().all()
        np.testing.assert_allclose(file.column("proprio", episode), pose, atol=1e-6)
        assert file.column("extrinsics", episode).shape == (len(pose), 6)
        assert np.diff(file.column("time_s", episode)).std() > 0  # the recorded times, not a made-up clock
    low, high = np.array(file.info.action_low), np.array(file.info.action_high)
    train = np.concatenate([file.column("action", int(e)) for e in file.episodes("train")])
    np.testing.assert_array_equal(low, -high)
    np.testing.assert_allclose(high, np.quantile(np.abs(train), 0.999, axis=0), rtol=1e-5)
    assert "action bounds" in capsys.readouterr().out
    lines = [json.loads(line) for line in Path("runs/import/x/episodes.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == [f"arms/trajectory_{k:03d}" for k in range(6)]


def test_what_hardly_changes_still_has_a_range():
    np.testing.assert_array_equal(import_.compute_bounds(np.zeros((5, 2), np.float32)), [1e-3, 1e-3])


def test_an_import_that_was_stopped_goes_on_with_what_is_missing(work, monkeypatch):
    jepa("name=whole")
    decoded, write = [], import_.Writer.write

    def counted(self, index, columns, factors=None):
        if len(decoded) == 3:
            raise KeyboardInterrupt
        decoded.append(index)
        write(self, index, columns, factors)

    monkeypatch.setattr(import_.Writer, "write", counted)
    jepa(code=1)
    assert len(reader().episodes()) == 3
    monkeypatch.setattr(import_.Writer, "write", lambda *args: (decoded.append(args[1]), write(*args)))
    jepa()
    assert sorted(decoded) == list(range(6))
    assert reader().file_checksum == Reader("runs/import/whole/trajectories.h5").file_checksum


def test_a_packed_file_reads_the_same(work):
    jepa("name=plain")
    jepa("compression=gzip")
    plain = Reader("runs/import/plain/trajectories.h5")
    assert reader().packed and all(
        np.array_equal(reader().column(name, 2), plain.column(name, 2)) for name in ("pixels", "action", "truth")
    )


def test_damaged_and_short_trajectories_are_left_out_named_and_counted(work, capsys):
    Path("arms/trajectory_001/trajectory.h5").write_text("words")
    Path(f"arms/trajectory_002/recordings/MP4/{SERIAL}.mp4").write_text("words")
    write_example(Path("arms/short"), 1, 5, (32, 48))
    jepa("least_frames=4")
    said = capsys.readouterr().err
    assert len(reader().episodes()) == 4
    assert "left out 3: " in said and "trajectory_001" in said and "trajectory_002" in said and "fewer than 4" in said


def test_extrinsics_that_some_lack_are_left_out_and_that_is_said(work, capsys):
    with h5py.File("arms/trajectory_003/trajectory.h5", "r+") as file:
        del file["observation/camera_extrinsics"]
    jepa()
    assert "5 of 6 trajectories have extrinsics" in capsys.readouterr().err
    assert [column.name for column in reader().info.extra] == ["proprio"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("format=lerobots",), 2, "format=lerobots: no such format; did you mean lerobot?"),
        (("path=none",), 2, "path=none is no folder"),
        (("path=arms/trajectory_000/recordings",), 2, "holds a trajectory.h5"),
        (("view=middle",), 2, "choices: whole, centre"),
        (("size=0",), 2, "size=0"),
        (("fps=0",), 2, "fps=0"),
        (("droid.angles=turns",), 2, "radians, degrees"),
        (("droid.camera=[left,left]",), 2, "droid.camera=[left,left]: name each camera once"),
        (("droid.camera=[left,top]",), 2, "droid.camera.1=top is no choice (choices: left, right, wrist)"),
        (("droid.camera=wirst",), 2, "droid.camera=wirst is no choice; did you mean wrist?"),
        (("droid.camera=wrist",), 1, "none of the 6 trajectories in arms can be used"),
    ],
)
def test_a_mistake_is_one_sentence(work, capsys, words, code, says):
    jepa(*words, code=code)
    said = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("jepa")]
    assert len(said) == 1 and says in said[0], said
