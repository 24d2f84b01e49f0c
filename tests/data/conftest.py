"""What the tests of `data` share: the fake environment on the path, and small collected files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Collecting processes import the fake environment by name, and they inherit this path.
sys.path.insert(0, str(Path(__file__).parent))

from fake_goal_env import FakeEnv

from data.collect import CollectConfig, collect


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., Path]:
    """Collects a small file: `make_file("a.h5", episodes=6, frames=9, seed=1)`."""

    def make(name: str = "small.h5", env: Callable[[], Any] = FakeEnv, **settings: Any) -> Path:
        settings = {"episodes": 10, "frames": 9, "workers": 1} | settings
        collect(tmp_path / name, env, CollectConfig(**settings))
        return tmp_path / name

    return make
