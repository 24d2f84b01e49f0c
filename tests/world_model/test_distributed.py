"""Two processes equal one: losses, weights, gradients of what is gathered, resuming; and none waits for the dead."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.world_model.two_processes import CASES, LONG, RESUMED, trained
from world_model.distributed import DistributedError, WorldInfo, average, gather_rows, read_launch, world_info
from world_model.objectives.masking import BlockMask

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the two processes leave what they did, and find two steps of one process."""
    folder = tmp_path_factory.mktemp("two")
    trained(RESUMED, config=replace(LONG, steps=2), folder=folder / "one-ddp")
    shutil.copytree(folder / "one-ddp", folder / "one-fsdp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    env |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.world_model.two_processes", str(folder)]
    both = [subprocess.Popen(words, cwd=ROOT, env={**env, "RANK": r, "LOCAL_RANK": r}) for r in ("0", "1")]
    assert [process.wait(timeout=120) for process in both] == [0, 3]
    return folder


@pytest.fixture(scope="module")
def found(folder) -> dict[Any, Any]:
    return torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The same trainings in one process."""
    return {name: trained(name) for name in dict.fromkeys(name for name, _ in CASES)}


def assert_equal(one: dict[str, Any], two: dict[str, Any], since: int = 0) -> None:
    """The same losses from a step on, and the same weights."""
    left_out = ("kind", "seconds", "constant")  # the best constant is each process's own
    lines = [line for line in one["lines"] if line["step"] > since]
    assert len(lines) == len(two["lines"])
    for a, b in zip(lines, two["lines"], strict=True):
        assert {k: v for k, v in a.items() if k not in left_out} == pytest.approx(
            {k: v for k, v in b.items() if k not in left_out}, rel=1e-5, abs=1e-6
        )
    torch.testing.assert_close(two["weights"], one["weights"], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parallel"), CASES)
def test_two_processes_equal_one(found, alone, name, parallel):
    assert_equal(alone[name], found[name, parallel])


@pytest.mark.slow
def test_a_gathered_value_gets_the_gradients_of_all_processes(found):
    rows = torch.tensor([1.0, 2.0, 11.0, 12.0])
    made = found["gradients"]
    torch.testing.assert_close(made["rows"], rows)
    torch.testing.assert_close(made["gathered"], (1 + 2) * 2 * rows)  # sum over ranks of weight * d(x^2)/dx
    mean = (rows[:2] + rows[2:]) / 2
    torch.testing.assert_close(made["averaged"], ((1 + 2) * 2 * mean / 2).repeat(2))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_another_number_of_processes_goes_on_with_the_same_losses(folder, found, parallel):
    whole = trained(RESUMED, config=LONG)
    assert_equal(whole, found[f"one to two, {parallel}"], since=2)
    assert_equal(whole, trained(RESUMED, config=LONG, folder=folder / f"two-{parallel}"), since=2)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_names_its_data(folder, found):
    assert "term nan" in found["not finite"] and "episode [40, 41]" in found["not finite"]
    assert (folder / "second").read_text() == found["not finite"]


@pytest.mark.slow
def test_a_process_that_dies_does_not_leave_the_others_waiting(folder):
    assert "another process has stopped" in (folder / "left").read_text()


@pytest.mark.slow
def test_the_second_process_waits_for_what_the_first_one_writes(found):
    assert found["turn"] == "first"


def test_one_process_is_left_as_it_is(monkeypatch):
    x = torch.ones(2)
    assert world_info() == WorldInfo(0, 1) and gather_rows(x) is x and average(x) is x


def test_a_batch_parts_evenly_or_not_at_all():
    assert [WorldInfo(rank, 3).split_rows(12) for rank in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(ValueError, match=r"batch_size=8 .* 3 processes: give a multiple of 3"):
        WorldInfo(0, 3).split_rows(8)


def test_rows_of_masks_are_those_of_the_whole_batch():
    masks = BlockMask().sample(6, (4, 4, 4), (1, 2))
    parts = [masks.select(WorldInfo(rank, 2).split_rows(6)) for rank in range(2)]
    assert torch.equal(torch.cat([part.context_BM for part in parts]), masks.context_BM)
    assert torch.equal(torch.cat([part.targets_BP[0] for part in parts]), masks.targets_BP[0])


def test_an_incomplete_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(DistributedError, match="RANK is not set.*torchrun"):
        read_launch()
