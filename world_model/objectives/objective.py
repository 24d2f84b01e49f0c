"""What all objectives are: a module beside the encoder that predicts, has a teacher or none, and sums its loss.

A family (masked, future, causal, end to end) writes `predict`: what is visible, what is predicted, and by which error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from world_model.distributed import SINGLE_PROCESS, WorldInfo, world_info
from world_model.encoder import VideoEncoder
from world_model.objectives.losses import (
    Loss,
    TermsConfig,
    compute_anti_collapse,
    constant_predictor_loss,
    infonce,
    regression,
)
from world_model.objectives.teacher import TeacherConfig, Teaching, make_teacher, momentum, update_teacher

Batch = dict[str, Tensor]


@dataclass
class Prediction:
    """Predictions beside their targets, and the features [samples, D] that anti-collapse terms are taken of.

    terms: weighted losses of this family, "prediction" first. logged: further numbers that are no part of the loss.
    """

    predicted: list[Tensor]
    targets: list[Tensor]
    regularised: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)


def make_clip(encoder: VideoEncoder, frames_BTHWC: Tensor, images: bool) -> Tensor:
    """Normalised clip [B, C, T, H, W]; a single frame is repeated to one tubelet, unless it may stay an `image` and the
    encoder has a patch embedding for one."""
    clip = encoder.normalise(frames_BTHWC)
    if clip.shape[2] == 1 and not (images and encoder.config.stem.images):
        clip = clip.expand(-1, -1, encoder.config.tubelet, -1, -1)
    return clip


class Objective(nn.Module):
    """An objective; `encoder` is handed to each call, so that weights and gradients belong to one module alone."""

    teacher: VideoEncoder | None

    def __init__(
        self, loss: Loss, terms: TermsConfig, teaching: Teaching, encoder: VideoEncoder, steps: int, seed: int
    ) -> None:
        super().__init__()
        self.error, self.terms, self.teaching, self.steps, self.seed = loss, terms, teaching, steps, seed
        self.teacher = make_teacher(encoder) if isinstance(teaching, TeacherConfig) else None

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, rows: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Predictions, targets and losses of a batch: `pixels` uint8 [B, T, H, W, C], and `action` [B, T-1, A] where
        the objective reads it. rows: whose share of the batch this is."""
        raise NotImplementedError

    def loss(self, encoder: VideoEncoder, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all weighted terms, and these terms with what is logged beside them."""
        prediction = self.predict(encoder, batch, step, world_info())
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        terms = prediction.terms | compute_anti_collapse(prediction.regularised, self.terms, generator)
        if self.terms.infonce:
            sides = prediction.predicted, prediction.targets
            predicted, targets = (torch.cat([x.flatten(0, -2) for x in side]) for side in sides)
            terms["infonce"] = self.terms.infonce * infonce(predicted.float(), targets, self.terms.temperature)
        loss = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            terms["constant"] = constant_predictor_loss(prediction.targets[0].float(), self.error)
        return loss, terms | {name: loss.new_tensor(value) for name, value in prediction.logged.items()}

    def get_target_encoder(self, encoder: VideoEncoder) -> VideoEncoder:
        """The encoder that makes the targets, and that is kept in the end, as V-JEPA 2 evaluates its teacher."""
        return encoder if self.teacher is None else self.teacher

    def mean_error(self, predicted: list[Tensor], targets: list[Tensor]) -> Tensor:
        """Mean of the errors of all pairs."""
        pairs = zip(predicted, targets, strict=True)
        return torch.stack([regression(p.float(), t.float(), self.error) for p, t in pairs]).mean()

    @torch.no_grad()
    def measure_errors(self, encoder: VideoEncoder, batch: Batch, step: int) -> dict[str, float]:
        """The error of the predictions, without its weight, and that of the best constant."""
        prediction = self.predict(encoder, batch, step)
        constants = [constant_predictor_loss(target.float(), self.error) for target in prediction.targets]
        error = self.mean_error(prediction.predicted, prediction.targets)
        return {"prediction": error.item(), "constant": torch.stack(constants).mean().item()}

    def after_step(self, encoder: VideoEncoder, step: int) -> None:
        """Move the teacher."""
        if self.teacher is not None and isinstance(self.teaching, TeacherConfig):
            update_teacher(self.teacher, encoder, momentum(self.teaching, step, self.steps))
