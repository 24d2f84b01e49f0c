"""Trainings of stage 1 that cells share: the same weights as trained alone, and when they are removed."""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from commands.comparison.cells import Cell
from commands.comparison.phases import SHARED, Phases, name_shared_training, remove_shared_trainings
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.shared.console import METRICS, Console, read_metrics
from commands.training.model_folders import load_encoder
from commands.transfer.collection import FILE, collect_into
from world_model.training.checkpoint import read_model_kind

CONSOLE = Console(io.StringIO(), io.StringIO())
SMALL = (
    *("env=reacher", "data=debug", "data.episodes=6", "data.frames=21", "workers=1", "encoder=tiny"),
    *("trainer@pretrain=debug", "pretrain.steps=3", "pretrain.checkpoint_every=2"),
)


@pytest.fixture(scope="module")
def config():
    return load_config("compare", [*SMALL, "vary.metric=[none,biharmonic]"])


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / FILE
    collect_into(path, config.collection, CONSOLE)
    return str(path)


def make_cell(config, objective, metric, seed=0):
    variant = {"metric": metric}
    return Cell(objective, "steps", seed, make_cell_keys(config, objective, seed, variant), variant)


def test_seconds_of_a_phase_that_was_stopped_are_added_to_those_of_the_next_start(config, tmp_path, monkeypatch):
    monkeypatch.setattr(Cell, "flops", None)
    clock = iter([0.0, 5.0, 100.0, 102.0])
    monkeypatch.setattr("commands.comparison.phases.time.perf_counter", lambda: next(clock))

    def stop():
        raise KeyboardInterrupt

    cell = make_cell(config, "future", "none")
    for call in (stop, lambda: None):
        phases = Phases(cell, cell.name, "data.h5", tmp_path / "work", tmp_path / SHARED, CONSOLE)
        with nullcontext() if call is not stop else pytest.raises(KeyboardInterrupt):
            phases._time("posttrain", call)
    assert phases.seconds == {"posttrain": 7.0}


def train(cell, data, folder, shared):
    work = Phases(cell, cell.name, data, folder, shared, CONSOLE)
    return work, work.train_encoder()


@pytest.mark.parametrize(
    "objective", ["lewm", *(pytest.param(name, marks=pytest.mark.slow) for name in ("future", "vjepa2"))]
)
def test_a_metric_fitted_to_a_shared_training_makes_the_weights_of_a_training_of_its_own(
    objective, config, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(Cell, "flops", None)
    plain, metric = (make_cell(config, objective, kind) for kind in ("none", "biharmonic"))
    train(plain, data, tmp_path / "plain", tmp_path / SHARED)
    with monkeypatch.context() as patch:
        patch.setattr("world_model.training.loop.train_step", None)  # it takes no step
        work, trained_by = train(metric, data, tmp_path / "metric", tmp_path / SHARED)
    assert trained_by == plain.name and work.seconds["pretrain"] > 0
    _, alone = train(metric, data, tmp_path / "alone", tmp_path / "none")
    assert alone == metric.name
    weights = {n: load_file(tmp_path / n / "pretrain/model/model.safetensors") for n in ("metric", "alone")}
    assert weights["metric"].keys() == weights["alone"].keys()
    assert all(torch.equal(value, weights["alone"][name]) for name, value in weights["metric"].items())
    kinds = {name: read_model_kind(tmp_path / name / "pretrain/model") for name in ("plain", "metric")}
    assert kinds == {"plain": "dynamics" if objective == "lewm" else "encoder", "metric": "encoder"}
    outs = [load_encoder(tmp_path / name)[0].pool.out.weight for name in ("plain/pretrain", "metric/pretrain")]
    assert not torch.equal(*outs)
    lines = read_metrics(tmp_path / "metric/pretrain" / METRICS)
    assert [line["step"] for line in lines if line["kind"] == "val"] == [3], "evaluated under its own metric alone"


def test_trainings_are_shared_by_what_differs_in_the_metric_alone(config):
    first = make_cell(config, "future", "none")
    name = name_shared_training(first)
    assert name == name_shared_training(make_cell(config, "future", "biharmonic"))
    keys = first.keys
    for other in (
        replace(keys, pretrain=replace(keys.pretrain, lr=1.0)),
        replace(keys, encoder=replace(keys.encoder, width=64)),
        replace(keys, objective=replace(keys.objective, frame_gap=1)),
        replace(keys, data=replace(keys.data, episodes=7)),
        replace(keys, seed=1),
    ):
        assert name_shared_training(replace(first, keys=other)) != name
    free = replace(keys, workers=3, pretrain=replace(keys.pretrain, log_every=1), posttrain=keys.pretrain)
    assert name_shared_training(replace(first, keys=free)) == name


def test_shared_trainings_are_removed_when_no_cell_needs_them(config, tmp_path):
    cells = [make_cell(config, name, kind) for name in ("future", "lewm") for kind in ("none", "biharmonic")]
    for cell in cells:
        (tmp_path / SHARED / name_shared_training(cell)).mkdir(parents=True, exist_ok=True)
    remove_shared_trainings(tmp_path, cells[1:])
    assert len(list((tmp_path / SHARED).iterdir())) == 2
    remove_shared_trainings(tmp_path, cells[2:])
    assert [path.name.split("-")[0] for path in (tmp_path / SHARED).iterdir()] == ["lewm"]
    remove_shared_trainings(tmp_path, [])
    assert not list(tmp_path.iterdir())
