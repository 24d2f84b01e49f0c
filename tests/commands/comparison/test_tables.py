"""The tables of `jepa compare`."""

from __future__ import annotations

from commands.comparison.tables import format_overview, format_task_page


def cell(objective, task="reacher", seed=0, rate=0.5, random=0.1, **more):
    row = {"episodes": 10, "any": {"0.2": rate}, "held": {"0.2": rate}}
    stage1 = {"probe": 0.5, "near_pair_correlation": 0.5, "probe_pixels": 0.4, "near_pair_correlation_pixels": 0.4}
    return {
        "objective": objective,
        "budget": "steps",
        "seed": seed,
        "task": task,
        "steps": 400,
        "flops_per_step": 1e10,
        "space": "pooled",
        "pretrain": stage1,
        "posttrain": {"over_copy_1": 0.2, "over_copy_last": 0.1},
        "plan": row,
        "random": {**row, "any": {"0.2": random}},
        "thresholds": [0.2],
        "unit": "rad",
        "config": {"protocol": {}},
        **more,
    }


def oracle(seed=0, task="reacher", rate=0.9):
    made = cell("oracle", task, seed, rate)
    return {key: made[key] for key in made if key not in ("steps", "flops_per_step", "space", "pretrain", "posttrain")}


def row_of(text, objective):
    return next(line for line in text.splitlines() if line.startswith(f"| `{objective}`")).strip("| ").split(" | ")


def test_success_is_normalised_by_the_oracle_of_the_same_seeds():
    cells = [cell("future", seed=0, rate=0.5), cell("future", seed=1, rate=0.9), oracle(0), oracle(1, rate=1.0)]
    text = format_task_page(cells, ["steps"])
    row = row_of(text, "future")
    assert row[1] == "0, 1" and row[7].startswith("70%") and row[9] == "0.71"  # (0.7 - 0.1) / (0.95 - 0.1)
    assert row_of(text, "oracle")[9] == "1.00" and "–" in row_of(text, "oracle")
    without = format_task_page(cells[:3], ["steps"])
    assert "0.71" not in without  # the oracle of seed 1 is missing


def test_the_overview_has_a_column_a_task_and_a_row_for_dynamics_of_its_own():
    own = {"plan_own": {"any": {"0.2": 0.3}}}
    cells = [cell("lewm", **own), cell("lewm", "push_t"), cell("future"), oracle(), oracle(task="push_t", rate=0.1)]
    text = format_overview(cells)
    assert "| objective | push_t | reacher |" in text
    assert row_of(text, "lewm")[1:] == ["–", "0.50"]  # on push_t the oracle is no better than random
    assert row_of(text, "lewm, its own dynamics")[-1] == "0.25"
    assert row_of(text, "future")[-1] == "0.50"
    more = format_overview([*cells, cell("future", seed=1), oracle(1)])
    assert row_of(more, "future")[-1] == "0.50 (2)"
    twice = format_overview([*cells, cell("future")])  # of another planner, say
    assert row_of(twice, "future")[-1] == "several settings"


def test_the_introduction_says_which_scenes_and_goal_images_were_evaluated():
    assert "10 episodes a seed, planned" in format_task_page([cell("future")], ["steps"])
    unseen = {"protocol": {"variation": "unseen", "goal_nuisance": "other"}}
    text = format_task_page([cell("future", config=unseen)], ["steps"])
    assert "10 episodes a seed (scenes unseen, goal images other), planned" in text
