"""Building blocks of all networks: attention, MLP, transformer block.

Follows the V-JEPA 2 transformer (arXiv 2506.09985): pre-norm blocks, joint qkv projection, rotary positions over
(time, height, width), LayerNorm eps 1e-6. Parameter names are those of the released V-JEPA 2 weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.nn.rotary import Rotary

NORM_EPS = 1e-6
INNER_NORM_EPS = 1e-5  # of the norms inside attention and MLP (LeWorldModel)
FUSED_TOKENS = 16  # queries of a candidate from which one fused call is faster (1.2 times; 4 times at 256)
EXPLICIT_KEYS = 1024  # most keys of attention without the fused call, in bf16 training on a CPU
MIXED_ACTIONS = 10  # numbers that an ActionMLP mixes an action block into
MODALITY_STD = 1e-6  # of the initial embeddings of images and videos (V-JEPA 2.1)

Feedforward = Literal["gelu", "swiglu"]
Checkpointing = Literal["none", "selective", "full"]


def gather_tokens(tokens_BND: Tensor, indices_BM: Tensor) -> Tensor:
    """Tokens [B, M, D] at raster indices."""
    return tokens_BND.gather(1, indices_BM[..., None].expand(-1, -1, tokens_BND.shape[-1]))


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions (qkv rows are Q, K, V in thirds, as released). head_dim: 0 for
    width / heads; with another, attention is wider or narrower than the model."""

    def __init__(self, width: int, heads: int, head_dim: int = 0, qkv_bias: bool = True) -> None:
        super().__init__()
        assert head_dim or width % heads == 0, (width, heads)
        head_dim = head_dim or width // heads
        assert head_dim % 2 == 0, (width, heads, head_dim)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=qkv_bias)
        self.proj = nn.Linear(heads * head_dim, width)

    def project(self, x_BND: Tensor, positions: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated where there are positions, and values, each [B, heads, N, head_dim]."""
        qkv = rearrange(self.qkv(x_BND), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        qk, v = qkv.split((2, 1))  # whose gradients are joined in one copy; those of an index begin with zeros
        q, k = qk if positions is None else positions.rotate(qk).to(qk.dtype)
        return q, k, v.squeeze(0)

    def merge(self, x_BHND: Tensor) -> Tensor:
        """Heads [B, heads, N, head_dim] joined and projected to [B, N, width]."""
        return self.proj(rearrange(x_BHND, "b h n d -> b n (h d)"))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of queries [B, heads, n, d] to keys and values [B, heads, N, d]; mask boolean,
    broadcastable to [B, heads, n, N], True where attention is allowed. dropout: share of the weights set to 0.

    One fused call, except for bf16 training on a CPU with up to EXPLICIT_KEYS keys, where its backward pass takes up to
    ten times as long as explicit products (torch 2.15; experiment 15).
    """
    trains_in_bf16 = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad
    if not trains_in_bf16 or k.shape[-2] > EXPLICIT_KEYS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        # Added in place, which holds no second matrix of scores: half of the lowest number overflows for no score.
        scores += torch.where(mask, 0.0, torch.finfo(scores.dtype).min / 2).to(scores.dtype)
    return F.dropout(scores.softmax(-1), dropout) @ v


def attend_shared_prefix(
    q: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], prefix_mask_BL: Tensor | None
) -> Tensor:
    """Attention of many candidates' queries to shared keys and to their own, as one exact softmax [B, S, h, n, d].

    q [B, S, h, n, d]; prefix keys and values [B, h, L, d], shared; own ones [B, S, h, m, d].
    prefix_mask_BL: False for prefix tokens that are padding; None: none is. Few queries a candidate: shared keys are
    never copied; many (FUSED_TOKENS): no matrix of scores is held.
    """
    if q.shape[1] == 1 or q.shape[3] >= FUSED_TOKENS:
        return _attend_joined(q, prefix, own, prefix_mask_BL)
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


def _attend_joined(
    q: Tensor, prefix: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], prefix_mask_BL: Tensor | None
) -> Tensor:
    """`attend_shared_prefix` in one fused call, which holds no scores but joins the shared keys to every candidate's
    own: less memory where a frame has as many tokens as a head has numbers."""
    candidates = q.shape[1]
    keys, values = (
        torch.cat((shared[:, None].expand(-1, candidates, -1, -1, -1), single), 3).flatten(0, 1)
        for shared, single in zip(prefix, own, strict=True)
    )
    mask = None
    if prefix_mask_BL is not None:
        mask = F.pad(prefix_mask_BL, (0, own[0].shape[3]), value=True).repeat_interleave(candidates, 0)[:, None, None]
    return attend(q.flatten(0, 1), keys, values, mask).unflatten(0, q.shape[:2])


class MLP(nn.Module):
    """Two linear layers with exact GELU between; dropout: of the hidden layer, in training."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    @property
    def out(self) -> nn.Linear:
        """The layer that writes into the residual stream."""
        return self.fc2

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x))
        return self.fc2(F.dropout(hidden, self.dropout, self.training) if self.dropout else hidden)


class SwiGLU(nn.Module):
    """silu(fc1 x) * fc2 x, then fc3; two thirds of the hidden width, rounded up to 8, for a comparable size."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = -(-int(2 * hidden / 3) // 8) * 8
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(width, hidden)
        self.fc3 = nn.Linear(hidden, width)

    @property
    def out(self) -> nn.Linear:
        """The layer that writes into the residual stream."""
        return self.fc3

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class ActionMLP(nn.Module):
    """LeWorldModel's action encoder (arXiv 2603.19312, its released configuration): action blocks [..., A] are mixed
    into MIXED_ACTIONS numbers by a linear map, its convolution of length 1, and pass a hidden layer with SiLU."""

    def __init__(self, size: int, width: int, mixed: int = MIXED_ACTIONS, hidden: int | None = None) -> None:
        super().__init__()
        hidden = 4 * width if hidden is None else hidden
        self.mix = nn.Linear(size, mixed)
        self.fc1 = nn.Linear(mixed, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, actions: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(self.mix(actions))))


@dataclass(frozen=True)
class BlockConfig:
    """Sizes and variants of the blocks of one transformer.

    condition_dim: width of the vector that modulates every block (AdaLN, arXiv 2212.09748, section 3.2); 0: none.
    checkpointing: activations kept for the backward pass: all (`none`), matrix products and attention (`selective`) or
    blocks' inputs (`full`). eps: of the norms. dropout: of both branches' outputs, in training. head_dim: as of
    `Attention`. inner_norms: norms with weights inside attention and MLP, after the modulation, in place of the weights
    of the block's own; dropout of attention weights and of the MLP's hidden layer, too; and no bias of queries, keys
    and values (LeWorldModel).
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    feedforward: Feedforward = "gelu"
    condition_dim: int = 0
    checkpointing: Checkpointing = "none"
    eps: float = NORM_EPS
    dropout: float = 0.0
    head_dim: int = 0
    inner_norms: bool = False


class Modulation(NamedTuple):
    """Shift, scale and gate of a block's attention and of its MLP, each broadcastable to [B, N, D]."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x)).

    With a condition, both branches are modulated (AdaLN-Zero), and a block starts as the identity. Callers that cache
    keys and values use `project` and `add` around the attention.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, hidden, inner = config.width, round(config.width * config.mlp_ratio), config.inner_norms
        self.norm1 = nn.LayerNorm(width, eps=config.eps, elementwise_affine=not inner)
        self.attn_norm = nn.LayerNorm(width, eps=INNER_NORM_EPS) if inner else nn.Identity()
        self.attn = Attention(width, config.heads, config.head_dim, qkv_bias=not inner)
        self.norm2 = nn.LayerNorm(width, eps=config.eps, elementwise_affine=not inner)
        self.mlp_norm = nn.LayerNorm(width, eps=INNER_NORM_EPS) if inner else nn.Identity()
        self.inner_dropout = config.dropout if inner else 0.0
        self.mlp = MLP(width, hidden, self.inner_dropout) if config.feedforward == "gelu" else SwiGLU(width, hidden)
        self.dropout = config.dropout
        self.modulation = nn.Linear(config.condition_dim, 6 * width) if config.condition_dim else None

    def modulate(self, condition: Tensor | None) -> Modulation | None:
        """Modulation by a condition [..., condition_dim]; None for a block without one."""
        if self.modulation is None:
            return None
        assert condition is not None
        return Modulation(*self.modulation(F.silu(condition)).chunk(6, -1))

    def project(
        self, x_BND: Tensor, positions: Rotary | None, modulation: Modulation | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated where there are positions, and values, each [B, heads, N, head_dim]."""
        x_BND = self.norm1(x_BND)
        if modulation is not None:
            x_BND = x_BND * (1 + modulation.scale1) + modulation.shift1
        return self.attn.project(self.attn_norm(x_BND), positions)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`attend` with the block's dropout."""
        return attend(q, k, v, mask, self.inner_dropout if self.training else 0.0)

    def add(self, x_BND: Tensor, attended_BHND: Tensor, modulation: Modulation | None = None) -> Tensor:
        """The residual stream after attention and MLP."""
        change = self._drop(self.attn.merge(attended_BHND))
        x_BND = x_BND + (change if modulation is None else modulation.gate1 * change)
        if modulation is None:
            return x_BND + self._drop(self.mlp(self.mlp_norm(self.norm2(x_BND))))
        return x_BND + modulation.gate2 * self._drop(
            self.mlp(self.mlp_norm(self.norm2(x_BND) * (1 + modulation.scale2) + modulation.shift2))
        )

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def forward(
        self,
        x_BND: Tensor,
        positions: Rotary | None = None,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
        read_from: int = 0,
    ) -> Tensor:
        """x [B, N, D] -> [B, N - read_from, D]; mask boolean, broadcastable to [B, heads, N, N], True where attention
        is allowed. read_from: the first token whose output is read; those before give keys and values alone."""
        modulation = self.modulate(condition)
        assert not read_from or (modulation is None and mask is None), (
            "all tokens of a modulated or masked block are read"
        )
        q, k, v = self.project(x_BND, positions, modulation)
        attended = self.attend(q[:, :, read_from:], k, v, mask)
        return self.add(x_BND[:, read_from:], attended, modulation)


def init_xavier(network: nn.Module, last_gain: float = 1.0) -> None:
    """Uniform weights of the variance 2 / (inputs + outputs), and zero biases. last_gain: factor of the last layer's
    weights."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.xavier_uniform_(module.weight, last_gain if module is linear[-1] else 1.0)
        nn.init.zeros_(module.bias)
