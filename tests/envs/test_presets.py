"""Presets of scene variation: seeds and splits, values outside the training ranges, motion, scenes drawn anew."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import envs
from envs.factors import Factor
from envs.goal_env import SPLITS, GoalEnv
from envs.presets import APPEARANCE, MOTION

TASKS = ("reacher", "two_rooms", "push_t")


@pytest.fixture(scope="module", params=TASKS)
def moving(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = envs.make(request.param, variation="moving")
    yield env
    env.close()


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
        values = [draw[factor.name] for draw in draws]
        assert not any(_is_seen(factor, value) for value in values), factor.name
        for low, high in factor.unseen:
            assert any(low <= value <= high for value in values), (factor.name, low, high)
        first = len(factor.choices)
        assert set(range(first, first + len(factor.held_out))) <= set(values), factor.name
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
        if factor.group in APPEARANCE:
            assert _is_seen(factor, after[factor.name]) is (variation != "unseen"), factor.name


def test_a_clean_scene_is_that_of_the_task_without_factors(unseen: GoalEnv) -> None:
    plain = envs.make(unseen.task.name)
    unseen.reset(seed=5)
    clean = unseen.redraw_factors(unseen.get_state(), np.random.default_rng(0), "none", [*APPEARANCE, "mass"])
    np.testing.assert_array_equal(unseen.render_state(clean), plain.render_state(clean[: plain.state_size]))
    plain.close()


def test_each_unseen_value_changes_the_image(unseen: GoalEnv) -> None:
    unseen.reset(seed=6)
    state = unseen.redraw_factors(unseen.get_state(), np.random.default_rng(0), "none")
    clean, first = unseen.render_state(state), unseen.state_size - len(unseen._variation.factors)
    for index, factor in enumerate(unseen._variation.factors):
        if factor.group in APPEARANCE:
            # A channel that is full already cannot get brighter, so one side may show nothing.
            ends = [low if high == factor.low else high for low, high in factor.unseen]
            frames = []
            for value in ends or range(1, len(factor.choices) + len(factor.held_out)):
                state[first + index] = value
                frames.append(unseen.render_state(state))
            state[first + index] = factor.default
            assert any(not np.array_equal(frame, clean) for frame in frames), factor.name
            if factor.choices:
                assert len({frame.tobytes() for frame in frames}) == len(frames), "each texture looks different"


def test_what_matters_stands_out_from_the_floor_in_unseen_scenes(unseen: GoalEnv) -> None:
    from envs.factor_writes import find_roles, measure_contrast
    from envs.factors import _LEAST_CONTRAST

    for seed in range(20):
        unseen.reset(seed=seed, options={"split": "eval"})
        model = unseen.physics.model
        assert measure_contrast(model, find_roles(model)) >= _LEAST_CONTRAST


def _wait(env: GoalEnv, state: np.ndarray, steps: int) -> list[np.ndarray]:
    env.set_state(state)
    action, states = np.zeros(env.action_space.shape), []
    for _ in range(steps):
        env.step(action)
        states.append(env.get_state())
    return states


def test_moving_nuisance_changes_images_and_no_physics(moving: GoalEnv) -> None:
    plain = envs.make(moving.task.name, variation="seen")
    moving.reset(seed=1)
    state = moving.get_state()
    still = state[: plain.state_size]
    states = _wait(moving, state, 10)
    for found, wanted in zip(states, _wait(plain, still, 10), strict=True):
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert not np.array_equal(moving.render_state(found), plain.render_state(wanted))
    assert len({moving.render_state(found).tobytes() for found in states}) == len(states)
    plain.close()


def test_a_restored_state_shows_the_same_moving_image_in_any_environment(moving: GoalEnv) -> None:
    moving.reset(seed=2)
    states = _wait(moving, moving.get_state(), 4)
    frames = [moving.render_state(state) for state in states]
    moving.reset(seed=3)
    other = envs.make(moving.task.name, variation="moving")
    for state, frame in zip(reversed(states), reversed(frames), strict=True):
        np.testing.assert_array_equal(moving.render_state(state), frame)
        np.testing.assert_array_equal(other.render_state(state), frame)
    other.close()


def test_motion_is_drawn_alike_in_all_splits_beside_the_draws_of_seen(moving: GoalEnv) -> None:
    seen = envs.make(moving.task.name, variation="seen")
    seen.reset(seed=4)
    for split in SPLITS:
        moving.reset(seed=4, options={"split": split})
        assert moving.get_factors().items() >= seen.get_factors().items()
        for factor in moving._variation.factors:
            assert _is_seen(factor, moving.get_factors()[factor.name])
    assert {factor.group for factor in moving._variation.factors} == {*APPEARANCE, MOTION}
    seen.close()


def test_each_kind_of_motion_shows_alone_and_each_of_its_factors_matters(moving: GoalEnv) -> None:
    moving.reset(seed=5)
    rng, names = np.random.default_rng(0), list(moving.get_factors())
    first = moving.physics.state_size
    kinds = {
        "floor": {"floor speed": 0.15},
        "lamp": {"lamp pulse": 0.3, "lamp tilt": 0.8, "lamp rate": 1.0},
        "shadow": {"shadow depth": 0.4, "shadow speed": 0.25},
    }
    state = moving.redraw_factors(_wait(moving, moving.get_state(), 5)[-1], rng, "none")
    texture = next(factor for factor in moving._variation.factors if factor.name == "floor texture")
    state[first + names.index("floor texture")] = texture.high  # a floor of one colour drifts without being seen
    clean = moving.render_state(state)
    for kind, switches in kinds.items():
        on = state.copy()
        for name, value in switches.items():
            on[first + names.index(name)] = value
        frame = moving.render_state(on)
        assert not np.array_equal(frame, clean), kind
        for factor in (f for f in moving._variation.factors if f.name.startswith(kind) and f.group == MOTION):
            changed = on.copy()
            changed[first + names.index(factor.name)] += 0.3 * (factor.high - factor.low)
            assert not np.array_equal(moving.render_state(changed), frame), factor.name


def test_motion_at_its_defaults_is_a_still_scene_and_is_drawn_anew_with_moving_alone(moving: GoalEnv) -> None:
    seen = envs.make(moving.task.name, variation="seen")
    seen.reset(seed=6)
    defaults = [factor.default for factor in moving._variation.factors if factor.group == MOTION]
    rng = np.random.default_rng(0)
    for state in _wait(seen, seen.get_state(), 3):
        still = np.append(state, defaults)
        np.testing.assert_array_equal(moving.render_state(still), seen.render_state(state))
    redrawn = moving.redraw_factors(still, rng, "moving")
    np.testing.assert_array_equal(moving.get_truth(redrawn), seen.get_truth(state))
    assert (moving.render_state(redrawn) != seen.render_state(state)).mean() > 0.1
    assert not np.array_equal(redrawn[-len(defaults) :], defaults)
    for variation in ("seen", "none"):
        drawn = moving.redraw_factors(redrawn, rng, variation)
        np.testing.assert_array_equal(drawn[-len(defaults) :], defaults)
    seen.close()


def test_the_goal_image_of_a_moving_scene_may_show_other_nuisance_that_moves(moving: GoalEnv) -> None:
    moving.reset(seed=8)
    goal = moving.get_goal_state()
    other = moving.redraw_factors(goal, np.random.default_rng(0), "moving")
    moving.set_goal(goal, other)
    np.testing.assert_array_equal(moving._observe()["goal_pixels"], moving.render_state(other))


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
    with pytest.raises(ValueError, match=r"has no moving nuisance; make it with variation=moving"):
        env.redraw_factors(state, state_rng, "moving")
    env.close()
    for name in ("motion", "shadow depth"):
        with pytest.raises(ValueError, match=rf"{name!r} moves within an episode; it needs variation=moving"):
            envs.make("two_rooms", factors=[name], variation="seen")


def test_moving_nuisance_may_be_all_that_varies() -> None:
    env = envs.make("two_rooms", factors=["motion"], variation="moving")
    assert {factor.group for factor in env._variation.factors} == {MOTION}
    env.close()
    everything = envs.make("two_rooms", factors="all")
    assert MOTION not in {factor.group for factor in everything._variation.factors}
    everything.close()


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


def _redraw(env: GoalEnv, variation: str, strength: float, seed: int = 0) -> dict[str, float]:
    state = env.redraw_factors(env.get_state(), np.random.default_rng(seed), variation, strength=strength)
    values = state[env.physics.state_size + len(env.task_factors) :]
    return dict(zip(env._variation.names, values.tolist(), strict=True))


def test_the_strength_moves_unseen_values_away_from_the_training_range(
    unseen: GoalEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.factors._LEAST_CONTRAST", 0.0)  # the first draw is taken at every strength
    unseen.reset(seed=9)
    for seed in range(5):
        usual = _redraw(unseen, "unseen", 1.0, seed)
        for strength in (0.0, 0.5, 1.5, 2.0):
            drawn = _redraw(unseen, "unseen", strength, seed)
            for factor in (f for f in unseen._variation.factors if f.group in APPEARANCE and not f.choices):
                edge = float(np.clip(usual[factor.name], factor.low, factor.high))
                far = usual[factor.name] - edge
                assert drawn[factor.name] == pytest.approx(edge + strength * far, abs=1e-12), factor.name
                assert _is_seen(factor, drawn[factor.name]) is (strength == 0.0), factor.name


def test_draws_at_strength_one_are_those_of_a_new_episode(unseen: GoalEnv) -> None:
    from envs.factors import GROUPS

    state, variation = unseen.get_state(), unseen._variation
    first = unseen.physics.state_size + len(unseen.task_factors)
    for seed in range(5):
        wanted = variation.sample(np.random.default_rng(seed), unseen=True)
        drawn = unseen.redraw_factors(state, np.random.default_rng(seed), "unseen", GROUPS, strength=1.0)
        np.testing.assert_array_equal(drawn[first:], wanted)


def test_a_held_out_texture_is_as_likely_as_the_strength_says(unseen: GoalEnv) -> None:
    texture = next(factor for factor in unseen._variation.factors if factor.choices)
    unseen.reset(seed=10)
    held_out = {
        strength: {s for s in range(40) if _redraw(unseen, "unseen", strength, s)[texture.name] > texture.high}
        for strength in (0.0, 0.25, 0.75, 1.0, 2.0)
    }
    counts = [len(seeds) for seeds in held_out.values()]
    assert counts[0] == 0 and 3 <= counts[1] <= 18 and 22 <= counts[2] <= 37 and counts[3:] == [40, 40]
    assert held_out[0.25] < held_out[0.75], "a texture that is held out stays so at a higher strength"


def test_the_strength_scales_what_moves_and_keeps_the_rest(moving: GoalEnv) -> None:
    from envs.motion import STRENGTHS

    moving.reset(seed=11)
    usual = _redraw(moving, "moving", 1.0)
    for strength in (0.0, 0.5, 2.0):
        for name, value in _redraw(moving, "moving", strength).items():
            assert value == (strength * usual[name] if name in STRENGTHS else usual[name]), name


def test_moving_scenes_of_strength_zero_look_like_those_without_motion(moving: GoalEnv) -> None:
    seen = envs.make(moving.task.name, variation="seen")
    moving.reset(seed=12)
    state = moving.get_state()
    frozen = moving.redraw_factors(state, np.random.default_rng(3), "moving", strength=0.0)
    plain = seen.redraw_factors(state[: seen.state_size], np.random.default_rng(3), "seen")
    for one, other in zip(_wait(moving, frozen, 4), _wait(seen, plain, 4), strict=True):
        np.testing.assert_array_equal(moving.render_state(one), seen.render_state(other))
    weak, strong = (moving.redraw_factors(state, np.random.default_rng(3), "moving", strength=s) for s in (0.5, 1.5))
    still, *frames = (moving.render_state(_wait(moving, s, 4)[-1]).astype(int) for s in (frozen, weak, strong))
    near, far = (np.abs(frame - still).mean() for frame in frames)
    assert 0 < near < far
    seen.close()


def test_no_factor_leaves_what_it_allows_at_the_greatest_strength(unseen: GoalEnv, moving: GoalEnv) -> None:
    for env, variation in ((unseen, "unseen"), (moving, "moving")):
        env.reset(seed=13)
        for seed in range(20):
            drawn = _redraw(env, variation, 2.0, seed)
            assert all(drawn[f.name] > 0 for f in env._variation.factors if f.unit.startswith("times") and f.default)
            assert drawn.get("shadow depth", 0.0) < 1 and drawn.get("lamp pulse", 0.0) < 1


@pytest.mark.parametrize(
    ("variation", "strength", "said"),
    [
        ("seen", 0.5, r"strength=0.5 scales nothing in variation=seen: choose variation=unseen or variation=moving"),
        ("none", 0.0, r"scales nothing in variation=none"),
        ("unseen", 2.5, r"strength=2.5 is out of range: give a number from 0 to 2"),
        ("unseen", -0.1, r"strength=-0.1 is out of range"),
        ("unseen", float("nan"), r"strength=nan is out of range"),
    ],
)
def test_strengths_that_scale_nothing_or_are_out_of_range_are_refused(
    unseen: GoalEnv, variation: str, strength: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        unseen.redraw_factors(unseen.get_state(), np.random.default_rng(0), variation, strength=strength)
