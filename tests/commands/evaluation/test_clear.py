"""The rules of CLEAR-LeWM: what they judge, which starts they draw, what a task must have for them."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import envs
from commands.config.compose import load_config
from commands.evaluation.cases import REST_SPEED, Cases, draw_cases
from commands.evaluation.episodes import ZeroPolicy, run_episodes
from commands.evaluation.judging import summarise
from commands.evaluation.methods import make_true_distance
from commands.evaluation.protocol import ProtocolConfig, adapt_task, check_goals, resolve_protocol
from commands.evaluation.setup import stop_starts
from commands.shared.errors import UsageError
from commands.statistics.pooling import pool_results
from envs import OWN_TASKS
from envs.push_t.spec import PUSH_T
from envs.reacher.spec import REACHER
from envs.two_rooms.spec import TWO_ROOMS
from envs.vector import VectorGoalEnv

PX = 2 / 512  # m, of the table of 512 units


def protocol_of(name: str) -> ProtocolConfig:
    return load_config("plan", [f"protocol={name}", "model=m", "data=d"]).protocol


def push_t_truth(agent=(0.0, 0.0), block=(0.0, 0.0), angle_deg=0.0) -> np.ndarray:
    return np.array([*agent, 0, 0, *block, np.deg2rad(angle_deg), 0, 0, 0])


class Recordings:
    """Held-out episodes of one truth each; the state of a frame is its truth."""

    def __init__(self, *episodes: np.ndarray) -> None:
        self.truths = episodes

    def episodes(self, split):
        return np.arange(len(self.truths))

    def num_frames(self, episode):
        return len(self.truths[episode])

    def column(self, name, episode):
        return self.truths[episode]


def turning(steps: int, turn: float = 0.1) -> np.ndarray:
    """An arm whose shoulder turns, resting at the start."""
    truth = np.zeros((steps, 6))
    truth[:, 0], truth[1:, 2] = turn * np.arange(steps), 10 * turn
    return truth


@pytest.mark.parametrize("name", ["clear", "clear_strict"])
def test_cases_are_those_of_the_specification(name):
    protocol = protocol_of(name)
    assert not protocol.keep_solved and protocol.note and protocol.min_goal_distance == 0
    for task in OWN_TASKS.values():
        resolved = resolve_protocol(protocol, adapt_task(task, protocol))
        assert (resolved.episodes, resolved.goal_offset, resolved.budget, resolved.split) == (100, 25, 50, "eval")
    assert resolve_protocol(replace(protocol, goal_offset=75), REACHER).budget == 150


def test_moderate_rules_score_disc_and_block_and_strict_ones_the_block_alone():
    start, goal = push_t_truth(), push_t_truth(agent=(100 * PX, 0), block=(9 * PX, 0), angle_deg=9)
    moderate, strict = (adapt_task(PUSH_T, protocol_of(name)) for name in ("clear", "clear_strict"))
    assert moderate.distance(start, goal) > moderate.thresholds[0] == 1
    assert strict.distance(start, goal) == pytest.approx(0.9) and strict.thresholds == (1.0, 2.0)
    for shift_px, angle, tight, loose in ((9.9, 9.9, 1, 1), (10.1, 0, 0, 1), (0, 10.1, 0, 1), (20.1, 0, 0, 0)):
        goal = push_t_truth(block=(0, shift_px * PX), angle_deg=-angle)
        within = [float(strict.distance(start, goal)) <= limit for limit in strict.thresholds]
        assert within == [bool(tight), bool(loose)], (shift_px, angle)
    assert strict.distance(push_t_truth(angle_deg=179), push_t_truth(angle_deg=-179)) == pytest.approx(0.2)


def test_strict_rules_of_the_reacher_score_the_fingertip_held_for_two_steps():
    moderate, strict = (adapt_task(REACHER, protocol_of(name)) for name in ("clear", "clear_strict"))
    assert (moderate.thresholds[0], strict.thresholds[0], strict.held_steps) == (0.05, 0.01, 2)
    reach = 0.12 * (1 + np.cos(1.0)), 0.12 * np.sin(1.0)
    elbow = np.arctan2(reach[1], reach[0]) * 2  # the other arm pose of this fingertip
    one, other = np.array([0, 1.0, 0, 0, *reach]), np.array([elbow, -1.0, 0, 0, *reach])
    assert strict.distance(one, other) == 0 and moderate.distance(one, other) == pytest.approx(2.0)
    assert strict.distance(one, one + [0, 0, 0, 0, 0.006, 0.008]) == pytest.approx(0.01)
    wrapped = np.array([2 * np.pi, 1.0, 0, 0, *reach]), np.array([0, 1.0 - 2 * np.pi, 0, 0, *reach])
    assert moderate.distance(one, wrapped[0]) == pytest.approx(0, abs=1e-9), "the shoulder turns freely"
    assert moderate.distance(one, wrapped[1]) == pytest.approx(2 * np.pi), "the wrist does not"


def test_held_steps_and_thresholds_of_the_protocol_decide():
    strict = adapt_task(REACHER, protocol_of("clear_strict"))
    distances = np.array([[1, 0.009, 1, 0.009], [1, 0.009, 0.009, 1], [1, 1, 1, 1]], float)
    cases = Cases(*np.zeros((2, 3, 6)), np.arange(3), np.arange(3), np.ones(3), None, (0, 1, 2), 0, 0)
    row = summarise(distances, cases, strict, judge="held")
    assert row["held"]["0.01"] == pytest.approx(1 / 3) and row["any"]["0.01"] == pytest.approx(2 / 3)
    first_hit = adapt_task(TWO_ROOMS, protocol_of("clear_strict"))
    assert first_hit.held_steps == 1 and first_hit.thresholds[0] == pytest.approx(8 * 2.16 / 224, abs=5e-4)
    assert adapt_task(TWO_ROOMS, protocol_of("clear")).thresholds[0] == pytest.approx(16 * 2.16 / 224, abs=5e-4)
    assert adapt_task(PUSH_T, protocol_of("clear_strict")).held_steps == 3


def test_goals_nearer_than_the_tasks_own_least_distance_have_a_bin():
    assert adapt_task(TWO_ROOMS, protocol_of("clear")).distance_bins == (0.0, 1.0, 1.25, 1.5, 2.0, 4.0)
    assert adapt_task(TWO_ROOMS, ProtocolConfig()).distance_bins == (1.0, 1.25, 1.5, 2.0, 4.0)


def test_starts_are_balanced_over_episodes_as_far_as_each_has_them():
    short, long = turning(27), turning(60)  # 2 and 35 starts
    protocol = resolve_protocol(replace(protocol_of("clear"), episodes=14), REACHER)
    cases = draw_cases(Recordings(long, short, long, long), adapt_task(REACHER, protocol), protocol)
    counts = Counter(cases.episodes.tolist())
    assert counts == {0: 4, 1: 2, 2: 4, 3: 4} and len(set(zip(cases.episodes, cases.starts, strict=True))) == 14
    assert cases.count_starts() == {"episodes": 4, "least": 2, "most": 4}


def test_resting_and_moving_starts_are_told_apart_and_pooled():
    task, protocol = REACHER, resolve_protocol(ProtocolConfig(episodes=12, goal_offset=5), REACHER)
    cases = draw_cases(Recordings(turning(12, turn=0.3)[:12], turning(11, turn=0.3)), task, protocol)
    assert (cases.motions == "resting").tolist() == (cases.starts == 0).tolist() and cases.motions is not None
    distances = np.where(cases.starts[:, None] == 0, [[1.5, 0.1]], [[1.5, 1.5]])
    row = summarise(distances, cases, task)
    resting = int((cases.starts == 0).sum())
    moving = {"motion": "moving", "episodes": 12 - resting, "successes": 0}
    assert row["by_motion"] == [moving, {"motion": "resting", "episodes": resting, "successes": resting}] and resting
    result = {"task": "reacher", "unit": "rad", "thresholds": [0.2], "success_rate": 0, "held_rate": 0}
    pooled = pool_results([{**result, "methods": {"model": row}}] * 2)["methods"]["model"]["by_motion"]
    assert [group["episodes"] for group in pooled] == [2 * (12 - resting), 2 * resting]
    slow = turning(12, turn=0.3)
    slow[0, 3] = 1.01 * REST_SPEED
    assert (draw_cases(Recordings(slow), task, replace(protocol, episodes=7)).motions == "moving").all()


def test_a_method_that_plays_a_few_cases_keeps_the_groups_of_all():
    labels = np.array(["resting", "moving", "moving"])
    cases = Cases(*np.zeros((2, 3, 6)), np.arange(3), np.arange(3), np.ones(3), labels, (0, 1, 2), 0, 0, motions=labels)
    few = summarise(np.ones((1, 3)), cases, REACHER)
    assert (
        [group["episodes"] for group in few["by_motion"]] == [0, 1] == [group["episodes"] for group in few["by_kind"]]
    )


def test_goals_of_two_rooms_lie_in_the_other_room():
    truth = np.zeros((40, 5))
    truth[:, 0] = np.where(np.arange(40) < 30, -0.8, 0.8)  # through the wall at step 30
    truth[:, 1] = 0.02 * np.arange(40)
    protocol = resolve_protocol(replace(protocol_of("clear"), episodes=10), TWO_ROOMS)
    task = adapt_task(TWO_ROOMS, protocol)
    cases = draw_cases(Recordings(truth), task, protocol)
    assert sorted(cases.starts) == list(range(5, 15)) and set(cases.kinds) == {"other room"}
    np.testing.assert_allclose(cases.distances, task.distance(cases.start_states, cases.goal_states))
    for kind, served, count in (("other room", 10, 11), ("far room", 0, 1)):
        message = (
            rf"split eval serves {served} starts with goals of the kind '{kind}' \(of other room, same room\) 25 st"
        )
        with pytest.raises(ValueError, match=message):
            draw_cases(Recordings(truth), task, replace(protocol, episodes=count, goal_kinds={"two_rooms": kind}))


def test_the_true_distance_as_a_cost_is_the_measure_of_the_protocol():
    strict = adapt_task(PUSH_T, protocol_of("clear_strict"))
    imagined = torch.from_numpy(np.stack([push_t_truth(agent=(0.9, 0), block=(5 * PX * n, 0)) for n in range(3)]))
    cost = make_true_distance(strict)(imagined, torch.from_numpy(push_t_truth()))
    assert cost.tolist() == pytest.approx([0, 0.5, 1])


def test_what_a_task_lacks_is_refused_with_what_it_has():
    with pytest.raises(UsageError, match=r"protocol.measures: push_t has no measure 'blok'; did you mean block\? choi"):
        adapt_task(PUSH_T, ProtocolConfig(measures={"push_t": "blok"}))
    with pytest.raises(UsageError, match="two_rooms has no measure 'fingertip'; it has none beside its distance"):
        adapt_task(TWO_ROOMS, ProtocolConfig(measures={"two_rooms": "fingertip"}))
    with pytest.raises(UsageError, match=r"protocol.thresholds: there is no task reachr; did you mean reacher\?"):
        adapt_task(PUSH_T, ProtocolConfig(thresholds={"push_t": 1.0, "reachr": 0.1}))
    with pytest.raises(UsageError, match="protocol.goal_kinds: reacher has no kinds of goals, so there is none 'far'"):
        adapt_task(REACHER, ProtocolConfig(goal_kinds={"reacher": "far"}))
    with pytest.raises(ValueError, match="protocol.budget=9 and protocol.budget_ratio=2.0 both set the steps"):
        ProtocolConfig(budget=9, budget_ratio=2.0)


def test_a_pipeline_refuses_goals_beyond_its_episodes_before_it_collects():
    check_goals(protocol_of("clear"), "reacher", frames=26)
    with pytest.raises(
        UsageError, match="data.frames=25: episodes of 24 environment steps have no goal 25 steps ahead"
    ):
        check_goals(protocol_of("clear"), "reacher", frames=25)
    with pytest.raises(UsageError, match="protocol.measures: reacher has no measure 'block'"):
        check_goals(ProtocolConfig(measures={"reacher": "block"}), "reacher", frames=41)
    check_goals(protocol_of("clear"), "recorded elsewhere", frames=2)


def test_an_offset_beyond_the_episodes_names_it_their_length_and_the_command():
    protocol = resolve_protocol(ProtocolConfig(episodes=1, goal_offset=100), REACHER)
    message = "protocol.goal_offset=100: the longest episode of split eval has 59 environment steps; choose at most 59"
    with pytest.raises(UsageError, match=f"{message}.*: jepa collect env=reacher data.frames=141"):
        draw_cases(Recordings(turning(60), turning(31)), REACHER, protocol)
    with pytest.raises(UsageError, match="jepa collect env=gym env.id=Pendulum-v1 data.frames=141"):
        draw_cases(Recordings(turning(60)), replace(REACHER, name="gym/Pendulum-v1"), protocol)


def test_starts_without_velocity_keep_their_positions():
    env = envs.make("push_t", size=8)
    env.reset(seed=0)
    states = np.stack([env.sample_state(np.zeros(0)) for _ in range(3)])
    states[:, env.qvel] = np.random.default_rng(0).normal(size=(3, 5))
    cases = Cases(states, states, np.arange(3), np.arange(3), np.ones(3), None, (0, 1, 2), 0, 0)
    stopped = stop_starts(replace(cases, motions=np.array(["moving", "resting", "moving"])), "push_t", {"size": 8})
    env.set_state(stopped.start_states[1])
    truth = env.get_truth()
    assert set(stopped.motions) == {"resting"} and np.array_equal(stopped.goal_states, states)
    np.testing.assert_array_equal(stopped.start_states[:, env.qpos], states[:, env.qpos])
    assert (truth[list(PUSH_T.velocity_index)] == 0).all() and truth[:2] == pytest.approx(states[1, env.qpos][:2])
    env.close()


def test_played_episodes_are_measured_by_the_rule():
    """The block stays in place in two steps, since the disc is far away, from the block and from its own goal."""
    strict = adapt_task(PUSH_T, protocol_of("clear_strict"))
    with closing(envs.make("push_t", size=8)) as env:
        env.reset(seed=0)
        states = np.stack([env.sample_state(np.zeros(0)) for _ in range(2)])
        states[:, env.qpos] = (0.8, 0.8, -0.5, -0.5, 0.3)  # disc x, y; block x, y, angle
        states[:, env.qvel] = 0
        goals = states.copy()
        goals[:, env.qpos.start + 2] += (5 * PX, 15 * PX)  # the block's x
        goals[:, env.qpos.start] = -0.9  # the disc's
    cases = Cases(states, goals, np.arange(2), np.arange(2), np.ones(2), None, (0, 1), 0, 0)
    make_vector = partial(VectorGoalEnv, "push_t", size=8)
    run = run_episodes(ZeroPolicy(PUSH_T), make_vector, cases, 2, measure=strict.distance)
    np.testing.assert_allclose(run.distances[:, 0], [0.5, 1.5], atol=1e-4)
    own = run_episodes(ZeroPolicy(PUSH_T), make_vector, cases, 2)
    assert (own.distances[:, 0] > 1).all(), "the task's own distance holds the disc, too"
    assert summarise(run.distances, cases, strict)["any"]["2.0"] == 1.0
