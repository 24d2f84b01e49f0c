"""Behaviour policies for collecting: uniform, smooth (Ornstein-Uhlenbeck), scripted by the task, and mixtures.

A policy is reset with a generator at the start of an episode and then asked for actions. It reads the environment's
`action_space` (a Box) and, if it is scripted, calls `sample_scripted_action(rng, memory)`.

Smooth noise after Uhlenbeck and Ornstein (Phys. Rev. 36, 1930), sampled exactly: over a step of dt seconds,

    x' = r x + sqrt(1 - r^2) std n,    r = exp(-dt / time_constant_s),    n ~ N(0, 1)

with x in units of the action's half range, started in its stationary distribution and clipped to the bounds.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Action = NDArray[np.float32]
NAMES = ("uniform", "smooth", "scripted")


class Policy(Protocol):
    """A behaviour policy, as collecting uses it."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begins an episode, whose randomness comes from `rng` alone."""

    def act(self, env: Any) -> Action:
        """The next action [A] in environment units, within the bounds."""


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


class Uniform:
    """Independent uniform actions within the bounds, each held for `hold` steps."""

    def __init__(self, hold: int = 1) -> None:
        self._hold = hold

    def reset(self, rng: np.random.Generator) -> None:
        self._rng, self._step = rng, 0

    def act(self, env: Any) -> Action:
        if self._step % self._hold == 0:
            low, high = env.action_space.low, env.action_space.high
            self._action = self._rng.uniform(low, high).astype(np.float32)
        self._step += 1
        return self._action.copy()


class Smooth:
    """Ornstein-Uhlenbeck actions: each component moves around the middle of its range (formula above)."""

    def __init__(self, step_s: float, time_constant_s: float = 0.5, std: float = 0.7, hold: int = 1) -> None:
        self._decay = math.exp(-step_s * hold / time_constant_s)
        self._std, self._hold = std, hold
        self._x: NDArray[np.float64]

    def reset(self, rng: np.random.Generator) -> None:
        self._rng, self._step = rng, 0

    def act(self, env: Any) -> Action:
        low, high = env.action_space.low, env.action_space.high
        if self._step % self._hold == 0:
            noise = self._std * self._rng.standard_normal(low.shape)
            self._x = noise if self._step == 0 else self._decay * self._x + math.sqrt(1 - self._decay**2) * noise
        self._step += 1
        middle, half = (high + low) / 2, (high - low) / 2
        return np.clip(middle + half * self._x, low, high).astype(np.float32)


class Scripted:
    """The task's own policy, for tasks where random motion covers too few states."""

    def reset(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._memory: dict[str, Any] = {}

    def act(self, env: Any) -> Action:
        return np.asarray(env.sample_scripted_action(self._rng, self._memory), np.float32)


class Mixture:
    """One of several policies an episode, drawn by their shares."""

    def __init__(self, policies: list[Policy], shares: list[float]) -> None:
        self._policies = policies
        self._shares = np.array(shares) / sum(shares)

    def reset(self, rng: np.random.Generator) -> None:
        self._policy = self._policies[int(rng.choice(len(self._policies), p=self._shares))]
        self._policy.reset(rng)

    def act(self, env: Any) -> Action:
        return self._policy.act(env)


def make_policy(config: PolicyConfig, step_s: float) -> Policy:
    """The policy of a config, for an environment with `step_s` seconds a step."""
    shares = _parse_shares(config.name)
    kinds: dict[str, Policy] = {
        "uniform": Uniform(config.hold),
        "smooth": Smooth(step_s, config.time_constant_s, config.std, config.hold),
        "scripted": Scripted(),
    }
    policies = [kinds[name] for name in shares]
    return policies[0] if len(policies) == 1 else Mixture(policies, list(shares.values()))


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
