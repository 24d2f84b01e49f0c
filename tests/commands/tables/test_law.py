"""The law over cells: who is a point, and what is correlated with what."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from commands.tables.law import FIGURE, correlate, list_points, write_law


def cell(objective, error=0.5, success=0.5, task="reacher", seed=0, **more):
    return {
        "objective": objective,
        "task": task,
        "seed": seed,
        "thresholds": [0.2],
        "plan": {"any": {"0.2": success}},
        "random": {"any": {"0.2": 0.1}},
        "posttrain": {"over_copy_last": error},
        "pretrain": {"near_pair_correlation": None},
        "config": {"protocol": {"goal_offset": 25}},
        **more,
    }


def oracle(task="reacher", seed=0, success=0.9, **protocol):
    made = cell("oracle", success=success, task=task, seed=seed, config={"protocol": {"oracle": True, **protocol}})
    return {key: value for key, value in made.items() if key not in ("posttrain", "pretrain")}


def point(task, objective, error, success):
    return {"task": task, "objective": objective, "seed": 0, "error": error, "success": success}


def test_success_is_normalised_by_the_oracle_of_the_same_task_seed_and_protocol():
    reach = {"rank_reach": {"reach": {"useful": 20, "above_chance": 30}, "mean": [0.4, None, 0.6]}}
    other = cell("lewm", config={"protocol": {"goal_offset": 50}})
    records = [
        cell("future", 0.3, 0.5, **reach),
        cell("pldm", seed=1),
        cell("nepa", task="push_t"),
        other,
        oracle(goal_offset=25),
        oracle("push_t", success=0.1),
    ]
    (found,) = list_points(records)  # pldm and lewm have no oracle, that of push_t is no better than random
    assert found == {
        "task": "reacher",
        "objective": "future",
        "seed": 0,
        "success": pytest.approx(0.5),
        "error": 0.3,
        "near_pairs": None,
        "rank_reach": 20,
        "ranking": pytest.approx(0.5),
    }
    assert len(list_points([*records, oracle(goal_offset=50)])) == 2
    assert list_points([cell("future", rank_reach=None), oracle(goal_offset=25)])[0]["rank_reach"] is None


def test_the_correlation_is_spearmans_and_that_within_tasks_ignores_their_levels():
    rng = np.random.default_rng(0)
    error, noise = rng.random(40), rng.standard_normal(40)
    cells = [point("a", f"m{i}", e, -e + 0.3 * n) for i, (e, n) in enumerate(zip(error, noise, strict=True))]
    found = correlate(cells, "error")
    expected = spearmanr(error, -error + 0.3 * noise).statistic
    assert found["overall"] == pytest.approx(expected) and found["within"] == pytest.approx(expected)
    low, high = found["overall_ci95"]
    assert low < expected < high < 0 and (found["cells"], found["tasks"]) == (40, 1)
    # Two tasks: errors and success are both higher in the second, and oppose each other within each.
    levels = [point("b", one["objective"], one["error"] + 5, one["success"] + 5) for one in cells]
    both = correlate(cells + levels, "error")
    assert both["overall"] > 0.3 and both["within"] == pytest.approx(expected) and both["tasks"] == 2


def test_seeds_of_one_method_make_the_interval_no_narrower():
    rng = np.random.default_rng(1)
    error, success = rng.random((2, 12))
    once = [point("a", f"m{i}", e, s) for i, (e, s) in enumerate(zip(error, success, strict=True))]
    widths = [np.diff(correlate(cells, "error")["overall_ci95"]) for cells in (once, 4 * once)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_few_cells_and_constants_give_no_law(tmp_path):
    few = [cell(f"m{i}", 0.1 * i, 0.2 + 0.1 * i) for i in range(4)] + [oracle()]
    assert write_law(few, tmp_path / FIGURE) == "" and not (tmp_path / FIGURE).exists()
    same = [cell(f"m{i}", 0.5, 0.2 + 0.1 * i) for i in range(6)] + [oracle(goal_offset=25)]
    assert write_law(same, tmp_path / FIGURE) == ""
    assert correlate([point("a", "m", 0.1, 0.2)] * 9, "error") is None
    seeds = [point("a", f"m{i % 3}", e, s) for i, (e, s) in enumerate(np.random.default_rng(0).random((9, 2)))]
    assert correlate(seeds, "error")["overall_ci95"] is None, "three methods can hardly be resampled"


def test_the_page_says_what_the_figure_shows(tmp_path):
    records = [cell(f"m{i}", 0.1 * i, 0.9 - 0.1 * i) for i in range(6)] + [oracle(goal_offset=25)]
    text = write_law(records, tmp_path / FIGURE)
    assert text.startswith("\n## What predicts success\n\n") and "(law.png)" in text
    assert "open-loop error over copying, last step: -1.00 (-1.00 to -1.00), 6 cells" in text.replace("\n", " ")
    assert "near-pair" not in text, "no cell has measured it"
    assert max(map(len, text.splitlines())) <= 120 and (tmp_path / FIGURE).stat().st_size > 5000
