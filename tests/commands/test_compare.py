"""What the cells of `jepa compare` are; that it runs them is in tests/test_end_to_end.py."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from commands.cli.main import main
from commands.comparison import execution
from commands.comparison.cells import Cell, is_current, make_cells
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.config.schema import build
from commands.shared.runs import read_json, write_json
from world_model.objectives.families import ObjectiveConfig

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("pool", "family"), [("learned", "masked"), ("keypoints", "future")])
def test_the_untrained_row_is_what_its_pool_embeds_before_the_first_step(pool, family):
    config = load_config("compare", [f"encoder.pool.kind={pool}", "small.future=['objective.frames=9']"])
    cell = make_cell_keys(config, "untrained", 3)
    assert (cell.objective.family, cell.pretrain.steps, cell.seed) == (family, 0, 3)
    assert cell.objective.metric.kind == "biharmonic"
    trained = make_cell_keys(config, "future", 3)
    assert trained.pretrain.steps > 0 and trained.objective.frames == 9
    assert (trained.objective == cell.objective) == (pool == "keypoints")


@pytest.mark.parametrize(("weight", "found"), [(0.0, True), (1.0, False)])
def test_keys_that_had_no_effect_leave_a_record_what_it_was(tmp_path, weight, found):
    """Records of `lewm` held the keys of contrast within clips, which it ignored."""
    cell = Cell("lewm", "steps", 0, make_cell_keys(load_config("compare", []), "lewm", 0))
    objective = cell.config["objective"]
    older = {**objective, "terms": {**objective["terms"], "contrast": weight, "contrast_scale": 0.1}}
    write_json(tmp_path / f"{cell.name}.json", {"config": {**cell.config, "objective": older}})
    assert (cell.find_record(tmp_path) is not None) == found
    if found:
        assert build(ObjectiveConfig, older) == cell.keys.objective
    future = replace(cell, keys=make_cell_keys(load_config("compare", []), "future", 0))
    assert future.config["objective"]["terms"]["contrast"] == 0.0


@pytest.mark.parametrize("name", ["lewm", "pldm"])
def test_cells_of_an_earlier_loss_are_not_taken_for_cells_of_this_one(name, tmp_path):
    """Their weights meant another scale: they lack `loss_version`, and agree in everything else."""
    cell = Cell(name, "steps", 0, make_cell_keys(load_config("compare", []), name, 0))
    assert cell.config["objective"]["loss_version"] == 2
    older = {key: value for key, value in cell.config["objective"].items() if key != "loss_version"}
    write_json(tmp_path / f"{cell.name}.json", {"config": {**cell.config, "objective": older}})
    assert cell.find_record(tmp_path) is None and not is_current({**cell.config, "objective": older})
    write_json(tmp_path / f"{cell.name}.json", {"config": {**cell.config, "objective": {**older, "loss_version": 1}}})
    assert cell.find_record(tmp_path) is None
    write_json(tmp_path / f"{cell.name}.json", {"config": cell.config})
    assert cell.find_record(tmp_path) is not None and is_current(cell.config)


def test_published_cells_of_other_objectives_are_those_of_this_version():
    records = {path.name: read_json(path)["config"] for path in DOCS.glob("*/*-seed*.json")}
    assert len(records) > 10
    for name, config in records.items():
        objective = config.get("objective", {})
        older = objective.get("family") == "end_to_end" and "loss_version" not in objective
        assert is_current(config) != older, name


def test_an_old_record_is_named_and_left_out_of_the_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (oracle,) = DOCS.glob("recipes/reacher-oracle-both-seed1-*.json")
    table = load_config("compare", ["recipe=reacher"])
    config = Cell("pldm", "steps", 1, make_cell_keys(table, "pldm", 1)).config
    older = {key: value for key, value in config["objective"].items() if key != "loss_version"}
    (tmp_path / "cells").mkdir()
    write_json("cells/reacher-oracle-both-seed1-0.json", read_json(oracle))
    record = {**read_json(oracle), "objective": "pldm", "config": {**config, "objective": older}}
    write_json("cells/reacher-pldm-steps-seed1-0.json", record)
    words = ["compare", "recipe=reacher", "table_only=true", "objectives=[oracle,pldm]", "cells=cells"]
    assert main([*words, "published=null"]) == 0
    captured = capsys.readouterr()
    assert "1 records in cells are of an earlier version, whose keys or loss differ" in captured.err
    assert "| `oracle` | 1 | 50 | – |" in captured.out and "| `pldm`" not in captured.out


def test_a_table_alone_runs_no_cell_and_refuses_where_none_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "recipe=reacher", "table_only=true", "objectives=[oracle]", "cells=cells"]
    assert main(words) == 2
    assert "no cell of this table is finished in cells, docs/recipes" in capsys.readouterr().err
    assert not (tmp_path / "cells").exists()
    (tmp_path / "cells").mkdir()
    (finished,) = Path(__file__).parents[2].glob("docs/recipes/reacher-oracle-both-seed1-*.json")
    shutil.copy(finished, tmp_path / "cells")
    for _ in range(2):  # a table can be asked for again
        assert main(words) == 0
        assert "| `oracle` | 1 | 50 | – |" in capsys.readouterr().out
    assert len(list((tmp_path / "cells").glob("*.json"))) == 1
    with (tmp_path / "cells/reacher.csv").open() as lines:
        assert [line["row"] for line in csv.DictReader(lines)] == ["oracle"] * 3 + ["random"] * 3


def test_methods_of_other_protocols_are_refused_before_the_first_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["compare", "objectives=[future,lewm]", "small.lewm=['protocol.budget=9','data.frames=50']"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "protocol.budget" in error and "data.frames" in error and "mixed=true" in error
    assert not list(tmp_path.rglob("*.h5"))


class Killed(BaseException):
    """Ends a command where SIGKILL would: nothing after it is done."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cell_killed_beside_its_record_leaves_no_folder_and_loses_no_work(moment, tmp_path, monkeypatch):
    (cell,) = make_cells(load_config("compare", ["objectives=[future]", "budgets=[steps]", "seeds=1", "trials=2"]))
    folder, records = tmp_path / "run", tmp_path / "cells"
    records.mkdir()
    found: list[bool] = []

    def pipeline(cell, data, work, records, console):
        found.append((work / "weights").exists())
        execution.find_trials(records, cell).add({"setting": {}})
        work.mkdir(exist_ok=True)
        (work / "weights").touch()
        return {"config": cell.config, "tuning": {**cell.tuning.spec, "setting": {}}}

    def die(*args, **keys):
        if moment == "after":
            write_json(*args, **keys)
        raise Killed

    monkeypatch.setattr(execution, "collect_into", lambda *args: None)
    monkeypatch.setattr(execution, "run_pipeline", pipeline)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(execution, "write_json", die)
        folder.mkdir()
        execution.run_cell(cell, folder, records, None)
    assert execution.find_ended_folder(folder, cell).exists()
    assert (cell.find_record(records) is not None) == (moment == "after")
    if moment == "before":
        execution.run_cell(cell, folder, records, None)
        assert found == [False, True], "what was trained is found again"
    else:
        assert execution.find_trials(records, cell).read()
        execution.remove_leftovers(folder, records, [cell])
    assert [path.name for path in folder.iterdir()] == ["data-seed0"]
    assert [path.name for path in records.iterdir()] == [f"{cell.name}.json"]


def test_a_cell_that_keeps_its_models_keeps_them(tmp_path, monkeypatch):
    keys = make_cell_keys(load_config("compare", []), "future", 0)
    cell = Cell("future", "steps", 0, keys, keeps_files=True)
    monkeypatch.setattr(execution, "collect_into", lambda *args: None)
    monkeypatch.setattr(execution, "run_pipeline", lambda cell, data, work, records, console: work.mkdir() or {})
    execution.run_cell(cell, tmp_path, tmp_path, None)
    execution.remove_leftovers(tmp_path, tmp_path, [cell])
    assert (tmp_path / cell.name).is_dir()


@pytest.mark.parametrize(("budget", "more", "found"), [("flops", 2, True), ("flops", 6, False), ("steps", 2, False)])
def test_a_cell_of_equal_arithmetic_is_found_though_a_version_counts_other_steps(budget, more, found, tmp_path):
    keys = make_cell_keys(load_config("compare", ["pretrain.steps=400"]), "future", 0)
    cell = Cell("future", budget, 0, keys)
    config = {**cell.config, "pretrain": {**cell.config["pretrain"], "steps": 400 + more}}
    write_json(tmp_path / f"{cell.name}.json", {"config": config})
    assert (cell.find_record(tmp_path) is not None) == found
