"""World models of one stage as a user meets them: trained, resumed, planned with, inspected, and refused elsewhere."""

from __future__ import annotations

import json

import pytest
import torch

from commands.cli.main import main
from commands.training.model_folders import load_world_model
from world_model.generative.rssm import Rssm

SIZES = ("objective=dreamerv3", "objective.frames=6", "objective.deter=16", "objective.hidden=8", "objective.depth=2")
TINY = (*SIZES, "trainer=debug", "trainer.optimizer=laprop", "trainer.adaptive_clip=0.3")
SEARCH = ("planner.horizon=3", "planner.samples=4", "planner.iterations=1", "planner.elites=2", "videos=0", "workers=1")
FEW = (
    "protocol.episodes=2",
    "protocol.budget=4",
    "protocol.oracle=false",
    "protocol.oracle_cost.episodes=1",
    "workers=1",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world_models")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    assert main(["collect", "data.episodes=12", "data.frames=30", "name=data", "workers=1"]) == 0
    assert main(["pretrain", "data=runs/collect/data", *TINY, "name=model"]) == 0
    yield folder
    patch.undo()


def test_it_is_loaded_as_it_was_trained(work):
    model, about = load_world_model("runs/pretrain/model")
    assert isinstance(model, Rssm) and about["env"] == "reacher" and model.spec.max_horizon == 3
    lines = [json.loads(line) for line in open("runs/pretrain/model/metrics.jsonl")]
    evaluations = [line for line in lines if line["kind"] == "val"]
    assert evaluations[-1]["prediction"] < evaluations[0]["prediction"]
    assert evaluations[-1]["open_loop_last"] > 0


def test_a_longer_training_goes_on_from_the_shorter_one_bit_for_bit(work):
    whole, parts = ("data=runs/collect/data", *TINY, "trainer.steps=6"), ("data=runs/collect/data", *TINY)
    assert main(["pretrain", *whole, "name=whole"]) == 0
    assert main(["pretrain", *parts, "trainer.steps=3", "trainer.schedule=constant", "name=parts"]) == 0
    assert main(["pretrain", *whole, "trainer.schedule=constant", "name=constant"]) == 0
    assert main(["pretrain", *parts, "trainer.steps=6", "trainer.schedule=constant", "name=parts"]) == 0
    once, twice = (load_world_model(f"runs/pretrain/{name}")[0].state_dict() for name in ("constant", "parts"))
    assert all(torch.equal(value, twice[name]) for name, value in once.items())


@pytest.mark.parametrize("view", ["pixels", "pooled", "state"])
def test_it_plans_in_pixels_in_latents_and_in_states(work, view):
    words = ["plan", "model=runs/pretrain/model", "data=runs/collect/data", f"planner.cost.view={view}", *SEARCH]
    assert main([*words, *FEW, f"name={view}"]) == 0
    results = json.loads(open(f"runs/plan/{view}/results.json").read())
    assert results["episodes"] == 2 and results["plan"]["flops"] > 0


def test_jepa_inspect_shows_its_sizes(work, capsys):
    assert main(["inspect", "runs/pretrain/model/model"]) == 0
    said = capsys.readouterr().out
    assert "world_model" in said and "views pixels, pooled, state" in said and "64 x 64 pixels" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("posttrain", "data=runs/collect/data", "encoder=runs/pretrain/model"), 1, "jepa plan model= alone reads"),
        (("probe", "data=runs/collect/data", "model=runs/pretrain/model"), 1, "jepa plan model= alone reads"),
        (
            ("demo", "objective=dreamerv3", "dynamics.decoder={}"),
            2,
            "objective.family=rssm does not have: leave it out",
        ),
        (("bench", "pretrain", "objective=dreamerv3"), 2, "objective.family=rssm is no choice here (choices: masked"),
        (("pretrain", "data=video_folder", "path=.", "objective=dreamerv3"), 2, "plain video has none"),
        (
            ("pretrain", "data=runs/collect/data", *TINY, "encoder.patch_px=8", "encoder.image_px=[40,40]"),
            1,
            "give multiples of 16 from 48 to 256",
        ),
        (
            ("plan", "model=runs/pretrain/model", "data=runs/collect/data", "planner.cost.view=tokens", *FEW, *SEARCH),
            1,
            "planner.cost.view=tokens: runs/pretrain/model offers pixels, pooled, state: give planner.cost.view=pixels",
        ),
    ],
)
def test_other_uses_are_refused_in_one_sentence(work, words, code, says, capsys):
    assert main([*words, "name=refused"]) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and "Error:" not in said
