"""Presets of scene variation: seeds and splits, values outside the training ranges, scenes drawn anew, bad input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import envs
from envs.factors import Factor
from envs.goal_env import GoalEnv
from envs.presets import APPEARANCE

TASKS = ("reacher", "two_rooms", "push_t")


@pytest.fixture(scope="module", params=TASKS)
def unseen(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = envs.make(request.param, factors=[*APPEARANCE, "mass"], variation="unseen")
    yield env
    env.close()


def _is_seen(factor: Factor, value: float) -> bool:
    return factor.low <= value <= factor.high


def _draw(env: GoalEnv, split: str, count: int = 20) -> list[dict[str, float]]:
    draws = []
    for seed in range(count):
        env.reset(seed=seed, options={"split": split})
        draws.append(env.get_factors())
    return draws


def test_a_preset_without_factors_varies_the_groups_of_appearance() -> None:
    env = envs.make("two_rooms", variation="seen")
    named = envs.make("two_rooms", factors=list(APPEARANCE))
    assert {factor.group for factor in env._variation.factors} == set(APPEARANCE)
    env.reset(seed=3)
    named.reset(seed=3)
    np.testing.assert_array_equal(env.get_state(), named.get_state())
    env.close()
    named.close()


def test_unseen_values_lie_outside_the_training_ranges_in_the_split_eval_alone(unseen: GoalEnv) -> None:
    for split in ("train", "val"):
        for factor in unseen._variation.factors:
            assert all(_is_seen(factor, draw[factor.name]) for draw in _draw(unseen, split)), factor.name
    draws = _draw(unseen, "eval")
    for factor in unseen._variation.factors:
        if factor.unseen:
            values = [draw[factor.name] for draw in draws]
            assert not any(_is_seen(factor, value) for value in values), factor.name
            for low, high in factor.unseen:
                assert any(low <= value <= high for value in values), (factor.name, low, high)
    assert draws == _draw(unseen, "eval"), "the same seeds draw the same values"


def test_unseen_intervals_touch_the_training_range(unseen: GoalEnv) -> None:
    for factor in unseen.list_factors():
        for low, high in factor.unseen:
            assert low < high
            assert high == factor.low or low == factor.high, factor.name


@pytest.mark.parametrize("variation", ["seen", "unseen", "none"])
def test_a_redrawn_scene_looks_different_and_keeps_truth_and_physics(unseen: GoalEnv, variation: str) -> None:
    unseen.reset(seed=4)
    state, frame, before = unseen.get_state(), unseen.render(), unseen.get_factors()
    other = unseen.redraw_factors(state, np.random.default_rng(0), variation)
    np.testing.assert_array_equal(other, unseen.redraw_factors(state, np.random.default_rng(0), variation))
    np.testing.assert_array_equal(unseen.get_state(), state)
    np.testing.assert_array_equal(unseen.get_truth(other), unseen.get_truth(state))
    assert (unseen.render_state(other) != frame).mean() > 0.1
    unseen.set_state(other)
    after = unseen.get_factors()
    kept = {*unseen.task_factors, *(f.name for f in unseen._variation.factors if f.group == "mass")}
    assert all(after[name] == before[name] for name in kept)
    size = unseen.physics.state_size
    np.testing.assert_array_equal(other[:size], state[:size])
    for factor in unseen._variation.factors:
        if factor.group in APPEARANCE and (variation != "unseen" or factor.unseen):
            assert _is_seen(factor, after[factor.name]) is (variation != "unseen"), factor.name


def test_a_clean_scene_is_that_of_the_task_without_factors(unseen: GoalEnv) -> None:
    plain = envs.make(unseen.task.name)
    unseen.reset(seed=5)
    clean = unseen.redraw_factors(unseen.get_state(), np.random.default_rng(0), "none", [*APPEARANCE, "mass"])
    np.testing.assert_array_equal(unseen.render_state(clean), plain.render_state(clean[: plain.state_size]))
    plain.close()


def test_a_value_beyond_the_training_range_changes_the_image(unseen: GoalEnv) -> None:
    unseen.reset(seed=6)
    state = unseen.redraw_factors(unseen.get_state(), np.random.default_rng(0), "none")
    first = unseen.state_size - len(unseen._variation.factors)
    for index, factor in enumerate(unseen._variation.factors):
        for low, high in factor.unseen if factor.group in APPEARANCE else ():
            inner, outer = (high, low) if high == factor.low else (low, high)
            frames = []
            for value in (inner, outer):
                state[first + index] = value
                frames.append(unseen.render_state(state))
            state[first + index] = factor.default
            assert not np.array_equal(*frames), (factor.name, inner, outer)


def test_wrong_presets_and_impossible_draws_are_answered() -> None:
    with pytest.raises(ValueError, match=r"variation='unsen' is unknown; did you mean unseen"):
        envs.make("two_rooms", variation="unsen")
    with pytest.raises(ValueError, match=r"variation=seen: an environment of Gymnasium's has no factors"):
        envs.make("gym/InvertedPendulum-v5", variation="seen")
    env, state_rng = envs.make("two_rooms"), np.random.default_rng(0)
    state = env.get_state()
    with pytest.raises(ValueError, match=r"no factor of .* is switched on.*env.variation=seen"):
        env.redraw_factors(state, state_rng)
    np.testing.assert_array_equal(env.redraw_factors(state, state_rng, "none"), state)
    with pytest.raises(ValueError, match=r"'color' is no group of factors; did you mean colour"):
        env.redraw_factors(state, state_rng, "none", ["color"])
    with pytest.raises(ValueError, match=r"variation='other' is unknown"):
        env.redraw_factors(state, state_rng, "other")
    env.close()


def test_a_goal_image_may_differ_from_the_goal_in_appearance_alone(unseen: GoalEnv) -> None:
    unseen.reset(seed=7)
    start, goal = unseen.get_state(), unseen.get_goal_state()
    other = unseen.redraw_factors(goal, np.random.default_rng(1), "seen")
    options = {"state": start, "goal_state": goal, "goal_image_state": other}
    observation, info = unseen.reset(options=options)
    np.testing.assert_array_equal(observation["goal_pixels"], unseen.render_state(other))
    np.testing.assert_array_equal(observation["pixels"], unseen.render_state(start))
    np.testing.assert_array_equal(unseen.get_goal_state(), goal)
    np.testing.assert_array_equal(info["goal_truth"], unseen.get_truth(goal))
    with pytest.raises(ValueError, match="state and goal_state come from different episodes"):
        unseen.reset(options={"state": start, "goal_state": other})
    mass = unseen.physics.state_size + list(unseen.get_factors()).index("agent mass")
    for index in (unseen.qpos.start, unseen.qvel.start, mass):
        moved = other.copy()
        moved[index] += 0.1
        with pytest.raises(ValueError, match="goal_image_state differs from goal_state in more than texture"):
            unseen.reset(options=options | {"goal_image_state": moved})
