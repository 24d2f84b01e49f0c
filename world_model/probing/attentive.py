"""The attentive probe: frozen tokens -> classes or values, through a learned query (V-JEPA 2's evaluation).

Self-attention blocks over the tokens, then one cross-attention block whose query is learned, then a linear layer.
Parameter names are those of the released probes. Unlike the encoder it has no positions, its LayerNorms have eps 1e-5,
and the cross-attention has no norm of its query and no output projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from world_model.nn.layers import MLP, BlockConfig, attend
from world_model.nn.stack import Blocks, init_transformer

PROBE_NORM_EPS = 1e-5


@dataclass(frozen=True)
class AttentiveProbeConfig:
    """Sizes (V-JEPA 2: depth 4, with the cross-attention block, and 16 heads). out_dim: classes or values; queries:
    learned queries, which share the linear layer."""

    width: int
    heads: int = 16
    depth: int = 4
    out_dim: int = 1
    mlp_ratio: float = 4.0
    queries: int = 1


class CrossAttention(nn.Module):
    """Queries [B, n, D] gather from tokens [B, N, D]; no output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(self, query_BnD: Tensor, tokens_BND: Tensor) -> Tensor:
        q = rearrange(self.q(query_BnD), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(tokens_BND), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        return rearrange(attend(q, k, v), "b h n d -> b n (h d)")


class CrossAttentionBlock(nn.Module):
    """query + attention(query, norm1(tokens)), then + mlp(norm2(.))."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=PROBE_NORM_EPS)
        self.xattn = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=PROBE_NORM_EPS)
        self.mlp = MLP(width, round(width * mlp_ratio))

    def forward(self, query_BnD: Tensor, tokens_BND: Tensor) -> Tensor:
        query_BnD = query_BnD + self.xattn(query_BnD, self.norm1(tokens_BND))
        return query_BnD + self.mlp(self.norm2(query_BnD))


class AttentivePooler(nn.Module):
    """Tokens [B, N, D] -> learned queries' answers [B, n, D]."""

    def __init__(self, config: AttentiveProbeConfig) -> None:
        super().__init__()
        block = BlockConfig(config.width, config.heads, config.mlp_ratio, eps=PROBE_NORM_EPS)
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.blocks = Blocks(config.depth - 1, block)
        self.cross_attention_block = CrossAttentionBlock(config.width, config.heads, config.mlp_ratio)
        init_transformer(self, self.blocks)
        nn.init.normal_(self.query_tokens, std=0.02)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = self.blocks(tokens_BND)
        return self.cross_attention_block(self.query_tokens.expand(len(tokens_BND), -1, -1), tokens_BND)


class AttentiveProbe(nn.Module):
    """Tokens [B, N, D] -> [B, out_dim], or [B, queries, out_dim] where there are several queries."""

    def __init__(self, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.config = config
        self.pooler = AttentivePooler(config)
        self.linear = nn.Linear(config.width, config.out_dim)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        answers = self.linear(self.pooler(tokens_BND))
        return answers if self.config.queries > 1 else answers[:, 0]
