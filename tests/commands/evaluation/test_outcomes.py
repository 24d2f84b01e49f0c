"""Outcomes of single episodes agree with the rates, and are small enough to be kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from commands.evaluation.cases import Cases
from commands.evaluation.judging import count_steps_to_success, detect_success, summarise, summarise_steps
from commands.evaluation.outcomes import tabulate_outcomes
from commands.shared.runs import read_json, write_json
from envs.reacher.spec import REACHER

NAN = np.nan


def make_cases(count):
    states, rng = np.zeros((count, 4)), np.random.default_rng(0)
    episodes, starts = np.arange(count) % 7, np.arange(count)
    distances = rng.uniform(1, 3, count)
    return Cases(states, states, episodes, starts, distances, None, tuple(range(count)), 0, 0)


def make_distances(count, budget=40, seed=1):
    return np.abs(np.random.default_rng(seed).normal(0.3, 0.2, (count, budget + 1)))


def test_steps_count_from_the_first_step_to_the_end_of_the_first_run():
    distances = np.array([[0.0, 1, 0.1, 1, 0.1, 0.1], [1, 1, 1, 1, 1, 1], [1, 0.1, 0.1, 0.1, 0.1, 0.1]])
    assert count_steps_to_success(distances, 0.2).tolist() == pytest.approx([2, NAN, 1], nan_ok=True)
    assert count_steps_to_success(distances, 0.2, 3).tolist() == pytest.approx([NAN, NAN, 3], nan_ok=True)
    assert np.isnan(count_steps_to_success(distances[:, :2], 0.2, 3)).all()
    ended = np.array([[1, 0.1, 0.1, NAN, NAN]])
    assert np.isnan(count_steps_to_success(ended, 0.2, 3)).all(), "an episode that ended holds nothing"


def test_steps_by_brute_force_agree_with_success():
    distances = make_distances(60)
    for steps in (1, 3):
        found = count_steps_to_success(distances, 0.2, steps)
        for row, number in zip(distances, found, strict=True):
            ends = [t for t in range(steps, len(row)) if (row[t - steps + 1 : t + 1] <= 0.2).all()]
            assert number == ends[0] if ends else np.isnan(number)
        assert np.array_equal(~np.isnan(found), detect_success(distances, 0.2, steps))


def test_failures_count_as_the_budget_in_the_restricted_mean_alone():
    assert summarise_steps(np.array([4.0, 10.0, NAN]), 40) == {"median": 7.0, "restricted_mean": 18.0}
    assert summarise_steps(np.array([NAN]), 40) == {"median": None, "restricted_mean": 40.0}


def test_outcomes_agree_with_the_rates_of_every_threshold_and_kind():
    cases, distances = make_cases(50), make_distances(50)
    summary = summarise(distances, cases, REACHER)
    outcomes = tabulate_outcomes({"model": distances, "few": distances[:4]}, cases, REACHER)
    assert outcomes["budget"] == 40 and outcomes["goals"]["episode"] == cases.episodes.tolist()
    method = outcomes["methods"]["model"]
    for limit in map(str, REACHER.thresholds):
        for kind in ("any", "held"):
            steps = method[kind][limit]
            assert sum(n is not None for n in steps) / 50 == summary[kind][limit]
            assert summary["steps_to_success"][kind][limit] == summarise_steps(np.array(steps, float), 40)
        assert sum(method["final"][limit]) / 50 == summary["final"][limit]
    assert np.mean(method["final_distance"]) == pytest.approx(summary["final_distance"], abs=1e-5)
    assert len(outcomes["methods"]["few"]["any"]["0.2"]) == 4
    assert "replan" not in method
    judged = tabulate_outcomes({"model": distances}, cases, REACHER, replan_steps=5)["methods"]["model"]["replan"]
    summary = summarise(distances, cases, REACHER, replan_steps=5)
    assert {limit: sum(hits) / 50 for limit, hits in judged.items()} == summary["replan"]


def test_outcomes_of_a_hundred_goals_and_three_methods_fit_into_20_kb(tmp_path):
    runs = {name: make_distances(100, 60, seed) for seed, name in enumerate(("plan", "plan_own", "random"))}
    outcomes = tabulate_outcomes(runs, make_cases(100), REACHER)
    write_json(tmp_path / "record.json", {"outcomes": outcomes}, columns=True)
    assert (tmp_path / "record.json").stat().st_size < 20_000
    assert read_json(tmp_path / "record.json") == json.loads(json.dumps({"outcomes": outcomes}))


def test_columns_change_no_text(tmp_path):
    value = {"text": "a [1, 2] b [\n3]", "numbers": [1, 2.5, None, True, -1e-9], "empty": [], "nested": [[1], ["x"]]}
    write_json(tmp_path / "value.json", value, columns=True)
    assert read_json(tmp_path / "value.json") == value
    assert '"numbers": [1,2.5,null,true,-1e-09]' in (tmp_path / "value.json").read_text()
