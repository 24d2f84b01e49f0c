"""Several tasks as one command, and cells that fail: `jepa compare env=reacher,push_t`."""

from __future__ import annotations

import json

import pytest

from commands import compare
from commands.cli.main import main
from commands.comparison import pages
from commands.shared.errors import RunError
from commands.shared.runs import write_json
from commands.tables.overview import format_overview
from tests.commands.tables.made_records import add_outcomes, make_record

WORDS = (
    *("compare", "objectives=[oracle,future,lewm]", "budgets=[steps]", "published=null", "device=cpu"),
    *("encoder=tiny", "trainer@pretrain=debug", "trainer@posttrain=debug"),
)
RATES = {"oracle": 10, "future": 9, "lewm": 2}  # successes of ten


def make_finished(cell):
    """The record of a cell that has run, but for its numbers."""
    steps = [5] * RATES[cell.objective] + [None] * (10 - RATES[cell.objective])
    record = make_record(cell.objective, cell.seed, task=cell.keys.env.name)
    record |= {"config": cell.config, "budget": cell.budget, "variant": {}}
    record |= {"open_loop": {"predicted": [0.1, 0.2], "copy": [0.5, 0.5]}} if cell.objective != "oracle" else {}
    return add_outcomes(record, plan=steps, random=[3] + [None] * 9)


@pytest.fixture
def cells(monkeypatch, tmp_path):
    """Cells that are finished at once; those whose name holds one of `failing` fail. Returns (failing, names run)."""
    failing, ran = [], []

    def run_cell(cell, folder, records, console):
        if any(word in cell.name for word in failing):
            raise RunError("the simulator is gone")
        ran.append(cell.name)
        write_json(records / f"{cell.name}.json", make_finished(cell))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "run_cell", run_cell)
    monkeypatch.setattr(pages, "write_figures", lambda rows, stem: [])
    return failing, ran


def test_a_failed_cell_is_named_the_rest_goes_on_and_the_same_command_runs_it_again(cells, tmp_path, capsys):
    failing, ran = cells
    failing.append("-future-")
    words = [*WORDS, "name=table", "seeds=2"]
    assert main(words) == 1
    assert [name.split("-")[1] for name in ran] == ["oracle", "lewm"] * 2
    captured = capsys.readouterr()
    assert "2 of 6 cells failed, and the same command runs them again: reacher-future-steps-seed0-" in captured.err
    assert captured.err.count("the simulator is gone") == 4, "at once, and at the end"
    assert "| `lewm` | 0, 1 |" in captured.out and "| `future` |" not in captured.out
    assert not (tmp_path / "runs/compare/table/finished.json").exists()
    failing.clear()
    assert main(words) == 0
    assert len(ran) == 6 and "| `future` | 0, 1 |" in capsys.readouterr().out
    assert (tmp_path / "runs/compare/table/report.html").exists()


def test_all_cells_may_fail(cells, capsys):
    cells[0].append("-")
    assert main([*WORDS, "name=table"]) == 1
    assert "3 of 3 cells failed" in capsys.readouterr().err


def test_a_further_seed_of_a_tuned_row_fails_with_the_seed_that_chooses_its_setting(cells, capsys):
    cells[0].append("-future-")
    assert main([*WORDS, "objectives=[future]", "name=table", "seeds=2", "trials=2"]) == 1
    error = capsys.readouterr().err
    assert "it takes the setting that reacher-future-steps-seed0-" in error and "2 of 2 cells failed" in error


def test_several_tasks_have_the_cells_and_pages_of_each_and_one_page_of_all(cells, tmp_path, capsys):
    _, ran = cells
    assert main([*WORDS, "env=reacher,push_t", "cells=cells"]) == 0
    together = sorted(ran)
    for task in ("reacher", "push_t"):
        ran.clear()
        assert main([*WORDS, f"env={task}", f"cells={task}", "runs=alone"]) == 0
        assert set(ran) < set(together), "the same cells as of each task alone"
        assert (tmp_path / f"cells/{task}.csv").read_text() == (tmp_path / f"{task}/{task}.csv").read_text()
    page = (tmp_path / "cells/README.md").read_text()
    assert "| method | seeds | push_t | reacher |" in page
    assert "| `future` | 0 | 0.89 (" in page and "| `oracle` | 0 | 1.00 (" in page  # (0.9 - 0.1) / (1 - 0.1)
    less = page.partition("### Less future")[2]
    assert "| `lewm` | -70 (" in less and less.count("worse (one seed)") == 2
    assert "![normalised success by task](tasks.png)" in page and (tmp_path / "cells/tasks.png").exists()
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120
    (joined,) = tmp_path.glob("runs/compare/reacher+push_t-*")
    html = (joined / "report.html").read_text()
    assert html.count('report.html">') == 2 and "<th" in html and "data:image/png" in html
    capsys.readouterr()
    assert main([*WORDS, "env=reacher,push_t", "cells=cells"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_each_task_has_a_run_folder_and_cells_of_its_own_without_cells(cells, tmp_path):
    assert main([*WORDS, "env=reacher,push_t", "name=all"]) == 0
    runs = tmp_path / "runs/compare"
    assert {path.name for path in runs.iterdir()} == {"all", "all-reacher", "all-push_t"}
    assert (runs / "all/README.md").exists() and (runs / "all-push_t/cells/push_t.md").exists()


def test_a_task_that_fails_is_named_and_the_others_go_on(cells, tmp_path, capsys):
    failing, ran = cells
    failing.append("reacher-lewm")
    words = [*WORDS, "env=reacher,push_t", "name=all", "cells=cells"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "reacher-lewm-steps-seed0-" in error and "env=reacher failed, as said above, and 1 of 2 did not" in error
    assert len(ran) == 5 and "push_t" in (tmp_path / "cells/README.md").read_text()
    failing.clear()
    assert main(words) == 0 and len(ran) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=reacher,push_"], "env=push_: there is no such env; did you mean push_t?"),
        (["env=reacher,reacher"], "env=reacher,reacher names reacher twice"),
        (
            ["env=reacher,push_t", "suite=controled"],
            "suite=controled: there is no such suite; did you mean controlled?",
        ),
        (["env=reacher,push_t", "protocol.goal_kinds={reacher: far}"], "env=reacher: protocol.goal_kinds: reacher has"),
        (["env=reacher,push_t", "seeds=1,2"], "seeds=1,2 gives several values"),
        (["env=reacher,push_t", "data.frames=9"], "env=reacher: data.frames=9"),
    ],
)
def test_what_is_wrong_with_any_task_is_said_before_the_first_one_runs(words, message, cells, tmp_path, capsys):
    assert main([*WORDS, *words]) == 2
    assert message in capsys.readouterr().err and not cells[1] and not list(tmp_path.iterdir())


def test_help_of_several_tasks_is_that_of_the_first(cells, capsys):
    assert main(["compare", "--help", "env=push_t,reacher"]) == 0
    assert "* push_t" in capsys.readouterr().out


def test_every_budget_has_a_table_over_tasks():
    records = [make_record(name, task=task) for name in ("future", "oracle") for task in ("reacher", "push_t")]
    records += [record | {"budget": "total"} for record in records]
    text = format_overview(records, ["steps", "total"])
    assert text.count("| method | seeds | push_t | reacher |") == 2
    assert "## Equal arithmetic in both stages together" in text


def test_a_record_without_goals_of_its_own_is_compared_by_counts():
    records = [make_record("future"), make_record("lewm", rate=0.2), make_record("oracle", rate=1.0)]
    assert "-30* (" in format_overview(records, main="future")
    assert json.dumps(records)  # as a record is kept
