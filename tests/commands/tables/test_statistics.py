"""Paired differences match goals by seed, episode and start frame."""

from __future__ import annotations

import copy

import pytest

from commands.shared.errors import UsageError
from commands.statistics.seed_intervals import estimate_paired_difference, estimate_rate
from commands.tables.rows import identify_row, make_rows
from commands.tables.sharing import find_oracle, list_settings
from commands.tables.statistics import compare_rows, estimate_normalised, estimate_steps_to_success, estimate_success
from tests.commands.tables.made_records import add_outcomes, make_record, make_results

FIRST = {0: [4, None, 9, 2], 1: [3, 3, None, None]}
SECOND = {0: [None, None, 9, 30], 1: [3, None, 5, None]}


def rows_of(first, second):
    made = make_rows([*first, *second])
    return [next(row for row in made if row.key.objective == name) for name in ("future", "lewm")]


def records_of(objective, steps):
    return [
        add_outcomes(make_record(objective, seed), plan=column, random=[None] * 4) for seed, column in steps.items()
    ]


def test_a_difference_is_taken_goal_by_goal_whatever_their_order():
    first, second = records_of("future", FIRST), records_of("lewm", SECOND)
    expected = estimate_paired_difference([[1, 0, 0, 0], [0, 1, -1, 0]])
    assert compare_rows(*rows_of(first, second), "any", "0.2") == expected
    for columns in (second[0]["outcomes"]["goals"], *(second[0]["outcomes"]["plan"][kind] for kind in ("any", "held"))):
        for key in columns:
            columns[key] = columns[key][::-1]
    assert compare_rows(*rows_of(first, second), "any", "0.2") == expected
    assert compare_rows(*rows_of(first, second[1:]), "any", "0.2") == estimate_paired_difference([[0, 1, -1, 0]])


@pytest.mark.parametrize(("key", "goal"), [("start", "episode 2, start frame 3"), ("episode", "episode 2, start")])
def test_other_goals_are_refused_by_their_name(key, goal):
    first, second = records_of("future", FIRST), records_of("lewm", SECOND)
    second[1] = copy.deepcopy(second[1])
    second[1]["outcomes"]["goals"][key][2] = 17
    with pytest.raises(UsageError, match=rf"`future` and `lewm` .*same goals: seed 1, {goal}.* of `future` alone \(1 "):
        compare_rows(*rows_of(first, second), "any", "0.2")


def test_records_without_outcomes_are_compared_by_their_counts_of_equal_size():
    rows = rows_of([make_record("future", rate=0.8)], records_of("lewm", {0: FIRST[0]}))
    with pytest.raises(UsageError, match="seed 0 has 10 episodes of the one and 4 of the other"):
        compare_rows(*rows, "any", "0.2")
    difference = compare_rows(
        *rows_of([make_record("future", rate=0.8)], [make_record("lewm", rate=0.5)]), "any", "0.2"
    )
    assert difference.mean == pytest.approx(0.3) and not difference.matched
    assert estimate_steps_to_success(rows[0], "any", "0.2") is None


def test_random_actions_of_a_seed_count_once_however_many_cells_have_them():
    made = make_rows([make_record("future"), make_record("lewm"), make_record("lewm", 1)])
    random = next(row for row in made if row.key.objective == "random")
    assert random.seeds == [0, 1]
    assert estimate_success(random, "any", "0.2") == estimate_rate([1, 1], [10, 10])


def test_a_row_is_told_by_its_objective_its_metric_and_whose_dynamics_it_plans_with():
    plain = make_record("future", words=("metric=null",))
    keys = {identify_row(record, "plan") for record in (make_record("future"), plain, make_record("lewm"))}
    assert {(key.objective, key.metric) for key in keys} == {
        ("future", "biharmonic"),
        ("future", "none"),
        ("lewm", "none"),
    }
    labels = {row.label for row in make_rows([make_record("future"), plain, make_record("lewm")])}
    assert labels == {"`future`, metric biharmonic", "`future`, metric none", "`lewm`", "`random`"}


def test_the_variants_of_a_table_name_its_rows():
    variants = [{"metric": "none"}, {"metric": "biharmonic"}]
    records = [
        make_record("future", words=("metric=null",), variant=variants[0]),
        make_record("future", variant=variants[1]),
        make_record("future", seed=1, variant=variants[1]),
    ]
    rows = {row.label: row.seeds for row in make_rows(records) if not row.is_baseline}
    assert rows == {"`future metric=none`": [0], "`future metric=biharmonic`": [0, 1]}


def test_of_several_oracles_the_one_with_the_records_planner_counts():
    one, other = (
        make_record("oracle", rate=rate, words=words) for rate, words in ((1.0, ()), (0.6, ("planner=icem",)))
    )
    found = make_record("lewm", words=("planner=icem",))
    for records in ([one, other], [other, one]):
        assert find_oracle(found, records) is other and find_oracle(make_record("lewm"), records) is one
        assert find_oracle(make_record("lewm", words=("planner=mppi",)), records) is None
    assert find_oracle(found, [one, one]) is one, "a single one is that of its task, seed, data and protocol"
    assert find_oracle(make_record("lewm", words=("protocol.goal_offset=20",)), [one, other]) is None


def test_of_the_dynamics_an_oracle_has_the_model_step_alone():
    settings = list_settings(make_record("oracle", words=("dynamics.frame_skip=5",)))
    assert {key: value for key, value in settings.items() if key.startswith("dynamics")} == {"dynamics.frame_skip": 5}


def test_the_true_simulator_with_a_methods_cost_plays_a_few_goals_and_is_not_normalised():
    records = [make_record("oracle", rate=1.0), make_record("lewm", oracle_cost=make_results(1.0, 4))]
    rows = {row.key.part: row for row in make_rows(records) if row.key.objective == "lewm"}
    assert estimate_normalised(rows["plan"], records) is not None
    assert estimate_normalised(rows["oracle_cost"], records) is None
