"""Readouts: small networks on frozen features, as V-JEPA 2 evaluates them.

Three kinds, from tokens of a window [B, T, N, D] to values [B, P]: `ridge` (closed form, all tokens side by side),
`linear` (mean token of each frame) and `attentive` (a learned query over all tokens, `world_model.probing.attentive`).
The trained kinds run with several learning rates and weight decays on the same batches; the best on `val` is reported
on `test` (arXiv 2506.09985, appendix D).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from world_model.probing.attentive import PROBE_NORM_EPS, AttentiveProbe, AttentiveProbeConfig
from world_model.probing.probes import fit_ridge, r2

KINDS = ("ridge", "linear", "attentive")
EVALUATE_CHUNK = 256  # windows per forward pass


@dataclass(frozen=True)
class ReadoutConfig:
    """Training of readouts."""

    kinds: tuple[str, ...] = ("ridge", "linear", "attentive")
    """readouts: ridge (closed form), linear (of mean tokens), attentive (4 blocks)"""
    steps: Annotated[int, Ge(1)] = 400
    """training steps of linear and attentive"""
    batch_size: Annotated[int, Ge(1)] = 64
    """windows per training step"""
    lrs: tuple[Annotated[float, Gt(0)], ...] = (0.003, 0.001, 0.0003)
    """initial learning rates, all trained on the same batches"""
    weight_decays: tuple[Annotated[float, Ge(0)], ...] = (0.01,)
    """weight decays, each with each learning rate"""
    depth: Annotated[int, Ge(1)] = 4
    """blocks of the attentive readout, with the cross-attention block (V-JEPA 2: 4)"""
    heads: Annotated[int, Ge(1)] = 16
    """attention heads of the attentive readout, at most (a divisor of the width is used)"""

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
    """The attentive probe over the tokens of all frames, with a sinusoidal code of time added."""

    def __init__(self, config: AttentiveProbeConfig) -> None:
        super().__init__()
        self.probe = AttentiveProbe(config)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        return self.probe((tokens_BTND + make_time_code(*tokens_BTND.shape[1::2]).to(tokens_BTND)).flatten(1, 2))


def make_time_code(frames: int, width: int) -> Tensor:
    """Sines and cosines [T, 1, D] of the frame index, base 10000."""
    frequencies = 10000 ** (-torch.arange((width + 1) // 2) / max(1, width // 2))
    angles = torch.arange(frames)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, None, :width]


def score_r2(predicted_NP: Tensor, values_NP: Tensor) -> Tensor:
    """Share of variance explained [P]; 0 for a value that does not vary."""
    return r2(predicted_NP, values_NP).where(values_NP.var(0, unbiased=False) > 1e-10, 0.0)


def fit_readouts(
    splits: Mapping[str, Samples],
    config: ReadoutConfig,
    seed: int,
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """R2 [P] of every kind on `test`, and the hyperparameters chosen on `val`; splits: train, val and test. advance:
    called after each of the `count_steps` of config."""
    train = splits["train"]
    mean, std = train.values.mean(0), train.values.std(0).clamp_min(1e-6)
    scaled = {name: Samples(part.tokens, (part.values - mean) / std) for name, part in splits.items()}
    results = {}
    for kind in config.kinds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if kind == "ridge":
                results[kind] = _fit_ridge(scaled)
                advance()
            else:
                results[kind] = _train_readouts(kind, scaled, config, seed, device, advance)
    return results


def count_steps(config: ReadoutConfig) -> int:
    """Training steps of all kinds; a ridge regression counts as one."""
    return sum(1 if kind == "ridge" else config.steps for kind in config.kinds)


def _fit_ridge(splits: Mapping[str, Samples]) -> dict[str, Any]:
    """The ridge regression that is best on `val`; for features wider than samples, in the span of the samples."""
    train = splits["train"].tokens.flatten(1).double()
    mean = train.mean(0)
    train = train - mean
    basis = None
    if train.shape[1] > len(train):
        power, directions = torch.linalg.eigh(train @ train.T)
        basis = train.T @ (directions / power.clamp_min(1e-12).sqrt())

    def read(part: Samples) -> tuple[Tensor, Tensor]:
        x = part.tokens.flatten(1).double() - mean
        x = x if basis is None else x @ basis
        return torch.cat((x, torch.ones(len(x), 1, dtype=x.dtype)), 1), part.values.double()

    data = {name: read(part) for name, part in splits.items()}
    strength, weights, score = fit_ridge(data["train"], data["val"], score_r2)
    x, y = data["test"]
    return {"r2": score_r2(x @ weights, y).tolist(), "val": score, "hyperparameters": {"strength": strength}}


def _train_readouts(
    kind: str,
    splits: Mapping[str, Samples],
    config: ReadoutConfig,
    seed: int,
    device: torch.device,
    advance: Callable[[], None],
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
        rows = torch.randint(len(train.tokens), (config.batch_size,), generator=generator)
        tokens, values = train.tokens[rows].float().to(device), train.values[rows].float().to(device)
        for readout, optimizer, (lr, _) in zip(readouts, optimizers, grid, strict=True):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(readout(tokens), values).backward()
            optimizer.step()
        advance()
    scores = [
        score_r2(_predict_values(readout, splits["val"], device), splits["val"].values).mean().item()
        for readout in readouts
    ]
    best = max(range(len(grid)), key=lambda number: scores[number])
    return {
        "r2": score_r2(_predict_values(readouts[best], splits["test"], device), splits["test"].values).tolist(),
        "val": scores[best],
        "hyperparameters": {"lr": grid[best][0], "weight_decay": grid[best][1]},
    }


@torch.no_grad()
def _predict_values(readout: nn.Module, part: Samples, device: torch.device) -> Tensor:
    readout.eval()
    return torch.cat([readout(chunk.float().to(device)).cpu() for chunk in part.tokens.split(EVALUATE_CHUNK)])
