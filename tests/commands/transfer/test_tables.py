"""Flat tables of stable-worldmodel: every number and picture as it was, and one sentence where one cannot be used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.formats import parquet
from data.formats.table import Table
from tests.commands.transfer.test_external import take
from tests.commands.transfer.test_odd_sets import refuse
from tests.data import made_sets

NEEDS_ARROW = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is an optional extra")
LENGTHS = made_sets.LENGTHS
STARTS = (0, 6, 10)
CODINGS = ["hdf5", *(pytest.param(name, marks=NEEDS_ARROW) for name in ("struct", "bytes", "lists"))]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(coding: str, columns: dict[str, np.ndarray] | None = None) -> str:
    """A table as a file of HDF5, or in two files of parquet that cut an episode in two; returns path=."""
    if coding == "hdf5":
        return str(made_sets.table(Path("set.h5"), columns))
    return str(made_sets.parquet_table(Path("set"), (8,), coding, columns))


@pytest.mark.parametrize("coding", CODINGS)
def test_every_number_and_picture_of_a_table_is_as_it_was(coding, capsys):
    source, path = made_sets.table_columns(), written(coding)
    file = take("table", path, fps=10)
    assert file.episodes().tolist() == [0, 1, 2] and file.info.env_id == "table/set"
    assert file.info.step_s == 0.1 and file.info.state_size == 4
    for episode, (start, frames) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        rows = slice(start, start + frames)
        np.testing.assert_array_equal(file.column("pixels", episode), source["pixels"][rows])
        np.testing.assert_array_equal(file.column("action", episode), source["action"][start : start + frames - 1])
        np.testing.assert_array_equal(file.column("state", episode), source["state"][rows])
        np.testing.assert_array_equal(file.column("truth", episode), source["state"][rows].astype(np.float32))
        np.testing.assert_array_equal(file.column("proprio", episode), source["proprio"][rows])
        rewards = source["reward"][start + 1 : start + frames].astype(np.float32)
        np.testing.assert_array_equal(file.column("reward", episode)[:-1], rewards)
    said = capsys.readouterr().out
    assert "state <- state (recorded); truth <- state; proprio <- proprio" in said
    assert "left out: goal_state\n" in said and "pixels <- pixels 32x32" in said


def test_columns_are_chosen_by_name():
    path = written("hdf5")
    file = take("table", path, fps=10, columns={"truth": ["proprio", "goal_state"], "proprio": []})
    assert file.info.truth_names[1:3] == ("proprio[1]", "goal_state[0]")
    assert "proprio" not in {column.name for column in file.info.columns}


def test_an_hdf5_table_with_episode_idx_alone_is_read_and_must_agree_with_ep_len():
    path, source = Path(written("hdf5")), made_sets.table_columns()
    with h5py.File(path, "r+") as file:
        file["ep_idx"] = source["episode_idx"] + 3
        del file["step_idx"], file["reward"]
    assert len(take("table", str(path), fps=10).episodes()) == 3
    with h5py.File(path, "r+") as file:
        file["ep_idx"][5] = 4
    assert "has episodes of other lengths by ep_idx than by ep_len" in refuse("table", str(path), fps=10)
    with h5py.File(path, "r+") as file:
        del file["ep_len"]
    assert "set.h5 has no step_idx (it has: action, ep_idx," in refuse("table", str(path), fps=10)
    with h5py.File(path, "r+") as file:
        file["step_idx"] = np.r_[0:5, 0:5, 0:5]  # as ep_idx has them now
        file["action"][:], file["terminated"][:] = 0, False
    file = take("table", str(path), "other", fps=10)
    assert [file.num_frames(episode) for episode in file.episodes()] == [5, 5, 5]


def change(name: str, row: int, value: object) -> dict[str, np.ndarray]:
    """The columns with one value changed."""
    columns = made_sets.table_columns()
    columns[name][row] = value
    return columns


@pytest.mark.parametrize("coding", ["hdf5", pytest.param("struct", marks=NEEDS_ARROW)])
@pytest.mark.parametrize(
    ("name", "row", "value", "says"),
    [
        ("step_idx", 2, 1, "episode_0 has step_idx 1 twice"),
        ("step_idx", 5, 7, "episode_0 has no step_idx 5: 7 follows 4"),
        ("step_idx", 3, 1, "episode_0 has step_idx 1 after 2: sort the rows by episode_idx and step_idx"),
        ("step_idx", 0, 4, "episode_0 begins with step_idx 4: rows before it are missing"),
        ("action", 2, np.nan, "episode_0 has actions that are not finite numbers (first in frame 2)"),
        ("action", 2, np.inf, "episode_0 has actions that are not finite numbers (first in frame 2)"),
        ("state", 4, np.nan, "episode_0 has numbers in state that are not finite numbers (first in frame 4)"),
        ("reward", 4, np.nan, "episode_0 has numbers in reward that are not finite numbers (first in frame 3)"),
        ("terminated", 2, True, "episode_0 ends by terminated after step 3 of 5"),
    ],
)
def test_one_odd_episode_leaves_too_few_and_is_named(coding, name, row, value, says):
    path = written(coding, change(name, row, value))
    assert says in refuse("table", path, fps=10)


def test_actions_kept_with_the_frame_they_led_to_are_refused():
    columns = made_sets.table_columns()
    ends = np.cumsum(LENGTHS) - 1
    columns["action"][ends] = 0
    columns["action"][list(STARTS)] = np.nan
    assert "move the column action one row up in each episode" in refuse("table", written("hdf5", columns), fps=10)


def test_columns_of_unequal_length_and_episodes_out_of_order_are_refused():
    path = written("hdf5")
    with h5py.File(path, "r+") as file:
        file["state"].resize(14, axis=0)
    assert "set.h5 has 15 rows of action and 14 of state" in refuse("table", path, fps=10)
    with h5py.File(path, "r+") as file:
        file["state"].resize(15, axis=0)
        file["ep_offset"][1] = 7
    assert "has ep_offset 7 of episode 1, and the episodes before it have 6 rows" in refuse("table", path, fps=10)
    with h5py.File(path, "r+") as file:
        file["ep_offset"][1], file["ep_len"][2] = 6, 4
    assert "set.h5 has 15 rows, and 14 by ep_len" in refuse("table", path, fps=10)
    with h5py.File(path, "r+") as file:
        del file["ep_len"], file["ep_offset"]
    says = (
        "set.h5 has no episode_idx (it has: action, goal_state, id, pixels, proprio, reward, state, step_idx, terminat"
    )
    assert says in refuse("table", path, fps=10)
    with h5py.File(path, "r+") as file:
        file["episode_idx"] = np.repeat([0, 2, 1], LENGTHS)
    says = "set.h5: row 10 has episode_idx 1 after 2: sort the rows by episode_idx and step_idx"
    assert says in refuse("table", path, fps=10)
    with h5py.File(path, "r+") as file:
        del file["episode_idx"]
        file["episode_idx"] = np.repeat([0.0, 1.0, 2.0], LENGTHS)
    assert "episode_idx is float64 [15]: a whole number a row is needed" in refuse("table", path, fps=10)


def test_a_table_of_another_kind_is_refused():
    path = Path(written("hdf5"))
    assert "format=table records no rate: give fps=" in refuse("table", str(path), fps=None)
    (path.rename("all.hdf5").parent / "more.h5").write_bytes(b"")
    assert ". holds 2 tables (all.hdf5, more.h5), and an HDF5 table is one file" in refuse("table", ".", fps=10)
    assert "more.h5 cannot be read as HDF5" in refuse("table", "more.h5", fps=10)
    Path("set.csv").write_text("episode_idx,step_idx\n")
    assert "set.csv is no table: give a file ending in .h5, .hdf5, .parquet" in refuse("table", "set.csv", fps=10)
    with h5py.File("all.hdf5", "r+") as file:
        del file["action"]
    assert "all.hdf5 has no action (it has: goal_state, id, pixels," in refuse("table", "all.hdf5", fps=10)


@NEEDS_ARROW
def test_parquet_files_in_the_wrong_order_are_refused_by_both_names():
    path = made_sets.parquet_table(Path("set"), (6, 10))
    Path("set/part-00.parquet").rename("set/part-10.parquet")
    says = (
        "set/part-10.parquet begins with episode_idx 0, and part-02.parquet, which is before it by name, ends with 2: "
        "name the files in the order of their episodes (part-02, part-10)"
    )
    assert says in refuse("table", str(path), fps=10)


@NEEDS_ARROW
@pytest.mark.parametrize("coding", ["struct", "bytes", "lists"])
def test_a_picture_of_another_size_in_the_middle_leaves_its_episode_out(coding, capsys):
    columns = made_sets.table_columns((6, 4, 5, 6))
    path = made_sets.parquet_table(Path("set"), (8,), coding, columns)
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path / "part-01.parquet")
    cells, small = table["pixels"].to_pylist(), columns["pixels"][10, :16, :24]
    encoded = made_sets.coded(small, "PNG")
    cells[4] = {"struct": {"bytes": encoded, "path": None}, "bytes": encoded, "lists": small.tolist()}[coding]
    changed = table.set_column(table.column_names.index("pixels"), "pixels", pyarrow.array(cells, table["pixels"].type))
    pyarrow.parquet.write_table(changed, path / "part-01.parquet", row_group_size=3)
    assert take("table", str(path), fps=10, seed=1).episodes().tolist() == [0, 1, 3]
    sizes = {"lists": "has pixels of 16 to 32 numbers: one width is needed"}
    says = sizes.get(coding, "has pixels of 16x24 and 32x32 pixels (height x width), first in row 2")
    assert f"set/episode_2 {says}" in capsys.readouterr().err


@NEEDS_ARROW
def test_odd_cells_of_parquet_are_refused_by_name():
    import pyarrow
    import pyarrow.parquet

    path = str(made_sets.parquet_table(Path("set"), ()))
    file = Path("set/part-00.parquet")
    table = pyarrow.parquet.read_table(file)

    def replace(name: str, cells: object) -> str:
        index = table.column_names.index(name)
        pyarrow.parquet.write_table(table.set_column(index, name, pyarrow.array(cells)), file)
        return refuse("table", path, fps=10)

    assert "set has no episode_idx (it has:" in replace("episode_idx", ["a"] * 15)
    assert "set has 1 rows of step_idx without a value" in replace("step_idx", [*range(14), None])
    widths = [[0.0, 1.0, 2.0]] * 14 + [[0.0]]
    assert "set/episode_2 has action of 1 to 3 numbers: one width is needed" in replace("action", widths)
    assert "set/episode_1 has state of shape [2], and the first row has [4]" in replace(
        "state", [[0.0] * 4] * 6 + [[0.0] * 2] * 4 + [[0.0] * 4] * 5
    )
    assert "set: pixels cannot be read as an image" in replace("pixels", [b"no picture"] * 15)
    outside = [{"bytes": None, "path": "../secret.png"}] * 15
    assert "set pixels names ../secret.png, which leads out of set" in replace("pixels", outside)
    file.write_bytes(file.read_bytes()[:300])
    assert "part-00.parquet cannot be read as parquet, or is cut short" in refuse("table", path, fps=10)


@NEEDS_ARROW
def test_rows_of_parquet_are_equal_in_any_order_of_reading_and_no_row_is_read_twice_forward(monkeypatch):
    monkeypatch.setattr(parquet, "NUMBER_ROWS", 2)
    source, path = made_sets.table_columns(), made_sets.parquet_table(Path("set"), (3, 8))
    table = Table(path).table
    assert isinstance(table, parquet.ParquetTable)
    for start, stop in ((0, 4), (4, 9), (12, 15), (1, 15), (9, 10), (0, 15), (14, 15)):
        np.testing.assert_array_equal(table.read("state", start, stop, "x"), source["state"][start:stop])
    stream, begun = table._streams["state"], []
    iterate = stream._iterate
    monkeypatch.setattr(stream, "_iterate", lambda first: begun.append(first) or iterate(first))
    for start in range(15):
        table.read("state", start, start + 1, "x")
    assert begun == [0]


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(monkeypatch):
    path = written("hdf5")
    monkeypatch.setattr("data.checks.measure_memory", lambda: 15_000)
    assert "set.h5/episode_2 pixels needs 0.0 MiB of memory" in refuse("table", path, fps=10)


def test_a_filter_that_h5py_has_not_is_named(monkeypatch):
    path = Path(written("hdf5"))
    with h5py.File(path, "r+") as file:
        rows = file["state"][:]
        del file["state"]
        file.create_dataset("state", data=rows, compression="gzip")
    monkeypatch.setattr("data.formats.table.h5py.h5z.filter_avail", lambda number: False)
    monkeypatch.setattr("data.formats.table.FILTER_NAMES", "no_such_package")
    assert "set.h5 state is compressed by HDF5's filter 1, which h5py has not" in refuse("table", str(path), fps=10)
