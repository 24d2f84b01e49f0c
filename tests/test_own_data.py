"""Training on own videos and trajectories, and messages where something about such data is wrong."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from commands.agent import Agent
from commands.cli import main as cli
from data.formats import droid_example
from data.formats.droid_example import write_example
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from data.store import Reader
from tests.data.made_sets import ours, robomimic

pytestmark = pytest.mark.slow
TINY = ("encoder=tiny", "trainer=debug")


def jepa(*words: str, code: int = 0) -> None:
    assert cli.main(list(words)) == code, words


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with models of a folder of videos and of robot trajectories."""
    folder = tmp_path_factory.mktemp("work")
    with contextlib.chdir(folder):
        droid_example.main(["example"])
        jepa("pretrain", "data=video_folder", "path=example", *TINY, "name=video")
        jepa("import", "format=droid", "path=example", "fps=4", "name=arm")
        jepa("posttrain", "data=runs/import/arm", "encoder=runs/pretrain/video", "trainer=debug", "name=arm")
        jepa("pretrain", "data=runs/import/arm", *TINY, "name=arm")
    return folder


def test_training_on_own_data_leaves_models(work):
    for folder in ("pretrain/video", "posttrain/arm", "pretrain/arm"):
        assert (work / "runs" / folder / "model/model.safetensors").exists(), folder
    about = json.loads((work / "runs/pretrain/video/model/model.json").read_text())["config"]["about"]
    assert about["video"]["files"] == {"train": 10, "val": 2, "broken": 0} and about["video"]["fps"] == 4.0


def test_trajectories_come_back_the_same_from_two_external_formats(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours(Path("runs/collect/mine/trajectories.h5"))
    jepa("export", "data=runs/collect/mine", "format=robomimic", "to=mine.hdf5")
    jepa("import", "format=robomimic", "path=mine.hdf5", "name=back")
    jepa("export", "data=runs/import/back", "format=ogbench", "to=mine.npz")
    jepa("import", "format=ogbench", "path=mine.npz", "name=again")
    before, after = Reader("runs/collect/mine/trajectories.h5"), Reader("runs/import/again/trajectories.h5")
    np.testing.assert_array_equal(after.column("pixels", 2), before.column("pixels", 2))
    np.testing.assert_array_equal(after.column("state", 2), before.column("state", 2))


def test_without_a_known_task_only_losses_spread_rank_and_share_within_episodes_are_measured(work):
    for name in ("video", "arm"):
        lines = (work / f"runs/pretrain/{name}/metrics.jsonl").read_text().splitlines()
        measured = [set(json.loads(line)) for line in lines if '"val"' in line]
        want = {"step", "kind", "prediction", "constant", "feature_std", "feature_std_min", "effective_rank"}
        want |= {"within_share", "within_share_pixels", "within_share_random"}
        assert measured == [want, want], name


def test_video_training_that_is_stopped_goes_on_bit_for_bit(work, monkeypatch):
    monkeypatch.chdir(work)
    words = ("pretrain", "data=video_folder", "path=example", *TINY, "trainer.checkpoint_every=2")
    jepa(*words, "trainer.steps=2", "trainer.schedule=constant", "name=parts", "video.workers=0")
    jepa(*words, "trainer.steps=4", "trainer.schedule=constant", "name=parts", "video.workers=3")
    jepa(*words, "trainer.steps=4", "trainer.schedule=constant", "name=once", "video.workers=1")
    one, other = (Path(f"runs/pretrain/{name}/model/model.safetensors") for name in ("parts", "once"))
    assert one.read_bytes() == other.read_bytes()


def test_an_encoder_from_video_takes_trajectories_of_another_picture_size(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    jepa("import", "format=droid", "path=example", "size=48", "name=small")
    assert Reader("runs/import/small/trajectories.h5").info.frame_hwc == (48, 48, 3)
    jepa("posttrain", "data=runs/import/small", "encoder=runs/pretrain/video", "trainer=debug", "name=small")
    assert "48x48 pixels are resized to the encoder's 64x64" in capsys.readouterr().out


def test_a_camera_s_raw_frame_reaches_the_model_as_training_saw_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    robomimic(Path("set.hdf5"), demos=8)
    camera = np.random.default_rng(0).integers(0, 256, (7, 48, 80, 3), dtype=np.uint8)
    with h5py.File("set.hdf5", "r+") as file:
        for demo in file["data"].values():
            del demo["obs/agentview_image"]
            demo["obs/agentview_image"] = camera
    jepa("import", "format=robomimic", "path=set.hdf5", "view=whole", "name=arm")
    data, short = "data=runs/import/arm", ("trainer=debug", "name=arm")
    jepa("pretrain", data, "encoder=tiny", "objective.frame_gap=1", "objective.frames=4", *short)
    model = ("dynamics.history=2", "dynamics.horizon=2", "dynamics.losses.rollout_steps=2")
    jepa("posttrain", data, "encoder=runs/pretrain/arm", *model, "dynamics.losses.rollout_history=1", *short)
    agent = Agent("runs/posttrain/arm", "cpu", ("planner.horizon=2", "planner.samples=8", "planner.elites=2"))
    assert agent.preprocessing == Preprocessing((64, 64), "whole", stored_hw=(48, 48))
    seen = prepare_reader(Reader("runs/import/arm/trajectories.h5"), agent.preprocessing).column("pixels", 0)
    np.testing.assert_array_equal(agent.preprocess(camera[2]), seen[2])
    assert agent.act(camera[2], camera[5]).shape == (3,)


def test_planning_where_no_environment_is_known_ends_in_a_report_of_recorded_moments(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    few = ("planner.samples=12", "planner.elites=4", "planner.iterations=2")
    jepa("plan", "model=runs/posttrain/arm", "data=runs/import/arm", *few, "protocol.episodes=30", "name=arm")
    said, warned = capsys.readouterr()
    assert "droid, offline: planned actions" in said and "split eval serves 24 moments" in warned
    folder = Path("runs/plan/arm")
    results = json.loads((folder / "results.json").read_text())
    assert results["kind"] == "offline" and "success_rate" not in results
    assert (results["moments"], results["episodes"], results["asked"]) == (24, 1, 30)
    assert list(results["action_error"])[:2] == ["model", "nearest neighbour"]
    assert results["rank"]["recorded"]["rank"]["ci95"] is None, "one episode gives no interval"
    assert len(results["open_loop"]["predicted"]) == 6 and len((folder / "moments.jsonl").open().readlines()) == 24
    assert (folder / "moments.png").exists() and "no success rate" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("offline=false",), 2, "there is no environment of it to plan in (environments: "),
        (("offline=false",), 2, "jepa plan offline=true compares plans with recorded actions"),
        (("goal=photo.png",), 2, "goal=photo.png needs a simulator"),
        (("protocol.goal_offset=7",), 2, "protocol.goal_offset=7: offline, it is a multiple"),
        (("protocol.split=train",), 2, "choose val or eval"),
        (("planner.horizon=7",), 1, "planner horizon is 7, but this model plans 6 at most"),
    ],
)
def test_a_mistake_about_recorded_moments_is_one_sentence(work, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(work)
    jepa("plan", "model=runs/posttrain/arm", "data=runs/import/arm", *words, code=code)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0], said


def test_moments_of_another_robot_are_refused_by_the_size_of_its_actions(work, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(work)
    robomimic(tmp_path / "set.hdf5", demos=8)
    jepa("import", "format=robomimic", f"path={tmp_path / 'set.hdf5'}", "name=other")
    capsys.readouterr()
    jepa("plan", "model=runs/posttrain/arm", "data=runs/import/other", code=2)
    assert "has actions of size 3 and the model was trained with 7" in capsys.readouterr().err


def test_broken_and_short_videos_are_named_and_counted_and_not_fatal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_example(Path("videos"), trajectories=3, rows=90, frame_hw=(32, 48))
    write_example(Path("brief"), trajectories=1, rows=6, frame_hw=(32, 48))
    shutil.copy("brief/trajectory_000/recordings/MP4/12345678.mp4", "videos/brief.mp4")
    Path("videos/words.mp4").write_text("no video at all")
    whole = Path("videos/trajectory_002/recordings/MP4/12345678.mp4").read_bytes()
    Path("videos/cut.mp4").write_bytes(whole[: len(whole) // 2])
    jepa("pretrain", "data=video_folder", "path=videos", *TINY, "name=v")
    said = capsys.readouterr().err
    assert "left out as broken: 2 of 6 videos: videos/cut.mp4" in said and "words.mp4" in said
    assert "left out as shorter than a clip (1.00 s): 1 of 6 videos: brief.mp4" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("data=video_folder",), 2, "needs path=FOLDER"),
        (("data=video_folder", "path=none"), 2, "path=none is no folder"),
        (("data=video_folder", "path=empty"), 2, "no video in empty"),
        (("data=video_folder", "path=example", "objective=lewm"), 2, "reads actions and plain video has none"),
        (("data=video_folder", "path=example", "video.fps=0"), 2, "fps=0"),
        (("data=video_folder", "path=example", "video.crop.area=[0.5,2]"), 2, "video.crop.area.1=2 is out of range"),
        (("data=video_folder", "path=example", "objective.frames=40"), 1, "need videos of 9.75 s"),
    ],
)
def test_a_mistake_about_video_is_one_sentence(work, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(work)
    (work / "empty").mkdir(exist_ok=True)
    jepa("pretrain", *TINY, *words, code=code)
    said = [line for line in capsys.readouterr().err.strip().splitlines() if line.startswith("jepa")]
    assert len(said) == 1 and says in said[0], said
