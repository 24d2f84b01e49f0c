"""Behaviour policies for collecting: uniform, smooth (Ornstein-Uhlenbeck), scripted by the task, and mixtures.

A policy yields the actions of one episode. It reads the environment's `action_space` (a Box) and, if it is scripted,
calls `sample_scripted_action(rng, memory)`.

Smooth noise after Uhlenbeck and Ornstein (Phys. Rev. 36, 1930), sampled exactly: over a step of dt seconds,

    x' = r x + sqrt(1 - r^2) std n,    r = exp(-dt / time_constant_s),    n ~ N(0, 1)

with x in units of the action's half range, started in its stationary distribution and clipped to the bounds.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Action = NDArray[np.float32]
NAMES = ("uniform", "smooth", "scripted")


@dataclass(frozen=True)
class PolicyConfig:
    """Behaviour policy and its parameters."""

    name: str = "smooth"
    """policy: uniform, smooth, scripted, or a mixture by shares of episodes ("smooth:0.5,scripted:0.5")"""
    hold: int = 1
    """environment steps per action, for uniform and smooth (>= 1)"""
    time_constant_s: float = 0.5
    """correlation time of smooth actions, in seconds (> 0)"""
    std: float = 0.7
    """standard deviation of smooth actions, in half action ranges (> 0)"""

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ValueError(f"policy hold={self.hold}: hold each action for at least 1 step")
        if self.time_constant_s <= 0 or self.std <= 0:
            raise ValueError(f"policy time_constant_s={self.time_constant_s} std={self.std}: both must be positive")
        _parse_shares(self.name)


def sample_actions(config: PolicyConfig, env: Any, rng: np.random.Generator, step_s: float) -> Iterator[Action]:
    """Actions [A] of one episode without end, in environment units, within the bounds.

    rng: source of all their randomness. step_s: seconds of an environment step. Each is drawn when it is asked for,
    because a script reads the environment's state.
    """
    shares = _parse_shares(config.name)
    weights = np.array(list(shares.values())) / sum(shares.values())
    index = int(rng.choice(len(shares), p=weights)) if len(shares) > 1 else 0
    name = list(shares)[index]
    if name == "uniform":
        return sample_uniform(env, rng, config.hold)
    if name == "smooth":
        return sample_smooth(env, rng, config, step_s)
    return follow_script(env, rng)


def sample_uniform(env: Any, rng: np.random.Generator, hold: int) -> Iterator[Action]:
    """Independent uniform actions within the bounds, each held for `hold` steps."""
    while True:
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        for _ in range(hold):
            yield action.copy()


def sample_smooth(env: Any, rng: np.random.Generator, config: PolicyConfig, step_s: float) -> Iterator[Action]:
    """Ornstein-Uhlenbeck actions: each component moves around the middle of its range (formula above)."""
    low, high = env.action_space.low, env.action_space.high
    middle, half = (high + low) / 2, (high - low) / 2
    decay = math.exp(-step_s * config.hold / config.time_constant_s)
    x = config.std * rng.standard_normal(low.shape)
    while True:
        action = np.clip(middle + half * x, low, high).astype(np.float32)
        for _ in range(config.hold):
            yield action.copy()
        x = decay * x + math.sqrt(1 - decay**2) * (config.std * rng.standard_normal(low.shape))


def follow_script(env: Any, rng: np.random.Generator) -> Iterator[Action]:
    """The task's own policy, for tasks where random motion covers too few states."""
    memory: dict[str, Any] = {}
    while True:
        yield np.asarray(env.sample_scripted_action(rng, memory), np.float32)


def _parse_shares(text: str) -> dict[str, float]:
    """Names and shares in "smooth" or "smooth:0.5,scripted:0.5"; ValueError names what cannot be read."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition(":"))
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)  # `nearest` is in commands, which data may not import
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(
                f"policy {name!r} is unknown{hint}: choose from {', '.join(NAMES)}, or mix as smooth:0.5,scripted:0.5"
            )
        try:
            weight = float(share) if share else 1.0
        except ValueError:
            weight = math.nan
        if name in shares or not weight > 0 or math.isinf(weight):
            raise ValueError(f"policy {text!r}: each name once, with a positive share, as smooth:0.5,scripted:0.5")
        shares[name] = weight
    return shares
