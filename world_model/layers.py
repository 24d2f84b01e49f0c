"""The building blocks of every network here: one rotary position code, one attention, one MLP, one block.

Follows the V-JEPA 2 transformer (arXiv 2506.09985): pre-norm blocks, joint qkv projection, rotary positions over
(time, height, width), LayerNorm eps 1e-6. Parameter names are those of the released V-JEPA 2 weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

ROPE_BASE = 10000.0
NORM_EPS = 1e-6


@dataclass(frozen=True)
class Rotary:
    """Angles of a set of token positions as cosines and signed sines [..., N, head_dim]; built once for all layers."""

    cos: Tensor
    sin: Tensor  # with the sign of the rotation: minus for the first channel of a pair

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate adjacent channel pairs of x [..., heads, N, head_dim] by the tokens' angles."""
        swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return torch.addcmul(x * self.cos, swapped, self.sin)

    def at(self, start: int, stop: int) -> Rotary:
        """The tokens start..stop-1 of a table."""
        return Rotary(self.cos[..., start:stop, :], self.sin[..., start:stop, :])


def rotary(positions_N3: Tensor, head_dim: int) -> Rotary:
    """3-D rotary table for integer or float positions [..., N, 3] in (time, height, width).

    The head's channels are split into time | height | width | idle with 2 * floor(floor(head_dim / 3) / 2) channels an
    axis; idle channels are not rotated. Interleaved frequencies: both members of a pair turn by the same angle, so
    that q.k depends on position differences alone (the V-JEPA 2.1 form). A leading batch axis of the positions is kept
    and a heads axis inserted after it.
    """
    width = 2 * (head_dim // 3 // 2)
    pairs = width // 2
    frequency = ROPE_BASE ** (-torch.arange(pairs, dtype=torch.float32, device=positions_N3.device) / pairs)
    angle = positions_N3.float().unsqueeze(-1) * frequency  # [..., N, 3, pairs]
    angle = F.pad(angle.flatten(-2), (0, head_dim // 2 - 3 * pairs))
    if angle.dim() > 2:
        angle = angle.unsqueeze(-3)
    cos, sin = angle.cos(), angle.sin()
    return Rotary(cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2))


def grid_positions(steps: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions [steps * height * width, 3] of a token grid in raster order (time slowest, width fastest)."""
    axes = [torch.arange(n, device=device) for n in (steps, height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions (qkv rows are Q, K, V in thirds, as released)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0 and (width // heads) % 2 == 0, (width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x_BND: Tensor, positions: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each [B, heads, N, head_dim]."""
        qkv = rearrange(self.qkv(x_BND), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        q, k = positions.rotate(qkv[:2]).to(qkv.dtype)
        return q, k, qkv[2]

    def merge(self, x_BHND: Tensor) -> Tensor:
        """Heads [B, heads, N, head_dim] back to [B, N, width], projected."""
        return self.proj(rearrange(x_BHND, "b h n d -> b n (h d)"))

    def forward(self, x_BND: Tensor, positions: Rotary, mask: Tensor | None = None) -> Tensor:
        """x [B, N, D]; mask boolean, broadcastable to [B, heads, N, N], True where attention is allowed."""
        q, k, v = self.project(x_BND, positions)
        return self.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def shared_prefix_attention(
    q: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], prefix_mask_BL: Tensor | None
) -> Tensor:
    """Attention of many candidates' queries to keys they share and to keys of their own, as one exact softmax.

    q [B, S, h, n, d]; prefix keys and values [B, h, L, d] are computed once and never copied per candidate: for them
    the candidates are simply more query rows. Own keys and values [B, S, h, m, d]. prefix_mask_BL is False where a
    prefix token is padding (None: nowhere). Returns [B, S, h, n, d].
    """
    if q.shape[1] == 1:  # nothing to share: one fused call instead
        return _joined_attention(q, prefix, own, prefix_mask_BL)
    scale = 1.0 / math.sqrt(q.shape[-1])
    own_scores = q @ own[0].transpose(-1, -2) * scale
    num_prefix = prefix[0].shape[2]
    if num_prefix == 0:
        return own_scores.softmax(-1) @ own[1]
    prefix_scores = torch.einsum("bshnd,bhld->bshnl", q, prefix[0]) * scale
    if prefix_mask_BL is not None:
        prefix_scores = prefix_scores.masked_fill(~prefix_mask_BL[:, None, None, None, :], float("-inf"))
    weights = torch.cat((prefix_scores, own_scores), dim=-1).softmax(-1)
    shared = torch.einsum("bshnl,bhld->bshnd", weights[..., :num_prefix], prefix[1])
    return shared + weights[..., num_prefix:] @ own[1]


def _joined_attention(
    q: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], prefix_mask_BL: Tensor | None
) -> Tensor:
    """The same for one candidate an environment."""
    keys, values = (torch.cat((shared, mine[:, 0]), 2) for shared, mine in zip(prefix, own, strict=True))
    mask = None
    if prefix_mask_BL is not None:
        mask = F.pad(prefix_mask_BL, (0, own[0].shape[3]), value=True)[:, None, None, :]
    return F.scaled_dot_product_attention(q[:, 0], keys, values, attn_mask=mask)[:, None]


class MLP(nn.Module):
    """Two linear layers with exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(self, x_BND: Tensor, positions: Rotary, mask: Tensor | None = None) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND), positions, mask)
        return x_BND + self.mlp(self.norm2(x_BND))


class Blocks(nn.ModuleList):
    """A stack of blocks (a ModuleList that says what it holds)."""

    def __init__(self, depth: int, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(Block(width, heads, mlp_ratio) for _ in range(depth))

    def __iter__(self) -> Iterator[Block]:
        return super().__iter__()  # type: ignore[return-value]


def init_transformer(model: nn.Module, blocks: Blocks) -> None:
    """Initialise as V-JEPA 2 does.

    =====================================  ===========================================
    linear and convolution weights         normal, std 0.02; biases 0
    LayerNorm                              weight 1, bias 0
    block l (from 1): attn.proj, mlp.fc2   weights divided by sqrt(2 l)
    =====================================  ===========================================
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=1):
            for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
                weight.div_(math.sqrt(2 * depth))
