"""The CSV files hold what the page says, one line a cell and threshold, and one a cell and episode."""

from __future__ import annotations

import csv
import io

from commands.tables.tidy import format_episodes_csv, format_seeds_csv
from tests.commands.tables.made_records import add_outcomes, make_record, make_results


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_one_line_a_method_seed_and_threshold():
    records = [make_record("lewm", seed, plan_own=make_results(0.2), budget="both") for seed in (0, 1)]
    lines = read(format_seeds_csv([*records, make_record("oracle", rate=1.0, budget="both")]))
    assert len(lines) == (2 + 2 + 2 + 1) * 2  # lewm, its own dynamics, random, oracle; two thresholds
    first = lines[0]
    assert (first["row"], first["seed"], first["threshold"], first["any"], first["episodes"]) == (
        "lewm",
        "0",
        "0.2",
        "5",
        "10",
    )
    assert float(first["stage1_flops"]) == 400 * 1e10 and float(first["stage2_flops"]) > 0
    own = next(line for line in lines if line["part"] == "plan_own")
    assert (own["any"], float(own["stage2_flops"]), own["probe"]) == ("2", 0.0, "")
    assert first["any_median_steps"] == ""
    older = {key: value for key, value in make_results(0.5).items() if key != "final"}
    assert read(format_seeds_csv([make_record("lewm", plan=older)]))[0]["final"] == ""


def test_a_row_with_an_axis_has_its_column_and_others_an_empty_place():
    records = [make_record("oracle", rate=1.0), make_record("lewm", variant={"encoder": "keypoints"})]
    lines = read(format_seeds_csv(records))
    assert [line["encoder"] for line in lines if line["objective"] == "oracle"] == ["", ""]
    assert {line["encoder"] for line in lines if line["objective"] == "lewm"} == {"keypoints"}


def test_one_line_a_method_seed_and_episode_with_steps_by_threshold():
    record = add_outcomes(make_record("future"), plan=[4, None, 7], random=[None] * 3)
    lines = read(format_episodes_csv([record, make_record("lewm")]))
    assert [line["row"] for line in lines] == ["future"] * 3 + ["random"] * 3
    assert [line["any_0.2"] for line in lines] == ["4", "", "7", "", "", ""]
    assert [line["episode"] for line in lines[:3]] == ["0", "1", "2"] and lines[0]["start"] == "3"
    (seed,) = [
        line for line in read(format_seeds_csv([record])) if line["threshold"] == "0.1" and line["row"] == "future"
    ]
    assert (seed["any_median_steps"], float(seed["any_restricted_mean_steps"])) == ("5.5", 41 / 3)
    assert format_episodes_csv([make_record("lewm")]) == ""
