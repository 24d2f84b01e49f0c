"""End-to-end objectives: encoder and dynamics learned together from recorded actions.

With the pooled embedding z of a frame, action blocks a, predictor P, and gradient on both sides of the error:

LeWorldModel (arXiv 2603.19312): every frame from the true ones before it, and SIGReg (arXiv 2511.08544) of every time
step over the batch

    loss = mean || P(z[..t], a[..t]) - z[t+1] ||^2 + 0.09 mean_t SIGReg(z[t])

PLDM (arXiv 2502.14819, appendix): a path z^ imagined from the first frames, VICReg's terms V and C of the first frame
over the batch, V and C of the later frames over time, the distance of consecutive embeddings, and the error of an
action that a small network I reads from two of them

    loss = mean || z^[t] - z[t] ||^2 + 3.98 V(z[0]) + 6.92 C(z[0]) + 0.245 V_time(z[1..]) + 0 C_time(z[1..])
           + 0.742 mean || z[t+1] - z[t] ||^2 + 1.07 mean || I(z[t], z[t+1]) - a[t] ||^2
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from world_model.actions import ActionModule, ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.objectives.losses import (
    ClipTerms,
    Loss,
    centre_clips,
    compute_anti_collapse,
    covariance_of_pairs,
    regression,
    variance_hinge,
)
from world_model.objectives.masking import Mask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, FamilyConfig, Objective, Prediction
from world_model.predictor import ActionPredictor, PredictorConfig

INVERSE_HIDDEN = 512  # width of the network that reads an action from two embeddings (PLDM's released configuration)


@dataclass(frozen=True)
class StepTerms(ClipTerms):
    """Terms over the batch at single time steps (LeWorldModel, PLDM); a weight of 0 leaves a term out."""

    variance: Annotated[float, Ge(0)] = 0.0
    """weight of the variance hinge of the clips' first frames, over the batch (PLDM)"""
    covariance: Annotated[float, Ge(0)] = 0.0
    """weight of the mean squared covariance of two dimensions of the same frames (PLDM)"""
    sigreg: Annotated[float, Ge(0)] = 0.0
    """weight of SIGReg of every time step over the batch, mean over the steps (LeWorldModel)"""

    def select(self, embedded_BTD: Tensor) -> Tensor:
        """Embeddings [B, T, D] that the terms are taken of."""
        return centre_clips(embedded_BTD) if self.centred else embedded_BTD


@dataclass(frozen=True)
class PathTerms:
    """PLDM's terms on the embeddings of consecutive frames; a weight of 0 leaves a term out."""

    variance: Annotated[float, Ge(0)] = 0.0
    """weight of the variance hinge of a clip's frames after the first, over time"""
    covariance: Annotated[float, Ge(0)] = 0.0
    """weight of the mean squared covariance of two dimensions of the same frames, over time"""
    smoothness: Annotated[float, Ge(0)] = 0.0
    """weight of the squared distance of consecutive embeddings"""
    inverse: Annotated[float, Ge(0)] = 0.0
    """weight of the error of the action read from two embeddings"""


@dataclass(frozen=True)
class EndToEndConfig(FamilyConfig):
    """Defaults: LeWorldModel (arXiv 2603.19312), whose paper predicts four frames of a clip."""

    family: Literal["end_to_end"] = "end_to_end"
    """encoder and dynamics, learned together from recorded actions"""
    frames: int = 9
    """frames of a clip (> context_frames); the longest plan is frames - context_frames model steps"""
    frame_gap: Annotated[int, Ge(0)] = 0
    """environment steps between the frames of a clip; 0: the task's model step"""
    context_frames: Annotated[int, Ge(1)] = 3
    """frames before the first planned step"""
    rollout: bool = False
    """frames after context_frames imagined in a row (PLDM), or each from the true ones before it"""
    loss: Loss = "l2"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    prediction: Annotated[float, Gt(0)] = 1.0
    """weight of that error"""
    terms: StepTerms = field(default_factory=lambda: StepTerms(sigreg=0.09, sigreg_directions=1024))
    """anti-collapse terms"""
    path_terms: PathTerms = field(default_factory=PathTerms)
    """terms on consecutive embeddings (PLDM)"""
    predictor: PredictorConfig = field(
        default_factory=lambda: PredictorConfig(width=128, depth=2, conditioning="adaln", dropout=0.1)
    )
    """transformer of the predictor (LeWorldModel needs its dropout: its Table 9)"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; the encoder alone is kept then, since its own dynamics
    were learned without it; null: none"""
    loss_version: Annotated[int, Interval(ge=2, le=2)] = 2
    """version of the terms' formulas; 2: as published. Version 1, of earlier results, is computed no more
    (docs/concepts/objectives.md)"""

    # Values of keys that older configurations lack: there a weight meant another scale.
    superseded: ClassVar[dict[str, int]] = {"loss_version": 1}
    space: ClassVar[Literal["pooled", "tokens"]] = "pooled"
    reads_actions: ClassVar[bool] = True
    masks: ClassVar[tuple[Mask, ...]] = ()
    teacher: ClassVar[Literal["shared"]] = "shared"

    def __post_init__(self) -> None:
        if self.frames <= self.context_frames:
            raise ValueError(
                f"objective.frames={self.frames} leaves nothing to predict after "
                f"objective.context_frames={self.context_frames}"
            )
        over_time = [name for name in ("variance", "covariance") if getattr(self.path_terms, name)]
        if over_time and self.frames < 3:
            raise ValueError(
                f"objective.path_terms.{over_time[0]} compares the frames after the first, and "
                f"objective.frames={self.frames} has one: give at least 3"
            )

    def check_batch(self, batch_size: int) -> None:
        """Raise ValueError for a batch of one clip with terms over the batch."""
        over_batch = [name for name in ("variance", "covariance") if getattr(self.terms, name)]
        if over_batch and batch_size < 2:
            raise ValueError(
                f"objective.terms.{over_batch[0]} compares the clips of a batch, and batch_size={batch_size} has one: "
                "give at least 2"
            )

    @property
    def horizon(self) -> int:
        """Model steps after the context."""
        return self.frames - self.context_frames

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> EndToEnd:
        """The objective around an encoder, for a run of so many steps."""
        assert actions is not None, "an end-to-end objective reads actions"
        return EndToEnd(self, encoder, steps, seed, actions)


def compute_step_terms(embedded_BTD: Tensor, weights: StepTerms, generator: torch.Generator) -> dict[str, Tensor]:
    """The weighted terms over the batch that are switched on, by name: of the first frames (PLDM), and SIGReg of every
    step (LeWorldModel)."""
    steps_TBD = embedded_BTD.transpose(0, 1)
    return compute_anti_collapse(steps_TBD, weights, generator, steps_TBD[0], covariance_of_pairs)


def compute_path_terms(embedded_BTD: Tensor, weights: PathTerms) -> dict[str, Tensor]:
    """PLDM's weighted terms over time that are switched on, by name, without that of the actions."""
    terms, embedded_BTD = {}, embedded_BTD.float()
    if weights.variance:
        terms["variance_time"] = weights.variance * variance_hinge(embedded_BTD[:, 1:])
    if weights.covariance:
        terms["covariance_time"] = weights.covariance * covariance_of_pairs(embedded_BTD[:, 1:])
    if weights.smoothness:
        terms["smoothness"] = weights.smoothness * embedded_BTD.diff(dim=1).square().mean()
    return terms


class EndToEnd(Objective, ActionModule):
    """Predict the next frames' pooled embeddings from those before them and the actions between."""

    config: EndToEndConfig

    def __init__(
        self, config: EndToEndConfig, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec
    ) -> None:
        super().__init__(config, encoder, steps, seed)
        self.actions, size = actions, encoder.pooled_dim
        mid, half = actions.block_mid_half()
        self.predictor = ActionPredictor(size, (1, 1), len(mid), config.predictor)
        self.register_bounds(mid, half)
        self.inverse = nn.Sequential(
            nn.Linear(2 * size, INVERSE_HIDDEN), nn.GELU(), nn.Linear(INVERSE_HIDDEN, len(mid))
        )

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Every frame from the true ones before it, or a path from the first ones; the terms of PLDM."""
        config, actions_BTA = self.config, self.normalise_actions(batch["action"])
        embedded_BTD = encoder.embed_chunks(batch["pixels"])
        predict = self.imagine if config.rollout else self.force
        predicted, target = predict(embedded_BTD, actions_BTA)
        terms = {"prediction": config.prediction * self.mean_error([predicted], [target])}
        terms |= self.sum_path_terms(embedded_BTD, actions_BTA)
        return Prediction([predicted], [target], config.terms.select(embedded_BTD), terms)

    def force(self, embedded_BTD: Tensor, actions_BTA: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher forcing (LeWM): frames 1..T-1, each from the true ones before it, beside the true ones."""
        return self.predictor(embedded_BTD[:, :-1, None], actions_BTA).squeeze(2), embedded_BTD[:, 1:]

    def imagine(self, embedded_BTD: Tensor, actions_BTA: Tensor) -> tuple[Tensor, Tensor]:
        """A path (PLDM): all frames after the first context_frames, each from predictions, beside the true ones."""
        first = self.config.context_frames
        past = self.predictor.prefill(embedded_BTD[:, : first - 1, None], actions_BTA[:, : first - 1])
        path = self.predictor.rollout(past, embedded_BTD[:, first - 1, None], actions_BTA[:, None, first - 1 :])
        return path[:, 0].squeeze(2), embedded_BTD[:, first:]

    def regularise(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted terms of embeddings [B, T, D] over the batch, by name."""
        return compute_step_terms(features, self.config.terms, generator)

    def sum_path_terms(self, embedded_BTD: Tensor, actions_BTA: Tensor) -> dict[str, Tensor]:
        """The weighted terms on consecutive embeddings that are switched on, by name."""
        weights = self.config.path_terms
        terms = compute_path_terms(embedded_BTD, weights) | self.config.terms.compute_between_clips(embedded_BTD)
        if weights.inverse:
            read = self.inverse(torch.cat((embedded_BTD[:, :-1], embedded_BTD[:, 1:]), -1))
            terms["inverse"] = weights.inverse * regression(read.float(), actions_BTA, "l2")
        return terms

    def make_dynamics(self, encoder: VideoEncoder) -> LatentDynamics:
        """Latent dynamics for planning; paths are as long as a training clip allows."""
        config = DynamicsConfig("pooled", self.config.context_frames, self.config.horizon, self.config.predictor)
        dynamics = LatentDynamics(config, encoder, self.actions)
        dynamics.predictor.load_state_dict(self.predictor.state_dict())
        return dynamics.to(self.action_mid.device).eval()
