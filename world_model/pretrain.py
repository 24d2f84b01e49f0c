"""Stage 1, action-free: clips -> prediction of what is hidden, in features or in pixels.

The V-JEPA 2 objective (masked context, EMA teacher, layer-normed targets, L1) is one choice; predicting the future of
a pooled, regularised embedding is another; pixels as target make the generative twin. No action is ever read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model import masking
from world_model.decoder import PixelHead
from world_model.encoder import VideoEncoder
from world_model.metric import metric_map, slow_modes
from world_model.objectives import (
    ObjectiveConfig,
    anti_collapse,
    constant_predictor_loss,
    normalised_target,
    regression,
)
from world_model.predictor import ActionPredictor, MaskedPredictor
from world_model.teacher import make_teacher, momentum, update_teacher

FRAMES_PER_CHUNK = 64  # activations of more frames at once leave a CPU's caches


@dataclass
class Prediction:
    """What an objective compares: predictions and their targets, and the features the anti-collapse terms look at."""

    predicted: list[Tensor]
    targets: list[Tensor]
    regularised: Tensor


class PretrainModel(nn.Module):
    """An encoder with everything stage 1 trains around it; only the encoder (the teacher's, if any) is kept."""

    def __init__(self, encoder: VideoEncoder, objective: ObjectiveConfig, steps: int, seed: int = 0) -> None:
        super().__init__()
        self.objective, self.steps, self.seed = objective, steps, seed
        self.encoder = encoder
        self.teacher = make_teacher(encoder) if objective.teacher == "ema" else None
        config, pixels = encoder.config, objective.target == "pixels"
        self.predictor: nn.Module
        if objective.space == "pooled":
            if encoder.pool is None:
                raise ValueError("objective.space=pooled needs encoder.pooled_dim > 0")
            self.predictor = ActionPredictor(config.pooled_dim, (1, 1), 0, objective.predictor)
            self.pixel_head = PixelHead(config.pooled_dim, config, pooled=True) if pixels else None
        else:
            out_dim = 3 * config.tubelet * config.patch_px**2 if pixels else config.width
            self.predictor = MaskedPredictor(
                config.width, config.grid, objective.predictor, max(1, len(objective.masks)), out_dim
            )
            self.pixel_head = None

    @property
    def trained_encoder(self) -> VideoEncoder:
        """The encoder to keep: the teacher's where there is one, as V-JEPA 2 evaluates."""
        return self.teacher if self.teacher is not None else self.encoder  # type: ignore[return-value]

    def metric(self, episodes: Iterable[Tensor]) -> tuple[Tensor, Tensor] | None:
        """Mean [D] and matrix [D, D] of the objective's metric, fitted on consecutive frames [T, H, W, C] of whole
        episodes; None where the objective has none."""
        config = self.objective.metric
        if config.kind == "none":
            return None
        encoder = self.trained_encoder.eval()
        with torch.no_grad():
            modes = slow_modes([embed_frames(encoder, frames[None])[0] for frames in episodes], config.lag)
        return modes.mean_D, metric_map(modes, config)

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of clips: `pixels` uint8 [B, T, H, W, C]."""
        made = self.predict(batch["pixels"], step)
        pairs = list(zip(made.predicted, made.targets, strict=True))
        terms = {
            "prediction": self.objective.prediction
            * torch.stack([regression(p.float(), t, self.objective.loss) for p, t in pairs]).mean()
        }
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        terms |= anti_collapse(made.regularised, self.objective.terms, generator)
        loss = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            terms["constant"] = constant_predictor_loss(made.targets[0].float(), self.objective.loss)
        return loss, terms

    def predict(self, frames_BTHWC: Tensor, step: int) -> Prediction:
        """Run the objective's two axes."""
        return (
            self._predict_pooled(frames_BTHWC)
            if self.objective.space == "pooled"
            else self._predict_tokens(frames_BTHWC, step)
        )

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        if self.teacher is not None:
            keep = momentum(self.objective.ema, self.objective.ema_end, step, self.steps)
            update_teacher(self.teacher, self.encoder, keep)

    # -- the future of the pooled embedding ----------------------------------------------------------------------

    def _predict_pooled(self, frames_BTHWC: Tensor) -> Prediction:
        objective = self.objective
        embedded = embed_frames(self.encoder, frames_BTHWC)
        paths = self._rollout(embedded)
        if self.pixel_head is not None:
            target = self.encoder.normalise(frames_BTHWC).movedim(1, -1)
            predicted = [self.pixel_head(path.unsqueeze(-2)) for path in paths]
        else:
            target, predicted = self._pooled_target(embedded, frames_BTHWC), paths
        first = objective.context_frames
        targets = [target[:, first + k :] for k in range(objective.rollout)]
        return Prediction(predicted, targets, embedded.flatten(0, 1))

    def _pooled_target(self, embedded: Tensor, frames_BTHWC: Tensor) -> Tensor:
        if self.teacher is not None:
            with torch.no_grad():
                return embed_frames(self.teacher, frames_BTHWC)  # type: ignore[arg-type]
        return embedded if self.objective.teacher == "shared" else embedded.detach()

    def _rollout(self, embedded_BTD: Tensor) -> list[Tensor]:
        """Predictions 1..rollout steps ahead of every window of context_frames frames: k-th [B, T - context - k, D]."""
        context, paths = self.objective.context_frames, []
        window = embedded_BTD.unfold(1, context, 1).transpose(2, 3)[:, :-1]  # [B, windows, context, D]
        for _ in range(self.objective.rollout):
            batch = window.shape[0]
            flat = rearrange(window, "b w t d -> (b w) t 1 d")
            following = self.predictor(flat)[:, -1, 0].unflatten(0, (batch, -1))
            paths.append(following)
            window = torch.cat((window[:, :, 1:], following.unsqueeze(2)), 2)[:, :-1]
        return paths

    # -- hidden tokens -------------------------------------------------------------------------------------------

    def _predict_tokens(self, frames_BTHWC: Tensor, step: int) -> Prediction:
        clip = self.encoder.normalise(frames_BTHWC)
        steps = clip.shape[2] // self.encoder.config.tubelet
        target = self._token_target(clip)
        predicted, targets, visible = [], [], []
        for number, (context, hidden) in enumerate(self._masks(len(clip), steps, step)):
            context, hidden = context.to(clip.device), hidden.to(clip.device)
            tokens = self.encoder(clip, context)
            predicted.append(self.predictor(tokens, context, hidden, steps, number))
            targets.append(target.gather(1, hidden[..., None].expand(-1, -1, target.shape[-1])))
            visible.append(tokens)
        regularised = visible[0].mean(1) if self.objective.terms.on == "pooled" else visible[0].flatten(0, 1)
        return Prediction(predicted, targets, regularised)

    def _masks(self, batch: int, steps: int, step: int) -> list[tuple[Tensor, Tensor]]:
        grid = (steps, *self.encoder.config.grid)
        if self.objective.context == "future":
            return [masking.future(batch, grid, self.objective.context_frames // self.encoder.config.tubelet)]
        return [
            masking.multi_block(mask, batch, grid, (self.seed, step, number))
            for number, mask in enumerate(self.objective.masks)
        ]

    def _token_target(self, clip_BCTHW: Tensor) -> Tensor:
        if self.objective.target == "pixels":
            t, p = self.encoder.config.tubelet, self.encoder.config.patch_px
            return rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=p)
        if self.objective.teacher == "shared":
            return F.layer_norm(self.encoder(clip_BCTHW).float(), (self.encoder.config.width,))
        with torch.no_grad():
            return normalised_target((self.teacher or self.encoder)(clip_BCTHW))


def embed_frames(encoder: VideoEncoder, frames_BTHWC: Tensor) -> Tensor:
    """Pooled embeddings [B, T, D] of frames, each encoded alone, in chunks that fit a CPU's caches."""
    flat = frames_BTHWC.flatten(0, 1)
    size = FRAMES_PER_CHUNK if flat.device.type == "cpu" else len(flat)
    parts = [encoder.pooled(encoder.encode_frames(chunk[None]))[0] for chunk in flat.split(size)]
    return torch.cat(parts).unflatten(0, frames_BTHWC.shape[:2])
