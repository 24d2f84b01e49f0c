"""The whole way in one process, for the fast tier: collect -> pretrain -> posttrain, resumed -> plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
SCRIPT = "import json, sys; from commands.cli.main import main; sys.exit(any(map(main, json.loads(sys.argv[1]))))"


def test_a_model_is_trained_resumed_and_plans_an_episode(tmp_path):
    data, tiny = "data=runs/collect/data", ("trainer=debug", "trainer.evaluate_every=100", "name=model")
    posttrain = ("posttrain", data, "encoder=runs/pretrain/model", *tiny, "trainer.schedule=constant")
    commands = [
        ("collect", "data=debug", "data.episodes=12", "data.frames=41", "name=data"),
        ("pretrain", data, "encoder=tiny", *tiny),
        (*posttrain, "trainer.steps=3"),
        (*posttrain, "trainer.steps=5"),
        ("plan", "model=runs/posttrain/model", data, "protocol.episodes=1", "protocol.budget=3", "videos=0")
        + ("planner.samples=8", "planner.elites=2", "planner.iterations=1", "protocol.oracle_cost.episodes=0")
        + ("name=plan",),
    ]
    environment = {**os.environ, "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    lines = [json.loads(line) for line in (tmp_path / "runs/posttrain/model/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4, 5]
    results = json.loads((tmp_path / "runs/plan/plan/results.json").read_text())
    assert results["episodes"] == 1 and set(results["methods"]) == {"model", "random", "zero action", "oracle"}
    assert (tmp_path / "runs/plan/plan/report.html").stat().st_size > 10_000
