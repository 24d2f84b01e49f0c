"""Collecting: the same file whoever does it and however often it is killed, and no other command's in it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_goal_env import BrokenEnv, FakeEnv

from data.collect import CollectConfig, _receive_message, _send_index, collect
from data.policies import PolicyConfig
from data.schema import StoreError
from data.store import Reader, Writer

ROOT = Path(__file__).parents[2]


def contents(path):
    """Everything in the file, as bytes by name."""
    found = {}
    with h5py.File(path) as file:
        found["/"] = repr(sorted((key, str(value)) for key, value in file.attrs.items()))
        file.visititems(lambda n, o: found.update({n: o[()].tobytes()}) if isinstance(o, h5py.Dataset) else None)
    return found


def test_an_episode_is_what_the_environment_and_the_policy_made_of_its_seed(make_file):
    reader = Reader(make_file(episodes=4, policy=PolicyConfig("uniform")))
    assert reader.episodes().tolist() == [0, 1, 2, 3]
    env = FakeEnv()
    for episode in range(4):
        observation, info = env.reset(seed=reader.seed(episode))
        actions = reader.column("action", episode)
        assert len(actions) == 8
        for frame in range(9):
            np.testing.assert_array_equal(reader.column("pixels", episode)[frame], observation["pixels"])
            np.testing.assert_array_equal(reader.column("state", episode)[frame], env.get_state())
            np.testing.assert_array_equal(reader.column("truth", episode)[frame], info["truth"])
            if frame < 8:
                observation, _, _, _, info = env.step(actions[frame])
        assert reader.factors(episode)["shade"] == env.get_factors()["shade"]
        np.testing.assert_allclose(reader.column("time_s", episode), np.arange(9) * 0.1)
    first, second = reader.column("action", 0), reader.column("action", 1)
    assert (first != second).any()


def test_the_file_says_where_it_comes_from(make_file):
    info = Reader(make_file(seed=5, env_id="jepa/fake-v0", env_kwargs={"size": 16})).info
    assert (info.env_id, dict(info.env_kwargs), info.step_s) == ("jepa/fake-v0", {"size": 16}, 0.1)
    assert (info.action_low, info.action_high) == ((-1.0, -2.0), (1.0, 2.0))
    assert (info.action_names, info.truth_names, info.truth_units) == (
        ("push x", "push y"),
        ("x", "y"),
        ("m", "m"),
    )
    assert info.render == {"camera": "none", "renderer": "numpy"}
    assert info.source["seed"] == 5
    assert info.source["policy"]["name"] == "smooth"


def test_the_number_of_processes_does_not_change_the_file(make_file):
    assert contents(make_file("one.h5", workers=1)) == contents(make_file("two.h5", workers=2))


@pytest.mark.parametrize(("episodes", "workers", "started"), [(3, 0, 0), (3, 2, 2), (500, 0, 3), (500, 1, 0)])
def test_processes_are_started_where_they_have_enough_to_collect(monkeypatch, tmp_path, episodes, workers, started):
    found = []

    def note(*args):
        found.append(args[-1])
        yield from ()

    monkeypatch.setattr("data.collect.count_cores", lambda: 3)
    monkeypatch.setattr("data.collect._fill_here", lambda *args: note(0))
    monkeypatch.setattr("data.collect._fill_in_processes", note)
    collect(tmp_path / "a.h5", FakeEnv, CollectConfig(episodes, 20, workers=workers))
    assert found == [started]


def test_collecting_goes_on_where_it_stopped_and_mends_what_is_damaged(make_file, tmp_path):
    whole = contents(make_file("whole.h5"))
    path = make_file("part.h5")
    with h5py.File(path, "r+") as file:
        file["episode/length"][[2, 7]] = 0
        file["pixels"][2 * 9 : 3 * 9] = 0
        file["truth"][5 * 9] = 1e9
    seen = []
    done = collect(path, FakeEnv, CollectConfig(10, 9, workers=1), lambda *a: seen.append(a))
    assert (done.added, done.repaired, seen) == (3, (5,), [(8, 10), (9, 10), (10, 10)])
    assert contents(path) == whole
    again = collect(path, BrokenEnv, CollectConfig(10, 9, workers=1))
    assert again.added == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 1}, "seed differ"),
        ({"episodes": 11, "frames": 10}, "episodes, frames differ"),
        ({"policy": PolicyConfig("uniform")}, "policy differ"),
        ({"env_id": "other"}, "env_id differ"),
        ({"env_kwargs": {"size": 8}}, "env_kwargs differ"),
    ],
)
def test_another_configuration_for_the_same_file_is_refused(make_file, settings, words):
    path = make_file()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words):
        collect(path, FakeEnv, CollectConfig(**({"episodes": 10, "frames": 9, "workers": 1} | settings)))
    assert path.read_bytes() == before


def test_an_environment_that_is_not_the_files_is_refused(make_file):
    path = make_file()
    with h5py.File(path, "r+") as file:
        file["episode/length"][3] = 0
    before = path.read_bytes()
    for workers in (1, 2):
        with pytest.raises(StoreError, match="action_high, action_low|action_high, frame_hwc|action_high"):
            collect(path, partial(FakeEnv, reach=1.5), CollectConfig(10, 9, workers=workers))
    assert path.read_bytes() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_environment_fails_with_its_own_error(tmp_path, workers):
    with pytest.raises(ValueError, match="fake trouble") as caught:
        collect(tmp_path / "a.h5", BrokenEnv, CollectConfig(4, 9, workers=workers))
    assert workers == 1 or "in a collecting process" in caught.value.__notes__[0]
    assert not list(tmp_path.glob(".*"))


def test_senseless_settings_are_refused_by_name():
    for key, value in (("episodes", 0), ("frames", 1), ("seed", -1), ("workers", -1)):
        with pytest.raises(ValueError, match=f"{key}={value}: give at least"):
            CollectConfig(**{key: value})


# --- being killed

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from data.collect import CollectConfig, collect
from fake_goal_env import slow_env
if __name__ == "__main__":
    collect({path!r}, slow_env, CollectConfig(24, 21, workers=2))
"""


def start(path):
    """A collector in a session of its own."""
    script = path.with_suffix(".py")
    script.write_text(SCRIPT.format(paths=[str(ROOT), str(Path(__file__).parent)], path=str(path)))
    return subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_for(path, episodes, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and Writer(path).find_complete().sum() >= episodes:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    raise AssertionError("nothing was collected in a minute")


def children_of(process):
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
    listing = subprocess.run(command, capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in listing.stdout.splitlines()]
    return [int(pid) for pid, args in lines if "spawn_main" in args]


def test_killed_at_any_moment_the_same_command_ends_with_the_same_file(tmp_path):
    collect(tmp_path / "whole.h5", FakeEnv, CollectConfig(24, 21, workers=1))
    path = tmp_path / "killed.h5"
    for episodes in (3, 11):
        process = start(path)
        wait_for(path, episodes, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        complete = Reader(path).episodes()
        assert episodes <= len(complete) < 24
    kept = {int(episode): Reader(path).column("pixels", int(episode)).tobytes() for episode in complete}
    collect(path, FakeEnv, CollectConfig(24, 21, workers=1))
    reader = Reader(path)
    assert all(reader.column("pixels", episode).tobytes() == pixels for episode, pixels in kept.items())
    assert contents(path) == contents(tmp_path / "whole.h5")


def test_when_the_parent_is_killed_its_workers_end_too(tmp_path):
    path = tmp_path / "orphans.h5"
    process = start(path)
    wait_for(path, 2, process)
    children = children_of(process)
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # returns once the last holder of the pipe, a worker, is gone
    assert Writer(path).find_complete().sum() < 24


def test_a_killed_worker_is_reported_and_what_is_complete_is_kept(tmp_path):
    path = tmp_path / "worker.h5"
    process = start(path)
    wait_for(path, 2, process)
    os.kill(children_of(process)[0], signal.SIGKILL)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a collecting process ended with exit code -9" in words
    assert len(Reader(path).episodes()) >= 2


# --- the real thing


@pytest.mark.skipif(importlib.util.find_spec("envs.reacher.env") is None, reason="the reacher is not there yet")
def test_the_real_reacher_is_collected_alike_by_one_process_and_by_two(tmp_path):
    import envs

    make = partial(envs.make, "reacher")
    for workers in (1, 2):
        config = CollectConfig(4, 6, workers=workers, env_id="reacher")
        assert collect(tmp_path / f"{workers}.h5", make, config).added == 4
    assert contents(tmp_path / "1.h5") == contents(tmp_path / "2.h5")
    reader = Reader(tmp_path / "2.h5")
    assert reader.info.frame_hwc == (64, 64, 3)
    assert reader.info.action_names == envs.TASKS["reacher"].action_names
    env = make()
    env.set_state(reader.column("state", 2)[3])
    np.testing.assert_array_equal(env.render(), reader.column("pixels", 2)[3])
    env.close()


def test_the_environment_is_told_each_episodes_split_and_can_draw_other_factors_in_it(tmp_path):
    import envs
    from envs.point_maze.mazes import list_random_layouts

    config = CollectConfig(10, 3, workers=1, env_id="point_maze")
    collect(tmp_path / "maze.h5", partial(envs.make, "point_maze", size=16), config)
    reader = Reader(tmp_path / "maze.h5")
    assert {reader.split(int(e)) for e in reader.episodes()} == {"train", "val", "eval"}
    for episode in reader.episodes():
        assert reader.factors(int(episode))["layout"] in list_random_layouts(reader.split(int(episode)))


def test_compressed_collecting_holds_the_same_and_goes_on_where_packing_was_missed(tmp_path, make_file):
    plain = make_file(episodes=4)
    config = CollectConfig(episodes=4, frames=9, workers=1)
    packed = tmp_path / "packed.h5"
    collect(packed, FakeEnv, config)
    collect(packed, FakeEnv, replace(config, compression="gzip"))
    reader = Reader(packed)
    assert reader.packed and reader.episodes().tolist() == [0, 1, 2, 3]
    for episode in range(4):
        np.testing.assert_array_equal(reader.column("pixels", episode), Reader(plain).column("pixels", episode))
    assert collect(packed, FakeEnv, replace(config, compression="gzip")).added == 0


def test_more_than_disk_or_memory_holds_is_refused_before_any_work(tmp_path, monkeypatch):
    def never():
        raise AssertionError("no environment is made")

    for changes, says in (
        ({"episodes": 10**9}, "GiB|MiB"),
        ({"frames": 10**12}, "MiB"),
        ({"episodes": 10**15, "frames": 10**6}, "MiB"),
    ):
        with pytest.raises(ValueError, match=f"needs .* {says}"):
            collect(tmp_path / "big.h5", never, CollectConfig(**{"episodes": 2, "frames": 9, **changes}))
    monkeypatch.setattr("data.checks.measure_memory", lambda: 2**20)
    with pytest.raises(ValueError, match="collecting episodes=10000 frames=9 needs 2.4 MiB of memory and 1.0 MiB"):
        collect(tmp_path / "big.h5", never, CollectConfig(episodes=10_000, frames=9))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_died_before_its_next_episode_is_reported_alike():
    process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(9,))
    process.start()
    process.join()
    connection, remote = multiprocessing.Pipe()
    remote.close()
    with pytest.raises(RuntimeError, match="a collecting process ended with exit code 9"):
        _send_index(connection, process, 3)
    with pytest.raises(RuntimeError, match="a collecting process ended with exit code 9"):
        _receive_message(connection, process)
