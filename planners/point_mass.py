"""A world model in closed form, on which planners are compared without learning anything: a point with inertia.

    v_k = v_(k-1) + dt a_k,  p_k = p_(k-1) + dt v_k         (two axes; everything differentiable)

Its frames are its state itself, [B, T, 1, 1, 4] as (p, v), float. It counts the candidate steps it imagined.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.protocol import Dynamics, DynamicsSpec, Goal, Imagined, Keep, Noise, Rows, Views

GRADIENT_WORK = 2  # work of a differentiated step: the backward pass costs as much as the forward pass


@dataclass
class State:
    """Positions and velocities, [B, 4]."""

    state_B4: Tensor

    def select(self, rows: Rows) -> State:
        """Those environments only."""
        return State(self.state_B4[rows])


class DoubleIntegrator:
    """A point pushed by accelerations within +-`bound`, `dt` seconds a step. `work` counts imagined candidate steps
    (B x S x K), differentiated ones twice."""

    def __init__(self, bound: float = 1.0, dt: float = 0.25, max_horizon: int = 64) -> None:
        self.dt, self.work = dt, 0
        self.spec = DynamicsSpec((-bound,) * 2, (bound,) * 2, (1, 1), max_horizon, ("pooled",))

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> State:
        """The newest state."""
        return State(frames_BTHWC[:, -1, 0, 0])

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """The state to be in."""
        return Views({"pooled": frames_BHWC[:, 0, 0]})

    def imagine(
        self, context: State, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> Views:
        """States after every step."""
        num_envs, samples, horizon, _ = actions_BSKA.shape
        self.work += num_envs * samples * horizon * (GRADIENT_WORK if actions_BSKA.requires_grad else 1)
        position, velocity = context.state_B4[:, None, None].chunk(2, dim=-1)
        velocities = velocity + self.dt * actions_BSKA.cumsum(2)
        path = torch.cat((position + self.dt * velocities.cumsum(2), velocities), dim=-1)
        return Views({"pooled": path if keep == "path" else path[:, :, -1:]}, keep)


@dataclass(frozen=True)
class PointCost:
    """mean_k |p_k - g|^2 + stop |v_K|^2 + effort mean_k |a_k|^2, and discs that cost.

    discs: (x, y, radius) of each. A step inside of one costs height (1 - distance to its centre / radius)^2 over K;
    with `wall` it costs height over K wherever it is inside, and no gradient leads out.
    """

    effort: float = 0.05
    stop: float = 0.5
    discs: tuple[tuple[float, float, float], ...] = ()
    height: float = 8.0
    wall: bool = False
    view: str = "pooled"
    keep: Keep = "path"

    def __call__(self, imagined: Imagined, goal: Goal, actions_BSKA: Tensor) -> Tensor:
        """cost_BS."""
        position, velocity = imagined.view(self.view).chunk(2, dim=-1)
        away = position - goal.view(self.view)[:, None, None, :2]
        cost = away.square().sum(-1).mean(-1) + self.stop * velocity[:, :, -1].square().sum(-1)
        cost = cost + self.effort * actions_BSKA.square().sum(-1).mean(-1)
        for x, y, radius in self.discs:
            centre = torch.tensor([x, y], device=position.device)
            depth = (1 - torch.linalg.vector_norm(position - centre, dim=-1) / radius).clamp_min(0)
            cost = cost + self.height * ((depth > 0).float() if self.wall else depth.square()).mean(-1)
        return cost


_: type[Dynamics] = DoubleIntegrator  # the type checker verifies the protocol
