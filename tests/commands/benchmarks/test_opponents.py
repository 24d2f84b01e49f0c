"""Searches of other packages with our model: candidates in the right units, equal numbers, and what is refused.

Stand-ins have the packages' interfaces, as far as they are used, so that these tests need no package. Where a package
is installed, it is run, too.
"""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
import torch

from commands.benchmarks.opponents import OPPONENTS, CostModel, RolloutModel, count_imagining
from commands.benchmarks.plan_cases import PlanCase, make_case
from commands.benchmarks.plan_tables import set_sizes
from commands.cli.main import main
from commands.config.compose import load_config
from planners.noise import Draws
from planners.scoring import score

CPU = torch.device("cpu")
SEARCH = (
    "planner.samples=6",
    "planner.elites=3",
    "planner.iterations=2",
    "planner.horizon=4",
    "planner.return_best=true",
)
DREAMER = ("objective=dreamerv3", "objective.deter=16", "objective.hidden=8", "objective.depth=2", "objective.draws=2")
# LeWorldModel's kind of predictor, at a small size.
SIZES = "dynamics.predictor={width: 64, depth: 2, heads: 4, head_dim: 32, mlp_ratio: 6.0, conditioning: adaln_lewm}"

STABLE_WORLDMODEL = {
    "__init__.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class PlanConfig:
    horizon: int
    receding_horizon: int
    action_block: int = 1
""",
    "solver.py": """
import torch

class CEMSolver:
    made = []

    def __init__(self, model, batch_size, num_samples, var_scale, n_steps, topk, device):
        self.model, self.samples, self.steps, self.topk = model, num_samples, n_steps, topk
        self.costs = []
        CEMSolver.made.append(self)

    def configure(self, *, action_space, n_envs, config):
        self.shape = (1, self.samples, config.horizon, action_space.shape[-1] * config.action_block)

    @torch.inference_mode()
    def solve(self, info_dict, init_action=None):
        info = {key: value[:, None].expand(-1, self.samples, *value.shape[1:]) for key, value in info_dict.items()}
        for _ in range(self.steps):
            costs = self.model.get_cost(info, 3 * torch.randn(self.shape))
            assert costs.shape == (1, self.samples)
            self.costs.append(costs)
        print("CEM solve time")
""",
    "wm/__init__.py": "",
    "wm/lewm/__init__.py": """
import torch

class LeWM(torch.nn.Module):
    def __init__(self, encoder, predictor, action_encoder):
        super().__init__()
        self.encoder, self.predictor, self.action_encoder = encoder, predictor, action_encoder

    def get_cost(self, info, candidates):
        present, goal = (self.encoder(info[key][:, 0, 0], interpolate_pos_encoding=True).last_hidden_state[:, 0]
                         for key in ("pixels", "goal"))
        assert info["action"].shape[-1] == candidates.shape[-1]
        moved = present + self.predictor(self.action_encoder(candidates.sum(2)))
        return (moved - goal).square().mean(-1)
""",
    "wm/lewm/module.py": """
import torch

def Predictor(num_frames, depth, heads, mlp_dim, input_dim, hidden_dim, dim_head):
    return torch.nn.Linear(input_dim, hidden_dim)

def Embedder(input_dim, smoothed_dim, emb_dim):
    return torch.nn.Linear(input_dim, emb_dim)
""",
}
TORCH_WORLD = {
    "__init__.py": "",
    "planning.py": """
import torch

class CEM:
    def __init__(self, horizon, action_dim, num_samples, num_elites, iterations, std, bounds):
        self.shape, self.iterations, self.bounds = (num_samples, horizon, action_dim), iterations, bounds

    @torch.no_grad()
    def __call__(self, model, z, goal):
        for _ in range(self.iterations):
            actions = torch.randn(self.shape).clamp(*self.bounds)
            path = model.rollout(z.repeat_interleave(len(actions), 0), actions)
            costs = model.cost(path, goal.repeat_interleave(len(actions), 0))
            assert costs.shape == (len(actions),)
        return actions
""",
    "models.py": """
import torch

class LeWM(torch.nn.Module):
    def __init__(self, encoder, action_dim, embed_dim, history, depth, num_heads, head_dim, mlp_dim):
        super().__init__()
        self.encoder, self.move = encoder, torch.nn.Linear(action_dim, embed_dim)
        self.projector = self.pred_proj = torch.nn.Linear(embed_dim, embed_dim)

    def encode(self, pixels):
        return self.projector(self.encoder(pixels.flatten(0, 1))).unflatten(0, pixels.shape[:2])

    def rollout(self, z, actions):
        return torch.cat((z, z + self.move(actions.sum(1))[:, None]), 1)

    def cost(self, z, goal):
        return (z[:, -1] - goal).square().mean(-1)
""",
}
PACKAGES = {"stable_worldmodel": STABLE_WORLDMODEL, "torch_world": TORCH_WORLD}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Writes a stand-in of a package, and gives the folder of the run."""

    def install(name: str, files: dict[str, str] | None = None):
        for part in [part for part in sys.modules if part.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, part)
        for file, text in (PACKAGES[name] if files is None else files).items():
            path = tmp_path / "packages" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    yield install
    for part in [part for part in sys.modules if part.partition(".")[0] in PACKAGES]:
        del sys.modules[part]


def make(*words: str) -> PlanCase:
    """The case that the command compares."""
    torch.manual_seed(0)
    return make_case(set_sizes(load_config("bench", ["encoder=tiny", *SEARCH, *words])), 1, CPU)


@pytest.mark.parametrize("words", [(), (*DREAMER, "planner.cost.view=state")])
def test_candidates_are_judged_as_by_our_own_search_in_environment_units_within_bounds(words):
    case = make(*words)
    spec = case.model.spec
    unit = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0])[None, :, None, None].expand(1, 6, 4, spec.block_dim)
    # Reacher's actions are from -1 to 1, so half of their range is 1 and the middle 0.
    assert set(spec.action_low) == {-1.0} and set(spec.action_high) == {1.0}
    actions = torch.tensor([-1.0, -1.0, 0.0, 0.5, 1.0, 1.0])[None, :, None, None].expand_as(unit)
    for kind in (CostModel, RolloutModel):
        shared = kind(case)
        shared.begin(3)
        with torch.no_grad():
            first, second = shared.score(unit), shared.score(unit)
            draws = Draws((0,), 3, CPU)
            want = [score(case.model, *case.observe(), case.cost, actions, draws.at(number)) for number in (0, 1)]
        assert torch.allclose(first, want[0]) and torch.allclose(second, want[1])
        assert first[0, 0] == first[0, 1] and first[0, 4] == first[0, 5], "beyond the bounds is at the bounds"
        assert first[0, 0] != first[0, 2], "actions matter"


def test_the_interfaces_give_the_costs_in_the_packages_shapes():
    case = make()
    unit = torch.randn(1, 6, 4, case.model.spec.block_dim)
    costs, rollout = CostModel(case), RolloutModel(case)
    for shared in (costs, rollout):
        shared.begin(0)
    with torch.no_grad():
        want = costs.get_cost({}, unit)
        nothing = torch.zeros(6, 1, 1)
        path = rollout.rollout(nothing, unit[0])
    assert want.shape == (1, 6) and torch.equal(rollout.cost(path, nothing[:, 0]), want[0])


@pytest.mark.parametrize("name", PACKAGES)
def test_three_sides_take_turns_at_equal_numbers(name, stand_in, capsys):
    folder = stand_in(name)
    words = ("encoder=tiny", *SEARCH, "candidates=5", "steps=3", "seconds=0.001", SIZES)
    assert main(["bench", "plan", f"versus={name}", *words, "name=v"]) == 0
    rows = json.loads((folder / "runs/bench/v/bench.json").read_text())
    assert [row["what"] for row in rows] == ["ours", f"{name}'s search, our model", f"{name}'s search, its LeWM"]
    assert rows[0]["ratio"] == 1.0 and all(row["ratio"] > 0 and row["value"] > 0 for row in rows)
    assert rows[0]["parameters"] == rows[1]["parameters"] > 0
    said = capsys.readouterr().out
    assert "5 candidates x 3 steps, 2 iterations of cem" in said and "CEM solve time" not in said
    if name == "stable_worldmodel":
        ours, own = sys.modules[f"{name}.solver"].CEMSolver.made
        assert ours.shape[:3] == own.shape[:3] == (1, 5, 3) and (ours.topk, ours.steps) == (3, 2)
        assert all(torch.isfinite(cost).all() for cost in (*ours.costs, *own.costs))


@pytest.mark.parametrize(
    "words", [("dynamics=tokens", "planner.cost.view=tokens"), (*DREAMER, "planner.cost.view=pooled")]
)
def test_other_models_than_leworldmodels_kind_have_no_side_of_the_packages_own(words, stand_in):
    stand_in("torch_world")
    sides = OPPONENTS["torch_world"](make(*words))
    assert list(sides) == ["torch_world's search, our model"]
    sides["torch_world's search, our model"].plan(0)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_or_broken_is_named_with_its_extra(name, stand_in, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda part, *rest: None if part == name else found(part, *rest))
    words = ["bench", "plan", f"versus={name}", "encoder=tiny", *SEARCH, "seconds=0.001", "name=m"]
    install = f"pip install 'jepa-lab[{name.replace('_', '-')}]'"
    assert main(words) == 2 and install in capsys.readouterr().err
    monkeypatch.undo()
    folder = stand_in(name, {"__init__.py": "import no_such_module\n"})
    monkeypatch.chdir(folder)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "no_such_module" in said and install in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("versus=torch_world", "planner=icem"), "give planner=cem"),
        (("versus=torchworld",), "versus=torchworld is no choice"),
        (("versus=torch_world", "candidates=4"), "planner elites is 12"),
    ],
)
def test_wrong_words_are_refused(words, says, stand_in, capsys):
    stand_in("torch_world")
    assert main(["bench", "plan", *words, "encoder=tiny", "name=w"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_itself_plans_with_our_model_and_with_its_own_of_equal_size(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    case = make(SIZES)
    sides = OPPONENTS[name](case)
    assert len(sides) == 2
    for side in sides.values():
        side.plan(0)
        assert side.parameters == pytest.approx(count_imagining(case), rel=0.05)
