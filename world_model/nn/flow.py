"""Flow matching of the next frame, and a head for it: every token is drawn from noise, given the predictor's output.

Flow matching along straight lines (Lipman et al. 2023, arXiv 2210.02747, eq. 23 with sigma_min = 0) is rectified flow
(Liu et al. 2023, arXiv 2209.03003, eq. 1). With noise x_0, a recorded token x_1 and the predictor's output h,

    x_t = (1 - t) x_0 + t x_1,   loss = mean w(t) || v(x_t, t, h) - (x_1 - x_0) ||^2,   x_0 ~ N(0, I),  t ~ U(0, 1)

A sample integrates dx/dt = v(x, t, h) from noise at t = 0 to t = 1, in equal Euler steps. As in MAR's diffusion loss
(arXiv 2406.11838, section 3.2), the head is a small network of one token: given h, tokens are independent.

The network predicts the end of the line, e(x_t, t, h), and thereby the velocity v = (e - x_t) / (1 - t): one that is
narrower than a token could not cancel noise in all of its channels (JiT, arXiv 2511.13720). The weight is w(t) =
(1 - t)^2, so that the loss is || e - x_1 ||^2. A weight leaves the best v as it is. With w = 1 most of the loss would
be of times near 1, where a few Euler steps never look.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

TIMES = 16  # numbers that describe a time to the network
MOST_STEPS = 1000


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of a flow-matching head, and Euler steps of its samples."""

    steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] = 4
    """Euler steps per sample, in training and planning (planner.flow_steps: other ones in planning)"""
    width: Annotated[int, Ge(1)] = 128
    """width of the hidden layers"""
    depth: Annotated[int, Ge(1)] = 2
    """hidden layers"""
    kind: Literal["head"] = "head"
    """head: each token by itself, given the predictor's output for it; transformer: all tokens of the frame together"""


def integrate(velocity: Callable[[Tensor, float], Tensor], start: Tensor, steps: int) -> Tensor:
    """The end x_1 of dx/dt = velocity(x, t) from x_0 = start, by equal Euler steps."""
    x = start
    for step in range(steps):
        x = x + velocity(x, step / steps) / steps
    return x


class TimeFeatures(nn.Module):
    """Times [..., 1] in 0..1 -> numbers [..., TIMES] that describe them: cosines of pi, 2 pi, ... times the time."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * torch.arange(1, TIMES + 1), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        return (self.frequencies * time).cos()


class Flow(nn.Module):
    """Noise -> samples [..., N, X] of the next frame's tokens: lines from noise, whose ends a network expects.

    token_dim: X. of_change: whether the flow is that of the change from the frame before, whose tokens [..., N, X] are
    then added. steps: Euler steps of a sample.
    """

    def __init__(self, token_dim: int, steps: int, of_change: bool) -> None:
        super().__init__()
        self.token_dim, self.steps, self.of_change = token_dim, steps, of_change

    def shape_times(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the times of a loss of tokens of this shape [..., N, X]."""
        raise NotImplementedError

    def prepare(self, condition: Any) -> tuple[Any, ...]:
        """What `predict_end` takes of a condition, computed once for all Euler steps: the condition itself."""
        return (condition,)

    def predict_end(self, x_t: Tensor, time: Tensor, *prepared: Any) -> Tensor:
        """The expected end of the line at x_t and at times that broadcast to it. prepared: of `prepare`."""
        raise NotImplementedError

    def compute_loss(self, condition: Any, before: Tensor, target: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Flow-matching loss of targets [..., N, X] on the lines that begin at `noise`, at times in 0..1 of the shape
        `shape_times`. before: tokens of the frame before the target's."""
        x_1 = target - before if self.of_change else target
        end = self.predict_end((1 - time) * noise + time * x_1, time, *self.prepare(condition))
        return F.mse_loss(end.float(), x_1)

    def sample(self, condition: Any, before: Tensor, noise: Tensor) -> Tensor:
        """Tokens [..., N, X] of the next frame, from noise that broadcasts to them. before: as of `compute_loss`."""
        prepared = self.prepare(condition)

        def velocity(x_t: Tensor, time: float) -> Tensor:
            end = self.predict_end(x_t, x_t.new_full((1,) * x_t.ndim, time), *prepared)
            return (end - x_t) / (1 - time)

        x_1 = integrate(velocity, noise, self.steps)
        return before + x_1 if self.of_change else x_1

    def step_bytes(self, tokens: int) -> int:
        """Memory of one sample of so many tokens, bytes."""
        raise NotImplementedError


class FlowHead(Flow):
    """A flow of each token by itself, given the predictor's outputs h [..., N, D].

    The end of a line is a linear map of h, as a regression head has it, and what the network adds to it, at first
    nothing. So a new head draws what a new regression head predicts, and one Euler step stays close to that.
    """

    def __init__(self, hidden_dim: int, token_dim: int, config: FlowConfig, of_change: bool) -> None:
        super().__init__(token_dim, config.steps, of_change)
        self.proj = nn.Linear(hidden_dim, token_dim)
        nn.init.normal_(self.proj.weight, std=0.02)  # as the projection of a predictor without a flow
        nn.init.zeros_(self.proj.bias)
        # Three maps, added up, are one map of all three side by side; that of h does not depend on the Euler step.
        self.read_noisy = nn.Linear(token_dim, config.width)
        self.read_hidden = nn.Linear(hidden_dim, config.width, bias=False)
        self.read_time = nn.Linear(TIMES, config.width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.depth - 1))
        self.out = nn.Linear(config.width, token_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.describe_time = TimeFeatures()

    def shape_times(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Every token has a time of its own."""
        return (*shape[:-1], 1)

    def prepare(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The maps `proj` and `read_hidden` of h."""
        return self.proj(condition), self.read_hidden(condition)

    def predict_end(self, x_t: Tensor, time: Tensor, *prepared: Tensor) -> Tensor:
        """e(x_t, t, h) at x_t [..., X] and time [..., 1]."""
        base, condition = prepared
        described = self.read_time(self.describe_time(time))
        y = F.gelu(self.read_noisy(x_t) + condition + described)
        for layer in self.layers:
            y = F.gelu(layer(y))
        return base + self.out(y)

    def step_bytes(self, tokens: int) -> int:
        """A token's hidden layers."""
        return 16 * tokens * (self.token_dim + self.out.in_features)
