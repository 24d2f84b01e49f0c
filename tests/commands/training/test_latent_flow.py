"""The latent flow transformer as a user meets it: an autoencoder, stage 2, resumed, planned with, and refused."""

from __future__ import annotations

import json

import pytest
import torch

from commands.cli.main import main
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.training.model_folders import load_dynamics
from world_model.generative.latent_flow import FlowTransformer, FlowTransformerConfig
from world_model.objectives.autoencoder import AutoencoderConfig

SEARCH = ("planner.horizon=2", "planner.samples=4", "planner.iterations=1", "planner.elites=2")
FEW = (
    "protocol.episodes=2",
    "protocol.budget=2",
    "protocol.goal_offset=10",
    "protocol.oracle=false",
    "protocol.oracle_cost.episodes=0",
    "workers=1",
)
SMALL = ("dynamics=latent_flow", "dynamics.predictor.width=16", "dynamics.predictor.depth=1", "trainer=debug")
DATA, VAE = "runs/collect/data", "runs/pretrain/vae"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent_flow")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    collect = ("data.episodes=8", "data.frames=24", "workers=1")
    assert main(["collect", *collect, "name=data"]) == 0
    assert main(["collect", *collect, "env=two_rooms", "name=rooms"]) == 0
    assert main(["collect", *collect, "env.kwargs={size: 48}", "name=small"]) == 0
    assert main(["pretrain", f"data={DATA}", "objective=vae", "encoder=tiny", "trainer=debug", "name=vae"]) == 0
    patch.undo()
    return folder


@pytest.fixture(autouse=True)
def in_its_folder(work, monkeypatch):
    monkeypatch.chdir(work)


def posttrain(*words: str) -> int:
    return main(["posttrain", f"encoder={VAE}", *SMALL, *words])


def test_it_is_resumed_bit_for_bit_plans_in_other_euler_steps_and_shows_what_it_imagined(work, capsys):
    words = (f"data={DATA}", "trainer.schedule=constant", "dynamics.decoder={steps: 2}")
    assert posttrain(*words, "trainer.steps=6", "name=whole") == 0
    for steps in (3, 6):
        assert posttrain(*words, f"trainer.steps={steps}", "name=parts") == 0
    model, about = load_dynamics("runs/posttrain/whole")
    other = load_dynamics("runs/posttrain/parts")[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
    assert isinstance(model.flow, FlowTransformer) and model.flow.steps == 4
    assert about["objective"]["family"] == "autoencoder"
    assert main(["inspect", "path=runs/posttrain/whole"]) == 0
    assert "features of the whole frame by flow matching, 4 Euler steps, 1 blocks x 16" in capsys.readouterr().out
    given = ("model=runs/posttrain/whole", f"data={DATA}", "planner.cost.view=tokens", "planner.flow_steps=1")
    assert main(["plan", *given, *SEARCH, *FEW, "name=one"]) == 0
    results = json.loads((work / "runs/plan/one/results.json").read_text())
    assert results["episodes"] == 2 and results["plan"]["flops"] > 0
    assert (work / "runs/plan/one/imagined.png").is_file()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("runs/collect/rooms", "was trained on frames of reacher, and the data holds two_rooms; "),
        ("runs/collect/small", "was trained on frames of 64x64 pixels (crop=centre), and the data holds 48x48 pixels"),
    ],
)
def test_an_autoencoder_of_other_frames_is_refused(data, said, capsys):
    assert posttrain(f"data={data}", f"name={data.rpartition('/')[2]}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error and "train one on this data (jepa pretrain objective=vae)" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("dynamics.flow.steps=0",), "dynamics.flow.steps=0 is out of range: it must be at least 1"),
        (("dynamics.flow.width=8",), "'dynamics.flow.width' is no group or key"),
        (("dynamics.flow.kind=transformr",), "dynamics.flow.kind=transformr is no choice here"),
        (
            ("dynamics.space=pooled",),
            "dynamics.flow draws patch tokens, and dynamics.space=pooled has none",
        ),
        (("dynamics.losses.loss=l1",), "dynamics.flow is trained by a squared error, give dynamics.losses.loss=l2"),
        (("dynamics.predictor.conditioning=tokens",), "give dynamics.predictor.conditioning=adaln"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(words, said, capsys, work):
    assert posttrain(f"data={DATA}", *words, "name=refused") == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (work / "runs/posttrain/refused").exists()


def test_tokens_are_refused_of_a_model_without_tokens(capsys):
    words = ("dynamics=pooled", "trainer=debug", "name=pooled")
    assert main(["posttrain", f"encoder={VAE}", f"data={DATA}", *words]) == 0
    given = ("model=runs/posttrain/pooled", f"data={DATA}", "planner.cost.view=tokens")
    assert main(["plan", *given, *SEARCH, *FEW, "name=none"]) == 1
    assert "planner.cost.view=tokens: runs/posttrain/pooled offers pooled" in capsys.readouterr().err


def test_the_row_of_a_table_is_the_preset_on_an_autoencoder():
    table = load_config("compare", ["objectives=[oracle,future,latent_flow]"])
    keys, preset = make_cell_keys(table, "latent_flow", 0), load_config("demo", ["dynamics=latent_flow"]).dynamics
    assert keys.dynamics == preset and isinstance(preset.flow, FlowTransformerConfig)
    assert isinstance(keys.objective, AutoencoderConfig) and keys.objective.metric is None
    assert (keys.planner.cost.view, keys.planner.cost.metric) == ("tokens", "l1")
