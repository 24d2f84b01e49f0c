"""Trajectories of other programs, from import to report, at the smallest size: with the environment they came from
(collect -> export -> import -> pretrain -> posttrain -> plan), and without one. No picture size is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands.cli import main as cli
from data.formats.droid_example import write_example
from data.store import Reader
from tests.data import made_sets

pytestmark = pytest.mark.slow
HOME = Path(__file__).resolve().parent.parent
TINY = ("encoder=tiny", "trainer=debug", "trainer.steps=2", "trainer.warmup=1", "seed=1")


def jepa(*words: str) -> None:
    assert cli.main(list(words)) == 0, words


def apart(*words: str) -> None:
    """In a process of its own: OpenGL and what torch's optimisers load do not go into one in any order."""
    env = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "commands", *words], env=env, text=True, capture_output=True)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])


def test_a_model_of_imported_reacher_trajectories_plans_in_reacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    apart("collect", "data.episodes=3", "data.frames=30", "workers=1", "env.kwargs={size: 64}", "name=d")
    jepa("export", "data=runs/collect/d", "format=robomimic", "to=reacher.hdf5")
    jepa("import", "format=robomimic", "path=reacher.hdf5", "name=d")
    info = Reader("runs/import/d/trajectories.h5").info
    assert info.env_id == "reacher" and info.env_kwargs == {"size": 64}
    jepa("pretrain", "data=runs/import/d", *TINY, "name=e")
    jepa("posttrain", "data=runs/import/d", "encoder=runs/pretrain/e", *TINY[1:], "name=m")
    search = ("planner.samples=4", "planner.elites=2", "planner.iterations=1", "videos=0", "protocol.oracle=false")
    plan = ("protocol.episodes=1", "protocol.budget=3", "protocol.oracle_cost.episodes=0", *search, "name=p")
    apart("plan", "model=runs/posttrain/m", "data=runs/import/d", *plan)
    results = json.loads(Path("runs/plan/p/results.json").read_text())
    assert results["task"] == "reacher" and results["episodes"] == 1
    assert {"model", "random", "zero action"} <= set(results["methods"])


@pytest.mark.parametrize("format", ["robomimic", "ogbench", "minari", "lerobot", "droid", "table", "dino_wm"])
def test_data_without_a_simulator_end_in_a_report(format, tmp_path, monkeypatch):
    if format == "lerobot":
        pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    monkeypatch.chdir(tmp_path)
    rate = ("fps=10",) if format in ("ogbench", "minari", "table", "dino_wm") else ()
    if format == "droid":
        write_example(Path("set"), 8, 20, (48, 64))
        path = "set"
    else:
        path = {"robomimic": "set.hdf5", "ogbench": "visual-maze-v0.npz", "table": "set.h5"}.get(format, "set")
        getattr(made_sets, format)(Path(path))
    jepa("import", f"format={format}", f"path={path}", *rate, "name=d")
    reader = Reader("runs/import/d/trajectories.h5")
    assert reader.info.frame_hwc[:2] != (64, 64) or format == "droid"
    few = ("objective.frames=3", "objective.context_frames=1")
    jepa("pretrain", "data=runs/import/d", "objective=future", *few, *TINY, "name=e")
    short = ("dynamics.history=1", "dynamics.horizon=2", "dynamics.losses.rollout_steps=2")
    jepa("posttrain", "data=runs/import/d", "encoder=runs/pretrain/e", *short, *TINY[1:], "name=m")
    search = ("planner.samples=4", "planner.elites=2", "planner.iterations=1", "planner.horizon=2")
    split = next(name for name in ("eval", "val") if len(reader.episodes(name)))
    jepa("plan", "model=runs/posttrain/m", "data=runs/import/d", *search, f"protocol.split={split}", "name=p")
    results = json.loads(Path("runs/plan/p/results.json").read_text())
    assert results["kind"] == "offline" and results["moments"] > 0
    assert "<table" in Path("runs/plan/p/report.html").read_text()
