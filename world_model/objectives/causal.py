"""Causal objective: every output of a causal encoder predicts the token that comes next.

NEPA (arXiv 2512.16922). With patch embeddings e, in raster order, before the transformer, and a causal encoder E,

    loss = mean over i of 1 - cos(E(e[0..i])[i], e[i+1])                            no gradient on the right

The encoder's outputs are the predictions: there is no predictor and no teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.pools import PrincipalPoolConfig
from world_model.objectives.losses import Loss, TokenTerms
from world_model.objectives.masking import Mask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, FamilyConfig, Objective, Prediction, make_clip


@dataclass(frozen=True)
class CausalConfig(FamilyConfig):
    """Defaults: NEPA (arXiv 2512.16922), on clips of 8 frames."""

    family: Literal["causal"] = "causal"
    """prediction of the next token from those before it"""
    frames: Annotated[int, Ge(1)] = 8
    """frames of a clip"""
    frame_gap: Annotated[int, Ge(1)] = 1
    """environment steps between the frames of a clip"""
    loss: Loss = "cosine"
    """error of a prediction: l1, l2, smooth_l1 or cosine"""
    terms: TokenTerms = field(default_factory=TokenTerms)
    """anti-collapse terms"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; null: none"""

    space: ClassVar[Literal["pooled", "tokens"]] = "tokens"
    teacher: ClassVar[Literal["stop"]] = "stop"
    masks: ClassVar[tuple[Mask, ...]] = ()

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """Causal attention, and a pooled embedding that is fitted after training."""
        return replace(sizes, causal=True, pool=sizes.pool and PrincipalPoolConfig(sizes.pool.dim))

    def check_encoder(self, sizes: EncoderConfig) -> None:
        """Raise ValueError where a token's neighbour would see it."""
        if sizes.stem.kind == "conv":
            raise ValueError("encoder.stem.kind=conv sees into the next patch: set encoder.stem.kind=linear")

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> Causal:
        """The objective around an encoder, for a run of so many steps."""
        return Causal(self, encoder, steps, seed)


class Causal(Objective):
    """Predict the next token's embedding from the output at each token."""

    config: CausalConfig

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Every output but the last, against the next token before the transformer."""
        clip = make_clip(encoder, batch["pixels"], images=True)
        tokens_BND = encoder.embed(clip)
        rotary = encoder.make_rotary(encoder.make_positions(encoder.clip_grid(clip), clip.device))
        outputs_BND = encoder.transform(tokens_BND, rotary)[-1]
        predicted, targets = [outputs_BND[:, :-1]], [tokens_BND[:, 1:].detach()]
        terms = {"prediction": self.mean_error(predicted, targets)}
        return Prediction(predicted, targets, self.config.terms.select(outputs_BND), terms)
