"""The script that kills commands at random moments: it finds nothing here, and finds what differs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent
SCRIPT = HOME / "tools" / "kill_check.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("kill_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *words], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_commands_leave_what_undisturbed_ones_leave(tmp_path):
    done = run("kills=6", "commands=[collect,pretrain]", f"folder={tmp_path / 'check'}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| collect | 3 |" in done.stdout and "| pretrain | 3 |" in done.stdout
    assert "6 kills" in done.stdout


def test_a_wrong_key_is_one_sentence(tmp_path):
    for words, says in ((["kills=0"], "kills=0 is out of range"), (["commands=[colect]"], "there is no colect")):
        done = run(*words, f"folder={tmp_path / 'check'}")
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_times_may_differ_and_nothing_else(tool, tmp_path):
    line = {"step": 1, "loss": 0.5, "seconds": 1.5}
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run/metrics.jsonl").write_text(json.dumps(line | {"seconds": len(name)}) + "\n")
        (tmp_path / name / "run/model.safetensors").write_bytes(b"weights")
    (tmp_path / "a/run/finished.json").write_text(json.dumps({"summary": "984 frames, 3.2 s, 1,024 MiB"}))
    (tmp_path / "b/run/finished.json").write_text(json.dumps({"summary": "984 frames, 14 s, 987 MiB"}))
    assert tool.compare_folders(tmp_path / "a", tmp_path / "b") == []
    (tmp_path / "b/run/metrics.jsonl").write_text(json.dumps(line | {"loss": 0.25}) + "\n")
    (tmp_path / "b/run/model.safetensors").write_bytes(b"weightz")
    (tmp_path / "b/run/x.partial").touch()
    (tmp_path / "a/run/curves.png").touch()
    assert tool.compare_folders(tmp_path / "a", tmp_path / "b") == [
        "b: run/curves.png is missing",
        "b: run/x.partial is left behind",
        "b: run/metrics.jsonl differs: [0].loss '0.5' against '0.25'",
        "b: run/model.safetensors differs:  \"b'weights'\" against \"b'weightz'\"",
    ]
