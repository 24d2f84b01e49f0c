"""The predictor networks: hidden tokens from visible ones, and the next frame from past frames and actions.

`MaskedPredictor` is V-JEPA 2's: mask tokens at the hidden places join the visible tokens in a small transformer.
`ActionPredictor` is V-JEPA 2-AC's layout: per frame an action token and the frame's tokens, attention block-causal over
frames (arXiv 2506.09985, section 3). One token a frame (a pooled embedding) and many are the same code; without actions
(action_dim = 0) it is the future predictor of stage 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.layers import (
    NORM_EPS,
    Blocks,
    Rotary,
    grid_positions,
    init_transformer,
    rotary,
    shared_prefix_attention,
)


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes of a predictor's transformer."""

    width: int = 96
    depth: int = 3
    heads: int = 4
    mlp_ratio: float = 4.0


class MaskedPredictor(nn.Module):
    """Visible tokens [B, M, D] and places -> predictions [B, P, D] at hidden places (V-JEPA 2, section 2.1)."""

    def __init__(
        self,
        feature_dim: int,
        grid: tuple[int, int],
        config: PredictorConfig,
        num_mask_tokens: int = 2,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.heads, self.width = grid, config.heads, config.width
        self.predictor_embed = nn.Linear(feature_dim, config.width)
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, 1, config.width)) for _ in range(num_mask_tokens)
        )
        self.predictor_blocks = Blocks(config.depth, config.width, config.heads, config.mlp_ratio)
        self.predictor_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.predictor_proj = nn.Linear(config.width, out_dim or feature_dim)
        init_transformer(self, self.predictor_blocks)

    def forward(
        self, context_BMD: Tensor, context_BM: Tensor, target_BP: Tensor, steps: int, mask_token: int = 0
    ) -> Tensor:
        """Predict at target_BP from context_BMD at context_BM: raster indices into steps x grid places."""
        places = grid_positions(steps, *self.grid, context_BMD.device)
        positions = rotary(places[torch.cat((context_BM, target_BP), 1)], self.width // self.heads)
        hidden = self.mask_tokens[mask_token].expand(*target_BP.shape, -1)
        x = torch.cat((self.predictor_embed(context_BMD), hidden.to(context_BMD.dtype)), 1)
        for block in self.predictor_blocks:
            x = block(x, positions)
        return self.predictor_proj(self.predictor_norm(x[:, context_BM.shape[1] :]))


@dataclass
class PastCache:
    """Keys and values of past frames in every layer, each [B, heads, L, d], and which of them are real [B, L]."""

    keys: list[Tensor]
    values: list[Tensor]
    valid_BL: Tensor | None  # None: all of them
    frames: int

    def select(self, rows: slice | Tensor) -> PastCache:
        """Those environments only."""
        valid = None if self.valid_BL is None else self.valid_BL[rows]
        return PastCache([k[rows] for k in self.keys], [v[rows] for v in self.values], valid, self.frames)


class OwnCache:
    """Keys and values of the candidates' imagined frames in one layer, each [B, S, heads, tokens so far, d].

    Without gradients they are written into one buffer of full length; with gradients, which such writes would cut, they
    are concatenated.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.stored: tuple[Tensor, ...] = ()

    def append(self, *new: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, S, heads, n, d]; all of them so far."""
        if torch.is_grad_enabled():
            old = self.stored or tuple(x[:, :, :, :0] for x in new)
            self.stored = tuple(torch.cat(pair, 3) for pair in zip(old, new, strict=True))
            return self.stored[0], self.stored[1]
        if not self.stored:
            self.stored = tuple(x.new_empty(*x.shape[:3], self.capacity, x.shape[4]) for x in new)
        start, self.length = self.length, self.length + new[0].shape[3]
        for store, x in zip(self.stored, new, strict=True):
            store[:, :, :, start : self.length] = x
        return self.stored[0][:, :, :, : self.length], self.stored[1][:, :, :, : self.length]


class ActionPredictor(nn.Module):
    """Features of frames 0..t and the actions leaving them -> features of frames 1..t+1, block-causal over frames."""

    def __init__(
        self,
        feature_dim: int,
        grid: tuple[int, int],
        action_dim: int,
        config: PredictorConfig,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.grid, self.heads, self.width, self.residual = grid, config.heads, config.width, residual
        self.action_dim = action_dim
        self.predictor_embed = nn.Linear(feature_dim, config.width)
        self.action_encoder = nn.Linear(action_dim, config.width) if action_dim else None
        self.predictor_blocks = Blocks(config.depth, config.width, config.heads, config.mlp_ratio)
        self.predictor_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.predictor_proj = nn.Linear(config.width, feature_dim)
        init_transformer(self, self.predictor_blocks)

    @property
    def block_tokens(self) -> int:
        """Tokens of one frame in the sequence: its action, if any, and its feature tokens."""
        return (1 if self.action_dim else 0) + self.grid[0] * self.grid[1]

    def positions(self, frames: int, device: torch.device) -> Rotary:
        """Rotary table of `frames` frames; a conditioning token turns with time alone, as in V-JEPA 2-AC."""
        places = grid_positions(frames, *self.grid, device).reshape(frames, self.grid[0] * self.grid[1], 3)
        if self.action_dim:
            places = torch.cat((places[:, :1] * torch.tensor([1, 0, 0], device=device), places), 1)
        return rotary(places.flatten(0, 1), self.width // self.heads)

    def embed(self, features: Tensor, actions: Tensor | None) -> Tensor:
        """Features [..., T, N, F] and actions [..., T, A] -> sequence [..., T * block_tokens, width]."""
        x = self.predictor_embed(features)
        if self.action_encoder is not None:
            assert actions is not None and actions.shape[-1] == self.action_dim, (self.action_dim, actions)
            x = torch.cat((self.action_encoder(actions).unsqueeze(-2), x), -2)
        return x.flatten(-3, -2)

    def read(self, x: Tensor, features: Tensor) -> Tensor:
        """Sequence [..., T * block_tokens, width] -> next frames' features [..., T, N, F]."""
        x = x.unflatten(-2, (-1, self.block_tokens))[..., 1 if self.action_dim else 0 :, :]
        change = self.predictor_proj(self.predictor_norm(x))
        return features + change if self.residual else change

    def causal_mask(self, frames: int, valid_BT: Tensor | None, device: torch.device) -> Tensor:
        """Boolean [B or 1, 1, L, L]: a token sees all tokens of its own and earlier frames that are valid."""
        frame = torch.arange(frames, device=device).repeat_interleave(self.block_tokens)
        mask = (frame[:, None] >= frame[None, :])[None, None]
        if valid_BT is None:
            return mask
        valid = valid_BT.repeat_interleave(self.block_tokens, 1)[:, None, None, :]
        own = (frame[:, None] == frame[None, :])[None, None]  # padding sees itself, so that no row is empty
        return mask & (valid | own)

    def forward(
        self, features_BTNF: Tensor, actions_BTA: Tensor | None = None, valid_BT: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: predictions [B, T, N, F] of frames 1..T, each from the true frames before it."""
        x = self.embed(features_BTNF, actions_BTA)
        frames = features_BTNF.shape[1]
        positions = self.positions(frames, x.device)
        mask = self.causal_mask(frames, valid_BT, x.device) if frames > 1 else None
        for block in self.predictor_blocks:
            x = block(x, positions, mask)
        return self.read(x, features_BTNF)

    def prefill(self, features_BTNF: Tensor, actions_BTA: Tensor | None, valid_BT: Tensor | None = None) -> PastCache:
        """Keys and values of T past frames whose actions are known (T may be 0), once a replan.

        valid_BT is False where a frame is padding; None means that all are real.
        """
        frames = features_BTNF.shape[1]
        valid = None if valid_BT is None else valid_BT.repeat_interleave(self.block_tokens, 1)
        cache = PastCache([], [], valid, frames)
        x = self.embed(features_BTNF, actions_BTA)
        positions, mask = self.positions(frames, x.device), self.causal_mask(frames, valid_BT, x.device)
        for block in self.predictor_blocks:
            q, k, v = block.attn.project(block.norm1(x), positions)
            cache.keys.append(k)
            cache.values.append(v)
            x = x + block.attn.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
            x = x + block.mlp(block.norm2(x))
        return cache

    def rollout(self, past: PastCache, last_BNF: Tensor, actions_BSKA: Tensor | None, steps: int = 0) -> Tensor:
        """Imagine K steps for S candidates: features [B, S, K, N, F], each step fed back as the next input.

        The past's keys and values are shared by all candidates; a candidate's own are cached as it goes. Nothing is
        masked: a new frame sees every cached token. The first block holds the last observed frame together with the
        candidate's first action, since within a block the frame's tokens attend to the action.
        """
        num_candidates = actions_BSKA.shape[1] if actions_BSKA is not None else 1
        steps = actions_BSKA.shape[2] if actions_BSKA is not None else steps
        features = last_BNF[:, None].expand(-1, num_candidates, -1, -1)
        table = self.positions(past.frames + steps, last_BNF.device)
        own = [OwnCache(steps * self.block_tokens) for _ in self.predictor_blocks]
        path = []
        for k in range(steps):
            start = (past.frames + k) * self.block_tokens
            action = actions_BSKA[:, :, k : k + 1] if actions_BSKA is not None else None
            x = self.embed(features.unsqueeze(2), action)
            features = self.read(
                self._step(x, table.at(start, start + self.block_tokens), past, own), features.unsqueeze(2)
            ).squeeze(2)
            path.append(features)
        return torch.stack(path, 2)

    def _step(self, x_BSnD: Tensor, positions: Rotary, past: PastCache, own: list[OwnCache]) -> Tensor:
        """One frame block of every candidate through all layers, appending its keys and values to `own`."""
        batch = x_BSnD.shape[0]
        for layer, block in enumerate(self.predictor_blocks):
            q, k, v = (
                rearrange(y, "(b s) h n d -> b s h n d", b=batch)
                for y in block.attn.project(block.norm1(x_BSnD).flatten(0, 1), positions)
            )
            keys_values = own[layer].append(k, v)
            y = shared_prefix_attention(q, (past.keys[layer], past.values[layer]), keys_values, past.valid_BL)
            x_BSnD = x_BSnD + block.attn.merge(y.flatten(0, 1)).unflatten(0, (batch, -1))
            x_BSnD = x_BSnD + block.mlp(block.norm2(x_BSnD))
        return x_BSnD
