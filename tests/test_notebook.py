"""The notebook docs/first_steps.ipynb: stored without outputs, with commands that exist, and run from top to bottom."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

import pytest

from commands.cli.main import COMMANDS
from commands.config.compose import compose
from tests.test_docs_blocks import HOME, small

NOTEBOOK = HOME / "docs/first_steps.ipynb"
LIMIT_S = 600
EPISODES = "data.episodes=40"  # enough held-out pairs for the rank correlation that is shown


def read_cells() -> list[dict]:
    """The notebook's cells."""
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def find_commands(source: str) -> list[list[str]]:
    """The words of every `jepa` command of a %%bash cell, without `jepa`."""
    lines = source.splitlines() if source.startswith("%%bash") else []
    return [shlex.split(line.removesuffix(" 2>&1"))[1:] for line in lines if line.startswith("jepa ")]


def test_the_notebook_is_stored_without_outputs():
    for cell in read_cells():
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, "".join(cell["source"])[:80]
    assert NOTEBOOK.stat().st_size < 50_000


def test_the_notebook_commands_take_the_keys_that_it_gives_them():
    found = [words for cell in read_cells() for words in find_commands("".join(cell["source"]))]
    assert [words[0] for words in found] == ["collect", "pretrain", "posttrain"]
    for command, *words in found:
        assert command in COMMANDS and compose(command, tuple(words))


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_at_the_smallest_sizes(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is in the extra notebook")
    pytest.importorskip("ipykernel", reason="ipykernel is in the extra notebook")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if commands := find_commands(cell.source):
            lines = [[EPISODES if "episodes=" in word else word for word in small(words)] for words in commands]
            python = [sys.executable, "-m", "commands"]
            cell.source = "\n".join(["%%bash", *(shlex.join([*python, *words]) for words in lines)])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOME), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises where a cell fails
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 7
    assert (tmp_path / "runs/posttrain/first_steps/model").is_dir()
    assert not list(Path(tmp_path).glob("*.ipynb"))
