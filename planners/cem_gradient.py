"""CEM whose best candidates take a few gradient steps before they are refitted.

As in grasping the plan by sampling and polishing it by descent (Bharadhwaj et al. 2020, arXiv 2003.13333; Huang
et al. 2021, arXiv 2104.03894): draws find the basin, gradients its bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from planners.cem import CEM, CEMConfig
from planners.gradient import GradientConfig, adam_step, descend
from planners.noise import Draws
from planners.scoring import Problem


@dataclass(frozen=True)
class CEMGradientConfig(CEMConfig):
    """`CEMConfig`, and Adam's steps, whose size falls to a tenth over them."""

    samples: int = 48
    elites: int = 8
    refined: int = 4
    """best candidates that take gradient steps (1 to samples)"""
    steps: int = 4
    """gradient steps per iteration (>= 1)"""
    learning_rate: float = 0.4
    """size of the first gradient step, in half action ranges (> 0)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.refined <= self.samples:
            raise ValueError(f"planner refined is {self.refined}; choose 1 to samples = {self.samples}")
        if self.steps < 1:
            raise ValueError(f"planner steps is {self.steps}; it must be at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"planner learning_rate is {self.learning_rate}; it must be above 0")
        if self.compile_iteration:
            raise ValueError("planner compile_iteration is true, and gradient steps are not compiled; set it to false")


class CEMGradient(CEM):
    """CEM with gradient steps."""

    needs_gradient = True

    def __init__(self, config: CEMGradientConfig | None = None) -> None:
        self.config: CEMGradientConfig = config or CEMGradientConfig()
        self.descent = GradientConfig(
            iterations=self.config.steps, learning_rate=self.config.learning_rate, lr_end=0.1, momentum=0.9
        )

    def refine(self, problem: Problem, actions_BSKA: Tensor, cost_BS: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The best candidates at the best point of their descent, under the iteration's own draws."""
        _, index = cost_BS.topk(self.config.refined, dim=1, largest=False)
        where = index[:, :, None, None].expand(-1, -1, *actions_BSKA.shape[2:])
        start = actions_BSKA.gather(1, where)
        descent = descend(problem, start, self.config.steps, partial(adam_step, config=self.descent), lambda _: draws)
        return actions_BSKA.scatter(1, where, descent.best_BSKA), cost_BS.scatter(1, index, descent.best_cost_BS)
