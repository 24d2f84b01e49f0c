"""Causal objective: every output of a causal encoder predicts the token that comes next.

NEPA (arXiv 2512.16922). With patch embeddings e, in raster order, before the transformer, and a causal encoder E,

    loss = mean over i of 1 - cos(E(e[0..i])[i], e[i+1])                            no gradient on the right

The encoder's outputs are the predictions: there is no predictor and no teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.dynamics import ActionSpec
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives.embedding import make_principal_config
from world_model.objectives.losses import Loss, TokenTerms
from world_model.objectives.masking import Mask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, Objective, Prediction, make_clip


@dataclass(frozen=True)
class CausalConfig:
    """Defaults: NEPA (arXiv 2512.16922), on clips of 8 frames."""

    family: Literal["causal"] = "causal"
    """the next token is predicted from those before it"""
    frames: int = 8
    """frames in a clip (>= 1)"""
    frame_gap: int = 1
    """environment steps between the frames of a clip (>= 1)"""
    loss: Loss = "cosine"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    terms: TokenTerms = field(default_factory=TokenTerms)
    """anti-collapse terms"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; null: none"""

    space: ClassVar[Literal["pooled", "tokens"]] = "tokens"
    reads_actions: ClassVar[bool] = False
    masks: ClassVar[tuple[Mask, ...]] = ()

    def __post_init__(self) -> None:
        if self.frame_gap < 1:
            raise ValueError(f"objective.frame_gap={self.frame_gap} must be at least 1")

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """The encoder's sizes with causal attention, and a pooled embedding that is fitted when training is over."""
        return replace(sizes, causal=True, pool=make_principal_config(sizes))

    def check_encoder(self, sizes: EncoderConfig) -> None:
        """ValueError where the next token would be seen by its neighbour."""
        if sizes.stem.kind == "conv":
            raise ValueError("encoder.stem.kind=conv sees into the next patch: set encoder.stem.kind=linear")


class Causal(Objective):
    """Predict the next token as it comes in."""

    def __init__(
        self, config: CausalConfig, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None = None
    ) -> None:
        super().__init__(config.loss, config.terms, "stop", encoder, steps, seed)
        self.config = config

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, rows: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Every output but the last, against the next token before the transformer."""
        clip = make_clip(encoder, batch["pixels"], images=True)
        tokens_BND = encoder.embed(clip)
        positions = encoder.make_rotary(encoder.make_positions(encoder.clip_grid(clip), clip.device))
        outputs_BND = encoder.transform(tokens_BND, positions)[-1]
        predicted, targets = [outputs_BND[:, :-1]], [tokens_BND[:, 1:].detach()]
        terms = {"prediction": self.mean_error(predicted, targets)}
        return Prediction(predicted, targets, self.config.terms.select(outputs_BND), terms)
