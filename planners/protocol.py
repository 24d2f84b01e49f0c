"""The interface of planners and world models: Dynamics, views, Goal, Imagined, Cost, Plan.

A world model (latent, pixel-generative, or the true simulator) offers `Dynamics`; a planner asks it to
`observe` once a replan and to `imagine` many candidate action sequences, and lets a `Cost` judge one named
view of what was imagined. Planners import no world model; a world model may import this file alone.
Protocols are structural (PEP 544).

Axes: B environments, S candidates, T observed frames, K planned model steps, N tokens, D width, A action
block, L named quantities of the true state, E draws or ensemble members (optional, in front), H W C image.

Views, by name (`VIEW_AXES`):

    name      imagined     goal    values
    tokens    BSKND        BND     features of one frame, as a cost should compare them
    pooled    BSKD         BD      one embedding a frame
    reach     BSKD         BD      an embedding whose distances count model steps, where one was learned
    state     BSKD         BD      the recurrent state of a world model, or the one predicted from a goal image
    pixels    BSKHWC       BHWC    0..255, float or uint8
    truth     BSKL         BL      the true state's named quantities (oracle dynamics only)

Step k of an imagined path (k = 0..K-1) is what is seen *after* action block k. With keep="last" only the last
step is there and the K axis has length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Keep = Literal["path", "last"]
Lazy = Tensor | Callable[[], Tensor]  # a view, or the function that computes it
Rows = slice | Tensor  # which environments: a slice (no copy) or an index tensor, int64 [b]

VIEW_AXES: dict[str, tuple[str, str]] = {
    "tokens": ("BSKND", "BND"),
    "pooled": ("BSKD", "BD"),
    "reach": ("BSKD", "BD"),
    "state": ("BSKD", "BD"),
    "pixels": ("BSKHWC", "BHWC"),
    "truth": ("BSKL", "BL"),
}


@dataclass(frozen=True)
class DynamicsSpec:
    """The facts about a world model that a planner needs.

    `action_low`, `action_high`: bounds of one action *block* in environment units, length A = frame_skip x
    the environment's action size, laid out [first environment step's action, second's, ...].
    `history`: T, the number of frames (one model step apart) that `observe` takes.
    `max_horizon`: the longest K the model may be asked for.
    `views`: names its Imagined and Goal offer. `proprio`: how proprioception is used; `proprio_dim`: its size.
    `step_bytes`: about how much memory one imagined step of one candidate takes at the peak (activations,
    keys and values, views); `score()` sizes its chunks by it. 0: small, never chunk.
    `estimates_return`: whether what it imagines is a `ReturnImagined`.
    """

    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    frame_hw: tuple[int, int]
    max_horizon: int
    views: tuple[str, ...]
    frame_skip: int = 1
    history: int = 1
    proprio: Literal["none", "integrate", "predicted"] = "none"
    proprio_dim: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step_bytes: int = 0
    estimates_return: bool = False

    def __post_init__(self) -> None:
        low, high = self.action_low, self.action_high
        assert len(low) == len(high) > 0, (low, high)
        assert all(a < b for a, b in zip(low, high, strict=True)), (low, high)
        assert self.frame_skip >= 1, self.frame_skip
        assert len(low) % self.frame_skip == 0, (len(low), self.frame_skip)
        assert self.history >= 1, self.history
        assert self.max_horizon >= 1, self.max_horizon
        assert (self.proprio == "none") == (self.proprio_dim == 0), (self.proprio, self.proprio_dim)

    @property
    def block_dim(self) -> int:
        """A: numbers in one action block (frame_skip environment actions stacked)."""
        return len(self.action_low)

    @property
    def action_dim(self) -> int:
        """Numbers in one environment action."""
        return len(self.action_low) // self.frame_skip


class Context(Protocol):
    """What `observe` made of the past: encoded frames, cached keys and values. Opaque to planners."""

    def select(self, rows: Rows) -> Context:
        """The context of those environments only: every tensor indexed `[rows]` along its B axis."""


class Goal(Protocol):
    """A goal per environment, seen through named views."""

    def view(self, name: str) -> Tensor:
        """The view, axes as in `VIEW_AXES[name][1]`; ValueError for a name the model does not offer."""

    def select(self, rows: Rows) -> Goal:
        """The goals of those environments only."""


class Imagined(Protocol):
    """Imagined futures of B x S candidates, seen through named views that are computed when asked for."""

    @property
    def keep(self) -> Keep:
        """`path`: all K steps; `last`: only the last one, K axis of length 1."""

    def view(self, name: str) -> Tensor:
        """The view, axes as in `VIEW_AXES[name][0]`, with E in front where the model has several draws."""


@runtime_checkable
class ReturnImagined(Imagined, Protocol):
    """Imagined futures of a model that has learned rewards and values towards goals, as TD-MPC2 has."""

    def estimate_return(self, goal: Goal) -> Tensor:
        """return_BS, float32: discounted rewards of all K steps, and the discounted value of the last. Higher is
        better."""


class Noise(Protocol):
    """Standard normal draws keyed by (episode seed, replan, iteration), for stochastic dynamics.

    The same call gives the same numbers again, whatever the chunk: an environment's candidates share them.
    """

    def normal(self, shape: Sequence[int], stream: int = 1) -> Tensor:
        """Float32 [B, *shape] on the dynamics' device; another `stream` (1, 2, ...) is independent."""

    def select(self, rows: Rows) -> Noise:
        """The draws of those environments only."""


@runtime_checkable
class Dynamics(Protocol):
    """A world model as a planner sees it. All methods are batched and keep tensors on `spec.device`."""

    @property
    def spec(self) -> DynamicsSpec:
        """Bounds, sizes and views."""

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> Context:
        """Encode the past, once a replan.

        frames_BTHWC: uint8, T = spec.history frames one model step apart, newest last.
        past_actions_BtA: float32, t = T - 1, the action blocks executed between them, environment units.
        valid_BT: bool; while an episode is shorter than T its oldest places are False (filled with a copy of
        the first frame, and zero actions).
        """

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Goal:
        """Encode goal images (uint8), once an episode."""

    # A model gets its own context back, as its own type, hence Any.
    def imagine(
        self, context: Any, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> Imagined:
        """Futures of all candidates of a context that `observe` gave. Differentiable.

        actions_BSKA: environment units, within bounds. keep: whether all K steps are needed or only the last.
        """


@runtime_checkable
class PolicyPrior(Protocol):
    """What dynamics offer beside `Dynamics` where a policy was learned with them."""

    def propose(self, context: Any, goal: Goal, count: int, steps: int, generator: Noise) -> Tensor:
        """actions_BSKA, environment units: `count` draws of the policy's actions over `steps` imagined steps from a
        context that `observe` gave."""


class Cost(Protocol):
    """Scores imagined futures against a goal through one view. Lower is better; NaN and inf are worst."""

    @property
    def view(self) -> str:
        """Name of the view it reads."""

    @property
    def keep(self) -> Keep:
        """Whether it needs the whole path or only its last step."""

    def __call__(self, imagined: Imagined, goal: Goal, actions_BSKA: Tensor) -> Tensor:
        """cost_BS, float32."""


@runtime_checkable
class FrameCost(Cost, Protocol):
    """A cost that can also compare an observed frame with the goal: what `MPC` switches sub-goals by."""

    def compare_frames(self, seen: Goal, goal: Goal) -> Tensor:
        """d_B between observed frames, encoded as goals are, and goals."""


@dataclass(frozen=True)
class Plan:
    """What a planner returns, on the dynamics' device.

    actions_BKA: environment units, within bounds. cost_B: the imagined cost of these actions.
    history: one dict per iteration of [B] tensors: `best` (so far), `mean` (over candidates), `elite_mean`
    (costs; inf where no candidate was finite), `std` (of the actions, as a fraction of half their range).
    They stay on the device: reading them synchronises, planning does not.
    elites_BEKA: good candidates that the next plan's search may begin with, from planners that carry them over.
    """

    actions_BKA: Tensor
    cost_B: Tensor
    history: list[dict[str, Tensor]] = field(default_factory=list)
    elites_BEKA: Tensor | None = None


class Planner(Protocol):
    """Finds an action sequence per environment that is imagined to have a low cost."""

    @property
    def horizon(self) -> int:
        """K, model steps."""

    def plan(
        self,
        dynamics: Dynamics,
        context: Context,
        goal: Goal,
        cost: Cost,
        *,
        seeds: Sequence[int],
        warm_start: Tensor | None = None,
        replan: int = 0,
    ) -> Plan:
        """One plan per environment.

        seeds: B of them, one per environment (its episode's). warm_start: actions_BKA to begin at, usually the
        last plan, shifted; or [B,1+E,K,A], with its shifted elites behind it. replan: how many plans the episode
        has had; with the seed it keys the draws.
        """


class Views:
    """A Goal or an Imagined from a dict of tensors, or of functions that compute them when first asked.

    Serves every dynamics whose views are plain tensors; a function is called once and its result kept.
    """

    def __init__(self, views: Mapping[str, Lazy], keep: Keep = "path") -> None:
        self._views = dict(views)
        self.keep: Keep = keep

    def view(self, name: str) -> Tensor:
        """The named view. Raises ValueError for a name that is not on offer."""
        if name not in self._views:
            raise ValueError(f"view {name!r} is not offered by this model, only {sorted(self._views)}")
        value = self._views[name]
        if callable(value):
            value = value()
            self._views[name] = value
        return value

    def select(self, rows: Rows) -> Views:
        """Goal views of some environments, lazily, too (B is the first axis, or the second after E)."""
        return Views({name: partial(self._rows, name, rows) for name in self._views}, self.keep)

    def _rows(self, name: str, rows: Rows) -> Tensor:
        value = self.view(name)
        axes = VIEW_AXES.get(name)
        has_draws = axes is not None and value.ndim == len(axes[1]) + 1
        return value[:, rows] if has_draws else value[rows]


def view_first_draw(imagined: Imagined, name: str) -> Tensor:
    """The named view with axes as in `VIEW_AXES`: of the first draw, where the model has several."""
    value = imagined.view(name)
    return value[0] if value.ndim > len(VIEW_AXES[name][0]) else value
