"""Small models that the tests of this package share."""

from __future__ import annotations

import torch

from world_model.dynamics import ActionSpec, DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.masking import MaskConfig
from world_model.objectives import ObjectiveConfig, TermsConfig
from world_model.predictor import PredictorConfig

SIZES = EncoderConfig(patch_px=16, width=24, depth=2, heads=2, pooled_dim=12)
PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
FUTURE = ObjectiveConfig(predictor=PREDICTOR, terms=TermsConfig(variance=1.0, covariance=0.1))
VJEPA2 = ObjectiveConfig(
    context="masked",
    space="tokens",
    loss="l1",
    teacher="ema",
    ema=0.9,
    ema_end=0.9,
    frames=8,
    masks=(MaskConfig(8, 0.15), MaskConfig(2, 0.7)),
    predictor=PREDICTOR,
)
PIXELS = ObjectiveConfig(target="pixels", predictor=PREDICTOR)


def encoder(seed: int = 0, config: EncoderConfig = SIZES) -> VideoEncoder:
    """An encoder with random weights, large enough that every path matters."""
    torch.manual_seed(seed)
    made = VideoEncoder(config)
    shake(made)
    return made.eval()


def shake(module: torch.nn.Module, std: float = 0.1) -> None:
    """Add noise to all weights, so that no zero or near-zero initial value hides a mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn_like(parameter))


def dynamics(space: str = "pooled", target: str = "features", frame_skip: int = 1) -> LatentDynamics:
    """Random latent dynamics with a history of 3 and a horizon of 4."""
    config = DynamicsConfig(space=space, target=target, history=3, horizon=4, predictor=PREDICTOR)  # type: ignore[arg-type]
    made = LatentDynamics(config, encoder(), ActionSpec((-1.0, 0.0), (1.0, 4.0), frame_skip))
    shake(made.predictor)
    return made.eval()


def frames(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random uint8 frames [*shape, 64, 64, 3]."""
    return torch.randint(0, 256, (*shape, 64, 64, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def moving_squares(batch: int, steps: int) -> torch.Tensor:
    """Clips uint8 [batch, steps, 64, 64, 3] of a bright square that moves by 4 pixels a frame: something to predict."""
    clip = torch.full((batch, steps, 64, 64, 3), 30, dtype=torch.uint8)
    for row in range(batch):
        for step in range(steps):
            left, top = (7 * row + 4 * step) % 52, (13 * row + 2 * step) % 52
            clip[row, step, top : top + 12, left : left + 12] = 220
    return clip
