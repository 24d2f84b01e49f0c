"""The commands and the Python of README.md and the quick start, as written but at the smallest sizes."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from commands.cli.main import main

pytestmark = pytest.mark.slow

HOME = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/quick_start.md")
SEARCH = ("planner.samples=12", "planner.elites=4", "planner.iterations=2")
CASES = ("protocol.episodes=1", "protocol.budget=4", "protocol.goal_offset=4", "protocol.min_goal_distance=0")
SMALL = {
    "collect": ("data.episodes=12", "data.frames=30"),
    "pretrain": ("encoder=tiny", "trainer=debug"),
    "posttrain": ("trainer=debug",),
    "plan": (*SEARCH, *CASES, "protocol.oracle_cost.episodes=0", "videos=1"),
    "probe": ("windows=40", "readout.steps=3", "readout.depth=2", "landscape.cells=5", "episodes=2"),
}


def read_blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language, but those marked no-run."""
    text = (HOME / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module", params=PAGES)
def folder(request, tmp_path_factory) -> tuple[str, Path]:
    """A page, and a folder in which its shell blocks were run."""
    work = tmp_path_factory.mktemp("work")
    lines = [line for block in read_blocks(request.param, "sh") for line in block.splitlines()]
    with contextlib.chdir(work):
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:2] != [".", ".venv/bin/activate"]:
                assert words[0] == "jepa", line
                assert main([*words[1:], *SMALL.get(words[1], ())]) == 0, line
    return request.param, work


def test_the_commands_leave_a_model_and_a_report(folder):
    _, work = folder
    assert (work / "runs/posttrain/arm/model/model.safetensors").exists()
    assert list(work.glob("runs/plan/*/report.html"))


def test_the_python_drives_an_environment_with_the_model(folder, monkeypatch, capsys):
    page, work = folder
    monkeypatch.chdir(work)
    shutil.copytree("runs/posttrain/arm", "runs/demo/default/posttrain", dirs_exist_ok=True)
    (code,) = read_blocks(page, "python")
    scope: dict = {}
    exec(compile(code, page, "exec"), scope)
    scope["env"].close()
    assert scope["action"].shape == (2,) and scope["action"].dtype == np.float32
    assert (np.abs(scope["action"]) <= 1).all()
    steps = len(re.findall(r"^\d\.\d\d rad to the goal$", capsys.readouterr().out, re.MULTILINE))
    assert steps == ("for _ in" in code) * scope["env"].task.budget
