"""iCEM: a cross-entropy method that wastes fewer candidates (Pinneri et al. 2020, arXiv 2008.06389).

Coloured noise, elites that take part again in the next iteration and, shifted in time, in the next plan, and
a population that shrinks by a constant factor an iteration. By choice the mean is a candidate in every
iteration, not in the last alone, and the freed end of carried elites follows `mpc.tail`.
"""

from __future__ import annotations

from dataclasses import dataclass

from planners.cem import CEM, CEMConfig


@dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """`CEMConfig`, and a shrinking population whose elites join the next plan."""

    samples: int = 112
    return_best: bool = True
    momentum_std: float = 0.2
    noise_beta: float = 2.0
    """exponent of the noise spectrum over time (>= 0; 0 white, 1 pink, 2 red)"""
    keep_elites: int = 4
    """elites that take part in the next iteration again (0 to elites)"""
    shrink: float = 1.1
    """divisor of the population per iteration, down to twice the elites (>= 1)"""
    carry_elites: bool = True
    """whether the last elites, shifted in time, take part in the next plan"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shrink < 1:
            raise ValueError(f"planner shrink is {self.shrink}; it must be at least 1 (1: no shrinking)")
        if self.carry_elites and not self.keep_elites:
            raise ValueError("planner carry_elites is true and keep_elites is 0: there is nothing to carry")
        if self.samples < self.keep_elites + 2:
            raise ValueError(f"planner samples is {self.samples}; with these elites it must be above keep_elites + 1")


class ICEM(CEM):
    """CEM's refit on coloured, shrinking, partly remembered populations."""

    def __init__(self, config: ICEMConfig | None = None) -> None:
        self.config: ICEMConfig = config or ICEMConfig()
        self.carries_elites = self.config.carry_elites

    def population(self, iteration: int) -> int:
        """samples / shrink^iteration, at least twice the elites (and never more than at first)."""
        config = self.config
        return max(min(config.samples, 2 * config.elites), round(config.samples / config.shrink**iteration))
