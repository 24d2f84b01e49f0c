"""The script of all GPU checks, at the smallest sizes on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent


STEPS = ["doctor", "golden", "tests", "plan", "pretrain_tiny"]  # demo and fingerprint have tests of their own


def run(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["sh", "tools/gpu_check.sh", "--tiny", "--out", str(out), *words]
    return subprocess.run(command, cwd=HOME, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_every_step_runs_and_a_second_start_goes_on(tmp_path):
    done = run(tmp_path, "--only", *STEPS)
    records = {record["step"]: record for record in json.loads((tmp_path / "gpu_check.json").read_text())}
    assert list(records) == STEPS
    codes = {name: record["code"] for name, record in records.items()}
    assert all(code == 0 for name, code in codes.items() if name != "tests"), (codes, records)
    assert codes["tests"] == (0 if done.returncode == 0 else 5), "without a GPU every test is skipped"
    assert records["pretrain_tiny"]["results"]["bench.json"]
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.count("\n## ") == len(records) and "| plan | 0 |" in page
    again = run(tmp_path, "--only", "plan", "golden")
    assert "plan:" not in again.stdout and "golden:" not in again.stdout, "they have finished"


def test_an_unknown_step_is_refused_with_the_known_ones(tmp_path):
    done = run(tmp_path, "--only", "demmo")
    assert done.returncode == 2 and "there is no such step (steps: doctor, golden" in done.stderr
