"""V-JEPA 2's predictor: mask tokens at the hidden positions join the visible tokens in a small transformer (arXiv
2506.09985, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from world_model.nn.layers import MODALITY_STD, NORM_EPS
from world_model.nn.rotary import make_grid_positions, make_rotary
from world_model.nn.stack import init_transformer
from world_model.predictor import PredictorConfig


@dataclass(frozen=True)
class MaskedSizes:
    """Inputs and outputs of a MaskedPredictor.

    levels: outputs of the encoder side by side [B, M, levels * feature_dim]; several are first reduced to feature_dim
    (V-JEPA 2.1). out_dim: size of a prediction; 0: levels * feature_dim. context_dim: size of a prediction at visible
    positions, by a head of its own (V-JEPA 2.1's context loss); 0: none. modalities: learned embeddings of images and
    of videos, as in an encoder with `stem.images`. familiar_grid: see EncoderConfig.
    """

    feature_dim: int
    grid: tuple[int, int]
    num_mask_tokens: int = 2
    out_dim: int = 0
    levels: int = 1
    context_dim: int = 0
    modalities: bool = False
    familiar_grid: tuple[int, int] | None = None


class MaskedPredictor(nn.Module):
    """Visible tokens [B, M, D] -> predictions [B, P, D] at hidden positions (V-JEPA 2, section 2.1)."""

    def __init__(self, sizes: MaskedSizes, config: PredictorConfig) -> None:
        super().__init__()
        self.sizes, self.heads, self.width, self.rope = sizes, config.heads, config.width, config.rope
        self.head_dim = config.channels_per_head
        joint_dim = sizes.levels * sizes.feature_dim
        self.predictor_embed: nn.Module = nn.Linear(sizes.feature_dim, config.width)
        if sizes.levels > 1:
            reduce = nn.Linear(joint_dim, sizes.feature_dim)
            self.predictor_embed = nn.Sequential(reduce, nn.GELU(), self.predictor_embed)
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(sizes.num_mask_tokens)
        )
        self.predictor_blocks = config.make_blocks()
        self.predictor_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.predictor_proj = nn.Linear(config.width, sizes.out_dim or joint_dim)
        self.predictor_proj_context = nn.Linear(config.width, sizes.context_dim) if sizes.context_dim else None
        init_transformer(self, self.predictor_blocks)
        if sizes.modalities:
            self.img_mod_embed = nn.Parameter(MODALITY_STD * torch.randn(1, 1, config.width))
            self.video_mod_embed = nn.Parameter(MODALITY_STD * torch.randn(1, 1, config.width))

    def forward(
        self,
        context_BMD: Tensor,
        context_BM: Tensor,
        target_BP: Tensor,
        steps: int,
        mask_token: int = 0,
        image: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Predictions at target_BP, and at context_BM if there is a head for them, from context_BMD.

        Both are raster indices into a grid of `steps` steps. image: whether the tokens are those of a single image.
        """
        positions = make_grid_positions(steps, *self.sizes.grid, context_BMD.device, self.sizes.familiar_grid)
        rotary = make_rotary(positions[torch.cat((context_BM, target_BP), 1)], self.head_dim, self.rope)
        hidden = self.mask_tokens[mask_token].expand(*target_BP.shape, -1)
        x = torch.cat((self.predictor_embed(context_BMD), hidden.to(context_BMD.dtype)), 1)
        if self.sizes.modalities:
            x = x + (self.img_mod_embed if image else self.video_mod_embed)
        visible = context_BM.shape[1]
        if self.predictor_proj_context is None:
            x = self.predictor_norm(self.predictor_blocks(x, rotary, read_from=visible))
            return self.predictor_proj(x), None
        x = self.predictor_norm(self.predictor_blocks(x, rotary))
        return self.predictor_proj(x[:, visible:]), self.predictor_proj_context(x[:, :visible])
