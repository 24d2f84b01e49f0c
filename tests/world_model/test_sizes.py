"""The published sizes, built without memory."""

from __future__ import annotations

import pytest
import torch

from commands.config.compose import load_config
from world_model.encoder import VideoEncoder
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.predictor import ActionPredictor, PredictorConfig

# Parameters in millions, of the reference's own modules.
ENCODERS = {
    "vit_tiny": 5.63,
    "vit_small": 21.9,
    "vit_base": 86.2,
    "vit_large": 303.9,
    "vit_huge": 631.6,
    "vit_giant": 1012.2,
    "vit_gigantic": 1840,
}


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_a_published_size_has_its_parameters(name):
    config = load_config("pretrain", ["data=x", f"encoder={name}"]).encoder
    with torch.device("meta"):
        encoder = VideoEncoder(config)
    assert millions(encoder) == pytest.approx(ENCODERS[name], rel=0.004)


def test_the_predictors_have_their_parameters():
    with torch.device("meta"):
        masked = MaskedPredictor(MaskedSizes(1024, (16, 16), num_mask_tokens=10), PredictorConfig(384, 12, 12))
        acting = ActionPredictor(
            1408, (16, 16), 7, PredictorConfig(1024, 24, 16), "features", state_dim=7, extrinsics_dim=6
        )
    assert millions(masked) == pytest.approx(22.1, rel=0.004)
    assert millions(acting) == pytest.approx(305.2, rel=0.001)
