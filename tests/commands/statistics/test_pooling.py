"""Several seeds as one result: counts add up, whatever the sizes; only runs that differ in their seed alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from commands.config.compose import compose
from commands.shared.console import Console
from commands.statistics.curves import measure_area
from commands.statistics.intervals import wilson_interval
from commands.statistics.pooling import pool_results, pool_runs
from commands.statistics.searches import SearchRow, judge_searches
from commands.statistics.seed_intervals import estimate_rate


def result(successes: int, episodes: int, methods: tuple[str, ...] = ("model", "random")) -> dict[str, Any]:
    row = {
        "episodes": episodes,
        "any": {"0.2": successes / episodes},
        "held": {"0.2": 0.0},
        "by_distance": [{"from": 1.0, "to": 2.0, "episodes": episodes, "successes": successes}],
        "by_kind": [],
    }
    return {
        "schema": 2,
        "task": "reacher",
        "unit": "rad",
        "thresholds": [0.2],
        "success_rate": successes / episodes,
        "held_rate": 0.0,
        "methods": dict.fromkeys(methods, row),
    }


def test_counts_add_up_over_runs_of_unequal_size():
    made = pool_results([result(9, 10), result(10, 30)])
    model = made["methods"]["model"]
    assert model["episodes"] == 40
    assert model["any"]["0.2"] == pytest.approx(19 / 40)
    rate = estimate_rate([9, 10], [10, 30])
    assert model["any_ci95"]["0.2"] == (rate.low, rate.high)
    assert model["by_distance"] == [{"from": 1.0, "to": 2.0, "episodes": 40, "successes": 19}]
    assert made["success_rate_of_each"] == [0.9, pytest.approx(1 / 3)]


def test_a_method_that_one_run_lacks_is_left_out():
    made = pool_results([result(1, 2), result(1, 2, methods=("model",))])
    assert list(made["methods"]) == ["model"]


def test_only_finished_runs_that_differ_in_seed_alone_are_pooled(tmp_path: Path):
    folders = {}
    for word, done in (("seed=0", True), ("seed=1", True), ("seed=2", False), ("planner.samples=90", True)):
        path = tmp_path / word
        path.mkdir()
        if done:
            (path / "results.json").write_text(json.dumps(result(1, 4)))
        folders[path] = compose("demo", [word])
    out = io.StringIO()
    pool_runs(folders, (), Console(out))
    (written,) = tmp_path.glob("pool-*.json")
    pooled = json.loads(written.read_text())
    assert pooled["runs"] == ["seed=0", "seed=1"]
    assert pooled["methods"]["model"]["episodes"] == 8
    assert "25.0%" in out.getvalue()


def test_settings_of_a_sweep_stand_in_one_table_and_numbers_of_one_key_in_a_figure(tmp_path: Path):
    folders = {}
    for strength, successes in (("0", 9), ("0.5", 8), ("1.5", 2)):
        for seed in ("0", "1"):
            path = tmp_path / f"{strength}-{seed}"
            path.mkdir()
            (path / "results.json").write_text(json.dumps(result(successes, 10)))
            words = ["protocol.variation=unseen", f"protocol.strength={strength}", f"seed={seed}"]
            folders[path] = compose("plan", ["model=m", "data=d", *words])
    out = io.StringIO()
    pool_runs(folders, (), Console(out))
    table = out.getvalue().partition("3 settings")[2]
    assert "protocol.variation" not in table and "seed" not in table, "only keys that differ"
    rate = estimate_rate([8, 8], [10, 10])
    (line,) = [line for line in table.splitlines() if line.split()[:2] == ["0.5", "20"]]
    assert f"80.0% ({rate.low:.1%} to {rate.high:.1%})" in line
    (drawn,) = tmp_path.glob("settings-*.png")
    assert drawn.stat().st_size > 5000 and f"success over protocol.strength: {drawn}" in out.getvalue()
    curve = json.loads(drawn.with_suffix(".json").read_text())
    assert (curve["key"], curve["values"], curve["within"]) == ("protocol.strength", [0.0, 0.5, 1.5], 0.2)
    rows = curve["methods"]["model"]
    assert rows["any"]["rates"] == pytest.approx([0.9, 0.8, 0.2]) and rows["any"]["ci95"][1] == [rate.low, rate.high]
    area = (0.5 * (0.9 + 0.8) / 2 + 1.0 * (0.8 + 0.2) / 2) / 1.5
    assert (rows["any"]["area"], rows["held"]["area"]) == (pytest.approx(area), 0.0)
    assert f"area under the curve from 0 to 1.5: model {area:.1%} (held 0.0%), random" in out.getvalue()


def test_the_area_under_a_curve_is_normalised_by_its_range_and_does_not_depend_on_the_order():
    assert measure_area([0, 0.05, 0.3], [1, 1, 1]) == pytest.approx(1.0)
    assert measure_area([0.0, 0.2], [1.0, 0.0]) == pytest.approx(0.5)
    assert measure_area([0.3, 0.0, 0.1], [0.0, 0.9, 0.6]) == pytest.approx((0.1 * 0.75 + 0.2 * 0.3) / 0.3)


def test_a_setting_that_is_no_number_is_not_drawn(tmp_path: Path):
    folders = {}
    for word in ("protocol.variation=seen", "protocol.variation=unseen"):
        path = tmp_path / word
        path.mkdir()
        (path / "results.json").write_text(json.dumps(result(1, 4)))
        folders[path] = compose("plan", ["model=m", "data=d", word])
    out = io.StringIO()
    pool_runs(folders, (), Console(out))
    assert "2 settings" in out.getvalue() and not list(tmp_path.glob("*.png"))


def test_training_curves_of_a_sweep_are_drawn_over_each_other(tmp_path: Path):
    folders = {}
    for word, spread in (("objective=collapse", 1e-3), ("objective=vjepa2", 0.9)):
        path = tmp_path / word.partition("=")[2]
        path.mkdir()
        rows = [{"kind": "val", "step": step, "feature_std": spread, "prediction": 0.1} for step in (0, 10)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders[path] = compose("pretrain", [word, "data=x"])
    out = io.StringIO()
    pool_runs(folders, (), Console(out))
    (drawn,) = tmp_path.glob("sweep-*.png")
    assert drawn.stat().st_size > 5000 and drawn.name in out.getvalue()


def test_searches_of_a_sweep_have_a_page_that_says_first_what_no_search_reaches(tmp_path: Path):
    folders = {}
    for planner, source, successes, flops in (
        ("icem", "none", 60, 8e10),
        ("icem", "retrieval", 70, 9e9),
        ("direct", "retrieval", 90, 2e9),
    ):
        path = tmp_path / f"{planner}-{source}"
        path.mkdir()
        content = result(successes, 100) | {
            "planner": {"name": planner},
            "plan": {"ms_p50": 200.0, "environments": 100, "episode_flops": flops},
        }
        (path / "results.json").write_text(json.dumps(content))
        words = [f"planner={planner}", f"planner.proposal.source={source}"]
        folders[path] = compose("plan", ["model=m", "data=d", *words])
    out = io.StringIO()
    pool_runs(folders, (), Console(out))
    page = next(tmp_path.glob("searches-*.md")).read_text().splitlines()
    said = (
        "No search is needed here: 90% (83% to 94%) without search (planner=direct planner.proposal.source=retrieval)"
    )
    assert page[2].startswith(said) and page[2] in out.getvalue()
    assert [line.split(" | ")[4:] for line in page[6:9]] == [["2", "2 |"], ["9", "2 |"], ["80", "2 |"]]
    assert "| 70% (60% to 78%) | 0% (0% to 4%) |" in page[7]


@pytest.mark.parametrize(
    ("direct", "said"),
    [(95, "No search is needed"), (85, "cannot be told from the best search"), (40, "Search helps here")],
)
def test_the_sentence_about_searches_follows_from_rates_and_intervals(direct, said):
    rows = [
        SearchRow(name, name != "direct", 100, rate / 100, wilson_interval(rate, 100), 0.0, (0.0, 0.0), None, 1.0)
        for name, rate in (("direct", direct), ("icem", 90), ("cem", 60))
    ]
    assert said in judge_searches(rows) and "icem" in judge_searches(rows)
    assert judge_searches(rows[1:]) == ""
