"""Small models that the tests of this package share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from planners.noise import Draws
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.generative.latent_flow import FlowTransformerConfig
from world_model.interop.lewm import LeWMSizes, LeWorldModel
from world_model.interop.lewm_weights import to_released
from world_model.nn.decoder import PixelHeadConfig
from world_model.nn.flow import FlowConfig
from world_model.nn.layers import BlockConfig
from world_model.nn.pools import KeypointPoolConfig, LearnedPoolConfig, PrincipalPoolConfig
from world_model.nn.reachability import ReachConfig
from world_model.objectives.autoencoder import AutoencoderConfig
from world_model.objectives.causal import CausalConfig
from world_model.objectives.end_to_end import EndToEndConfig, PathTerms, StepTerms
from world_model.objectives.future import FutureConfig
from world_model.objectives.losses import FutureTerms
from world_model.objectives.masked import AveragedTargets, ContextLoss, FeatureTargets, MaskedConfig, PixelTargets
from world_model.objectives.masking import BlockMask, RandomMask
from world_model.objectives.objective import TeacherConfig
from world_model.predictor import PredictorConfig

SIZES = EncoderConfig(patch_px=16, width=24, depth=2, heads=2, pool=LearnedPoolConfig(12, 16, 128))
POOLS = {"learned": SIZES.pool, "keypoints": KeypointPoolConfig(12, 16), "principal": PrincipalPoolConfig(12)}
PREDICTOR = PredictorConfig(width=24, depth=2, heads=2)
ONE_STAGE = ("dreamerv3", "dreamerv3_12m", "diamond", "diamond_published", "tdmpc2", "tdmpc2_5m")  # world models
FUTURE = FutureConfig(
    frame_gap=1, prediction=1.0, terms=FutureTerms(variance=1.0, covariance=0.1), metric=None, predictor=PREDICTOR
)
VJEPA2 = MaskedConfig(teacher=TeacherConfig(0.9, 0.9), predictor=PREDICTOR)
VJEPA21 = replace(VJEPA2, targets=FeatureTargets(levels=2, context_loss=ContextLoss(0.5, (0, 0))))
IJEPA = replace(VJEPA2, frames=1, loss="l2", masks=(BlockMask(4, (0.15, 0.2), separate=True, context=(0.85, 1.0)),))
DATA2VEC = replace(VJEPA2, loss="smooth_l1", targets=AveragedTargets(blocks=2), masks=(RandomMask(0.6),))
VIDEOMAE = replace(VJEPA2, targets=PixelTargets(), teacher="stop", loss="l2")
NEPA = CausalConfig()
VAE = AutoencoderConfig(predictor=PREDICTOR)
LEWM = EndToEndConfig(
    frames=6,
    terms=StepTerms(sigreg=0.09),
    predictor=replace(PREDICTOR, conditioning="adaln", dropout=0.1),
)
PLDM = EndToEndConfig(
    frames=6,
    context_frames=1,
    rollout=True,
    terms=StepTerms(variance=4.0, covariance=7.0),
    path_terms=PathTerms(variance=0.2, covariance=0.3, smoothness=0.7, inverse=1.0),
    predictor=PREDICTOR,
)
PIXELS = replace(FUTURE, pixels=PixelHeadConfig(16, 128), terms=FutureTerms())

# LeWorldModel's networks: attention of 2 heads of 64 in a model of 96, as the release has 16 of 64 in one of 192.
RELEASED = LeWMSizes(
    image_px=28,
    patch_px=14,
    encoder=BlockConfig(64, 1, 2.0, eps=1e-12),
    encoder_depth=2,
    projector_hidden=80,
    embed_dim=96,
    block_dim=10,
    mixed=10,
    action_hidden=384,
    window=3,
    predictor=BlockConfig(96, 2, 1.5, condition_dim=96, head_dim=64, inner_norms=True),
    predictor_depth=2,
    pred_proj_hidden=72,
)


def make_released_lewm() -> dict[str, torch.Tensor]:
    """Random weights of LeWorldModel under the names of its release, for five actions of two numbers."""
    torch.manual_seed(0)
    model = LeWorldModel(RELEASED, ActionSpec((-1.0,) * 2, (1.0,) * 2, 5))
    shake(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    weights = {name: value.detach().clone() for name, value in to_released(model.state_dict()).items()}
    counts = {f"{part}.net.1.num_batches_tracked": torch.tensor(7) for part in ("projector", "pred_proj")}
    return weights | counts


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


def dynamics(
    space: str = "pooled",
    target: str = "features",
    frame_skip: int = 1,
    proprio: str = "none",
    proprio_dim: int = 0,
    scene: bool = False,
    pool: Literal["learned", "keypoints"] = "learned",
    flow: FlowConfig | FlowTransformerConfig | None = None,
) -> LatentDynamics:
    """Random latent dynamics with a history of 3 and a horizon of 4; with integrated poses, of 7-D pose actions."""
    channels = None if flow is not None else 16
    reach, head = ReachConfig(dim=5, hidden=8), PixelHeadConfig(channels, 128) if target == "pixels" else None
    drawn_whole = isinstance(flow, FlowTransformerConfig)
    predictor = replace(PREDICTOR, conditioning="adaln") if drawn_whole else PREDICTOR
    shape = (space, 3, 4, predictor, proprio, proprio_dim, reach, scene, head)
    config = DynamicsConfig(*shape, flow=flow)  # type: ignore[arg-type]
    low, high = ((-0.1,) * 7, (0.1,) * 7) if proprio == "integrate" else ((-1.0, 0.0), (1.0, 4.0))
    made = LatentDynamics(config, encoder(config=replace(SIZES, pool=POOLS[pool])), ActionSpec(low, high, frame_skip))
    shake(made.predictor)
    if made.flow is not None:
        shake(made.flow)
    return made.eval()


def frames(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random uint8 frames [*shape, 64, 64, 3]."""
    return torch.randint(0, 256, (*shape, 64, 64, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def moving_squares(batch: int, steps: int) -> torch.Tensor:
    """Clips uint8 [batch, steps, 64, 64, 3] of a bright square that moves by 4 pixels a frame over a ramp: something to
    predict."""
    ground = torch.arange(64, dtype=torch.uint8)[:, None, None].expand(64, 64, 3)
    clip = ground.repeat(batch, steps, 1, 1, 1)
    for row in range(batch):
        for step in range(steps):
            left, top = (7 * row + 4 * step) % 52, (13 * row + 2 * step) % 52
            clip[row, step, top : top + 12, left : left + 12] = 220
    return clip


def lively_pixel_dynamics():
    """Pixel dynamics whose frames differ from step to step; fresh weights change almost nothing."""
    made = dynamics("pooled", "pixels")
    with torch.no_grad():
        made.predictor.predictor_proj.weight.normal_(std=0.5)
    return made


def make_batch(image_px: tuple[int, int], actions: ActionSpec, clips: int, frames: int) -> dict[str, torch.Tensor]:
    """Random pixels and actions within their bounds, as a world model of one stage is trained with."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (clips, frames, *image_px, 3), dtype=torch.uint8, generator=generator)
    low, high = torch.tensor(actions.block_low), torch.tensor(actions.block_high)
    taken = torch.rand(clips, frames - 1, actions.block_dim, generator=generator)
    return {"pixels": pixels, "action": low + (high - low) * taken}


def make_draws(seeds=(5, 6, 7)) -> Draws:
    """Random numbers as a planner gives them."""
    return Draws(tuple(seeds), 0, torch.device("cpu"))
