"""What all objectives share: the teacher and the sum of the loss.

A family (masked, future, causal, end to end) writes `predict`: what is visible, what is predicted, and by which error.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo, world_info
from world_model.draws import make_generator
from world_model.dynamics import freeze
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives.losses import compute_anti_collapse, constant_predictor_loss, infonce, regression

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TeacherConfig:
    """Momentum of an EMA teacher, linear over the run (BYOL; V-JEPA 2 keeps it constant)."""

    ema: Annotated[float, Interval(ge=0, le=1)] = 0.99925
    """share of its weights that the teacher keeps a step, at the first step"""
    ema_end: Annotated[float, Interval(ge=0, le=1)] = 0.99925
    """share of its weights that the teacher keeps a step, at the last step"""

    def momentum(self, step: int, steps: int) -> float:
        """Share of its weights that the teacher keeps at 0-based `step` of `steps`."""
        return self.ema + (self.ema_end - self.ema) * min(1.0, step / max(1, steps))


# Source of targets: an EMA teacher; `stop`: the encoder, without gradient; `shared`: with gradient on both sides.
Teaching = TeacherConfig | Literal["stop", "shared"]


class FamilyConfig:
    """What the configs of all families have beside their fields.

    space: features that are predicted; reads_actions: whether batches need recorded actions.
    """

    space: ClassVar[Literal["pooled", "tokens"]]
    reads_actions: ClassVar[bool] = False

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """Sizes of the encoder that this objective trains, from those that were asked for."""
        return sizes

    def check_encoder(self, sizes: EncoderConfig) -> None:
        """Raise ValueError for an encoder that would see what it has to predict."""

    def check_batch(self, batch_size: int) -> None:
        """Raise ValueError for a batch with too few clips for the terms of the loss."""

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> Objective:
        """The objective around an encoder, for a run of so many steps."""
        raise NotImplementedError


@dataclass
class Prediction:
    """Predictions beside their targets, and the features that anti-collapse terms are taken of: [samples, D], or
    [B, T, D] of clips where the family takes them of every step (`Objective.regularise`).

    terms: weighted losses of this family, "prediction" first. logged: further numbers that are no part of the loss.
    """

    predicted: list[Tensor]
    targets: list[Tensor]
    regularised: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    logged: dict[str, Tensor] = field(default_factory=dict)


def make_clip(encoder: VideoEncoder, frames_BTHWC: Tensor, images: bool) -> Tensor:
    """Normalised clip [B, C, T, H, W]. A single frame is repeated to one tubelet, unless `images` are allowed and the
    encoder has a patch embedding for them."""
    clip = encoder.normalise(frames_BTHWC)
    if clip.shape[2] == 1 and not (images and encoder.config.stem.images):
        clip = clip.expand(-1, -1, encoder.config.tubelet, -1, -1)
    return clip


class Objective(nn.Module):
    """An objective; `encoder` is handed to each call, so that weights and gradients belong to one module alone."""

    def __init__(self, config: Any, encoder: VideoEncoder, steps: int, seed: int) -> None:
        super().__init__()
        if config.space == "pooled" and encoder.pool is None:
            raise ValueError("this objective predicts pooled embeddings: set encoder.pool.kind=learned")
        self.config, self.steps, self.seed = config, steps, seed
        self.teacher: VideoEncoder | None = None
        if isinstance(config.teacher, TeacherConfig):
            self.teacher = copy.deepcopy(encoder)
            freeze(self.teacher)

    def prepare(self, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Batch:
        """The batch with what is drawn for it on the CPU; threads that read ahead call it. shard: as of `predict`."""
        return batch

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Predictions, targets and losses of a batch: `pixels` uint8 [B, T, H, W, C], and `action` [B, T-1, A] where
        the objective reads it. shard: which process's share of the global batch this is."""
        raise NotImplementedError

    def regularise(self, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted anti-collapse terms by name, of `Prediction.regularised`."""
        return compute_anti_collapse(features, self.config.terms, generator)

    def loss(self, encoder: VideoEncoder, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all weighted terms, and these terms with what is logged beside them."""
        prediction, weights = self.predict(encoder, batch, step, world_info()), self.config.terms
        generator = make_generator(self.seed, step)
        terms = prediction.terms | self.regularise(prediction.regularised, generator)
        if weights.infonce:
            sides = prediction.predicted, prediction.targets
            predicted, targets = (torch.cat([x.flatten(0, -2) for x in side]) for side in sides)
            terms["infonce"] = weights.infonce * infonce(predicted.float(), targets, weights.temperature)
        loss = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            terms["constant"] = constant_predictor_loss(prediction.targets[0].float(), self.config.loss)
        return loss, terms | {name: value.to(loss) for name, value in prediction.logged.items()}

    def get_target_encoder(self, encoder: VideoEncoder) -> VideoEncoder:
        """The encoder that makes the targets and is kept after training, as V-JEPA 2 evaluates its teacher."""
        return encoder if self.teacher is None else self.teacher

    def mean_error(self, predicted: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Mean of the errors of all pairs."""
        pairs = zip(predicted, targets, strict=True)
        return torch.stack([regression(p.float(), t.float(), self.config.loss) for p, t in pairs]).mean()

    @torch.no_grad()
    def measure_errors(self, encoder: VideoEncoder, batch: Batch, step: int) -> dict[str, float]:
        """Unweighted error of the predictions, and that of the best constant."""
        prediction = self.predict(encoder, batch, step)
        constants = [constant_predictor_loss(target.float(), self.config.loss) for target in prediction.targets]
        error = self.mean_error(prediction.predicted, prediction.targets)
        return {"prediction": error.item(), "constant": torch.stack(constants).mean().item()}

    @torch.no_grad()
    def update_teacher(self, encoder: VideoEncoder, step: int) -> None:
        """teacher <- m * teacher + (1 - m) * encoder for every parameter, with momentum m; buffers are copied."""
        if self.teacher is None:
            return
        momentum = self.config.teacher.momentum(step, self.steps)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(encoder.parameters()), 1.0 - momentum)
        for buffer, source in zip(self.teacher.buffers(), encoder.buffers(), strict=True):
            buffer.copy_(source)
