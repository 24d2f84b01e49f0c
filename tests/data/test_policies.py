"""Behaviour policies: within bounds, functions of their generator, and as random as they say."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from fake_goal_env import FakeEnv

from data.policies import PolicyConfig, sample_actions

ENV = FakeEnv(reach=3.0)
STEP_S = 0.1


def play(config, steps, seed=0):
    return np.stack(list(islice(sample_actions(config, ENV, np.random.default_rng(seed), STEP_S), steps)))


@pytest.mark.parametrize("name", ["uniform", "smooth", "scripted", "smooth:0.5,uniform:0.5"])
def test_actions_are_float32_within_the_bounds_and_repeat_with_the_generator(name):
    policy = PolicyConfig(name=name, std=2.0)
    actions = play(policy, 300)
    assert (actions.dtype, actions.shape) == (np.float32, (300, 2))
    assert (actions >= ENV.action_space.low).all()
    assert (actions <= ENV.action_space.high).all()
    assert (actions == play(policy, 300)).all()


def test_uniform_fills_the_range_of_each_action():
    actions = play(PolicyConfig("uniform"), 5000)
    np.testing.assert_allclose(actions.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(actions.std(0), np.array([2, 6]) / math.sqrt(12), rtol=0.05)


def test_smooth_has_the_std_and_the_time_constant_it_is_given():
    half = np.array([1.0, 3.0])
    actions = play(PolicyConfig("smooth", time_constant_s=0.5, std=0.2), 20_000) / half
    np.testing.assert_allclose(actions.std(0), 0.2, rtol=0.05)
    for lag in (1, 5):
        products = (actions[:-lag] * actions[lag:]).mean(0) / actions.var(0)
        np.testing.assert_allclose(products, math.exp(-lag * STEP_S / 0.5), atol=0.05)


def test_smooth_starts_as_wide_as_it_goes_on():
    policy = PolicyConfig("smooth", std=0.2)
    first = np.stack([play(policy, 1, seed)[0] for seed in range(2000)]) / [1.0, 3.0]
    np.testing.assert_allclose(first.std(0), 0.2, rtol=0.1)


@pytest.mark.parametrize("kind", [PolicyConfig("uniform", hold=3), PolicyConfig("smooth", std=0.2, hold=3)])
def test_a_held_action_changes_every_third_step_only(kind):
    blocks = play(kind, 30).reshape(10, 3, 2)
    assert (blocks == blocks[:, :1]).all()
    assert (np.diff(blocks[:, 0], axis=0) != 0).all()


def test_holding_does_not_change_how_fast_a_smooth_policy_forgets():
    actions = play(PolicyConfig("smooth", time_constant_s=1.0, std=0.2, hold=5), 30_000)[:, 0]
    kept = (actions[:-5] * actions[5:]).mean() / actions.var()
    assert kept == pytest.approx(math.exp(-0.5), abs=0.05)


def test_scripted_asks_the_environment_and_forgets_between_episodes():
    policy = PolicyConfig("scripted")
    for _ in range(2):
        np.testing.assert_allclose(play(policy, 3)[:, 1], [0.01, 0.02, 0.03])


def test_a_mixture_chooses_per_episode_by_the_shares():
    mixture = PolicyConfig(name="scripted:3,uniform:1")
    scripted = [bool((play(mixture, 4, seed)[:, 0] == 1).all()) for seed in range(800)]
    assert np.mean(scripted) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "smoth"}, r"'smoth' is unknown \(did you mean smooth\?\)"),
        ({"name": "smooth:x"}, "positive share"),
        ({"name": "smooth:0,uniform:1"}, "positive share"),
        ({"name": "smooth,smooth"}, "each name once"),
        ({"name": ""}, "choose from uniform, smooth, scripted"),
        ({"hold": 0}, "hold=0"),
        ({"std": 0.0}, "std=0.0"),
        ({"time_constant_s": -1.0}, "time_constant_s=-1.0"),
    ],
)
def test_what_cannot_be_a_policy_is_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        PolicyConfig(**settings)
