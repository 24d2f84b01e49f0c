"""Readouts: what small networks can read from frozen features, as V-JEPA 2 evaluates them.

Three kinds, from tokens of a window [B, T, N, D] to values [B, P]: `ridge` (closed form, all tokens side by side),
`linear` (of the mean token of each frame) and `attentive` (a learned query over all tokens,
`world_model.probing.attentive`). The trained kinds are fitted with several learning rates and weight decays at once, on
the same batches; the best on `val` is the one that is reported on `test` (arXiv 2506.09985, appendix D).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.probing.attentive import PROBE_NORM_EPS, AttentiveProbe, AttentiveProbeConfig
from world_model.probing.probes import RIDGE_STRENGTHS, solve_ridge

KINDS = ("ridge", "linear", "attentive")
EVALUATE_CHUNK = 256  # windows read at once


@dataclass(frozen=True)
class ReadoutConfig:
    """How readouts are fitted. lrs and weight_decays: every pair is trained. depth and heads: of the attentive one (the
    reference: 4 and 16; as many heads as the width allows)."""

    kinds: tuple[str, ...] = ("ridge", "linear", "attentive")
    """readouts: ridge (closed form), linear (of mean tokens), attentive (4 blocks)"""
    steps: int = 400
    """training steps of linear and attentive"""
    batch_size: int = 64
    """windows a step"""
    lrs: tuple[float, ...] = (0.003, 0.001, 0.0003)
    """learning rates, all trained at once"""
    weight_decays: tuple[float, ...] = (0.01,)
    """weight decays, each with each learning rate"""
    depth: int = 4
    """blocks of the attentive one, the one that queries included"""
    heads: int = 16
    """its attention heads, as many as the features' width allows"""

    def __post_init__(self) -> None:
        strange = [kind for kind in self.kinds if kind not in KINDS]
        if strange or not self.kinds:
            raise ValueError(f"readout.kinds={list(self.kinds)}: choose from {', '.join(KINDS)}")
        if not self.lrs or not self.weight_decays:
            raise ValueError("readout.lrs and readout.weight_decays must each hold at least one value")


@dataclass(frozen=True)
class Samples:
    """Tokens [n, T, N, D] of windows and the values [n, P] to read from them."""

    tokens: Tensor
    values: Tensor


class LinearReadout(nn.Module):
    """The mean token of every frame, layer-normed, side by side -> values."""

    def __init__(self, frames: int, width: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=PROBE_NORM_EPS)
        self.linear = nn.Linear(frames * width, out_dim)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        return self.linear(self.norm(tokens_BTND.mean(2)).flatten(1))


class AttentiveReadout(nn.Module):
    """The attentive probe over the tokens of all frames, which are told their time by sines and cosines."""

    def __init__(self, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.probe = AttentiveProbe(config)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        return self.probe((tokens_BTND + make_time_code(*tokens_BTND.shape[1::2]).to(tokens_BTND)).flatten(1, 2))


def make_time_code(frames: int, width: int) -> Tensor:
    """Sines and cosines [T, 1, D] of the frame's number, base 10000."""
    frequencies = 10000 ** (-torch.arange((width + 1) // 2) / max(1, width // 2))
    angles = torch.arange(frames)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, None, :width]


def r2(predicted_NP: Tensor, values_NP: Tensor) -> Tensor:
    """Share of variance explained [P]; 0 for a value that does not vary."""
    power = values_NP.var(0, unbiased=False)
    explained = 1 - (predicted_NP - values_NP).square().mean(0) / power.clamp_min(1e-12)
    return torch.where(power > 1e-10, explained, torch.zeros_like(explained))


def fit_readouts(
    splits: Mapping[str, Samples], config: ReadoutConfig, seed: int, device: torch.device
) -> dict[str, Any]:
    """Every kind's R2 [P] on `test`, and what was chosen on `val`; splits: train, val and test."""
    train = splits["train"]
    mean, std = train.values.mean(0), train.values.std(0).clamp_min(1e-6)
    scaled = {name: Samples(part.tokens, (part.values - mean) / std) for name, part in splits.items()}
    found = {}
    for kind in config.kinds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found[kind] = _fit_ridge(scaled) if kind == "ridge" else _train_readouts(kind, scaled, config, seed, device)
    return found


def _fit_ridge(splits: Mapping[str, Samples]) -> dict[str, Any]:
    """The ridge whose strength is best on val. Wider than there are samples, it works in the samples' own span."""
    train = splits["train"].tokens.flatten(1).double()
    mean = train.mean(0)
    train = train - mean
    basis = None
    if train.shape[1] > len(train):
        power, sides = torch.linalg.eigh(train @ train.T)
        basis = train.T @ (sides / power.clamp_min(1e-12).sqrt())

    def rows(part: Samples) -> Tensor:
        x = part.tokens.flatten(1).double() - mean
        x = x if basis is None else x @ basis
        return torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype)), 1)

    x = {name: rows(part) for name, part in splits.items()}
    y = {name: part.values.double() for name, part in splits.items()}
    candidates = {strength: solve_ridge(x["train"], y["train"], strength) for strength in RIDGE_STRENGTHS}
    scores = {strength: r2(x["val"] @ weights, y["val"]).mean().item() for strength, weights in candidates.items()}
    best = max(scores, key=lambda strength: scores[strength])
    return {
        "r2": r2(x["test"] @ candidates[best], y["test"]).tolist(),
        "val": scores[best],
        "chosen": {"strength": best},
    }


def _train_readouts(
    kind: str, splits: Mapping[str, Samples], config: ReadoutConfig, seed: int, device: torch.device
) -> dict[str, Any]:
    train, frames, width = splits["train"], splits["train"].tokens.shape[1], splits["train"].tokens.shape[3]
    grid = list(itertools.product(config.lrs, config.weight_decays))
    shape = AttentiveProbeConfig(width, math.gcd(config.heads, width), config.depth, train.values.shape[1])
    readouts: list[nn.Module] = [
        (AttentiveReadout(shape) if kind == "attentive" else LinearReadout(frames, width, shape.out_dim)).to(device)
        for _ in grid
    ]
    # All parameters are decayed, and the learning rate goes to 0 by a cosine without warm-up, as in the reference.
    optimizers = [
        torch.optim.AdamW(readout.parameters(), lr=lr, weight_decay=decay)
        for readout, (lr, decay) in zip(readouts, grid, strict=True)
    ]
    generator = torch.Generator().manual_seed(seed)
    for step in range(config.steps):
        chosen = torch.randint(len(train.tokens), (config.batch_size,), generator=generator)
        tokens, values = train.tokens[chosen].float().to(device), train.values[chosen].float().to(device)
        for readout, optimizer, (lr, _) in zip(readouts, optimizers, grid, strict=True):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(readout(tokens), values).backward()
            optimizer.step()
    scores = [
        r2(_predict_values(readout, splits["val"], device), splits["val"].values).mean().item() for readout in readouts
    ]
    best = max(range(len(grid)), key=lambda number: scores[number])
    return {
        "r2": r2(_predict_values(readouts[best], splits["test"], device), splits["test"].values).tolist(),
        "val": scores[best],
        "chosen": {"lr": grid[best][0], "weight_decay": grid[best][1]},
    }


@torch.no_grad()
def _predict_values(readout: nn.Module, part: Samples, device: torch.device) -> Tensor:
    readout.eval()
    return torch.cat([readout(chunk.float().to(device)).cpu() for chunk in part.tokens.split(EVALUATE_CHUNK)])
