"""World models of one stage as a user meets them: trained, resumed, planned with, inspected, and refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from commands.cli.main import main
from commands.training.model_folders import load_world_model
from world_model.generative.diamond import Diamond
from world_model.generative.rssm import Rssm

TINY = {
    "dreamerv3": ("objective.frames=6", "objective.deter=16", "objective.hidden=8", "objective.depth=2"),
    "diamond": ("objective.frames=7", "objective.widths=[8,8,8]", "objective.condition_dim=16", "objective.rollout=2"),
}
OPTIMISER = {"dreamerv3": ("trainer.optimizer=laprop", "trainer.adaptive_clip=0.3"), "diamond": ()}
CLASSES = {"dreamerv3": Rssm, "diamond": Diamond}
SEARCH = ("planner.horizon=3", "planner.samples=4", "planner.iterations=1", "planner.elites=2")
ITERATION = ("planner=icem", "planner.cost.view=pixels", "planner.horizon=3", "planner.compile_iteration=true")
FEW = (
    "protocol.episodes=2",
    "protocol.budget=4",
    "protocol.oracle=false",
    "protocol.oracle_cost.episodes=1",
    "workers=1",
)


def make_words(name: str) -> tuple[str, ...]:
    """Words that train a tiny model of an objective for a few steps."""
    return ("data=runs/collect/data", f"objective={name}", *TINY[name], "trainer=debug", *OPTIMISER[name])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world_models")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    assert main(["collect", "data.episodes=12", "data.frames=30", "name=data", "workers=1"]) == 0
    for name in TINY:
        assert main(["pretrain", *make_words(name), f"name={name}"]) == 0
    yield folder
    patch.undo()


@pytest.mark.parametrize("name", TINY)
def test_it_is_loaded_as_it_was_trained(work, name):
    model, about = load_world_model(f"runs/pretrain/{name}")
    assert isinstance(model, CLASSES[name]) and about["env"] == "reacher" and model.spec.max_horizon == 3
    lines = [json.loads(line) for line in open(f"runs/pretrain/{name}/metrics.jsonl")]
    evaluations = [line for line in lines if line["kind"] == "val"]
    assert evaluations[-1]["prediction"] < evaluations[0]["prediction"]
    assert evaluations[-1]["open_loop_last"] > 0


@pytest.mark.parametrize("name", TINY)
def test_a_longer_training_goes_on_from_the_shorter_one_bit_for_bit(work, name):
    constant = (*make_words(name), "trainer.schedule=constant")
    assert main(["pretrain", *constant, "trainer.steps=6", f"name={name}-whole"]) == 0
    for steps in (3, 6):
        assert main(["pretrain", *constant, f"trainer.steps={steps}", f"name={name}-parts"]) == 0
    once, twice = (load_world_model(f"runs/pretrain/{name}-{part}")[0].state_dict() for part in ("whole", "parts"))
    assert all(torch.equal(value, twice[name]) for name, value in once.items())


@pytest.mark.parametrize(
    ("name", "view"), [("dreamerv3", "pixels"), ("dreamerv3", "pooled"), ("dreamerv3", "state"), ("diamond", "pixels")]
)
def test_it_plans_in_each_of_its_views_and_shows_what_it_imagined(work, name, view):
    given = ("plan", f"model=runs/pretrain/{name}", "data=runs/collect/data", f"planner.cost.view={view}", "videos=2")
    assert main([*given, *SEARCH, *FEW, f"name={name}-{view}"]) == 0
    results = json.loads(open(f"runs/plan/{name}-{view}/results.json").read())
    assert results["episodes"] == 2 and results["plan"]["flops"] > 0
    assert (work / f"runs/plan/{name}-{view}/imagined.png").is_file()


@pytest.mark.slow
def test_a_row_of_a_table_chooses_its_view_on_val_and_its_record_is_found(work, capsys):
    keys = [f"'{word}'" for word in (*TINY["dreamerv3"], "pretrain.batch_size=2")]
    data = ("data=debug", "data.frames=30", "data.episodes=12", "workers=1", "protocol.episodes=1", "protocol.budget=3")
    small = ("trainer@pretrain=debug", "pretrain.steps=2", f"small.dreamerv3=[{','.join(keys)}]", *data, *SEARCH)
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


@pytest.mark.parametrize(("name", "views"), [("dreamerv3", "views pixels, pooled, state"), ("diamond", "views pixels")])
def test_jepa_inspect_shows_its_sizes(work, name, views, capsys):
    assert main(["inspect", f"runs/pretrain/{name}/model"]) == 0
    said = capsys.readouterr().out
    assert "world_model" in said and views in said and "64 x 64 pixels" in said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("posttrain", "data=runs/collect/data", "encoder=runs/pretrain/diamond"), 1, "jepa plan model= alone reads"),
        (("probe", "data=runs/collect/data", "model=runs/pretrain/dreamerv3"), 1, "jepa plan model= alone reads"),
        (
            ("demo", "objective=dreamerv3", "dynamics.decoder={}"),
            2,
            "objective.family=rssm does not have: leave it out",
        ),
        (("bench", "posttrain", "objective=dreamerv3"), 2, "objective.family=rssm has no stage 2 to measure"),
        (("pretrain", "data=video_folder", "path=.", "objective=dreamerv3"), 2, "plain video has none"),
        (
            ("pretrain", *make_words("diamond"), "objective.sampling_steps=0"),
            2,
            "objective.sampling_steps=0 is out of range: it must be at least 1",
        ),
        (
            ("pretrain", *make_words("diamond"), "objective.frames=5"),
            2,
            "objective.frames=5 does not hold objective.context_frames=4 and objective.rollout=2 more: give at least 6",
        ),
        (
            ("pretrain", *make_words("diamond"), "objective.widths=[8,12]"),
            2,
            "objective.widths=[8, 12]: give each level of the U-Net a multiple of 8",
        ),
        (
            ("pretrain", *make_words("dreamerv3"), "encoder.patch_px=8", "encoder.image_px=[40,40]"),
            1,
            "give multiples of 16 from 48 to 256",
        ),
        (
            (
                "plan",
                "model=runs/pretrain/dreamerv3",
                "data=runs/collect/data",
                "planner.cost.view=tokens",
                *SEARCH,
                *FEW,
            ),
            1,
            "planner.cost.view=tokens: runs/pretrain/dreamerv3 offers pixels, pooled, state: give "
            "planner.cost.view=pixels",
        ),
        (
            (
                "plan",
                "model=runs/pretrain/diamond",
                "data=runs/collect/data",
                "planner.cost.view=pooled",
                *SEARCH,
                *FEW,
            ),
            1,
            "planner.cost.view=pooled: runs/pretrain/diamond offers pixels: give planner.cost.view=pixels",
        ),
        (
            ("plan", "model=runs/pretrain/diamond", "data=runs/collect/data", "planner.flow_steps=0"),
            2,
            "planner.flow_steps=0 is out of range: it must be at least 1",
        ),
        (
            ("plan", "model=runs/pretrain/diamond", "data=runs/collect/data", *ITERATION, *FEW),
            2,
            "cannot compile the drawing of a model's noise",
        ),
    ],
)
def test_other_uses_are_refused_in_one_sentence(work, words, code, says, capsys):
    assert main([*words, "name=refused"]) == code
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and "Error:" not in said
