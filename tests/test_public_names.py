"""The names that scripts import from `jepa`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jepa


def test_every_name_is_there_and_type_checkers_see_the_same_homes():
    tree = ast.parse(Path(jepa.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == jepa._HOMES and sorted(seen) == sorted(jepa.__all__) == sorted(dir(jepa))
    assert all(getattr(jepa, name).__module__.startswith(home) for name, home in seen.items())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'Agnt' .it has .*Agent"):
        jepa.Agnt  # noqa: B018


def test_making_an_environment_loads_no_torch():
    script = (
        "import sys, jepa; jepa.make; assert 'torch' not in sys.modules; jepa.CEM; assert 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(jepa.__file__).parents[1])
