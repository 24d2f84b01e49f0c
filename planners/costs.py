"""Costs: a distance to the goal at every imagined step, reduced over the path, plus an action penalty.

d_BSK is the distance of each imagined step from the goal. The *reduction* decides which paths are good, and changes
success as much as the model does. A goal must be reached soon *and* held. A planner that replans every few steps never
arrives if a late arrival costs no more than an early one:

    reduce        cost, with m = steps, p = power                                 what it asks for
    last          d_K                                                             be there at the end
    sum           sum_k d_k                                          + last       be near all the way
    closest       min_k d_k                            + path        + last       be there once, soon
    smallest      mean of the m smallest d_k           + path        + last       be there for m steps, soon
    window        min_k mean(d_k .. d_k+m-1)           + path        + last       the same, in a row
    running_min   sum_k min_j<=k d_j                                 + last       be there once, sooner
    power         (mean_k d_k^p)^(1/p)                               + last       be very near for many steps
    return        -(rewards of the path and value of its end)                     what the model has learned to value

    path = path_weight * mean_k d_k (breaks the tie between early and late), last = last_weight * d_K

The last-step cost is V-JEPA 2-AC's (arXiv 2506.09985, with the L1 metric); closest approach and path sums are
what small latent models reach goals with. `window` with m steps is the evaluation's "held for m steps"
itself; `power` runs from the mean (p = 1) to the closest approach (p to -inf), counting steps not yet near
between them. Everything is vectorised over B, S and K, float32, and differentiable.

`return` reads no distance. The model estimates the return itself (`protocol.ReturnImagined`), as TD-MPC2 does (arXiv
2310.16828); distances of frames, by which sub-goals are switched, are still the metric's.

Most tokens or pixels of a picture are the same now and at the goal, so their prediction errors are noise in the cost.
With `token_keep` below 1 only the share of them is compared in which the goal differs most from the current frame;
`GoalCost.focus` selects them for every plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from planners.protocol import VIEW_AXES, Cost, Dynamics, DynamicsSpec, Goal, Imagined, Keep, ReturnImagined, Views

Metric = Literal["l1", "l2", "sq_l2", "cosine"]
Reduce = Literal["last", "sum", "closest", "smallest", "window", "running_min", "power", "return"]
Distance = Callable[[Tensor, Tensor], Tensor]

RETURN = "return"  # the reduction that a model estimates itself
FOCUS = "focus"  # the view in which a goal carries the tokens or pixels to compare, int64 [B, M]
TINY = 1e-6  # floor under a logarithm or a division


def feature_distance(imagined: Tensor, goal: Tensor, metric: Metric, num_features: int) -> Tensor:
    """Distance over the last `num_features` axes, per element so that width and picture size do not matter.

    imagined: [(E,) B, S, K, *features]; goal: [(E,) B, *features]. Returns [(E,) B, S, K], float32.
    l1 mean |x-g|; l2 root of mean (x-g)^2; sq_l2 mean (x-g)^2; cosine 1 - cos, mean over tokens where the
    features are tokens [N, D], else of all features as one vector.
    """
    lead = goal.ndim - num_features
    x = imagined.float()
    g = goal.float().unflatten(lead - 1, (-1, 1, 1))
    if metric == "cosine":
        if num_features != 2:
            x, g = x.flatten(-num_features), g.flatten(-num_features)
        # Several times faster on a CPU than functional.cosine_similarity, which expands the goal first.
        norms = torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(g, dim=-1)
        d = 1 - (x * g).sum(-1) / norms.clamp_min(TINY)
        return d.mean(-1) if num_features == 2 else d
    diff = (x - g).flatten(-num_features)
    if metric == "l1":
        return diff.abs().mean(-1)
    norm = torch.linalg.vector_norm(diff, dim=-1)
    return norm / diff.shape[-1] ** 0.5 if metric == "l2" else norm.square() / diff.shape[-1]


def power_mean(d_BSK: Tensor, power: float) -> Tensor:
    """Generalised mean over K: 1 arithmetic, 0 geometric, -1 harmonic, towards -inf the minimum."""
    log = d_BSK.clamp_min(TINY).log()
    if power == 0:
        return log.mean(-1).exp()
    # In logarithms, so that no power of a small distance overflows.
    log_mean = torch.logsumexp(power * log, dim=-1) - math.log(log.shape[-1])
    return (log_mean / power).exp()


@dataclass(frozen=True)
class GoalCost:
    """Cost of a path towards a goal; see the table at the top of this file.

    Actions are penalised in environment units. `metric` is unused where `distance` is given.
    action_dim: numbers in one environment action, 0: a whole block (`bind_spec` sets it).
    distance: (imagined_view, goal_view) -> d_BSK in place of the metric, such as a task's true distance on
    the `truth` view; the goal view comes as [B, 1, 1, ...], ready to broadcast.
    """

    view: str = "pooled"
    """view compared with the goal: pooled, tokens, pixels, reach or state"""
    metric: Metric = "l2"
    """distance between views: l1, l2, sq_l2 or cosine"""
    reduce: Reduce = "closest"
    """reduction over the path: last, sum, closest, smallest, window, running_min, power, or return (minus the return
    that the model estimates)"""
    steps: int = 3
    """model steps that smallest and window count (>= 1)"""
    power: float = -1.0
    """exponent of the power reduction"""
    last_weight: float = 0.0
    """weight of the last step's distance (>= 0)"""
    path_weight: float = 0.1
    """weight of the mean distance over the path, for early arrival (>= 0)"""
    action_penalty: float = 0.0
    """weight of the mean squared action (>= 0)"""
    change_penalty: float = 0.0
    """weight of the mean squared change between consecutive actions (>= 0)"""
    token_keep: float = 1.0
    """share of tokens or pixels compared, those that differ most between goal and current frame (above 0 to 1)"""
    action_dim: int = field(default=0, repr=False)
    distance: Distance | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for key, choices in (("metric", get_args(Metric)), ("reduce", get_args(Reduce))):
            if getattr(self, key) not in choices:
                raise ValueError(f"cost {key} is {getattr(self, key)!r}; choose one of {', '.join(choices)}")
        if self.steps < 1:
            raise ValueError(f"cost steps is {self.steps}; it must be at least 1")
        for key in ("last_weight", "path_weight", "action_penalty", "change_penalty"):
            if getattr(self, key) < 0:
                raise ValueError(f"cost {key} is {getattr(self, key)}; it must not be negative")
        if not 0 < self.token_keep <= 1:
            raise ValueError(f"cost token_keep is {self.token_keep}; choose above 0 to 1 (1: all tokens)")
        if self.token_keep < 1 and self.view not in ("tokens", "pixels"):
            raise ValueError(
                f"cost token_keep is {self.token_keep} and view is {self.view!r}; it needs view=tokens or view=pixels"
            )

    @property
    def keep(self) -> Keep:
        """`last` where only the last step counts: the model may then skip what earlier steps would show."""
        return "last" if self.reduce == "last" else "path"

    def __call__(self, imagined: Imagined, goal: Goal, actions_BSKA: Tensor) -> Tensor:
        """cost_BS, float32."""
        if self.reduce == RETURN:
            assert isinstance(imagined, ReturnImagined), type(imagined)  # `check_fit` refuses other models
            cost_BS = -imagined.estimate_return(goal)
        else:
            cost_BS = self.reduce_path(self.distances(imagined, goal))
        if self.action_penalty:
            cost_BS = cost_BS + self.action_penalty * actions_BSKA.square().mean((-1, -2))
        if self.change_penalty:
            steps = actions_BSKA.unflatten(-1, (-1, self.action_dim or actions_BSKA.shape[-1])).flatten(2, 3)
            if steps.shape[2] > 1:
                cost_BS = cost_BS + self.change_penalty * steps.diff(dim=2).square().mean((-1, -2))
        return cost_BS

    def bind_spec(self, spec: DynamicsSpec) -> GoalCost:
        """This cost with the size of the model's environment actions."""
        return replace(self, action_dim=spec.action_dim)

    def keep_distances(self) -> GoalCost:
        """This cost for dynamics that estimate no return: closest approach in place of the return."""
        return replace(self, reduce="closest") if self.reduce == RETURN else self

    def focus(self, goal: Goal, seen: Goal) -> Goal:
        """The goal with the tokens or pixels to compare: the share `token_keep` in which it differs most from the
        present frame, `seen`, by the RMS over features or colours. The goal itself where all are compared."""
        if self.token_keep == 1:
            return goal
        wanted = goal.view(self.view)
        change_BN = self._list_places(wanted.float() - seen.view(self.view).float()).square().mean(-1)
        change_BN = change_BN.mean(0) if change_BN.ndim == 3 else change_BN
        count = max(1, round(self.token_keep * change_BN.shape[-1]))
        return Views({self.view: wanted, FOCUS: change_BN.topk(count, dim=-1).indices})

    def _list_places(self, values: Tensor) -> Tensor:
        """Tokens [..., N, D], or pixels [..., H, W, C] as [..., H * W, C]."""
        return values.flatten(-3, -2) if self.view == "pixels" else values

    def compare_frames(self, seen: Goal, goal: Goal) -> Tensor:
        """d_B of observed frames, encoded as goals are, from goals: the distance of one step that is there."""
        goal = self.focus(goal, seen)
        here = seen.view(self.view)
        axis = here.ndim - len(VIEW_AXES[self.view][1]) + 1
        step = Views({self.view: here.unsqueeze(axis).unsqueeze(axis)})
        return self.distances(step, goal)[:, 0, 0]

    def distances(self, imagined: Imagined, goal: Goal) -> Tensor:
        """d_BSK, the mean over draws E where the view has them; K = 1 where only the last step counts."""
        assert imagined.keep == "path" or self.keep == "last", (imagined.keep, self.reduce)
        x, g = imagined.view(self.view), goal.view(self.view)
        if self.view in VIEW_AXES:
            num_features = len(VIEW_AXES[self.view][1]) - 1
        else:
            num_features = g.ndim - 1
        if self.keep == "last":
            step_axis = x.ndim - num_features - 1
            x = x.narrow(step_axis, x.shape[step_axis] - 1, 1)
        if self.token_keep < 1:
            chosen, num_features = goal.view(FOCUS), 2  # set by `focus_goal`
            g = _take_places(self._list_places(g), chosen[:, :, None])
            x = _take_places(self._list_places(x), chosen[:, None, None, :, None])
        if self.distance is None:
            d = feature_distance(x, g, self.metric, num_features)
        else:
            d = self.distance(x, g.unflatten(g.ndim - num_features - 1, (-1, 1, 1))).float()
        return d.mean(0) if d.ndim == 4 else d

    def reduce_path(self, d_BSK: Tensor) -> Tensor:
        """cost_BS of a path by its distances (the table at the top)."""
        last = d_BSK[..., -1]
        if self.reduce == "last":
            return last
        steps = min(self.steps, d_BSK.shape[-1])
        path = self.path_weight * d_BSK.mean(-1)
        if self.reduce == "sum":
            cost = d_BSK.sum(-1)
        elif self.reduce == "closest":
            cost = d_BSK.amin(-1) + path
        elif self.reduce == "smallest":
            cost = d_BSK.topk(steps, dim=-1, largest=False, sorted=False).values.mean(-1) + path
        elif self.reduce == "window":
            cost = d_BSK.unfold(-1, steps, 1).mean(-1).amin(-1) + path
        elif self.reduce == "running_min":
            cost = d_BSK.cummin(-1).values.sum(-1)
        else:
            cost = power_mean(d_BSK, self.power)
        return cost + self.last_weight * last if self.last_weight else cost


def _take_places(values: Tensor, index: Tensor) -> Tensor:
    """Chosen places along the last axis but one; draws, an axis in front, share the choice."""
    return values.take_along_dim(index[(None,) * (values.ndim - index.ndim)], dim=-2)


def focus_goal(dynamics: Dynamics, cost: Cost, goal: Goal, frames_BHWC: Tensor) -> Goal:
    """The goal as a plan from these frames should see it: with the tokens to compare where the cost asks for some."""
    if not isinstance(cost, GoalCost) or cost.token_keep == 1:
        return goal
    return cost.focus(goal, dynamics.encode_goal(frames_BHWC))
