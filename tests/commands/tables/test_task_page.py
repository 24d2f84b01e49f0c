"""The pages of `jepa compare`."""

from __future__ import annotations

import pytest

from commands.shared.errors import UsageError
from commands.statistics.seed_intervals import Estimate, estimate_rate
from commands.tables.markdown import judge_difference
from commands.tables.overview import format_overview
from commands.tables.task_page import format_task_page
from tests.commands.tables.made_records import add_outcomes, make_record, make_results


def find_row(text: str, method: str, section: str = "## ") -> list[str]:
    """The cells of a method's row in the first table below a heading that begins with `section`."""
    below = text.partition(f"\n{section}")[2]
    return next(line for line in below.splitlines() if line.startswith(f"| {method} |")).strip("| ").split(" | ")


def test_success_is_normalised_by_the_oracle_of_the_same_seeds():
    records = [make_record("future", 0, 0.5), make_record("future", 1, 0.9)]
    records += [make_record("oracle", 0, 0.9), make_record("oracle", 1, 1.0)]
    text = format_task_page(records, ["steps"])
    row = find_row(text, "`future`")
    assert row[1:3] == ["0, 1", "20"] and row[5].startswith("70%")
    rate = estimate_rate([5, 9], [10, 10])
    low, high = ((value - 0.1) / (0.95 - 0.1) for value in (rate.low, rate.high))
    assert row[7] == f"0.71 ({low:.2f} to {high:.2f})"  # (0.7 - 0.1) / (0.95 - 0.1)
    assert find_row(text, "`oracle`")[3:5] == ["–", ""] and find_row(text, "`oracle`")[7].startswith("1.00 (")
    assert "0.71" not in format_task_page(records[:3], ["steps"])  # the oracle of seed 1 is missing


def test_the_protocols_judge_orders_rows_and_is_what_is_normalised():
    held = {"0.2": 0.4, "0.1": 0.4}
    records = [
        make_record("future", plan=make_results(0.9) | {"held": held}, words=("protocol.judge=held",)),
        make_record("lewm", plan=make_results(0.6), words=("protocol.judge=held",)),
        make_record("oracle", rate=1.0, words=("protocol.judge=held",)),
    ]
    text = format_task_page(records, ["steps"])
    first = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")][:3]
    assert first == ["| `oracle`", "| `lewm`", "| `future`"]
    assert find_row(text, "`future`")[7].startswith("0.33 (")  # (0.4 - 0.1) / (1 - 0.1)
    assert "random), for consecutive steps; its" in " ".join(text.split())


def test_a_table_of_shortened_trials_says_so():
    tuning = {"tried": 8, "share": 0.25}
    text = " ".join(format_task_page([make_record("future", tuning=tuning)], ["steps"]).split())
    assert "tried on val, each with 0.25 of the training steps." in text
    text = format_task_page([make_record("future", tuning=tuning | {"share": 1.0})], ["steps"])
    assert "of the training steps" not in " ".join(text.split())


def test_every_row_has_the_flops_of_both_stages_and_its_own_dynamics_those_of_stage_1():
    record = make_record("lewm", plan_own=make_results(0.2))
    text = format_task_page([record], ["steps"])
    assert find_row(text, "`lewm`")[3:5] == ["7.0", "1"]
    assert find_row(text, "`lewm`, its own dynamics")[3] == "4.0"
    assert find_row(text, "`lewm`", "### Models")[2:5] == ["4.0", "1.0", "2.0"]


def test_intervals_are_over_seeds_and_not_over_the_pool():
    records = [make_record("future", seed, rate) for seed, rate in ((0, 0.2), (1, 0.5), (2, 0.8))]
    row = find_row(format_task_page(records, ["steps"]), "`future`")
    rate = estimate_rate([2, 5, 8], [10, 10, 10])
    assert row[5] == f"50% ({rate.low:.0%} to {rate.high:.0%})" and rate.high - rate.low > 0.6
    assert find_row(format_task_page(records[1:2], ["steps"]), "`future`")[5] == "50% (24% to 76%)"  # Wilson


def test_all_thresholds_and_kinds_are_listed():
    text = format_task_page([make_record("future")], ["steps"])
    assert "0.2 rad, any | 0.2 rad, held | 0.2 rad, final | 0.1 rad, any" in text
    assert len(find_row(text, "`future`", "### All thresholds")) == 7


def test_records_that_lack_a_kind_of_success_have_an_empty_place():
    older = {key: value for key, value in make_results(0.5).items() if key != "final"}
    text = format_task_page([make_record("future", plan=older), make_record("lewm")], ["steps"])
    assert find_row(text, "`future`", "### All thresholds")[3].strip() == ""
    assert find_row(text, "`lewm`", "### All thresholds")[3].startswith("50 (")


def test_better_is_said_only_where_the_interval_excludes_zero():
    assert judge_difference(Estimate(0.1, 0.01, 0.2, 3)) == "better"
    assert judge_difference(Estimate(0.1, -0.01, 0.2, 3)) == "no difference shown"
    assert judge_difference(Estimate(-0.1, -0.2, -0.01, 3)) == "worse"
    assert judge_difference(Estimate(-0.1, -0.2, -0.01, 1)) == "worse (one seed)"


def test_rows_are_compared_with_the_best_of_the_others_and_with_the_main_row():
    reach, miss = [5] * 12, [None] * 12
    records = [
        add_outcomes(make_record("pldm"), plan=reach, random=miss),
        add_outcomes(make_record("lewm"), plan=reach[:6] + miss[6:], random=miss),
        add_outcomes(make_record("future"), plan=miss, random=miss),
        make_record("oracle", rate=1.0),
    ]
    text = format_task_page(records, ["steps"], main="future")
    pldm, future = (find_row(text, f"`{name}`", "### Differences") for name in ("pldm", "future"))
    assert pldm[2] == "less `lewm`" and pldm[3].startswith("+50 (") and pldm[4] == "better (one seed)"
    assert pldm[5].startswith("+100 (") and pldm[6] == "better (one seed)"
    assert future[2] == "less `pldm`" and future[3].startswith("-100 (") and future[-1] == "worse (one seed)"
    assert "`oracle`" not in text.partition("### Differences")[2].partition("###")[0]
    assert "not matched" not in text
    older = format_task_page([make_record("pldm", rate=0.9), make_record("future")], ["steps"])
    assert find_row(older, "`pldm`", "### Differences")[3].startswith("+40* (") and "not matched" in older


def test_the_best_of_the_others_is_that_of_the_same_kind_of_success():
    quick = make_results(0.9) | {"held": {"0.2": 0.1, "0.1": 0.1}}
    records = [make_record("pldm", plan=quick), make_record("lewm", rate=0.8), make_record("future", rate=0.3)]
    lines = [line for line in format_task_page(records, ["steps"]).splitlines() if line.startswith("| `future` | ")]
    assert [line.split(" | ")[2] for line in lines if "less" in line] == ["less `pldm`", "less `lewm`"]


def test_rows_of_other_seeds_are_not_compared():
    text = format_task_page([make_record("pldm", 0), make_record("future", 1)], ["steps"])
    assert find_row(text, "`pldm`", "### Differences")[-1] == "no seed in common"


def test_steps_to_success_are_the_median_of_successes_and_a_mean_in_which_failures_are_the_budget():
    record = add_outcomes(make_record("future"), plan=[4, 6, 20, None], random=[None] * 4)
    text = format_task_page([record, make_record("lewm", plan=make_results(0.5, 4))], ["steps"])
    row = find_row(text, "`future`", "### Steps to success")
    assert row[1] == "6" and row[2].startswith("15.0 (")  # (4 + 6 + 20 + 30) / 4
    assert row[3:] == ["–", "30.0"]
    assert "have none: `lewm`" in " ".join(text.split())


def test_success_by_start_distance_is_added_up_over_seeds():
    def record(seed, successes):
        groups = [{"from": 1.0, "to": 2.0, "episodes": 5, "successes": successes}]
        return make_record("future", seed, plan=make_results(0.5) | {"by_distance": groups})

    text = format_task_page([record(0, 1), record(1, 4)], ["steps"])
    rate = estimate_rate([1, 4], [5, 5])
    assert "| method | 1 to 2 |" in text
    found = find_row(text, "`future`", "### By start distance")[1]
    assert found == f"50 ({100 * rate.low:.0f}–{100 * rate.high:.0f}) of 10"


def test_a_table_says_what_it_shares_and_not_that_of_lewm_which_has_no_metric():
    text = format_task_page([make_record("future"), make_record("lewm")], ["steps"])
    words = " ".join(text.split())
    assert (
        "All rows share `env`, `data`, `encoder`, `pretrain`, `dynamics`, `posttrain`, `planner` and `protocol`"
        in words
    )
    assert "- `metric.kind`: biharmonic in `future`, none in `lewm`" in words


@pytest.mark.parametrize(
    "word", ["protocol.budget=12", "data.episodes=500", "env.factors=[colour]", "protocol.goal_nuisance=clean"]
)
def test_cells_of_another_protocol_or_data_are_refused_with_the_key_unless_asked_for(word):
    records = [make_record("future"), make_record("lewm", words=(word,))]
    key = word.partition("=")[0]
    with pytest.raises(UsageError, match=rf"(?s){key}.*mixed=true"):
        format_task_page(records, ["steps"])
    assert f"`{key}`" in format_task_page(records, ["steps"], mixed=True)


def test_a_mixed_table_takes_no_difference_of_rows_with_other_goals():
    records = [make_record("future"), make_record("lewm", words=("protocol.episodes=4",), plan=make_results(0.5, 4))]
    text = format_task_page(records, ["steps"], mixed=True)
    assert find_row(text, "`lewm`", "### Differences")[-1] == "other goals"


def test_seeds_of_one_row_may_differ_in_nothing_else():
    records = [make_record("lewm", 0), make_record("lewm", 1, words=("small.lewm=['objective.terms.sigreg=0.5']",))]
    with pytest.raises(UsageError, match=r"the seeds of `lewm` differ in objective.terms.sigreg"):
        format_task_page(records, ["steps"])


def test_the_overview_has_a_column_a_task_and_a_row_for_dynamics_of_its_own():
    own = {"plan_own": make_results(0.3)}
    records = [make_record("lewm", **own), make_record("lewm", task="push_t"), make_record("future")]
    records += [make_record("oracle", rate=0.9), make_record("oracle", task="push_t", rate=0.1)]
    text = format_overview(records)
    assert "| method | seeds | push_t | reacher |" in text
    assert find_row("\n## " + text, "`lewm`")[1:3] == ["0", "–"]  # on push_t the oracle is no better than random
    rate = estimate_rate([5], [10])
    low, high = ((value - 0.1) / (0.9 - 0.1) for value in (rate.low, rate.high))
    assert find_row("\n## " + text, "`lewm`")[-1] == f"0.50 ({low:.2f} to {high:.2f})"
    assert find_row("\n## " + text, "`lewm`, its own dynamics")[-1].startswith("0.25 (")
    assert find_row("\n## " + text, "`future`")[-1].startswith("0.50 (")
    more = format_overview([*records, make_record("future", 1), make_record("oracle", 1, 0.9)])
    assert find_row("\n## " + more, "`future`")[1] == "0, 1"
    twice = format_overview([*records, make_record("future", words=("planner.samples=50",))])
    assert find_row("\n## " + twice, "`future`")[-1] == "several settings"
    with pytest.raises(UsageError, match=r"protocol\.budget"):
        format_overview([*records, make_record("future", words=("protocol.budget=9",))])


def test_the_introduction_says_which_scenes_and_goal_images_were_evaluated():
    assert "10 episodes a seed, planned" in format_task_page([make_record("future")], ["steps"])
    words = ("env.variation=seen", "protocol.variation=unseen", "protocol.goal_nuisance=other")
    text = format_task_page([make_record("future", words=words)], ["steps"])
    assert "10 episodes a seed (scenes unseen, goal images other), planned" in text
