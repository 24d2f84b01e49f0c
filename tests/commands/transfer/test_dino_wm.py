"""Data sets of DINO-WM: every number and picture as it was, and one sentence where one cannot be used."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from commands.shared.errors import explain
from data.formats import tensors
from data.formats.files import ExternalError
from tests.commands.transfer.test_external import take
from tests.commands.transfer.test_odd_sets import refuse
from tests.data import made_sets

LENGTHS = made_sets.LENGTHS


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def maze() -> str:
    """One folder, with frames as tensors; returns path=."""
    return str(made_sets.dino_wm(Path("set"), video=False))


def test_every_number_and_frame_is_as_it_was_and_padding_is_not_read(capsys):
    file = take("dino_wm", maze(), fps=10)
    states, actions = (torch.load(f"set/{name}.pth").numpy() for name in ("states", "actions"))
    assert np.isnan(states[1, 4:]).all() and file.info.env_id == "dino_wm/set"
    for episode, frames in enumerate(LENGTHS):
        shown = torch.load(f"set/obses/episode_{episode:03d}.pth").numpy()
        assert len(shown) == 6
        np.testing.assert_array_equal(file.column("pixels", episode), shown[:frames])
        np.testing.assert_array_equal(file.column("state", episode), states[episode, :frames])
        np.testing.assert_array_equal(file.column("truth", episode), states[episode, :frames])
        np.testing.assert_array_equal(file.column("action", episode), actions[episode, : frames - 1])
    assert "state <- states (recorded); truth <- states; proprio <- nothing" in capsys.readouterr().out


def test_videos_lengths_as_a_list_and_the_folders_train_and_val(capsys):
    made_sets.dino_wm(Path("set"))
    file = take("dino_wm", "set", fps=10, columns={"proprio": ["velocities"]})
    assert [file.split(episode) for episode in range(3)] == ["train"] * 3
    assert sorted(file.split(episode) for episode in range(3, 6)).count("train") == 0
    said = capsys.readouterr().out
    assert "state <- states, velocities (recorded)" in said and "left out: abs_actions" in said
    part = {name: torch.load(f"set/val/{name}.pth").numpy() for name in ("states", "velocities", "rel_actions")}
    expected = np.concatenate([part["states"][2, :5], part["velocities"][2, :5]], 1)
    np.testing.assert_array_equal(file.column("state", 5), expected)
    np.testing.assert_array_equal(file.column("proprio", 5), part["velocities"][2, :5])
    np.testing.assert_array_equal(file.column("action", 5), part["rel_actions"][2, :4])
    rng = np.random.default_rng(7)
    for _ in ("states", "rel_actions", "abs_actions", "velocities"):
        rng.normal(size=(3, 6, {"states": 5}.get(_, 2)))
    shown = made_sets.pictures(rng, 6)
    assert file.num_frames(0) == 6
    assert np.abs(file.column("pixels", 0).astype(int) - shown).mean() < 4  # H.264


@pytest.mark.parametrize("kind", ["float", "channels first", "16 bits"])
def test_frames_of_another_type_or_order_are_equal(kind):
    path = maze()
    before = take("dino_wm", path, "before", fps=10)
    for file in Path("set/obses").iterdir():
        frames = torch.load(file)
        changed = {"float": frames.float(), "channels first": frames.permute(0, 3, 1, 2), "16 bits": frames.short()}
        torch.save(changed[kind].contiguous(), file)
    after = take("dino_wm", path, "after", fps=10)
    for episode in range(3):
        np.testing.assert_array_equal(after.column("pixels", episode), before.column("pixels", episode))


def test_without_lengths_all_steps_are_read_and_locations_of_the_wall_are_state():
    path = maze()
    os.remove("set/seq_lengths.pth")
    states = torch.load("set/states.pth").nan_to_num(0)
    torch.save(states, "set/states.pth")
    torch.save(torch.load("set/actions.pth").nan_to_num(0), "set/actions.pth")
    torch.save(torch.arange(18.0).reshape(3, 6, 1), "set/wall_locations.pth")
    file = take("dino_wm", path, fps=10)
    assert [file.num_frames(episode) for episode in range(3)] == [6, 6, 6]
    assert file.info.truth_names[-1] == "wall_locations"
    np.testing.assert_array_equal(file.column("state", 1)[:, 4], np.arange(6.0, 12.0))


def save(name: str, value: object) -> None:
    torch.save(value, f"set/{name}.pth")


def pack(path: str) -> None:
    """Compress the members of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


ROWS = torch.zeros(3, 6, 2)
FAULTS = [
    (lambda: save("actions", ROWS[:2]), "states.pth has 3 episodes, and set/actions.pth has 2"),
    (lambda: save("actions", ROWS[:, :5]), "states.pth has 6 steps, and set/actions.pth has 5"),
    (lambda: save("velocities", ROWS[:, :4]), "states.pth has 6 steps, and set/velocities.pth has 4"),
    (
        lambda: save("seq_lengths", torch.tensor([6, 4])),
        "seq_lengths.pth has 2 episodes, and set/states.pth has 3",
    ),
    (lambda: save("seq_lengths", torch.tensor([6, 9, 5])), "says 9 steps of episode 1, and set/states.pth has 6"),
    (lambda: save("seq_lengths", torch.tensor([6, 0, 5])), "says 0 steps of episode 1, and set/states.pth has 6"),
    (lambda: save("seq_lengths", torch.tensor([6, 4.5, 5])), "a whole number an episode is needed"),
    (lambda: save("states", {"states": ROWS}), "states.pth holds a dict, and a tensor is needed"),
    (lambda: save("states", ROWS.to_sparse()), "real numbers are needed"),
    (lambda: save("states", ROWS + 1j), "real numbers are needed"),
    (lambda: save("states", torch.zeros(3)), "states.pth is [3]: [episodes, steps, numbers] is needed"),
    (lambda: save("states", Path("x")), "states.pth holds Python objects, which are never unpickled"),
    (lambda: Path("set/states.pth").write_bytes(b"PK"), "states.pth is no complete file of torch.save"),
    (lambda: pack("set/states.pth"), "states.pth is a compressed archive, which torch.save never writes"),
    (lambda: os.remove("set/actions.pth"), "set has no rel_actions.pth, actions.pth, abs_actions.pth: one of them"),
    (lambda: os.remove("set/states.pth"), "path=set is no DINO-WM data set: there is no states.pth in it"),
    (lambda: save("states", ROWS.index_fill(1, torch.tensor(2), torch.nan)), "states that are not finite numbers"),
    (
        lambda: save("obses/episode_007", ROWS),
        "episode_007.pth is of episode 7 (from 0), and states.pth has 3 episodes",
    ),
    (lambda: os.remove("set/obses/episode_001.pth"), "episode_001.mp4 is not there, nor as .pth"),
]


@pytest.mark.parametrize(("spoil", "says"), FAULTS, ids=[says[:40] for _, says in FAULTS])
def test_files_that_disagree_are_named_with_their_numbers(spoil, says):
    path = maze()
    spoil()
    found = refuse("dino_wm", path, fps=10)
    assert says.replace("states that", "numbers in state that") in found or says in found, found


ODD_FRAMES = [
    (torch.zeros(3, 32, 32, 3), "has 3 frames, and episode 1 has 4 steps by seq_"),
    (torch.zeros(4, 32, 32), "is [4, 32, 32]: [steps, height, width, 3] is needed"),
    (torch.full((4, 32, 32, 3), 0.5), "is float32 from 0.5 to 0.5: frames are whole numbers in 0..255"),
]


@pytest.mark.parametrize(("frames", "says"), ODD_FRAMES)
def test_an_episode_of_odd_frames_is_left_out_and_named(frames, says, capsys):
    path = maze()
    save("obses/episode_001", frames)
    assert take("dino_wm", path, fps=10).episodes().tolist() == [0, 2]
    assert f"set/obses/episode_001.pth {says}" in capsys.readouterr().err


def test_a_video_that_ends_early_leaves_its_episode_out(capsys):
    made_sets.dino_wm(Path("set"))
    made_sets.mp4(Path("set/train/obses/episode_000.mp4"), made_sets.pictures(np.random.default_rng(0), 4), 10)
    assert take("dino_wm", "set", fps=10).episodes().tolist() == [1, 2, 3, 4, 5]
    assert "episode_000.mp4 has 4 frames, and episode 0 has 6 steps by seq_lengths" in capsys.readouterr().err


class Runs:
    """An object whose unpickling would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("name", ["states.pth", "seq_lengths.pth", "obses/episode_000.pth", "seq_lengths.pkl"])
def test_no_object_is_ever_unpickled(name):
    path = maze()
    if name.endswith(".pkl"):
        os.remove("set/seq_lengths.pth")
        Path("set", name).write_bytes(pickle.dumps([6, 4, Runs()]))
    else:
        torch.save(Runs(), Path("set", name))
    assert "Python objects" in refuse("dino_wm", path, fps=10)
    assert not Path("ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_list_is_read_as_pickle_reads_it(protocol):
    numbers = [0, 1, 255, 256, 70_000, 2**31, 2**40, 17]
    Path("x.pkl").write_bytes(pickle.dumps(numbers, protocol))
    assert tensors.read_integers(Path("x.pkl")) == numbers
    for value in ([1.5], np.arange(3), {"a": 1}, ["a"], [None]):
        Path("x.pkl").write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(ExternalError, match="more than a list of whole numbers"):
            tensors.read_integers(Path("x.pkl"))
    Path("x.pkl").write_bytes(pickle.dumps(numbers, protocol)[:-1])
    with pytest.raises(ExternalError, match="cut short"):
        tensors.read_integers(Path("x.pkl"))


def test_a_tensor_that_repeats_one_number_beyond_memory_and_a_link_out_of_the_set_are_refused(monkeypatch):
    path = maze()
    torch.save(torch.zeros(1, 1, 1).expand(3, 10**9, 4), "set/states.pth")
    torch.save(torch.zeros(1, 1, 1).expand(3, 10**9, 2), "set/actions.pth")
    os.remove("set/seq_lengths.pth")
    monkeypatch.setattr("data.checks.measure_memory", lambda: 10**9)
    assert "set/episode_0 states needs 14.9 GiB of memory" in refuse("dino_wm", path, fps=10)
    Path("set/states.pth").rename("states.pth")
    Path("set/states.pth").symlink_to("../states.pth")
    assert "which leads out of set" in refuse("dino_wm", path, fps=10)


def test_a_set_needs_its_rate():
    with pytest.raises(Exception, match="format=dino_wm records no rate: give fps=") as raised:
        take("dino_wm", maze())
    assert explain(raised.value)[0] == 2
