"""Predictive sampling: the plan becomes the best of samples around it (Howell et al. 2022, arXiv 2212.00541).

The simplest rule there is, and a hard one to beat when a plan may take a millisecond. Beyond the paper's one
iteration, several may be made, with a spread that shrinks from one to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.sampling import Proposal, SamplingPlanner
from planners.settings import SearchConfig


@dataclass(frozen=True)
class PredictiveSamplingConfig(SearchConfig):
    """`SearchConfig`, and a standard deviation that shrinks every iteration."""

    samples: int = 24
    iterations: int = 16
    std_init: float = 0.4
    std_warm: float = 0.2
    return_best: bool = True
    noise_beta: float = 2.0
    std_decay: float = 0.9
    """factor of the standard deviation per iteration (above 0 to 1)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.std_decay <= 1:
            raise ValueError(f"planner std_decay is {self.std_decay}; choose above 0 to 1")


class PredictiveSampling(SamplingPlanner):
    """Keep the best candidate, draw around it."""

    def __init__(self, config: PredictiveSamplingConfig | None = None) -> None:
        self.config: PredictiveSamplingConfig = config or PredictiveSamplingConfig()

    def update(self, proposal: Proposal, actions_BSKA: Tensor, cost_BS: Tensor, half_A: Tensor) -> Proposal:
        """The best candidate as the mean; the last mean where no cost is finite."""
        cost_B, index = cost_BS.min(dim=1)
        best = actions_BSKA.take_along_dim(index[:, None, None, None], dim=1)[:, 0]
        mean = torch.where(cost_B.isfinite()[:, None, None], best, proposal.mean_BKA)
        return Proposal(mean, self.config.std_decay * proposal.std_BKA, elite_cost_B=cost_B)
