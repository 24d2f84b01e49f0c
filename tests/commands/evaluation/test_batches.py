"""Episodes in other batches: every case is played once, and what differs is counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from commands.cli.main import main
from commands.config.compose import load_config
from commands.evaluation.batches import compare_rollouts, format_batches, list_batches, split_cases
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from envs.reacher.spec import REACHER

BUDGET = 6


def make_cases(count: int) -> Cases:
    states = np.arange(4.0 * count).reshape(count, 4)
    numbers = np.arange(count)
    return Cases(states, states + 1, numbers, numbers, np.ones(count), None, tuple(range(count)), 3, 4, states)


def make_setup(count: int, judge: str = "any") -> Any:
    protocol = SimpleNamespace(judge=judge)
    return SimpleNamespace(cases=make_cases(count), task=REACHER, protocol=protocol, frame_skip=2)


def load_keys(*words: str) -> Any:
    return load_config("plan", ["model=m", "data=d", *words])


def test_parts_hold_every_case_once_and_in_order():
    cases = make_cases(10)
    parts = list(split_cases(cases, 4))
    assert [len(part.seeds) for part in parts] == [4, 4, 2] and parts[-1].solved_starts == 3
    assert sum((part.seeds for part in parts), ()) == cases.seeds
    for name in ("start_states", "goal_states", "distances", "goal_image_states"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(cases, name))


def test_all_batches_are_played_in_two_chunks_but_for_the_evaluation_itself():
    keys = load_keys("planner.samples=10", "planner.elites=4", "planner.horizon=3")
    assert list_batches(make_setup(9), keys) == [(1, 0), (4, 0), (1, 15), (4, 15), (9, 15)]
    assert list_batches(make_setup(1), keys) == [(1, 15)]
    own = SimpleNamespace(planner=SimpleNamespace())  # a planner of the user's
    assert list_batches(make_setup(9), own) == [(1, 0), (4, 0)]


@pytest.mark.parametrize(("judge", "flipped"), [("any", 1), ("final", 2)])
def test_first_plans_actions_and_outcomes_that_differ_are_counted(judge, flipped):
    actions, distances = np.zeros((4, BUDGET, 2), np.float32), np.ones((4, BUDGET + 1))
    distances[:2, 3] = 0.1  # two episodes pass the goal
    reference = Rollouts(distances, actions)
    others, changed = actions.copy(), distances.copy()
    others[0, 1, 0] = 0.25  # in the first plan, of two environment steps
    others[2, 4, 1] = -0.5
    changed[1, 3] = 0.9  # one no longer passes it
    changed[1:3, -1] = 0.1, 1.0
    changed[0, -1] = 0.1 if judge == "final" else 1.0
    if judge == "any":
        changed[1, -1] = 1.0
    parts = [Rollouts(changed[:3], others[:3]), Rollouts(changed[3:], others[3:])]
    row = compare_rollouts(reference, parts, make_setup(4, judge), load_keys())
    assert (row["episodes"], row["first_plans_differ"], row["episodes_differ"]) == (4, 1, 2)
    assert (row["first_plan_difference"], row["action_difference"]) == (0.25, 0.5) and row["flipped"] == flipped
    assert "1 of 4" in format_batches([{"batch": 1, "chunk_elements": 0, **row}])


def test_it_is_refused_where_no_episodes_are_played_to_recorded_goals(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "model=m", "data=d", "compare_batches=true", "goal=photo.png"]) == 2
    assert "compare_batches=true plays episodes to recorded goals" in capsys.readouterr().err
    assert main(["plan", "model=m", "data=d", "seed=2"]) == 2
    assert "give protocol.seed=2" in capsys.readouterr().err
