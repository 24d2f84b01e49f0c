"""The protocol: which cases are drawn, what counts as success, intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from commands.config.compose import load_config
from commands.evaluation.cases import draw_cases, draw_starts
from commands.evaluation.judging import choose_bins, detect_success, summarise
from commands.evaluation.protocol import OracleCostConfig, ProtocolConfig, adapt_task, resolve_protocol
from commands.shared.errors import UsageError
from commands.statistics.intervals import wilson_interval
from envs.reacher.spec import REACHER


class FakeReader:
    """Two held-out episodes in which the shoulder turns by 0.1 rad a step."""

    def __init__(self, turn: float = 0.1, steps: int = 41) -> None:
        self.turn, self.steps = turn, steps

    def episodes(self, split):
        assert split in ("train", "val", "eval")
        return np.array([3, 8])

    def num_frames(self, episode):
        return self.steps

    def column(self, name, episode):
        values = np.zeros((self.steps, 6))
        values[:, 0] = self.turn * np.arange(self.steps)
        return values


def test_success_at_any_time_leaves_the_start_out_and_held_asks_for_a_run():
    distances = np.array([[0.1, 1, 1, 1, 1], [1, 0.1, 1, 0.1, 0.1], [1, 1, 0.1, 0.1, 0.1], [1, 1, 1, 1, 0.2]])
    assert detect_success(distances, 0.2).tolist() == [False, True, True, True]
    assert detect_success(distances, 0.2, 3).tolist() == [False, False, True, False]
    assert not detect_success(distances[:, :2], 0.2, 3).any()


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (50, 50, 0.929, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_intervals_are_those_of_the_tables(hits, count, low, high):
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-3)


def test_cases_come_from_one_episode_goal_offset_apart_and_far_enough():
    protocol = resolve_protocol(ProtocolConfig(episodes=6), REACHER)
    cases = draw_cases(FakeReader(), REACHER, protocol)
    assert len(cases.seeds) == 6 and np.allclose(cases.distances, 2.5)
    assert sorted(cases.episodes.tolist()) == [3, 3, 3, 8, 8, 8]
    assert np.allclose(cases.goal_states[:, 0] - cases.start_states[:, 0], 2.5)
    again = draw_cases(FakeReader(), REACHER, protocol)
    assert np.array_equal(cases.starts, again.starts) and cases.seeds == again.seeds


def test_starts_alone_need_no_goals_and_there_may_be_fewer_than_asked_for():
    protocol = resolve_protocol(ProtocolConfig(episodes=6), REACHER)
    cases = draw_starts(FakeReader(), REACHER, protocol)
    assert sorted(cases.episodes.tolist()) == [3, 3, 3, 8, 8, 8] and len(set(cases.seeds)) == 6
    assert np.array_equal(cases.goal_states, cases.start_states)
    few = draw_starts(FakeReader(steps=2), REACHER, protocol)
    pairs = sorted(zip(few.episodes.tolist(), few.starts.tolist(), strict=True))
    assert pairs == [(3, 0), (3, 1), (8, 0), (8, 1)] and len(few.list_reset_options()) == 4
    empty = FakeReader()
    empty.episodes = lambda split: np.array([], int)
    with pytest.raises(ValueError, match="split eval has no complete episode to start in"):
        draw_starts(empty, REACHER, protocol)


@pytest.mark.parametrize(
    ("distances", "bins"),
    [
        ([0.012, 0.031, 0.055], (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)),
        ([12.0, 80.0, 33.0], (0, 20, 40, 60, 80, 100)),
        ([1.0, 1.0], (1.0, 1.1)),
        ([0.0], (0.0, 0.1)),
        ([0.1, 0.3], (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)),
        ([0.4, 3.2], (0.0, 1.0, 2.0, 3.0, 4.0)),
    ],
)
def test_bins_follow_from_the_distances_where_a_task_states_none(distances, bins):
    assert choose_bins(np.array(distances)) == pytest.approx(bins)
    rng = np.random.default_rng(0)
    for scale in 10.0 ** rng.uniform(-6, 6, 200):
        drawn = scale * rng.uniform(rng.uniform(0, 3), 3, 9)
        edges = np.array(choose_bins(drawn))
        assert edges[0] <= drawn.min() and drawn.max() < edges[-1] and 2 <= len(edges) <= 6


def test_every_method_is_counted_in_the_same_bins():
    protocol = resolve_protocol(ProtocolConfig(episodes=3), REACHER)
    cases = replace(draw_cases(FakeReader(), REACHER, protocol), distances=np.array([0.1, 0.5, 0.9]))
    own = replace(REACHER, distance_bins=None)
    whole, few = (summarise(np.ones((count, 4)), cases, own)["by_distance"] for count in (3, 1))
    assert [(row["from"], row["to"]) for row in whole] == [(row["from"], row["to"]) for row in few]
    assert sum(row["episodes"] for row in whole) == 3 and sum(row["episodes"] for row in few) == 1


def test_starts_that_are_solved_or_too_near_are_left_out_and_counted():
    with pytest.raises(ValueError, match="serves 0 starts"):
        draw_cases(
            FakeReader(turn=0.004), REACHER, resolve_protocol(ProtocolConfig(episodes=1), REACHER)
        )  # 0.1 rad: solved
    near = resolve_protocol(ProtocolConfig(episodes=1, min_goal_distance=0.0), REACHER)
    with pytest.raises(ValueError, match="serves 0 starts"):
        draw_cases(FakeReader(turn=0.0), REACHER, near)


def test_results_are_counted_by_goal_distance():
    distances = np.array([[1.2, 0.1], [1.4, 1.0], [3.0, 0.15]])
    cases = draw_cases(FakeReader(), REACHER, resolve_protocol(ProtocolConfig(episodes=3), REACHER))
    cases = replace(cases, distances=distances[:, 0], kinds=np.array(["a", "b", "a"]))
    row = summarise(distances, cases, REACHER)
    assert row["by_kind"] == [
        {"kind": "a", "episodes": 2, "successes": 2},
        {"kind": "b", "episodes": 1, "successes": 0},
    ]
    assert row["any"]["0.2"] == pytest.approx(2 / 3) and row["any"]["0.1"] == pytest.approx(1 / 3)
    assert [(b["episodes"], b["successes"]) for b in row["by_distance"]][0] == (2, 1)
    assert sum(b["episodes"] for b in row["by_distance"]) == 3


def test_every_judge_looks_at_its_own_steps():
    distances = np.array(
        [[1.0, 0.1, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.1, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]]
    )
    cases = draw_cases(FakeReader(), REACHER, resolve_protocol(ProtocolConfig(episodes=3), REACHER))
    row = summarise(distances, replace(cases, distances=distances[:, 0]), REACHER, replan_steps=2, judge="final")
    rates = {judge: row[judge]["0.2"] for judge in ("any", "held", "final", "replan")}
    assert rates == pytest.approx({"any": 1.0, "held": 1 / 3, "final": 1 / 3, "replan": 2 / 3})
    assert row["final_ci95"]["0.2"] == pytest.approx(wilson_interval(1, 3))
    assert sum(part["successes"] for part in row["by_distance"]) == 1  # as the judge has it


def test_a_protocol_may_have_thresholds_of_its_own_and_count_solved_starts():
    protocol = ProtocolConfig(episodes=1, thresholds={"reacher": 0.05}, keep_solved=True, min_goal_distance=0.0)
    assert adapt_task(REACHER, protocol).thresholds == (0.05, 0.2, 0.1)
    assert adapt_task(REACHER, ProtocolConfig(thresholds={"push_t": 1.0})) == REACHER
    cases = draw_cases(FakeReader(turn=0.0), REACHER, resolve_protocol(protocol, REACHER))
    assert len(cases.seeds) == 1 and cases.solved_starts == 0 and cases.distances[0] == 0
    alone = ProtocolConfig(episodes=1, keep_solved=True)  # the least distance of the task leaves no solved start out
    assert draw_cases(FakeReader(turn=0.004), REACHER, resolve_protocol(alone, REACHER)).distances[0] < 0.2
    with pytest.raises(ValueError, match="protocol.judge=best: choose one of any, held, final, replan"):
        ProtocolConfig(judge="best")  # type: ignore[arg-type]


def test_more_elites_than_candidates_in_the_simulator_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="oracle_cost.elites=200 is more than protocol.oracle_cost.samples=48"):
        OracleCostConfig(elites=200)
    with pytest.raises(UsageError, match="protocol.oracle_cost.elites"):
        load_config("demo", ["protocol.oracle_cost.elites=1"])


@pytest.mark.parametrize("name", ["dino_wm", "jepa_wms", "lewm"])
def test_the_protocols_of_others_note_what_they_count_and_are_served_whole_episodes(name):
    config = load_config("plan", [f"protocol={name}", f"planner=cem_{name}", "model=m", "data=d"])
    protocol, planner = config.protocol, config.planner
    assert protocol.keep_solved and protocol.note and protocol.min_goal_distance == 0
    assert planner.samples == 300 and planner.mpc.receding_steps == planner.horizon
    with pytest.raises(UsageError, match="the longest episode of split .* has 19 environment steps"):
        draw_cases(FakeReader(steps=20), REACHER, resolve_protocol(protocol, REACHER))


def test_the_first_cases_keep_their_order():
    cases = draw_cases(FakeReader(), REACHER, resolve_protocol(ProtocolConfig(episodes=4), REACHER))
    some = cases.take(2)
    assert np.array_equal(some.starts, cases.starts[:2])
    assert replace(some, solved_starts=0).seeds == cases.seeds[:2]
