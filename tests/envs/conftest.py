"""One environment a task for the whole run: making one costs an OpenGL context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import envs
from envs.goal_env import GoalEnv
from envs.rendering import choose_backend

choose_backend()  # tests import MuJoCo, whose own renderer (OGBench's) draws with what was chosen before that


def _closing(name: str) -> Iterator[GoalEnv]:
    env = envs.make(name)
    yield env
    env.close()


@pytest.fixture(scope="session")
def reacher() -> Iterator[GoalEnv]:
    yield from _closing("reacher")


@pytest.fixture(scope="session")
def two_rooms() -> Iterator[GoalEnv]:
    yield from _closing("two_rooms")


@pytest.fixture(scope="session")
def point_maze() -> Iterator[GoalEnv]:
    yield from _closing("point_maze")


@pytest.fixture(scope="session")
def push_t() -> Iterator[GoalEnv]:
    yield from _closing("push_t")


@pytest.fixture(params=sorted(envs.OWN_TASKS))
def env(request: pytest.FixtureRequest) -> GoalEnv:
    """The environment of each task whose model is our own, in turn."""
    return request.getfixturevalue(request.param)
