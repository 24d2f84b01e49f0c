"""Cross-entropy method: refit a Gaussian to the best candidates.

Rubinstein 1999; for latent world models as in V-JEPA 2-AC (arXiv 2506.09985). Beyond its released planner,
each by choice: a floor under the standard deviation, the mean among the candidates, elites that take part
again and coloured noise (iCEM, arXiv 2008.06389), a warm start, the best candidate ever seen. Only the
update rule is here; `sampling.search` is the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.noise import Draws
from planners.sampling import Proposal, SamplingPlanner
from planners.scoring import Problem, average_finite
from planners.settings import SearchConfig, check_not_negative, check_share


@dataclass(frozen=True)
class CEMConfig(SearchConfig):
    """`SearchConfig`, and the update: next = (1 - momentum) x elites' statistic + momentum x the last."""

    elites: int = 12
    """best candidates that the next mean and standard deviation are fitted to (2 to samples)"""
    std_min: float = 0.05
    """smallest standard deviation, in half action ranges (>= 0)"""
    momentum_mean: float = 0.0
    """weight of the old mean (0 to below 1)"""
    momentum_std: float = 0.0
    """weight of the old standard deviation (0 to below 1)"""
    keep_elites: int = 0
    """elites that take part in the next iteration again (0 to elites)"""
    early_stop_std: float = 0.0
    """standard deviation below which an environment stops iterating, in half action ranges (0 disables this)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.elites <= self.samples:
            raise ValueError(f"planner elites is {self.elites}; choose 2 to samples = {self.samples}")
        if not 0 <= self.keep_elites <= min(self.elites, self.samples - 1):
            raise ValueError(f"planner keep_elites is {self.keep_elites}; choose 0 to elites ({self.elites})")
        check_share(self, "momentum_mean", "momentum_std")
        check_not_negative(self, "std_min", "early_stop_std")
        if 0 < self.early_stop_std <= self.std_min:
            raise ValueError(
                f"planner early_stop_std is {self.early_stop_std}, never below std_min {self.std_min}; "
                "choose more, or 0 for no early stop"
            )


def refit(config: CEMConfig, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
    """Mean and (unbiased) standard deviation of the elites, smoothed, floored.

    Candidates of infinite cost are no elites; where too few are finite the last statistic stays.
    """
    elite_cost, index = cost_BS.topk(config.elites, dim=1, largest=False)
    elites = actions_BSKA.take_along_dim(index[:, :, None, None], dim=1)
    weight = elite_cost.isfinite().float()[:, :, None, None]
    count = weight.sum(1)
    mean = (weight * elites).sum(1) / count.clamp_min(1)
    square = (weight * (elites - mean[:, None]).square()).sum(1)
    std = (square / (count - 1).clamp_min(1)).sqrt()
    mean = torch.where(count >= 1, mean, proposal.mean_BKA)
    std = torch.where(count >= 2, std, proposal.std_BKA)
    return Proposal(
        mean_BKA=mean.lerp(proposal.mean_BKA, config.momentum_mean),
        std_BKA=std.lerp(proposal.std_BKA, config.momentum_std).maximum(config.std_min * half_A),
        retained_BEKA=elites[:, : config.keep_elites] if config.keep_elites else None,
        elite_cost_B=average_finite(elite_cost),
    )


class CEM(SamplingPlanner):
    """Cross-entropy method, batched over environments and candidates."""

    def __init__(self, config: CEMConfig | None = None) -> None:
        self.config: CEMConfig = config or CEMConfig()

    @property
    def early_stop_std(self) -> float:
        """See CEMConfig."""
        return self.config.early_stop_std

    def update(self, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
        """See `refit`."""
        return refit(self.config, proposal, actions_BSKA, cost_BS, half_A)


class RecordingCEM(CEM):
    """CEM that keeps what every iteration of its last plan scored: `actions` [B, S, K, A] and `costs` [B, S]."""

    def __init__(self, config: CEMConfig | None = None) -> None:
        super().__init__(config)
        self.actions: list[Tensor] = []
        self.costs: list[Tensor] = []

    def refine(self, problem: Problem, actions_BSKA: Tensor, cost_BS: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The candidates as they are."""
        if draws.iteration == 0:
            self.actions, self.costs = [], []
        self.actions.append(actions_BSKA)
        self.costs.append(cost_BS)
        return actions_BSKA, cost_BS
