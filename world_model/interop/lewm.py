"""LeWorldModel as released (arXiv 2603.19312): its networks, and the world model that plans with their weights.

A vision transformer with a class token embeds every frame alone; a projector with batch norm follows. The predictor is
a causal transformer with learned positions over the last few embeddings, which the actions modulate (AdaLN-zero);
another projector follows. A path is imagined step by step from a sliding window, whose positions begin at 0 each time,
so no keys or values are kept. `lewm_weights` reads the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from planners.protocol import DynamicsSpec, Views
from world_model.actions import ActionSpec
from world_model.nn.layers import INNER_NORM_EPS, ActionMLP, BlockConfig
from world_model.nn.stack import Blocks

MOST_STEPS = 100  # of an imagined path: a sliding window sets no limit of its own
PICTURES_PER_CHUNK = 16  # activations of more pictures at once leave a CPU's caches


@dataclass(frozen=True)
class LeWMSizes:
    """Sizes of all parts. block_dim: numbers of an action block; mixed: those it is mixed into; window: embeddings that
    a prediction sees, the next one's own action included; *_hidden: widths of hidden layers."""

    image_px: int
    patch_px: int
    encoder: BlockConfig
    encoder_depth: int
    projector_hidden: int
    embed_dim: int
    block_dim: int
    mixed: int
    action_hidden: int
    window: int
    predictor: BlockConfig
    predictor_depth: int
    pred_proj_hidden: int


class ClassTokenEncoder(nn.Module):
    """Pictures [N, 3, H, W] -> the normed class token [N, D] (ViT, arXiv 2010.11929, with learned positions)."""

    def __init__(self, image_px: int, patch_px: int, config: BlockConfig, depth: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, config.width, patch_px, stride=patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image_px // patch_px) ** 2, config.width))
        self.blocks = Blocks(depth, config)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        patches = self.patch_embed(pictures_NCHW).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), 1) + self.positions
        return self.norm(self.blocks(tokens)[:, 0])


class WindowPredictor(nn.Module):
    """Embeddings and conditions of up to `window` frames, both [N, T, D] -> outputs [N, T, D], causal over frames."""

    def __init__(self, window: int, config: BlockConfig, depth: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, window, config.width))
        self.blocks = Blocks(depth, config)
        self.norm = nn.LayerNorm(config.width, eps=INNER_NORM_EPS)

    def forward(self, embedded_NTD: Tensor, conditions_NTD: Tensor) -> Tensor:
        frames = embedded_NTD.shape[1]
        mask = torch.ones(frames, frames, dtype=torch.bool, device=embedded_NTD.device).tril()[None, None]
        return self.norm(self.blocks(embedded_NTD + self.positions[:, :frames], None, mask, conditions_NTD))


def make_projector(size: int, hidden: int, out: int) -> nn.Sequential:
    """Linear, batch norm, GELU, linear: after the last layer norm it lets embeddings take any distribution."""
    return nn.Sequential(nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, out))


@dataclass
class EmbeddedFrame:
    """The present frame's embedding [B, D]."""

    embedded_BD: Tensor

    def select(self, rows: slice | Tensor) -> EmbeddedFrame:
        """Those environments only."""
        return EmbeddedFrame(self.embedded_BD[rows])


class LeWorldModel(nn.Module):
    """A `planners.protocol.Dynamics` from LeWorldModel's networks, frozen: the view `pooled` is their embedding.

    A plan begins at the present frame alone, as in its released evaluation. Actions are in environment units; the model
    takes them less their mean and over their deviation in the data (`set_action_statistics`).
    """

    action_mean: Tensor
    action_std: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, sizes: LeWMSizes, actions: ActionSpec) -> None:
        super().__init__()
        assert actions.block_dim == sizes.block_dim, (actions, sizes.block_dim)
        self.sizes, self.actions, size = sizes, actions, sizes.embed_dim
        self.encoder = ClassTokenEncoder(sizes.image_px, sizes.patch_px, sizes.encoder, sizes.encoder_depth)
        self.projector = make_projector(sizes.encoder.width, sizes.projector_hidden, size)
        self.action_encoder = ActionMLP(sizes.block_dim, sizes.predictor.width, sizes.mixed, sizes.action_hidden)
        self.predictor = WindowPredictor(sizes.window, sizes.predictor, sizes.predictor_depth)
        self.pred_proj = make_projector(sizes.predictor.width, sizes.pred_proj_hidden, size)
        self.register_buffer("action_mean", torch.zeros(sizes.block_dim))
        self.register_buffer("action_std", torch.ones(sizes.block_dim))
        self.register_buffer("pixel_mean", torch.zeros(3))
        self.register_buffer("pixel_std", torch.ones(3))

    def set_action_statistics(self, mean_A: Tensor, std_A: Tensor) -> None:
        """Mean and standard deviation of an environment action in the data, the same at every step of a block."""
        self.action_mean.copy_(mean_A.repeat(self.actions.frame_skip))
        self.action_std.copy_(std_A.repeat(self.actions.frame_skip).clamp_min(1e-6))

    def embed(self, frames_NHWC: Tensor) -> Tensor:
        """Embeddings [N, D] of frames in 0..255."""
        pictures = ((frames_NHWC.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std).movedim(-1, 1)
        return torch.cat([self.projector(self.encoder(chunk)) for chunk in pictures.split(PICTURES_PER_CHUNK)])

    def predict(self, embedded_NTD: Tensor, conditions_NTD: Tensor) -> Tensor:
        """The embedding [N, D] of the frame after a window of T."""
        return self.pred_proj(self.predictor(embedded_NTD, conditions_NTD)[:, -1])

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    @property
    def spec(self) -> DynamicsSpec:
        """The facts a planner needs."""
        sizes, attention = self.sizes.predictor, 4 * self.sizes.predictor.heads * self.sizes.predictor.head_dim
        return DynamicsSpec(
            action_low=self.actions.block_low,
            action_high=self.actions.block_high,
            frame_hw=(self.sizes.image_px, self.sizes.image_px),
            frame_skip=self.actions.frame_skip,
            max_horizon=MOST_STEPS,
            views=("pooled",),
            device=self.pixel_mean.device,
            step_bytes=4 * self.sizes.window * round(sizes.width * (10 + sizes.mlp_ratio) + attention),
        )

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> EmbeddedFrame:
        """Embed the present frame, once per replan."""
        return EmbeddedFrame(self.embed(frames_BTHWC[:, -1]))

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """Embedding of goal frames, once per episode."""
        return Views({"pooled": self.embed(frames_BHWC)})

    def imagine(
        self,
        context: EmbeddedFrame,
        actions_BSKA: Tensor,
        generator: Any = None,
        keep: Literal["path", "last"] = "path",
    ) -> Views:
        """Futures of all candidates, each step predicted from the last `window` embeddings. Deterministic."""
        rows, steps = actions_BSKA.shape[:2], actions_BSKA.shape[2]
        conditions = self.action_encoder((actions_BSKA - self.action_mean) / self.action_std).flatten(0, 1)
        path = [context.embedded_BD[:, None].expand(-1, rows[1], -1).flatten(0, 1)]
        for step in range(steps):
            first = max(0, step + 1 - self.sizes.window)
            path.append(self.predict(torch.stack(path[first:], 1), conditions[:, first : step + 1]))
        kept = path[-1:] if keep == "last" else path[1:]
        return Views({"pooled": torch.stack(kept, 1).unflatten(0, rows)}, keep)
