"""The commands on another device, as a user types them, one after the other: no tensor is where its model is not."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from commands.cli.main import main
from data.store import Reader
from tests.devices.cuda_stand_in import cuda_stand_in

DATA = "data=runs/collect/data"
TRAINER = ("trainer=debug", "trainer.steps=1", "device=cuda")
PLAN = (
    "plan",
    "model=runs/posttrain/model",
    DATA,
    "device=cuda",
    "protocol.episodes=2",
    "protocol.budget=2",
    "protocol.goal_offset=8",
    "protocol.min_goal_distance=0",
    "protocol.oracle_cost={episodes: 1, samples: 4, elites: 2, iterations: 1}",
    "planner.samples=8",
    "planner.elites=4",
    "planner.iterations=1",
)


def jepa(*words: str) -> None:
    """Run a command; a failure prints its traceback."""
    assert main([*words, "--traceback"]) == 0, words


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with data, and a model of every part that was trained on the device."""
    folder = tmp_path_factory.mktemp("work")
    with contextlib.chdir(folder), cuda_stand_in():
        jepa("collect", "data.episodes=12", "data.frames=20", "workers=1", "name=data")
        jepa("pretrain", DATA, "encoder=tiny", *TRAINER, "name=encoder")
        parts = ("dynamics=scene", "dynamics.proprio_model=predicted", "dynamics.reach={dim: 4, steps: 2}")
        jepa("posttrain", DATA, "encoder=runs/pretrain/encoder", *parts, *TRAINER, "name=model")
        yield folder


@pytest.mark.slow
def test_every_method_of_a_plan_is_played(work):
    jepa(*PLAN, "videos=0", "name=all")
    results = json.loads((work / "runs/plan/all/results.json").read_text())
    assert set(results["methods"]) == {"model", "random", "zero action", "oracle", "oracle, model's cost"}
    assert results["plan"]["device"] == "cuda:0" and results["plan"]["flops"] > 0


def test_a_picture_is_planned_towards(work):
    Image.fromarray(Reader("runs/collect/data/trajectories.h5").column("pixels", 0)[7]).save("photo.png")
    jepa(*PLAN, "goal=photo.png", "planner.cost.view=reach", "videos=0", "name=photo")
    assert json.loads((work / "runs/plan/photo/results.json").read_text())["methods"]["model"]["start"] > 0


def test_a_model_is_probed(work):
    readout = "readout={steps: 1, batch_size: 4, depth: 2, heads: 2, lrs: [0.001]}"
    reach = ("rank_reach.moments=4", "rank_reach.candidates=8", "rank_reach.simulator_moments=2")
    words = ("windows=8", "episodes=2", "landscape.cells=3", readout, *reach, "device=cuda", "name=probe")
    jepa("probe", "model=runs/posttrain/model", DATA, *words)
    results = json.loads((work / "runs/probe/probe/results.json").read_text())
    assert np.isfinite(results["open_loop"]["predicted"]).all() and np.isfinite(results["landscape"]["argmin_error"])
