"""The bench of planners: its optima, its budgets, what it writes."""

from __future__ import annotations

import pytest
import torch

from commands.benchmarks import planners as bench
from commands.benchmarks.planner_settings import PlannerSettings
from commands.cli.main import main
from commands.config.groups import PLANNERS
from planners.gradient import Gradient, GradientConfig


@pytest.mark.parametrize("name", ["quadratic", "bounds"])
def test_nothing_within_bounds_is_below_the_exact_optimum_and_a_long_search_finds_it(name, monkeypatch):
    monkeypatch.setattr(bench, "INSTANCES", 3)
    task = bench.PROBLEMS[name]
    best = bench.solve_exactly(task, 5)
    descent = PlannerSettings(Gradient, GradientConfig(iterations=200, learning_rate=0.2, lr_end=0.001))
    found, _ = bench.plan_cases(descent, 2000, task, 5)
    assert (found.cost_B >= best - 1e-4).all()
    assert torch.allclose(found.cost_B, best, atol=2e-3)
    assert (bench.cost_zero_actions(task, 5) > best + 0.5).all()


@pytest.mark.parametrize("name", [name for name in bench.SPACE if name != "nevergrad"])
def test_a_planner_imagines_what_its_budget_allows(name, monkeypatch):
    monkeypatch.setattr(bench, "INSTANCES", 2)
    for settings in bench.sample_settings(name, 6):
        for budget in (64, 1024):
            _, work = bench.plan_cases(settings, budget, bench.PROBLEMS["walls"], 3)
            # A mean that is returned is scored once more; a population keeps twice its elites.
            assert work <= 1.35 * budget + 8, (name, settings)


def test_every_planner_of_the_registry_is_in_the_bench_with_settings_out_of_what_was_swept():
    assert set(bench.SPACE) == {keys().name for keys in PLANNERS} == set(bench.TUNED)
    for name, settings in bench.TUNED.items():
        assert PLANNERS[next(keys for keys in PLANNERS if keys().name == name)] is settings.planner
        assert all(settings.get(key) in values for key, values in bench.SPACE[name].items())


def test_the_command_writes_rows_a_table_and_a_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "INSTANCES", 2)
    monkeypatch.setattr(bench, "BUDGETS", (64,))
    monkeypatch.setattr(bench, "search_long", lambda task, seed: bench.cost_zero_actions(task, seed) - 4)
    monkeypatch.setattr(bench, "list_installed", lambda: ["cem", "gradient"])
    assert main(["bench", "planners", "name=b"]) == 0
    folder = tmp_path / "runs/bench/b"
    assert (folder / "planners.png").stat().st_size > 1000
    assert len((folder / "planners.md").read_text().splitlines()) == 2 + 4 * 2
    assert "many ways, gradient" in capsys.readouterr().out
