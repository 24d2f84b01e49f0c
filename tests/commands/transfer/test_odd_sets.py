"""Data sets of other programs with odd names, paths, types and numbers: refused in one sentence that names file, field
and value; or left out, named and counted, where one episode alone is odd. Nothing outside the set is read."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from commands.cli import main as cli
from commands.shared.errors import explain
from data import checks
from data.formats.droid_example import write_example
from data.store import Reader
from tests.commands.transfer.test_external import fps_of, give, made, take
from tests.data import made_sets

NEEDS_ARROW = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an optional extra")
LONGER = (6, 4, 5, 7, 8)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refuse(format: str, path: str, **keys: Any) -> str:
    """The sentence with which an import is refused; a traceback fails the test."""
    with warnings.catch_warnings(), pytest.raises(Exception) as raised:
        warnings.simplefilter("error")
        take(format, path, **{"fps": fps_of(format), **keys})
    code, sentence = explain(raised.value)
    assert code in (1, 2) and "--traceback" not in sentence and "\n" not in sentence, sentence
    return sentence


# --- names of files and episodes


def test_odd_names_of_demonstrations_are_left_out_named_and_counted(capsys):
    path = made("robomimic")
    with h5py.File(path, "r+") as file:
        for name in ("demo_3_copy", "demo_", "demo_-1", "demo_¹"):
            file.copy("data/demo_3", f"data/{name}")
        file["data/demo_7"] = np.zeros(3)
    assert len(take("robomimic", path).episodes()) == 4
    said = capsys.readouterr().err
    assert "left out 5: " in said and "set.hdf5 demo_-1 is not named demo_NUMBER" in said


def test_odd_names_of_episodes_are_left_out_named_and_counted(capsys):
    path = made("minari")
    with h5py.File(f"{path}/data/main_data.hdf5", "r+") as file:
        file.copy("episode_0", "episode_0_old")
    assert len(take("minari", path, fps=5).episodes()) == 3
    assert "left out 1: set/data/main_data.hdf5 episode_0_old is not named" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["robomimic", "ogbench"])
def test_hidden_files_are_passed_over_and_unfinished_ones_named(format, capsys):
    path = Path(made(format))
    folder = Path("sets")
    folder.mkdir()
    for file in Path().glob(f"*{path.suffix}"):
        file.rename(folder / file.name)
    whole = folder / path.name
    count = len(take(format, str(folder), folder="before", fps=fps_of(format)).episodes())
    (folder / f"._{path.name}").write_text("resource fork")
    for name in (f".tmp{path.suffix}", f"part.tmp{path.suffix}", ".hidden/copy" + path.suffix):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(whole, folder / name)
    capsys.readouterr()
    assert len(take(format, str(folder), fps=fps_of(format)).episodes()) == count
    assert f"left out 1: sets/part.tmp{path.suffix} is unfinished by its name" in capsys.readouterr().err


def test_hidden_files_of_other_formats_are_passed_over():
    made("minari")
    Path("set/.cache/data").mkdir(parents=True)
    shutil.copy("set/data/metadata.json", "set/.cache/data")
    Path("set/data/._metadata.json").write_text("resource fork")
    assert len(take("minari", "set", fps=5).episodes()) == 3
    write_example(Path("arms"), 3, 30, (32, 48))
    shutil.copytree("arms/trajectory_000", "arms/.Trashes/trajectory_000")
    assert len(take("droid", "arms", folder="y").episodes()) == 3


def test_too_few_trajectories_are_refused_with_the_least_number_and_what_was_left_out():
    made_sets.robomimic(Path("two.hdf5"), demos=2)
    with h5py.File("two.hdf5", "r+") as file:
        del file["mask"]
        file["data/demo_x"] = file["data/demo_0"]
    said = refuse("robomimic", "two.hdf5")
    assert "has 2 trajectories that can be used, and 3 are the least, one each for train, val and eval" in said
    assert "left out 1: two.hdf5 demo_x" in said


def test_few_demonstrations_with_masks_are_refused_and_an_export_of_ours_comes_back_whatever_its_number(capsys):
    made_sets.robomimic(Path("two.hdf5"), demos=2)
    assert "3 are the least" in refuse("robomimic", "two.hdf5")
    before = Reader(made_sets.ours(Path("ours/trajectories.h5"), episodes=2))
    give("robomimic", "out.hdf5")
    after = take("robomimic", "out.hdf5")
    assert [after.split(k) for k in (0, 1)] == [before.split(k) for k in (0, 1)] == ["eval", "train"]


def test_masks_that_name_valid_alone_are_no_splits(capsys):
    path = made("robomimic")
    with h5py.File(path, "r+") as file:
        del file["mask"]
        file["mask/valid"] = np.array([f"demo_{k}" for k in range(4)], "S8")
    assert len(take("robomimic", path).episodes("train")) == 2
    assert "splits, drawn, since the data set has val alone: train 2, val 1, eval 1" in capsys.readouterr().out


@NEEDS_ARROW
def test_a_set_whose_episodes_are_all_left_out_is_refused_with_a_reason():
    import pyarrow
    import pyarrow.parquet

    path = made("lerobot")
    file = Path(path, "meta/episodes/chunk-000/file-000.parquet")
    rows = pyarrow.parquet.read_table(file).to_pydict()
    rows["length"] = [-5] * len(rows["length"])
    pyarrow.parquet.write_table(pyarrow.table(rows), file)
    assert "none of the 3 trajectories in set can be used: " in refuse("lerobot", path)


# --- one odd episode


def put(path: str, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Changes a dataset of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        rows = file[name][()]
        del file[name]
        if (changed := change(rows)) is not None:
            file[name] = changed


def spoil(rows: np.ndarray, value: float = np.nan) -> np.ndarray:
    spoiled = rows.astype(np.float64)
    spoiled[1] = value
    return spoiled


ODD_DEMOS: dict[str, tuple[str, Callable[[np.ndarray], Any], str]] = {
    "nan in state": ("states", spoil, "numbers in state that are not finite numbers (first in frame 1)"),
    "infinite truth": ("obs/object", lambda rows: spoil(rows, np.inf), "numbers in truth that are not finite"),
    "truth beyond float32": ("obs/object", lambda rows: spoil(rows, 1e300), "numbers in truth that are not finite"),
    "nan in proprio": ("obs/robot0_eef_pos", spoil, "that are not finite numbers"),
    "infinite reward": ("rewards", lambda rows: spoil(rows, np.inf), "numbers in reward that are not finite"),
    "infinite action": ("actions", lambda rows: spoil(rows, np.inf), "actions that are not finite numbers"),
    "action beyond float32": ("actions", lambda rows: spoil(rows, 1e300), "actions that are not finite numbers"),
    "complex actions": ("actions", lambda rows: rows.astype(complex), "actions of type complex128 and shape [6, 3]"),
    "zero-width actions": ("actions", lambda rows: rows[:, :0], "actions of type float64 and shape [6, 0]"),
    "actions of words": ("actions", lambda rows: np.full(rows.shape, b"x"), "actions of type |S1"),
    "wider actions": ("actions", lambda rows: np.repeat(rows, 2, 1), "actions of 6 numbers, those before it 3"),
    "wider state": ("states", lambda rows: np.repeat(rows, 2, 1), "states of 10 numbers, and the first episode has 5"),
    "wider truth": ("obs/object", lambda rows: rows[:, :2], "object of 2 numbers, and the first episode has 4"),
    "complex state": ("states", lambda rows: rows.astype(complex), "states of type complex128"),
    "a single value": ("states", lambda rows: 3.0, "states is a single value"),
    "an empty dataset": ("rewards", lambda rows: h5py.Empty("f8"), "rewards is empty"),
    "no observations": ("obs", lambda rows: None, "has no obs"),
    "no rows": ("actions", lambda rows: rows[:0], "and 7 rows of"),
    "one row": ("actions", lambda rows: rows[:1], "and 7 rows of"),
    "wide rewards": ("rewards", lambda rows: np.stack([rows, rows], 1), "reward of 2 numbers"),
    "float pictures": ("obs/agentview_image", lambda rows: rows * 1.0, "agentview_image is float64 from "),
    "channels first": ("obs/agentview_image", lambda rows: rows.transpose(0, 3, 1, 2), "[3, 32, 32], channels first"),
    "few pictures": ("obs/agentview_image", lambda rows: rows[:4], "declares"),
    "a link that leads nowhere": ("obs/object", lambda rows: h5py.SoftLink("/none"), "a link that leads nowhere"),
    "an end in the middle": ("timeouts", lambda rows: None, "ends by timeouts after step 3 of 6"),
}


# The first demonstration that can be read decides about widths and cameras, so these cases are odd in a later one.
ODD_LATER = ("wide", "zero", "float", "channels", "no r", "one r", "a link")
LATER = [case for case in ODD_DEMOS if case.startswith(ODD_LATER)]


@pytest.mark.parametrize(
    ("case", "demo"),
    [(case, demo) for case in ODD_DEMOS for demo in ("demo_0", "demo_2") if demo == "demo_2" or case not in LATER],
)
def test_one_odd_demonstration_is_left_out_named_and_counted(case, demo, capsys):
    made_sets.robomimic(Path("set.hdf5"), demos=5)
    name, change, says = ODD_DEMOS[case]
    with h5py.File("set.hdf5", "r+") as file:
        del file["mask"]
        if name == "obs":
            del file[f"data/{demo}/obs"]
        if name == "timeouts":
            file[f"data/{demo}/timeouts"] = np.arange(7) == 2
    if name not in ("obs", "timeouts"):
        put("set.hdf5", f"data/{demo}/{name}", change)
    assert len(take("robomimic", "set.hdf5").episodes()) == 4
    said = capsys.readouterr().err
    assert "left out 1: " in said and says in said and demo in said, said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e.attrs.update(seed="many"), "episode_1 has seed=many: it must be a valid integer"),
        (lambda e: e.attrs.update(seed=2.5), "episode_1 has seed=2.5"),
        (lambda e: e.pop("actions"), "has no actions"),
        (lambda e: e.pop("observations"), "has no observations"),
        (lambda e: e["rewards"].write_direct(np.full(3, np.inf)), "numbers in reward that are not finite"),
        (lambda e: e["truncations"].write_direct(np.ones(3, bool)), "ends by truncations after step 1 of 3"),
        (lambda e: e["observations/arm/pos"].write_direct(np.full((4, 3), np.nan)), "that are not finite"),
    ],
)
def test_one_odd_episode_of_minari_is_left_out_named_and_counted(change, says, capsys):
    path = made("minari", lengths=LONGER)
    with h5py.File(f"{path}/data/main_data.hdf5", "r+") as file:
        change(file["episode_1"])
    assert len(take("minari", path, fps=5).episodes()) == 4
    said = capsys.readouterr().err
    assert "left out 1: " in said and says in said, said


def test_an_episode_without_a_seed_is_read():
    path = made("minari")
    with h5py.File(f"{path}/data/main_data.hdf5", "r+") as file:
        file["episode_1"].attrs["seed"] = "None"
        del file["episode_2"].attrs["seed"]
    assert [take("minari", path, fps=5).seed(k) for k in range(3)] == [40, -1, -1]


def test_timeouts_end_episodes_of_ogbench_and_are_no_state():
    path = made("ogbench")
    columns = dict(np.load(path))
    columns["timeouts"] = columns["terminals"].copy()
    columns["terminals"] = np.zeros(15, np.float32)
    columns["timeouts"][11] = True
    np.savez(path, **columns)
    Path("visual-maze-v0-val.npz").unlink()
    file = take("ogbench", path, fps=10)
    assert sorted(file.lengths(file.episodes()).tolist()) == [2, 3, 4, 6]
    assert file.info.truth_names == file.info.truth_names and not any("timeouts" in n for n in file.info.truth_names)
    columns["timeouts"] = np.zeros((15, 2))
    np.savez(path, **columns)
    assert "has timeouts of float64 [15, 2]: a flag a row is needed" in refuse("ogbench", path)


def test_widths_are_compared_while_reading_and_an_unfinished_import_is_refused(capsys):
    made_sets.robomimic(Path("set.hdf5"), demos=10)
    put("set.hdf5", "data/demo_4/obs/object", lambda rows: rows[:, :2])
    assert cli.main(["import", "format=robomimic", "path=set.hdf5", "name=x"]) == 0
    assert "left out 1: set.hdf5/demo_4 has object of 2 numbers" in capsys.readouterr().err
    assert len(Reader("runs/import/x/trajectories.h5").episodes()) == 9
    Path("runs/import/x/finished.json").unlink()
    for data in ("runs/import/x", "runs/import/x/trajectories.h5"):
        assert cli.main(["export", f"data={data}", "format=ogbench", "to=y.npz"]) == 1
        assert "runs/import/x is an import that is not finished" in capsys.readouterr().err


# --- files that reach out, or ask for too much


def test_hdf5_that_points_at_other_files_is_refused():
    path = made("robomimic")
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1"].create_dataset("actions", (7, 3), "u1", external=[("/etc/passwd", 0, 21)])
    assert "data/demo_1/actions is stored in another file (/etc/passwd)" in refuse("robomimic", path)
    path = made("minari")
    with h5py.File(f"{path}/data/main_data.hdf5", "r+") as file:
        file["episode_0/infos/more"] = h5py.ExternalLink("../../set.hdf5", "/data")
    assert "episode_0/infos/more is a link to another file" in refuse("minari", path)


def test_groups_within_groups_without_end_are_refused():
    path = made("minari")
    with h5py.File(f"{path}/data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            episode["observations/arm/again"] = episode["observations"]
    assert "groups within groups without end" in refuse("minari", path)


@pytest.mark.parametrize("format", ["robomimic", "ogbench"])
def test_a_link_in_the_folder_that_leads_out_and_a_pipe_are_refused(format):
    path = Path(made(format))
    Path("sets").mkdir()
    os.mkfifo(f"sets/pipe{path.suffix}")
    assert f"sets/pipe{path.suffix} is a pipe, a socket or a device" in refuse(format, "sets")
    assert "neither a file nor a folder" in refuse(format, f"sets/pipe{path.suffix}")
    Path(f"sets/pipe{path.suffix}").unlink()
    Path(f"sets/link{path.suffix}").symlink_to(path.resolve())
    assert f"sets names link{path.suffix}, which leads out of sets" in refuse(format, "sets")


def test_an_npz_is_not_loaded_where_its_members_do_not_fit_and_others_are_never_loaded(monkeypatch):
    path = made("ogbench")
    columns = dict(np.load(path))
    np.savez_compressed(path, **columns, junk=np.zeros((3, 10**7)))
    monkeypatch.setattr(checks, "measure_memory", lambda: 2**20)
    loaded, load = [], np.lib.format.read_array
    monkeypatch.setattr("data.formats.ogbench.npy.read_array", lambda *a, **k: loaded.append(1) or load(*a, **k))
    assert len(take("ogbench", path, fps=10).episodes()) == 6 and loaded
    monkeypatch.setattr(checks, "measure_memory", lambda: 16)
    assert "visual-maze-v0.npz: terminals needs 0.0 MiB of memory" in refuse("ogbench", path)


def test_an_npz_that_declares_other_than_it_holds_is_refused():
    path = Path(made("ogbench"))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header, rows = io.BytesIO(), members["actions.npy"][-180:]
    shape = (99999999999, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for content, says in (
        (header.getvalue() + rows, "actions.npy declares float32 [99999999999, 3], 1199999999988 bytes, and holds 180"),
        (members["actions.npy"].replace(b"(15, 3), }", b"(15, 3), {"), "holds something that is no npy array"),
        (members["actions.npy"][:-3], "180 bytes, and holds 177"),
        (b"words", "holds something that is no npy array"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, member in {**members, "actions.npy": content, "readme.txt": b"words"}.items():
                archive.writestr(name, member)
        assert says in refuse("ogbench", str(path))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"actions": np.zeros(())}, "has 0 actions and"),
        ({"observations": np.zeros((15, 32, 32, 3), np.int32)}, "observations is int32 [32, 32, 3]: save it as uint8"),
        ({"observations": np.zeros((15, 3, 32, 32), np.uint8)}, "observations is uint8 [3, 32, 32], channels first"),
        ({"terminals": np.full(15, "x")}, "has terminals of <U1 [15]"),
        ({"actions": np.zeros((15, 3), complex)}, "actions of type complex128"),
    ],
)
def test_odd_members_of_an_npz_are_named_with_type_and_shape(members, says):
    path = made_sets.ogbench(Path("set.npz"), val=False)
    np.savez(path, **{**np.load(path), **members})
    assert says in refuse("ogbench", "set.npz")


# --- facts of another type


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (3, "set.hdf5, env_args, is no JSON"),
        ("[1]", "set.hdf5, env_args, is [1], and a JSON object"),
        ({"env_name": 3, "env_kwargs": {}}, "set.hdf5, env_args, has env_name=3"),
        ({"env_name": "Lift"}, "set.hdf5, env_args, has no env_kwargs"),
        ({"env_name": "Lift", "env_kwargs": None}, "has env_kwargs=None"),
        *(
            (
                {"env_name": "Lift", "env_kwargs": {"control_freq": freq}},
                "set.hdf5, env_args, has env_kwargs.control_freq",
            )
            for freq in (0, -1, float("nan"), float("inf"), [20], "fast", 1e-300)
        ),
    ],
)
def test_wrong_facts_of_robomimic_are_refused_by_field_and_value(args, says):
    path = made("robomimic")
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = args if isinstance(args, int | str) else json.dumps(args)
    assert says in refuse("robomimic", path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([1], "metadata.json is [1], and a JSON object"),
        ({"action_space": json.dumps([1])}, "metadata.json: action_space|metadata.json has action_space"),
        ({"action_space": "words"}, "metadata.json has action_space=words: its text is no JSON"),
        ({"observation_space": json.dumps({"shape": "wide", "dtype": "uint8"})}, "observation_space"),
        ({"observation_space": json.dumps({"shape": [3], "dtype": "pixels"})}, "it is no type of numpy"),
        ({"observation_space": None}, "has observation_space=None"),
        ({"env_spec": json.dumps({"kwargs": {}})}, "has no env_spec.id"),
        ({"env_spec": json.dumps({"id": "A-v0", "kwargs": 3})}, "has env_spec.kwargs=3"),
        ({"data_format": 3}, "has data_format=3"),
        *(
            ({"action_space": json.dumps({"type": "Box", "low": low, "high": high})}, "action_space has")
            for low, high in (([np.nan] * 3, [1] * 3), ([1] * 3, [-1] * 3), ([1] * 3, [1] * 3), ([-1], [1] * 3))
        ),
        ({"action_space": json.dumps({"low": "a", "high": "b"})}, "bounds that are no numbers"),
    ],
)
def test_wrong_facts_of_minari_are_refused_by_field_and_value(changes, says):
    path = made("minari")
    file = Path(path, "data/metadata.json")
    content = json.loads(file.read_text()) | changes if isinstance(changes, dict) else changes
    file.write_text(json.dumps(content))
    said = refuse("minari", path)
    assert any(part in said for part in says.split("|")), said


def test_a_minari_set_without_a_specification_is_named_by_its_id():
    made_sets.minari(Path("set"), env_spec=None)
    assert take("minari", "set", fps=5).info.env_id == "minari/arm/reach-v0"


def change_info(path: str, **changes: Any) -> None:
    file = Path(path, "meta/info.json")
    info = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = info
        for parent in parents:
            target = target[parent.replace("FRONT", "observation.images.front")]
        target[last] = value
        if value == "gone":
            del target[last]
    file.write_text(json.dumps(info))


@NEEDS_ARROW
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fps": None}, "info.json has fps=None"),
        ({"fps": 0}, "info.json has fps=0"),
        ({"fps": 1e-300}, "info.json has fps=1e-300"),
        ({"features": []}, "info.json, features, has no action|has features=[]"),
        ({"features__FRONT__dtype": "gone"}, "info.json has no features.observation.images.front.dtype"),
        ({"features__FRONT__shape": "gone"}, "info.json has no features.observation.images.front.shape"),
        ({"features__FRONT__shape": [24, 0, 3]}, "features.observation.images.front.shape.1=0"),
        ({"features__action__shape": "wide"}, "features.action.shape=wide"),
        ({"robot_type": 3}, "has robot_type=3"),
        ({"data_path": 3}, "has data_path=3"),
        ({"video_path": None}, "info.json has no video_path"),
        ({"data_path": "/etc/passwd"}, "info.json, data_path, names /etc/passwd, which leads out of set"),
        ({"data_path": "../x-{chunk_index}-{file_index}"}, "names ../x-0-0, which leads out of set"),
        ({"video_path": "../{video_key}.mp4"}, "which leads out of set"),
        (
            {"data_path": "{chunk_index.__class__}"},
            "path template {chunk_index.__class__} with a field that is unknown",
        ),
        ({"data_path": "{chunk_index:9999999999d}"}, "with a field that is unknown: only {chunk_index:03d}"),
        (
            {"data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"},
            "is the layout of v2.1, with a file for every episode: LeRobot's convert_dataset_v21_to_v30 script",
        ),
    ],
)
def test_wrong_facts_of_lerobot_are_refused_by_field_and_value_before_anything_is_written(changes, says):
    change_info(made("lerobot"), **changes)
    said = refuse("lerobot", "set")
    assert any(part in said for part in says.split("|")), said
    assert not Path("x").exists()


def change_table(file: str, **columns: Any) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file).to_pydict()
    for name, change in columns.items():
        name = (
            name.replace("__", "/").replace("FRONT", "observation.images.front").replace("STATE", "observation.state")
        )
        table[name] = change(table[name])
    pyarrow.parquet.write_table(pyarrow.table(table), file)


EPISODES, TABLE = "set/meta/episodes/chunk-000/file-000.parquet", "set/data/chunk-000/file-001.parquet"


def second(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [rows[0], value, *rows[2:]]


@NEEDS_ARROW
@pytest.mark.parametrize(
    ("file", "columns", "says"),
    [
        (EPISODES, {"videos__FRONT__from_timestamp": second(-5.0)}, "front, has from_timestamp=-5.0"),
        (EPISODES, {"videos__FRONT__from_timestamp": second(float("nan"))}, "front, has from_timestamp=nan"),
        (
            EPISODES,
            {"videos__FRONT__from_timestamp": second(500.0), "videos__FRONT__to_timestamp": second(500.4)},
            "before set/episode_1 does",
        ),
        (EPISODES, {"videos__FRONT__to_timestamp": second(0.7)}, "has 4 rows, and 1.0 frames of observation"),
        (EPISODES, {"length": second(0)}, "row 1 has length=0"),
        (EPISODES, {"length": second(None)}, "row 1 has length=None"),
        (EPISODES, {"data__file_index": second(-1)}, "row 1 has data/file_index=-1"),
        (TABLE, {"STATE": second([1.0, 2.0, 3.0])}, "has observation.state of 2 to 3 numbers"),
        (TABLE, {"STATE": second([float("nan")] * 2)}, "that are not finite numbers (first in frame 1)"),
        (TABLE, {"STATE": second(None)}, "has 1 rows of observation.state without a value"),
        (TABLE, {"timestamp": second(float("nan"))}, "has time stamps that are not finite"),
    ],
)
def test_one_odd_episode_of_lerobot_is_left_out_named_and_counted(file, columns, says, capsys):
    made("lerobot", lengths=LONGER)
    change_table(file, **columns)
    assert len(take("lerobot", "set").episodes()) == 4
    said = capsys.readouterr().err
    assert "left out 1: " in said and says in said, said


@NEEDS_ARROW
def test_pictures_of_lerobot_are_read_from_the_set_alone(capsys):
    made("lerobot", video=False, lengths=LONGER)
    Path("secret.png").write_bytes(made_sets.coded(np.zeros((24, 32, 3), np.uint8), "PNG"))

    def point(cell: dict[str, Any]) -> Callable[[list[Any]], list[Any]]:
        return lambda rows: [rows[0], cell, *rows[2:]]

    os.mkfifo("set/pipe.png")
    for path in ("../secret.png", str(Path("secret.png").resolve()), "pipe.png", "none.png"):
        shutil.copytree("set", "copy", ignore=shutil.ignore_patterns("pipe.png"))
        os.mkfifo("copy/pipe.png")
        change_table("copy/data/chunk-000/file-001.parquet", FRONT=point({"bytes": None, "path": path}))
        take("lerobot", "copy", folder=f"out{len(path)}")
        said = capsys.readouterr().err
        assert "left out 1: " in said and any(w in said for w in ("leads out of copy", "is a pipe", "is not there")), (
            said
        )
        shutil.rmtree("copy")


@NEEDS_ARROW
def test_metadata_of_a_droid_trajectory_that_are_a_link_out_of_it_are_not_read(capsys):
    write_example(Path("arms"), 4, 30, (32, 48))
    metadata = Path("arms/trajectory_001/metadata_trajectory_001.json")
    metadata.rename("elsewhere.json")
    metadata.symlink_to("../../elsewhere.json")
    assert len(take("droid", "arms").episodes()) == 3
    said = capsys.readouterr().err
    assert f"arms/trajectory_001 names {metadata.name}, which leads out of arms/trajectory_001" in said


def test_a_video_or_table_that_is_a_link_out_of_the_set_or_a_pipe_is_refused(capsys):
    for name in ("videos/observation.images.front/chunk-000/file-000.mp4", "data/chunk-000/file-001.parquet"):
        made("lerobot", lengths=LONGER)
        file = Path("set", name)
        file.rename("elsewhere")
        file.symlink_to(Path("elsewhere").resolve())
        assert "leads out of set" in refuse("lerobot", "set")
        file.unlink()
        os.mkfifo(file)
        assert "is a pipe" in refuse("lerobot", "set")
        for folder in ("set", "x"):
            shutil.rmtree(folder, ignore_errors=True)


# --- DROID


@pytest.fixture
def arms():
    write_example(Path("arms"), 4, 45, (32, 48))
    return Path("arms/trajectory_001")


def test_paths_with_backslashes_and_float_seconds_are_read(arms):
    plain = take("droid", "arms", folder="plain")
    metadata = next(arms.glob("metadata*.json"))
    content = json.loads(metadata.read_text())
    content["left_mp4_path"] = "D:\\robot\\recordings\\MP4\\" + Path(content["left_mp4_path"]).name
    metadata.write_text(json.dumps(content))
    clock = "observation/timestamp/robot_state/robot_timestamp_"
    with h5py.File(arms / "trajectory.h5", "r+") as file:
        seconds = file[f"{clock}seconds"][()] + file[f"{clock}nanos"][()] * 1e-9
        del file[f"{clock}seconds"]
        file[f"{clock}seconds"] = seconds
    again = take("droid", "arms", folder="again")
    np.testing.assert_allclose(again.column("time_s", 1), plain.column("time_s", 1), atol=1e-5)
    with h5py.File(arms / "trajectory.h5", "r+") as file:
        del file["observation/timestamp"]
        file["observation/timestamp/control/step_start"] = seconds
    alone = take("droid", "arms", folder="alone")
    np.testing.assert_allclose(alone.column("time_s", 1), plain.column("time_s", 1), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"left_mp4_path": 3}, "has left_mp4_path=3"),
        ({"left_mp4_path": None}, "names no left_mp4_path"),
        ({"left_mp4_path": "x/.."}, "leads out of arms/trajectory_001"),
        ({"left_mp4_path": ""}, "names no left_mp4_path"),
        ([1], "is [1], and a JSON object"),
    ],
)
def test_odd_metadata_leave_a_trajectory_out(arms, content, says, capsys):
    next(arms.glob("metadata*.json")).write_text(json.dumps(content))
    assert len(take("droid", "arms").episodes()) == 3
    said = capsys.readouterr().err
    assert "left out 1: " in said and says in said, said


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("robot_state/cartesian_position", lambda rows: rows.astype(complex), "of type complex128"),
        ("robot_state/cartesian_position", lambda rows: rows[:, :5], "of shape [45, 5]: a row of 6 numbers"),
        ("robot_state/gripper_position", lambda rows: rows[:-3], "45 frames and 42 rows of observation/robot_state"),
        ("robot_state/gripper_position", spoil, "poses that are not finite numbers"),
        ("camera_extrinsics/12345678_left", lambda rows: rows * np.nan, "numbers in extrinsics that are not finite"),
        ("camera_extrinsics/12345678_left", lambda rows: rows[:, :4], "of 4 numbers"),
    ],
)
def test_odd_columns_leave_a_trajectory_out(arms, name, change, says, capsys):
    put(str(arms / "trajectory.h5"), f"observation/{name}", change)
    assert len(take("droid", "arms").episodes()) == 3
    said = capsys.readouterr().err
    assert "left out 1: " in said and says in said, said


# --- keys


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"least_frames": -1}, "least_frames=-1 is out of range: it must be at least 2"),
        ({"least_frames": 1}, "least_frames=1 is out of range: it must be at least 2"),
        ({"fps": 1e-300}, "fps=1e-300: give a rate above 0, 0.001 to 100000 frames a second"),
        ({"fps": float("nan")}, "fps=nan: fps must be a finite number"),
        ({"fps": -2}, "fps=-2 is out of range: it must be above 0"),
        ({"size": 1.5}, "size=1.5: size must be a whole number"),
        ({"size": 10**9}, "size=1000000000 is out of range: it must be at most 4096"),
    ],
)
@pytest.mark.parametrize("format", ["minari", "droid"])
def test_a_number_out_of_range_is_refused_by_key_and_value(format, keys, says):
    if format == "minari":
        made("minari")
    else:
        write_example(Path("set"), 3, 30, (32, 48))
    assert says in refuse(format, "set", **{"fps": 10, **keys})
