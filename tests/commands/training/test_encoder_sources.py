"""Official weights of V-JEPA 2-AC, from their file to plans on robot data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from commands.cli import main as cli
from commands.training.model_folders import load_dynamics
from data.formats.droid_example import write_example
from tests.world_model.small import shake
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.predictor import ActionPredictor, PredictorConfig

# 192 wide, of which a released encoder has 3 heads; a predictor 384 wide has 12.
SIZES = EncoderConfig((32, 32), 16, 2, width=192, depth=1, heads=3, pool=None, rope="tiled")
PREDICTOR = PredictorConfig(384, 1, 12, 1.0, rope="tiled")
KEYS = (
    "encoder=pretrained",
    "path=ac.pt",
    "pretrained.image_px=32",
    "pretrained.predictor=true",
    "dynamics=tokens",
    "dynamics.outputs=normed",
    "dynamics.inputs=raw",
    "dynamics.proprio_model=integrate",
    "dynamics.predictor={width:384,depth:1,heads:12,mlp_ratio:1.0,rope:tiled}",
    "dynamics.history=1",
    "dynamics.horizon=2",
    "trainer=debug",
)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    encoder, predictor = VideoEncoder(SIZES), ActionPredictor(192, (2, 2), 7, PREDICTOR, "features", state_dim=7)
    shake(predictor)
    encoding = {f"module.{k}": v for k, v in encoder.state_dict().items() if not k.startswith("pixel_")}
    predicting = {f"module.{k}": v for k, v in predictor.state_dict().items()}
    torch.save({"target_encoder": encoding, "encoder": encoding, "predictor": predicting}, "ac.pt")
    write_example(Path("arms"), trajectories=6, rows=60, frame_hw=(32, 48))
    jepa("import", "format=droid", "path=arms", "size=32", "name=arms")
    return tmp_path


def jepa(*words: str, code: int = 0) -> None:
    assert cli.main(list(words)) == code, words


@pytest.mark.slow
def test_official_weights_plan_by_the_path_of_a_model_trained_here(work, capsys):
    data = "data=runs/import/arms"
    jepa("posttrain", data, *KEYS, "trainer.steps=0", "name=released")
    dynamics, about = load_dynamics("runs/posttrain/released")
    official = torch.load("ac.pt", weights_only=True)["predictor"]
    ours = dynamics.predictor.state_dict()
    assert all(torch.equal(ours[name.removeprefix("module.")], value) for name, value in official.items())
    assert about["predictor"] == "ac.pt" and dynamics.config.outputs == "normed"
    action = torch.tensor([[0.03, -0.02, 0.01, 0.1, 0.0, -0.1, 0.5]])
    assert torch.equal(dynamics.normalise_actions(action), action)
    assert torch.equal(dynamics.states.normalise(action), action)
    jepa("posttrain", data, *KEYS, "name=tuned")  # goes on training from them
    assert not torch.equal(
        load_dynamics("runs/posttrain/tuned")[0].predictor.predictor_proj.bias, ours["predictor_proj.bias"]
    )
    small = ("planner.samples=12", "planner.elites=4", "planner.iterations=2", "planner.horizon=2")
    jepa(
        "plan", data, "model=runs/posttrain/released", "planner=cem_vjepa2", "planner.cost.view=tokens", *small,
        "protocol.episodes=2", "offline=true", "videos=0", "name=released",
    )  # fmt: skip
    results = json.loads(Path("runs/plan/released/results.json").read_text())
    assert results["moments"] == 2 and "offline" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dynamics.outputs=change",), "the predictor of ac.pt needs dynamics.outputs=normed"),
        (
            ("dynamics.predictor.depth=2", "dynamics.inputs=scaled"),
            "needs dynamics.inputs=raw dynamics.predictor.depth=1",
        ),
        (("dynamics.proprio_model=none",), "needs dynamics.proprio_model=integrate"),
        (("encoder=timm",), "pretrained.predictor=true is of encoder=pretrained, and encoder=timm"),
    ],
)
def test_dynamics_of_other_sizes_than_the_weights_are_refused_by_key(work, capsys, words, message):
    jepa("posttrain", "data=runs/import/arms", *KEYS, *words, code=2)
    assert message in capsys.readouterr().err
