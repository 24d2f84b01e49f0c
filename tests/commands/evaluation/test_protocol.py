"""The protocol: which cases are drawn, what counts as success, intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from commands.config.compose import load_config
from commands.evaluation.protocol import (
    ProtocolConfig,
    apply_threshold,
    detect_success,
    draw_cases,
    resolve_protocol,
    summarise,
    wilson_interval,
)
from envs.reacher.spec import REACHER


class FakeReader:
    """Two held-out episodes in which the shoulder turns by 0.1 rad a step."""

    def __init__(self, turn: float = 0.1, steps: int = 41) -> None:
        self.turn, self.steps = turn, steps

    def episodes(self, split):
        assert split in ("train", "val", "eval")
        return np.array([3, 8])

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
    assert apply_threshold(REACHER, protocol).thresholds == (0.05, 0.2, 0.1)
    assert apply_threshold(REACHER, ProtocolConfig(thresholds={"push_t": 1.0})) is REACHER
    cases = draw_cases(FakeReader(turn=0.0), REACHER, resolve_protocol(protocol, REACHER))
    assert len(cases.seeds) == 1 and cases.solved_starts == 0 and cases.distances[0] == 0
    with pytest.raises(ValueError, match="protocol.judge=best: choose one of any, held, final, replan"):
        ProtocolConfig(judge="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dino_wm", "jepa_wms", "lewm"])
def test_the_protocols_of_others_note_what_they_count_and_are_served_whole_episodes(name):
    config = load_config("plan", [f"protocol={name}", f"planner=cem_{name}", "model=m", "data=d"])
    protocol, planner = config.protocol, config.planner
    assert protocol.keep_solved and protocol.note and protocol.min_goal_distance == 0
    assert planner.samples == 300 and planner.mpc.receding_steps == planner.horizon
    with pytest.raises(ValueError, match="serves 0 starts with goals .* ahead"):
        draw_cases(FakeReader(steps=20), REACHER, resolve_protocol(protocol, REACHER))


def test_the_first_cases_keep_their_order():
    cases = draw_cases(FakeReader(), REACHER, resolve_protocol(ProtocolConfig(episodes=4), REACHER))
    some = cases.take(2)
    assert np.array_equal(some.starts, cases.starts[:2])
    assert replace(some, solved_starts=0).seeds == cases.seeds[:2]
