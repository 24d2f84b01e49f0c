"""Settings that several planners share: how many candidates, how far they look ahead, and what noise they draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from planners.noise import Source
from planners.scoring import Precision


@dataclass(frozen=True)
class PlannerConfig:
    """Keys of every planner.

    A few iterations leave an error in proportion to `std_init` and `std_warm`: small values hold a goal precisely,
    large ones escape a bad plan. The final mean (`return_best=False`, scored once more) is steadier at the goal
    under costs that a lucky candidate can win (closest approach).
    """

    least_samples: ClassVar[int] = 2

    samples: int = 96
    """candidates per iteration (>= 2; gradient planners: >= 1)"""
    iterations: int = 4
    """iterations per plan (>= 1)"""
    horizon: int = 6
    """planned model steps (>= 1, at most the model's horizon)"""
    std_init: float = 1.0
    """first standard deviation, in half action ranges (> 0)"""
    std_warm: float = 0.4
    """first standard deviation after a warm start, in half action ranges (>= 0; 0: std_init)"""
    include_mean: bool = True
    """whether the mean is one of the candidates"""
    return_best: bool = False
    """whether the plan is the best candidate of all iterations, else the final mean"""
    chunk_elements: int = 0
    """candidate model steps imagined at once (>= 0; 0: as many as memory allows)"""
    precision: Precision = "fp32"
    """number format of products: fp32, tf32 (GPUs) or bf16; below fp32 near candidates may change places"""
    draws: Source = "host"
    """where random numbers are drawn: host (the same for every device), or device (other numbers; no copy to a GPU)"""

    def __post_init__(self) -> None:
        least_of = {"samples": self.least_samples, "iterations": 1, "horizon": 1, "chunk_elements": 0}
        for key, least in least_of.items():
            if getattr(self, key) < least:
                raise ValueError(f"planner {key} is {getattr(self, key)}; it must be at least {least}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"planner precision is {self.precision!r}; choose one of {', '.join(get_args(Precision))}")
        if self.draws not in get_args(Source):
            raise ValueError(f"planner draws is {self.draws!r}; choose one of {', '.join(get_args(Source))}")
        if self.std_init <= 0:
            raise ValueError(f"planner std_init is {self.std_init}; it must be above 0")
        check_not_negative(self, "std_warm")


@dataclass(frozen=True)
class NoiseConfig(PlannerConfig):
    """`PlannerConfig`, and the colour of the noise over time (1/f^noise_beta)."""

    noise_beta: float = 1.5
    """exponent of the noise spectrum over time (>= 0; 0 white, 1 pink, 2 red)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "noise_beta")


@dataclass(frozen=True)
class SearchConfig(NoiseConfig):
    """`NoiseConfig`, and whether `search` compiles its iterations."""

    compile_iteration: bool = False
    """whether an iteration is compiled as a whole (GPU: one CUDA graph): minutes at first, then plans are faster"""


def check_not_negative(config: object, *keys: str) -> None:
    """Raise ValueError for the first of these fields that is below 0."""
    for key in keys:
        if getattr(config, key) < 0:
            raise ValueError(f"planner {key} is {getattr(config, key)}; it must not be negative")


def check_share(config: object, *keys: str) -> None:
    """Raise ValueError for the first of these fields that is not from 0 to below 1."""
    for key in keys:
        if not 0 <= getattr(config, key) < 1:
            raise ValueError(f"planner {key} is {getattr(config, key)}; choose 0 to below 1")


def check_learning_rate(learning_rate: float, lr_end: float) -> None:
    """Raise ValueError for a learning rate that is not above 0, and for a last share of it that is not from 0 to 1."""
    if learning_rate <= 0:
        raise ValueError(f"planner learning_rate is {learning_rate}; it must be above 0")
    if not 0 <= lr_end <= 1:
        raise ValueError(f"planner lr_end is {lr_end}; choose 0 to 1")
