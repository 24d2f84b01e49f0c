"""Optimisers of the nevergrad package (an extra) on action sequences, one for each environment.

They live on the host: every iteration asks each optimiser for its candidates, has all of them imagined
together, and tells the costs back, which waits for the device. As in jepa-wms (arXiv 2512.24497) a yardstick
for the planners written here, not a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from planners.noise import CANDIDATES, Draws, derive_seed, upload
from planners.protocol import Plan
from planners.sampling import BasePlanner, choose_std, keep_best, make_action_box, make_first_proposal
from planners.scoring import Problem, average_finite
from planners.settings import PlannerConfig

UNUSABLE = 1e15  # reported for an infinite cost: nevergrad clips larger numbers


@dataclass(frozen=True)
class NevergradConfig(PlannerConfig):
    """`PlannerConfig`, and the optimiser. With return_best=False the plan is its recommendation (scored once more)."""

    return_best: bool = True
    optimizer: str = "CMA"
    """name in nevergrad's registry: CMA, DE, TwoPointsDE, PSO, NGOpt, ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws != "host":
            raise ValueError(f"planner draws is {self.draws!r}; nevergrad draws on the host")


class Nevergrad(BasePlanner):
    """Ask, imagine, tell."""

    def __init__(self, config: NevergradConfig | None = None) -> None:
        self.config: NevergradConfig = config or NevergradConfig()

    @torch.no_grad()
    def solve(self, problem: Problem, draws: Draws, warm_start: Tensor | None) -> Plan:
        """One optimiser a seed. Raises ValueError where nevergrad is missing or has no such optimiser."""
        spec, config = problem.dynamics.spec, self.config
        box = make_action_box(spec, config.horizon)
        proposal = make_first_proposal(spec, config, len(draws.seeds), warm_start)
        mean, std = box.normalise(proposal.mean_BKA).cpu().numpy(), choose_std(config, warm_start)
        optimizers = [
            self._make_optimizer(start, std, derive_seed(seed, draws.replan, 0, CANDIDATES))
            for start, seed in zip(mean, draws.seeds, strict=True)
        ]
        best = proposal.mean_BKA
        best_cost = torch.full(best.shape[:1], math.inf, device=best.device)
        history = []
        for iteration in range(config.iterations):
            asked = [[optimizer.ask() for _ in range(config.samples)] for optimizer in optimizers]
            x_BSKA = np.stack([[one.value for one in row] for row in asked]).astype(np.float32)
            actions = box.denormalise(upload(torch.from_numpy(x_BSKA), best.device))
            cost = problem.score(actions, draws.at(iteration))
            best, best_cost = keep_best(best, best_cost, actions, cost)
            spread = box.normalise(actions).std(1, correction=0).mean((1, 2))
            history.append({"best": best_cost, "mean": average_finite(cost), "elite_mean": cost.amin(1), "std": spread})
            _report_costs(optimizers, asked, cost)
        if config.return_best:
            return Plan(best, best_cost, history)
        last = np.stack([optimizer.provide_recommendation().value for optimizer in optimizers]).astype(np.float32)
        actions = box.denormalise(upload(torch.from_numpy(last), best.device))
        return Plan(actions, problem.score(actions[:, None], draws.at(config.iterations))[:, 0], history)

    def _make_optimizer(self, start_KA: np.ndarray, std: float, seed: int) -> Any:
        config = self.config
        try:
            import nevergrad
        except ImportError as error:
            raise ValueError(
                "planner=nevergrad needs the package nevergrad; install it with pip install 'jepa-lab[nevergrad]', or "
                "choose another planner"
            ) from error
        if config.optimizer not in nevergrad.optimizers.registry:
            raise ValueError(
                f"planner optimizer is {config.optimizer!r}, which nevergrad does not have; choose CMA, DE, "
                "TwoPointsDE, PSO, NGOpt or another of nevergrad.optimizers.registry"
            )
        space = nevergrad.p.Array(init=start_KA.astype(np.float64))
        space = space.set_mutation(sigma=std).set_bounds(-1, 1, method="clipping")
        space.random_state = np.random.RandomState(seed % 2**32)
        budget = config.samples * config.iterations
        optimizer = nevergrad.optimizers.registry[config.optimizer](space, budget=budget, num_workers=config.samples)
        if config.include_mean:
            optimizer.suggest(space.value)
        return optimizer


def _report_costs(optimizers: Sequence[Any], asked: Sequence[Sequence[Any]], cost_BS: Tensor) -> None:
    reported = cost_BS.clamp(max=UNUSABLE).double().cpu().numpy()
    for optimizer, row, costs in zip(optimizers, asked, reported, strict=True):
        for candidate, cost in zip(row, costs, strict=True):
            optimizer.tell(candidate, float(cost))
