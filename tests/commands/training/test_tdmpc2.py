"""TD-MPC2 as a user meets it: trained, resumed, planned with in three ways, and refused where it does not fit."""

from __future__ import annotations

import json

import pytest
import torch

from commands.agent import Agent
from commands.cli.main import main
from commands.training.model_folders import load_world_model
from world_model.generative.tdmpc2 import Tdmpc2

SIZES = ("objective=tdmpc2", "objective.frames=6", "objective.channels=2", "objective.hidden=16")
TINY = (*SIZES, "trainer=debug", "trainer.clip_norm=20", "trainer.weight_decay=0")
DREAMER = ("objective=dreamerv3", "objective.frames=6", "objective.deter=16", "objective.hidden=8", "objective.depth=2")
MPPI = ("planner=mppi_tdmpc2", "planner.samples=8", "planner.prior_samples=3", "planner.elites=4")
FEW = (*MPPI, "planner.iterations=2", "videos=0", "workers=1")
EPISODES = ("protocol.episodes=2", "protocol.budget=4", "protocol.oracle_cost.episodes=1")
PLAN = ("plan", "model=runs/pretrain/model", "data=runs/collect/data", *FEW, *EPISODES)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tdmpc2")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    assert main(["collect", "data.episodes=12", "data.frames=30", "name=data", "workers=1"]) == 0
    assert main(["pretrain", "data=runs/collect/data", *TINY, "name=model"]) == 0
    yield folder
    patch.undo()


def test_it_is_loaded_as_it_was_trained_and_its_numbers_are_logged(work):
    model, about = load_world_model("runs/pretrain/model")
    assert isinstance(model, Tdmpc2) and about["env"] == "reacher"
    assert model.spec.max_horizon == 3 and model.spec.estimates_return and model.spec.views == ("pooled",)
    lines = [json.loads(line) for line in open("runs/pretrain/model/metrics.jsonl")]
    evaluations = [line for line in lines if line["kind"] == "val"]
    assert evaluations[-1]["reward"] < evaluations[0]["reward"]
    assert evaluations[-1]["open_loop_last"] > 0 and evaluations[-1]["latent_std"] > 0


def test_a_longer_training_goes_on_from_the_shorter_one_bit_for_bit(work):
    words = ("pretrain", "data=runs/collect/data", *TINY, "trainer.schedule=constant")
    assert main([*words, "trainer.steps=3", "name=parts"]) == 0
    for name in ("parts", "whole"):
        assert main([*words, "trainer.steps=6", f"name={name}"]) == 0
    once, twice = (load_world_model(f"runs/pretrain/{name}")[0].state_dict() for name in ("whole", "parts"))
    assert "heads.spread" in once and all(torch.equal(value, twice[name]) for name, value in once.items())


def test_it_plans_by_its_return_with_its_policy_and_the_oracle_by_the_true_distance(work):
    assert main([*PLAN, "name=return"]) == 0
    results = json.loads(open("runs/plan/return/results.json").read())
    assert results["episodes"] == 2 and results["plan"]["flops"] > 0
    assert {"model", "random", "zero action", "oracle"} == set(results["methods"])


@pytest.mark.parametrize("reduce", ["return", "last"])
def test_other_planners_take_its_return_and_its_latents(work, reduce):
    model = ("plan", "model=runs/pretrain/model", "data=runs/collect/data", "protocol.oracle=false", *EPISODES)
    search = ("planner=icem", "planner.samples=8", "planner.elites=3", "planner.keep_elites=1", "planner.horizon=3")
    words = (*search, "planner.iterations=1", f"planner.cost.reduce={reduce}", "videos=0", "workers=1")
    assert main([*model, *words, f"name=icem-{reduce}"]) == 0
    assert json.loads(open(f"runs/plan/icem-{reduce}/results.json").read())["episodes"] == 2


def test_an_agent_acts_by_it(work):
    agent = Agent("runs/pretrain/model", "cpu", FEW[:5])
    low, high = torch.tensor(agent.dynamics.actions.low), torch.tensor(agent.dynamics.actions.high)
    frame, goal = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8).numpy()
    action = torch.from_numpy(agent.act(frame, goal))
    assert (action >= low).all() and (action <= high).all()


def test_a_model_without_return_or_policy_is_refused_by_name(work, capsys):
    assert main(["pretrain", "data=runs/collect/data", *DREAMER, "trainer=debug", "trainer.steps=1", "name=rssm"]) == 0
    model = ("plan", "model=runs/pretrain/rssm", "data=runs/collect/data", *FEW, *EPISODES)
    capsys.readouterr()
    for words, says in (
        ((), "cost reduce is return, and this model estimates no return"),
        (("planner.cost.reduce=last",), "planner prior_samples is 3, and this model has no policy"),
    ):
        assert main([*model, *words, "name=refused"]) == 1
        said = capsys.readouterr().err
        assert says in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            (*PLAN, "planner.cost.view=pixels"),
            1,
            "planner.cost.view=pixels: runs/pretrain/model offers pooled: give planner.cost.view=pooled",
        ),
        ((*PLAN, "planner.horizon=4"), 1, "planner horizon is 4, but this model plans 3 at most"),
        (("pretrain", "data=runs/collect/data", *TINY, "objective.num_values=1"), 2, "objective.num_values=1"),
        (("pretrain", "data=runs/collect/data", *TINY, "objective.unroll=4"), 2, "unroll=4 exceeds"),
        (("pretrain", "data=runs/collect/data", *TINY, "trainer.batch_size=1"), 2, "random_goals=0.3 takes goals from"),
        (
            ("pretrain", "data=runs/collect/data", *TINY, "encoder.patch_px=8", "encoder.image_px=[40,40]"),
            1,
            "give 47 to 102 pixels a side",
        ),
        (("pretrain", "data=video_folder", "path=.", *SIZES), 2, "plain video has none"),
    ],
)
def test_other_uses_are_refused_in_one_sentence(work, words, code, says, capsys):
    assert main([*words, "name=refused"]) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and "Error:" not in said
