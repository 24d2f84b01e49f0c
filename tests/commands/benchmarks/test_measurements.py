"""Calls that take turns: their order, and their ratios under a drifting clock."""

from __future__ import annotations

import pytest

from commands.benchmarks.measurements import compare_rounds, time_rounds


def test_a_ratio_is_the_median_over_rounds_and_not_the_ratio_of_medians():
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 6.0}, {"a": 9.0, "b": 9.0}]
    found = compare_rounds(rounds, "a")
    assert (found["a"].seconds, found["b"].seconds) == (2.0, 6.0)
    assert found["b"].ratio == 2.0, "the ratios are 2, 3 and 1; that of the medians is 3"
    assert found["a"].ratio == 1.0


def test_a_machine_that_slows_down_tenfold_changes_no_ratio():
    rounds = [{"a": slow, "b": 3 * slow} for slow in (1.0, 2.0, 4.0, 10.0)]
    assert compare_rounds(rounds, "a")["b"].ratio == pytest.approx(3.0)
    assert compare_rounds(rounds, "b")["a"].ratio == pytest.approx(1 / 3)


def test_calls_are_warmed_up_and_then_take_turns_every_other_round_in_reverse():
    made: list[tuple[str, int]] = []
    calls = {name: lambda number, name=name: made.append((name, number)) for name in "abc"}
    found = time_rounds(calls, 0.0, "b")
    assert "".join(name for name, _ in made[:3]) == "abc" and {number for _, number in made[:3]} == {0}
    assert "".join(name for name, _ in made[3:12]) == "abccbaabc"
    assert [number for _, number in made[3:12:3]] == [1, 2, 3], "each round draws other candidates"
    assert set(found) == set("abc") and found["b"].ratio == 1.0
