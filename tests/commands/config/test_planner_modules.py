"""A planner of another module: planner=MODULE:CLASS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from commands.config.compose import load_config
from commands.config.groups import make_planner
from commands.evaluation.methods import make_oracle_planner
from commands.shared.errors import UsageError
from planners.point_mass import DoubleIntegrator, PointCost, State
from planners.protocol import Views

GUIDE = Path(__file__).resolve().parents[3] / "docs/guides/own_planner.md"
OTHERS = """
class NoPlan:
    horizon = 6

    def __init__(self, config):
        pass

class Still:
    '''No planner of ours: only the protocol.'''

    def __init__(self, config):
        self.horizon = config.horizon

    def plan(self, dynamics, context, goal, cost, *, seeds, warm_start=None, replan=0):
        pass
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python title=\"my_planner.py\"\n(.*?)```", GUIDE.read_text(), re.S)
    (tmp_path / "my_planner.py").write_text(block.partition("start = State")[0])
    (tmp_path / "my_others.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(str(tmp_path))


def load(*words):
    return make_planner(load_config("plan", ["model=m", "data=d", *words]).planner)


def test_the_planner_of_the_guide_plans_with_its_own_keys(modules):
    planner = load(
        "planner=my_planner:Median", "planner.horizon=12", "planner.samples=32", "planner.options={elites: 5}"
    )
    assert type(planner).__name__ == "Median" and planner.config.elites == 5 and planner.config.samples == 32
    start = State(torch.tensor([[-1.0, 0.3, 0.0, 0.0]]))
    goal = Views({"pooled": torch.tensor([[1.0, -0.3, 0.0, 0.0]])})
    plan = planner.plan(DoubleIntegrator(), start, goal, PointCost(), seeds=[0])
    assert plan.actions_BKA.shape == (1, 12, 2)
    assert type(make_oracle_planner(planner, {"samples": 8})).__name__ == "Median"


def test_the_oracle_of_a_planner_with_unknown_settings_is_cem(modules):
    planner = load("planner=my_others:Still", "planner.horizon=5")
    assert planner.horizon == 5
    oracle = make_oracle_planner(planner, {})
    assert type(oracle).__name__ == "CEM" and oracle.horizon == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["planner=module"], "give planner=MODULE:CLASS"),
        (["planner=my_planner:"], "give planner=MODULE:CLASS"),
        (["planner=my_planer:Median"], "No module named 'my_planer'; put the folder of my_planer.py on PYTHONPATH"),
        (["planner=my_planner:Medean"], "my_planner has no class Medean; did you mean Median"),
        (["planner=my_others:NoPlan"], "NoPlan lacks plan, which every planner has"),
        (
            ["planner=my_planner:Median", "planner.options={elits: 5}"],
            "'planner.options.elits' is no key; did you mean",
        ),
        (["planner=my_planner:Median", "planner.options={elites: 1}"], "planner elites is 1; choose 2 to samples"),
    ],
)
def test_what_is_no_planner_is_refused_by_name(modules, words, said):
    with pytest.raises(UsageError) as caught:
        load(*words)
    assert said in str(caught.value), caught.value
