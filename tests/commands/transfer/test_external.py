"""Trajectories of others: there and back with every number; what becomes what in files made elsewhere; and what is said
where one cannot be used."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from commands import export, import_
from commands.cli import main as cli
from commands.config.compose import compose_defaults
from commands.config.schema import build
from commands.shared.console import Console
from commands.shared.errors import UsageError, explain
from commands.training.trajectory_files import derive_preprocessing
from data.pictures import Preprocessing
from data.store import Reader
from tests.data import made_sets
from tests.data.broken_sets import BREAK

HAVE_ARROW = importlib.util.find_spec("pyarrow") is not None
NEEDS_ARROW = pytest.mark.skipif(not HAVE_ARROW, reason="pyarrow is an optional extra")
LOSSLESS = [
    ("robomimic", "out/set.hdf5", "lossless"),
    ("ogbench", "out/set.npz", "lossless"),
    ("minari", "out/set-v0", "lossless"),
    pytest.param("lerobot", "out/set", "lossless", marks=NEEDS_ARROW),
    pytest.param("lerobot", "out/set", "images", marks=NEEDS_ARROW),
]
ALL = ["robomimic", "ogbench", "minari", pytest.param("lerobot", marks=NEEDS_ARROW)]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@cache
def usual(command: str) -> dict[str, Any]:
    """The command's configuration; composing one takes longer than all the rest of a test."""
    return compose_defaults(command).config


def take(format: str, path: str, folder: str = "x", columns: dict[str, Any] | None = None, **keys: Any) -> Reader:
    """What `jepa import` does, without a run folder; returns the file."""
    given = {**usual("import"), "format": format, "path": path, "seed": 0, **keys}
    given["columns"] = {**given["columns"], **(columns or {})}
    config = build(import_.Config, given)
    import_.check(config)
    Path(folder).mkdir(exist_ok=True)
    import_.import_into(Path(folder), config, Console())
    return Reader(Path(folder, "trajectories.h5"))


def give(format: str, to: str, **keys: Any) -> None:
    """What `jepa export data=ours` does."""
    config = build(export.Config, {**usual("export"), "data": "ours", "format": format, "to": to, **keys})
    export.check(config)
    export.run(config, None, Console())


def made(format: str, **about: Any) -> str:
    """A data set of a format that its own program could have written; returns path=."""
    path = {"robomimic": "set.hdf5", "ogbench": "visual-maze-v0.npz", "minari": "set", "lerobot": "set"}[format]
    return str(getattr(made_sets, format)(Path(path), **about))


def fps_of(format: str) -> float | None:
    """What must be said of formats that record no rate."""
    return 10.0 if format in ("ogbench", "minari") else None


@pytest.mark.parametrize(("format", "to", "pictures"), LOSSLESS)
def test_there_and_back_every_number_name_seed_split_and_factor_is_as_it_was(format, to, pictures, capsys):
    before = Reader(made_sets.ours(Path("ours/trajectories.h5")))
    give(format, to, pictures=pictures)
    assert "every number as it was" in capsys.readouterr().out
    after = take(format, to)
    assert "written by jepa export" in capsys.readouterr().out
    assert before.info.find_differences(after.info, but=("source",)) == []
    assert before.episodes().tolist() == after.episodes().tolist()
    for episode in before.episodes().tolist():
        assert (before.seed(episode), before.split(episode)) == (after.seed(episode), after.split(episode))
        for name, value in before.factors(episode).items():
            np.testing.assert_array_equal(after.factors(episode)[name], value)
        for column in before.info.columns:
            np.testing.assert_array_equal(after.column(column.name, episode), before.column(column.name, episode))


@NEEDS_ARROW
def test_a_lossy_video_says_how_far_it_is_off_and_keeps_the_rest(capsys):
    before = Reader(made_sets.ours(Path("ours/trajectories.h5")))
    give("lerobot", "out/set", pictures="lossy")
    assert "lost: pictures, which are" in capsys.readouterr().out
    after = take("lerobot", "out/set")
    assert (after.column("pixels", 0) != before.column("pixels", 0)).any()
    np.testing.assert_array_equal(after.column("state", 2), before.column("state", 2))


def test_several_cameras_stand_side_by_side_and_survive_an_export(capsys):
    path = made("robomimic")
    front, hand = "agentview_image", "robot0_eye_in_hand_image"
    parts = [take("robomimic", path, name, {"pixels": name}).column("pixels", 1) for name in (hand, front)]
    both = take("robomimic", path, "ours", {"pixels": [hand, front]})
    assert f"pixels <- {hand} 32x32 beside {front} 32x32" in capsys.readouterr().out
    assert both.info.frame_hwc == (32, 64, 3) and both.info.source["import"]["cameras"] == 2
    np.testing.assert_array_equal(both.column("pixels", 1), np.concatenate(parts, axis=2))
    assert (parts[0] != parts[1]).any()
    assert derive_preprocessing(both.info, (64, 64)) == Preprocessing((64, 64), "whole", stored_hw=(32, 64))
    assert take("robomimic", path, "small", {"pixels": [hand, front]}, size=16).info.frame_hwc == (16, 32, 3)
    give("minari", "out/set-v0")
    back = take("minari", "out/set-v0", "back")
    np.testing.assert_array_equal(back.column("pixels", 1), both.column("pixels", 1))
    assert derive_preprocessing(back.info, (64, 64)) == derive_preprocessing(both.info, (64, 64))
    assert take("minari", "out/set-v0", "half", size=16).info.frame_hwc == (16, 32, 3)


@pytest.mark.parametrize(
    ("pixels", "keys", "says"),
    [
        (["agentview_image", "top"], {}, "columns.pixels=top is not in set.hdf5"),
        (["agentview_image"] * 2, {}, "columns.pixels=[agentview_image,agentview_image]: name each camera once"),
        ([], {}, "columns.pixels=[]: name each camera once, at least one"),
        (
            ["agentview_image", "robot0_eye_in_hand_image"],
            {"environment": "reacher"},
            "environment=reacher draws one camera: choose one by columns.pixels=agentview_image",
        ),
    ],
)
def test_a_mistake_about_several_cameras_is_said(pixels, keys, says):
    with pytest.raises(UsageError) as caught:
        take("robomimic", made("robomimic"), columns={"pixels": pixels}, **keys)
    assert says in str(caught.value)


def test_robomimic_of_robosuite_is_mapped_and_that_is_said(capsys):
    path = made("robomimic")
    file = take("robomimic", path)
    said = capsys.readouterr().out
    with h5py.File(path) as source:
        for number in range(4):
            demo = source[f"data/demo_{number}"]
            np.testing.assert_array_equal(file.column("pixels", number), demo["obs/agentview_image"])
            np.testing.assert_array_equal(file.column("action", number), demo["actions"][:-1].astype(np.float32))
            np.testing.assert_array_equal(file.column("state", number), demo["states"])
            np.testing.assert_array_equal(file.column("reward", number), demo["rewards"])
            names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
            body = np.concatenate([demo[f"obs/{name}"] for name in names], axis=1)
            np.testing.assert_array_equal(file.column("proprio", number), body.astype(np.float32))
    assert file.info.env_id == "robomimic/Lift" and file.info.step_s == 1 / 20
    assert file.info.truth_names[0] == "object[0]" and len(file.info.truth_names) == 13
    assert [file.split(e) for e in range(4)] == ["val", "train", "train", "train"]
    for words in (
        "4 episodes of Lift, 20 frames a second (recorded)",
        "pixels <- agentview_image 32x32 (not: robot0_eye_in_hand_image)",
        "state <- states (recorded)",
        "splits, as in the data set: train 3, val 1, eval 0",
        "left out: dones, next_obs",
    ):
        assert words in said, words


def test_ogbench_has_its_validation_file_and_half_of_that_becomes_eval(capsys):
    path = made("ogbench")
    file, source = take("ogbench", path, fps=10, columns={"proprio": ["qpos"]}), np.load(path)
    bounds = np.cumsum((0, *made_sets.LENGTHS))
    for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        np.testing.assert_array_equal(file.column("pixels", number), source["observations"][start:end])
        np.testing.assert_array_equal(file.column("action", number), source["actions"][start : end - 1])
        np.testing.assert_array_equal(file.column("proprio", number), source["qpos"][start:end])
        state = np.concatenate([source["qpos"], source["qvel"]], axis=1)[start:end]
        np.testing.assert_array_equal(file.column("state", number), state)
    assert [file.split(e) for e in range(3)] == ["train"] * 3
    assert sorted(file.split(e) for e in range(3, 6)) == ["eval", "val", "val"]
    assert file.info.env_id == "ogbench/visual-maze-v0"
    assert "half of the validation episodes for eval" in capsys.readouterr().out


@pytest.mark.parametrize(("coding", "place"), [("jpeg", "observations"), ("raw", "observations"), ("raw", "infos")])
def test_minari_gives_pictures_from_observations_or_infos_and_the_bounds_of_its_space(coding, place):
    made_sets.minari(Path("set"), coding, place)
    file = take("minari", "set", fps=5)
    with h5py.File("set/data/main_data.hdf5") as source:
        for number, frames in enumerate(made_sets.LENGTHS):
            episode = source[f"episode_{number}"]
            np.testing.assert_array_equal(file.column("action", number), episode["actions"])
            assert file.num_frames(number) == frames and file.seed(number) == 40 + number
            np.testing.assert_array_equal(file.column("reward", number)[:-1], episode["rewards"])
            if coding == "raw":
                np.testing.assert_array_equal(file.column("pixels", number), episode[f"{place}/rgb"])
    shown = made_sets.pictures(np.random.default_rng(0), 1)[0].astype(int)
    assert np.abs(np.diff(file.column("pixels", 0)[0].astype(int) - shown, axis=0)).mean() < 5
    assert file.info.action_low == (-2.0,) * 3 and file.info.action_high == (2.0,) * 3
    assert file.info.env_id == "minari/Arm-v1" and file.info.env_kwargs == {"size": 3}
    assert "observations/arm/pos[0]" in file.info.truth_names


@NEEDS_ARROW
@pytest.mark.parametrize("video", [True, False])
def test_lerobot_gives_its_camera_and_the_names_of_its_motors(video):
    import pyarrow.parquet

    made_sets.lerobot(Path("set"), video)
    file = take("lerobot", "set")
    rows = pyarrow.parquet.read_table("set/data/chunk-000/file-001.parquet").to_pydict()
    last = [k for k, episode in enumerate(rows["episode_index"]) if episode == 2]
    np.testing.assert_array_equal(file.column("action", 2), [rows["action"][k] for k in last[:-1]])
    np.testing.assert_array_equal(file.column("proprio", 2), [rows["observation.state"][k] for k in last])
    assert file.info.action_names == ("pan", "lift", "grip") and file.info.step_s == 0.1
    assert file.info.truth_names == ("observation.state[pan]", "observation.state[lift]")
    assert file.info.frame_hwc == (24, 24, 3)
    rng = np.random.default_rng(4)
    middle = [made_sets.pictures(rng, frames, (24, 32))[:, :, 4:28] for frames in made_sets.LENGTHS]
    for number, wanted in enumerate(middle):  # every episode's own frames, though they share a video
        off = np.abs(file.column("pixels", number).astype(int) - wanted)
        assert off.mean() < 4 if video else off.max() == 0


@pytest.mark.parametrize("format", ALL)
def test_episodes_that_are_short_or_have_actions_that_are_no_numbers_are_left_out_and_counted(format, capsys):
    path = made(format, **({"lengths": (6, 4, 5, 7, 8)} if format in ("minari", "lerobot") else {}))
    spoil_one_action(format, path)
    file = take(format, path, fps=fps_of(format), least_frames=5)
    said = capsys.readouterr().err
    assert "actions that are not finite numbers" in said
    if format == "robomimic":
        assert "left out 1: " in said and len(file.episodes()) == 3
    elif format == "ogbench":
        assert "left out 3: " in said and "has 4 frames, fewer than 5" in said and len(file.episodes()) == 3
    else:
        assert "left out 2: " in said and "has 4 frames, fewer than 5" in said and len(file.episodes()) == 3


def spoil_one_action(format: str, path: str) -> None:
    """Makes an action of the first episode nan."""
    if format == "ogbench":
        columns = dict(np.load(path))
        columns["actions"][1, 0] = np.nan
        np.savez_compressed(path, **columns)
    elif format == "lerobot":
        import pyarrow.parquet

        file = Path(path, "data/chunk-000/file-000.parquet")
        rows = pyarrow.parquet.read_table(file).to_pydict()
        rows["action"][1] = [float("nan")] * 3
        pyarrow.parquet.write_table(pyarrow.table(rows), file)
    else:
        name = path if format == "robomimic" else f"{path}/data/main_data.hdf5"
        with h5py.File(name, "r+") as file:
            file["data/demo_0/actions" if format == "robomimic" else "episode_0/actions"][1, 0] = np.nan


@pytest.mark.parametrize(
    ("format", "what", "says"),
    [
        ("robomimic", "no actions", "has no actions (it has: dones, next_obs, obs, rewards, states)"),
        ("robomimic", "no pictures", "holds no pictures (it has: object, robot0_eef_pos"),
        ("robomimic", "no pictures", "dataset_states_to_obs.py renders them"),
        ("robomimic", "short actions", "has 5 actions and 7 rows of"),
        ("robomimic", "cut", "cannot be read as HDF5, or is cut short"),
        ("robomimic", "not robomimic", "is no robomimic file"),
        ("robomimic", "mixed rates", "differ in rate (control_freq) (20.0 against 10.0): import them apart"),
        ("ogbench", "no terminals", "has no terminals (it has: actions, observations, qpos, qvel)"),
        ("ogbench", "no pictures", "choose the visual- set of the same task"),
        ("ogbench", "short actions", "has 13 actions and 15 rows of observations"),
        ("ogbench", "cut", "cannot be read as npz, or is cut short"),
        ("minari", "no actions", "has no actions (it has: infos, observations"),
        ("minari", "no pictures", "holds no pictures (it has: observations/arm/pos"),
        ("minari", "short actions", "has 4 actions between 6 frames: 5 are needed"),
        ("minari", "cut", "cannot be read as HDF5, or is cut short"),
        ("minari", "arrow", "says data_format=arrow, and hdf5 alone is read"),
        ("minari", "two sets", "holds 2 data sets (set/data, set/other/data): give path= the folder of one"),
        pytest.param("lerobot", "no actions", "has no action (it has: index", marks=NEEDS_ARROW),
        pytest.param("lerobot", "no pictures", "record it with a camera", marks=NEEDS_ARROW),
        pytest.param("lerobot", "mixed rates", "has mixed rates: frames 0.1 to 0.17 s apart", marks=NEEDS_ARROW),
        pytest.param("lerobot", "cut", "cannot be read as parquet, or is cut short", marks=NEEDS_ARROW),
        pytest.param("lerobot", "cut video", "cannot be read as a video", marks=NEEDS_ARROW),
        pytest.param("lerobot", "v2.1", "codebase_version=v2.1: LeRobot's convert_dataset_v21", marks=NEEDS_ARROW),
        pytest.param("lerobot", "v4", "codebase_version=v4.0: v3 alone is read here", marks=NEEDS_ARROW),
    ],
)
def test_a_data_set_that_cannot_be_used_is_one_sentence(format, what, says):
    path = BREAK[format](what)
    with pytest.raises(Exception) as raised:
        take(format, path, fps=fps_of(format))
    code, sentence = explain(raised.value)
    assert says in sentence and "Traceback" not in sentence and code in (1, 2), sentence


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"fps": None}, "format=minari records no rate: give fps="),
        ({"fps": 0}, "fps=0 is out of range: it must be above 0"),
        ({"columns": {"pixels": "rgb"}}, "columns.pixels=rgb is not in set"),
        ({"columns": {"truth": ["pos"]}}, "(choices: observations/arm/pos, infos/clock)"),
        ({"path": "none"}, "path=none is no folder"),
    ],
)
def test_a_wrong_key_is_one_sentence(keys, says):
    made("minari")
    with pytest.raises(Exception) as raised:
        take("minari", **{"path": "set", "fps": 10, **keys})
    assert says in explain(raised.value)[1], raised.value


def test_another_rate_than_the_recorded_one_is_refused():
    with pytest.raises(Exception, match="has 20 frames a second and is imported at that rate"):
        take("robomimic", made("robomimic"), fps=4)


def test_an_interrupted_export_leaves_nothing_and_nothing_is_overwritten(monkeypatch, capsys):
    made_sets.ours(Path("ours/trajectories.h5"))
    monkeypatch.setattr("data.formats.dataset.pad_actions", lambda *args: (_ for _ in ()).throw(OSError(28, "disk")))
    with pytest.raises(OSError):
        give("ogbench", "set.npz")
    assert not list(Path().glob("*.npz"))
    Path("set-val.npz").write_text("precious")
    assert cli.main(["export", "data=ours", "format=ogbench", "to=set.npz"]) == 2
    assert "to=set-val.npz exists" in capsys.readouterr().err
    with pytest.raises(Exception, match="called NAME.npz"):
        give("ogbench", "set.hdf5")
    with pytest.raises(Exception, match="format=robomimic exports data: give data="):
        give("robomimic", "set.hdf5", data=None)


def test_where_pyarrow_is_missing_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    made_sets.ours(Path("ours/trajectories.h5"))
    with pytest.raises(Exception, match="pip install 'jepa-lab\\[lerobot\\]'"):
        give("lerobot", "set")
