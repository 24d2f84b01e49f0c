"""World models of one stage as a user meets them: trained, resumed, planned with, inspected, and refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from commands.cli.main import main
from commands.training.model_folders import load_world_model
from world_model.generative.rssm import Rssm

SIZES = ("objective=dreamerv3", "objective.frames=6", "objective.deter=16", "objective.hidden=8", "objective.depth=2")
TINY = (*SIZES, "trainer=debug", "trainer.optimizer=laprop", "trainer.adaptive_clip=0.3")
SEARCH = ("planner.horizon=3", "planner.samples=4", "planner.iterations=1", "planner.elites=2", "workers=1")
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
    videos = 1 if view == "state" else 0
    assert main([*words, *FEW, f"videos={videos}", f"name={view}"]) == 0
    assert Path(f"runs/plan/{view}/imagined.png").exists() == (videos > 0)
    results = json.loads(open(f"runs/plan/{view}/results.json").read())
    assert results["episodes"] == 2 and results["plan"]["flops"] > 0


@pytest.mark.slow
def test_a_row_of_a_table_chooses_its_view_on_val_and_its_record_is_found(work, capsys):
    keys = [f"'{word}'" for word in (*SIZES[1:], "pretrain.batch_size=2")]
    data = ("data=debug", "data.frames=30", "data.episodes=12", "workers=1", "protocol.episodes=1", "protocol.budget=3")
    small = ("trainer@pretrain=debug", "pretrain.steps=2", f"small.dreamerv3=[{','.join(keys)}]", *data, *SEARCH[:-1])
    words = ["compare", "objectives=[dreamerv3]", *small, "trial_episodes=2", "cells=cells", "published=null"]
    assert main([*words, "name=table"]) == 0
    (path,) = Path("cells").glob("*.json")
    record = json.loads(path.read_text())
    views = record["views"]
    assert list(views["results"]) == ["pixels", "pooled", "state"] and views["chosen"] in views["results"]
    assert (views["split"], views["episodes"]) == ("val", 2)
    best = max(result["success"] for result in views["results"].values())
    assert views["results"][views["chosen"]]["success"] == best
    assert record["rank_reach"]["view"] == views["chosen"] and record["config"]["planner"]["cost"]["view"] == "best"
    assert record["flops"]["total"] == record["flops"]["pretrain"] == 2 * record["flops_per_step"] > 0
    assert not {"dynamics", "posttrain"} & record["config"].keys() and "posttrain" not in record
    assert len(record["open_loop"]["predicted"]) == len(record["open_loop"]["copy"]) == 3
    page = Path("cells/reacher.md").read_text()
    assert "### Views" in page and "| `dreamerv3` | " in page and "1 cells, 0 of them" in capsys.readouterr().out
    assert main([*words, "dynamics=tokens", "posttrain.steps=9", "name=again"]) == 0, "it has no stage 2"
    assert "1 cells, 1 of them finished before" in capsys.readouterr().out
    assert main([*words, "trial_episodes=3", "table_only=true", "name=other"]) == 2
    assert "no cell of this table is finished" in capsys.readouterr().err


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
