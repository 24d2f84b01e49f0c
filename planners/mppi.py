"""MPPI: the mean follows all candidates, weighted by exp(-cost / temperature) (Williams et al. 2016, arXiv
1509.01149).

As TD-MPC2 does (arXiv 2310.16828), the weights may be confined to the best candidates, the spread may be refitted with
the same weights, and some candidates of every iteration may come from a policy that was learned with the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.sampling import Proposal, SamplingPlanner
from planners.scoring import average_finite
from planners.settings import SearchConfig, check_not_negative, check_share

TINY = 1e-12


@dataclass(frozen=True)
class MPPIConfig(SearchConfig):
    """`SearchConfig`, and the update: next = (1 - momentum) x weighted statistic + momentum x the last."""

    noise_beta: float = 2.0
    temperature: float = 0.1
    """temperature of the weights (> 0): small follows the best candidate, large averages all"""
    relative: bool = True
    """whether the temperature is in standard deviations of the weighted costs, else in the cost's unit"""
    elites: int = 0
    """best candidates that have a weight (2 to samples; 0: all)"""
    update_std: bool = True
    """whether the standard deviation is refitted with the weights, else constant"""
    std_min: float = 0.05
    """smallest standard deviation, in half action ranges (>= 0)"""
    momentum: float = 0.0
    """weight of the old mean and standard deviation (0 to below 1)"""
    prior_samples: int = 0
    """candidates of every iteration that the model's policy draws (0 to samples - 2; above 0 for models that have one:
    objective=tdmpc2)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ValueError(f"planner temperature is {self.temperature}; it must be above 0")
        if self.elites != 0 and not 2 <= self.elites <= self.samples:
            raise ValueError(f"planner elites is {self.elites}; choose 2 to samples = {self.samples}, or 0 for all")
        if not 0 <= self.prior_samples <= self.samples - 2:
            raise ValueError(
                f"planner prior_samples is {self.prior_samples}; choose 0 to samples - 2 = {self.samples - 2}"
            )
        check_share(self, "momentum")
        check_not_negative(self, "std_min")


class MPPI(SamplingPlanner):
    """Model-predictive path integral control."""

    def __init__(self, config: MPPIConfig | None = None) -> None:
        self.config: MPPIConfig = config or MPPIConfig()

    @property
    def prior_samples(self) -> int:
        """See MPPIConfig."""
        return self.config.prior_samples

    def update(self, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
        """Weighted mean, and with `update_std` weighted standard deviation; where no cost is finite, the last."""
        config = self.config
        prior = actions_BSKA[:, -config.prior_samples :] if config.prior_samples else None
        if config.elites:
            cost_BS, index = cost_BS.topk(config.elites, dim=1, largest=False)
            actions_BSKA = actions_BSKA.take_along_dim(index[:, :, None, None], dim=1)
        weight_BS = weigh_paths(cost_BS, config.temperature, config.relative)
        weight = weight_BS[:, :, None, None]
        known = (weight_BS.sum(1) > 0)[:, None, None]
        mean = (weight * actions_BSKA).sum(1)
        std = (weight * (actions_BSKA - mean[:, None]).square()).sum(1).sqrt()
        mean = torch.where(known, mean, proposal.mean_BKA).lerp(proposal.mean_BKA, config.momentum)
        spread = proposal.std_BKA
        if config.update_std:
            std = torch.where(known, std, spread).lerp(spread, config.momentum)
            spread = std.maximum(config.std_min * half_A)
        return Proposal(mean, spread, retained_BEKA=prior, elite_cost_B=_average_cost(cost_BS, weight_BS))


def weigh_paths(cost_BS: Tensor, temperature: float, relative: bool) -> Tensor:
    """exp(-(cost - least) / temperature) over its sum; 0 for infinite costs, and everywhere where all are."""
    finite = cost_BS.isfinite()
    least = cost_BS.amin(1, keepdim=True)
    above = (cost_BS - least).masked_fill(~finite, 0.0)
    unit = torch.ones_like(least)
    if relative:
        centred = (cost_BS - average_finite(cost_BS)[:, None]).masked_fill(~finite, 0.0)
        unit = (centred.square().sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp_min(1)).sqrt()
    weight = torch.exp(-above / (temperature * unit).clamp_min(TINY)) * finite
    return weight / weight.sum(1, keepdim=True).clamp_min(TINY)


def _average_cost(cost_BS: Tensor, weight_BS: Tensor) -> Tensor:
    """Weighted mean cost; inf where no candidate has a weight."""
    mean = (weight_BS * cost_BS.masked_fill(weight_BS == 0, 0.0)).sum(1)
    return mean.masked_fill(weight_BS.sum(1) == 0, torch.inf)
