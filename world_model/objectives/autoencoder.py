"""Autoencoder: the tokens of a frame are latents from which a decoder draws the frame (VAE, arXiv 1312.6114).

The encoder's normed patch tokens m of a frame are means; a linear map of them gives the logarithms of the variances
s^2. With a decoder D and normalised pixels x,

    loss = mean || D(m + s e) - x ||^2 + kl * mean KL(N(m, s^2) || N(0, 1)),    e standard normal

Both means are over all numbers, so that weights do not depend on sizes. Latent diffusion models begin with such latents
(arXiv 2112.10752, section 3.1), whose KL term has a small weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from einops import rearrange
from torch import Tensor, nn

from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.draws import draw_rows, make_generator
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.layers import NORM_EPS
from world_model.nn.pools import PrincipalPoolConfig
from world_model.nn.rotary import make_rotary
from world_model.nn.stack import init_transformer
from world_model.objectives.losses import Loss, TokenTerms
from world_model.objectives.masking import Mask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import Batch, FamilyConfig, Objective, Prediction
from world_model.predictor import PredictorConfig


@dataclass(frozen=True)
class AutoencoderConfig(FamilyConfig):
    """Defaults: a variational autoencoder of frames, with a decoder of the size of the other families' predictors."""

    family: Literal["autoencoder"] = "autoencoder"
    """drawing of each frame from its own tokens"""
    frames: Annotated[int, Ge(1)] = 8
    """frames of a clip, each by itself"""
    frame_gap: Annotated[int, Ge(1)] = 1
    """environment steps between the frames of a clip"""
    kl: Annotated[float, Ge(0)] = 1.0e-3
    """weight of the divergence of the latents from a standard normal distribution"""
    terms: TokenTerms = field(default_factory=TokenTerms)
    """anti-collapse terms"""
    metric: MetricConfig | None = None
    """metric of the pooled embedding, fitted after training; null: none"""
    predictor: PredictorConfig = field(default_factory=lambda: PredictorConfig(width=128, depth=2))
    """transformer of the decoder"""

    loss: ClassVar[Loss] = "l2"
    space: ClassVar[Literal["pooled", "tokens"]] = "tokens"
    teacher: ClassVar[Literal["stop"]] = "stop"
    masks: ClassVar[tuple[Mask, ...]] = ()

    def adapt_encoder(self, sizes: EncoderConfig) -> EncoderConfig:
        """A pooled embedding that is fitted after training."""
        return replace(sizes, pool=sizes.pool and PrincipalPoolConfig(sizes.pool.dim))

    def make(self, encoder: VideoEncoder, steps: int, seed: int, actions: ActionSpec | None) -> Autoencoder:
        """The objective around an encoder, for a run of so many steps."""
        return Autoencoder(self, encoder, steps, seed)


class Autoencoder(Objective):
    """Draw each frame from a sample of its latents."""

    config: AutoencoderConfig

    def __init__(self, config: AutoencoderConfig, encoder: VideoEncoder, steps: int, seed: int) -> None:
        super().__init__(config, encoder, steps, seed)
        sizes, width = encoder.config, config.predictor.width
        self.embed = nn.Linear(sizes.width, width)
        self.blocks = config.predictor.make_blocks()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.paint = nn.Linear(width, 3 * sizes.patch_px**2)
        init_transformer(self, self.blocks)
        self.log_variance = nn.Linear(sizes.width, sizes.width)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -2.0)  # latents that hold something from the first step on

    def predict(self, encoder: VideoEncoder, batch: Batch, step: int, shard: WorldInfo = SINGLE_PROCESS) -> Prediction:
        """Every frame, from the latents of its own tokens."""
        frames_BTHWC = batch["pixels"]
        mean_BTND = encoder.encode_frames(frames_BTHWC)
        log_variance = self.log_variance(mean_BTND)
        noise = self.draw_noise(mean_BTND, step, shard)
        drawn = self.decode(encoder, mean_BTND + (0.5 * log_variance).exp() * noise)
        target = encoder.normalise(frames_BTHWC).movedim(1, -1)
        divergence = 0.5 * (mean_BTND.square() + log_variance.exp() - 1 - log_variance).mean()
        terms = {"prediction": self.mean_error([drawn], [target]), "kl": self.config.kl * divergence}
        return Prediction([drawn], [target], self.config.terms.select(mean_BTND.flatten(1, 2)), terms)

    def draw_noise(self, latents_BTND: Tensor, step: int, shard: WorldInfo) -> Tensor:
        """Standard normal numbers of this process's rows, drawn for the batch of all processes."""
        return draw_rows(latents_BTND.shape, shard, make_generator(self.seed, step)).to(latents_BTND)

    def decode(self, encoder: VideoEncoder, latents_BTND: Tensor) -> Tensor:
        """Normalised pixels [B, T, H, W, C]."""
        (height, width), patch = encoder.config.grid, encoder.config.patch_px
        positions = encoder.make_positions((1, height, width), latents_BTND.device)
        head_dim = self.config.predictor.channels_per_head
        rotary = make_rotary(positions, head_dim, self.config.predictor.rope)
        x = self.blocks(self.embed(latents_BTND.flatten(0, 1)), rotary)
        axes = {"t": latents_BTND.shape[1], "h": height, "w": width, "p": patch, "q": patch}
        return rearrange(self.paint(self.norm(x)), "(b t) (h w) (p q c) -> b t (h p) (w q) c", **axes)
