"""Goal-conditioned implicit V-learning (GCIVL): a policy from recorded transitions, without a model.

IQL (arXiv 2110.06169; expectile: eq. 5) without its Q, as HIQL (arXiv 2307.11949) and OGBench (arXiv 2410.20092) have
it. Transitions (s, a, s') get goals g in hindsight. A value learns towards what the better of the recorded actions
reach:

    target of a member    q_i = r + gamma V-_i(s', g)       r = -1, or 0 where s is g and nothing follows: q_i = 0
    advantage             A = r + gamma min_i V-_i(s', g) - mean_i V-_i(s, g)
    loss of the value     mean of sum_i |tau - 1[A < 0]| (q_i - V_i(s, g))^2                    the expectile tau of q

V- is a slow copy of both members. Advantage-weighted regression (AWR) then prefers actions that came nearer to g:

    loss of the policy    mean of -min(exp(alpha (V(s', g) - V(s, g))), 100) log N(a; p(s, g), 1)        V = mean_i V_i

Defaults are those of `impls/agents/gcivl.py` in github.com/seohongpark/ogbench (MIT licence): tau 0.9, alpha 10, gamma
0.99, slow copy 0.005; goals of values 20 % the present frame, 30 % any frame, 50 % later frames by a geometric
distribution of gamma; goals of the policy uniform over later frames. States here are features or frames of the last
model steps. Instead of one action the policy predicts K action blocks, so that searches can begin at it; all blocks of
a transition have its weight, and the first is the published policy. While it acts it takes the mean, as published.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from world_model.draws import make_generator
from world_model.goal_value import GoalValue, ValueConfig
from world_model.hindsight import DistantGoals, draw_distant_goals
from world_model.nn.layers import init_xavier
from world_model.policy import GoalPolicy
from world_model.training.cloning import average_recorded, hide_older, read_frames

LAST_GAIN = 0.1  # of the policy's last layer: OGBench scales its variance by 0.01
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class CloningConfig:
    """method=cloning: the recorded actions by regression."""

    name: Literal["cloning"] = "cloning"
    """cloning: imitation of the recorded actions"""


@dataclass(frozen=True)
class GcivlConfig(ValueConfig):
    """method=gcivl: values of goals, and the actions that led nearer to them."""

    name: Literal["gcivl"] = "gcivl"
    """gcivl: values of goals, and regression on the actions that led nearer to them"""
    expectile: Annotated[float, Interval(gt=0.5, lt=1)] = 0.9
    """expectile of the targets that a value learns: the nearer to 1, the more of the best recorded action alone"""
    alpha: Annotated[float, Ge(0)] = 10.0
    """inverse temperature of the policy's weights exp(alpha advantage) (0: plain cloning)"""
    most_weight: Annotated[float, Gt(0)] = 100.0
    """largest weight of a recorded action"""
    target_rate: Annotated[float, Interval(gt=0, le=1)] = 0.005
    """share by which target values follow, a step"""
    present_goals: Annotated[float, Interval(ge=0, le=1)] = 0.2
    """share of the values' goals that are the present frame"""
    random_goals: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """share of the values' goals that are any frame of the data; the rest are later frames of the episode"""
    policy_random_goals: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """share of the policy's goals that are any frame of the data; the rest are later frames of the episode"""

    def __post_init__(self) -> None:
        if self.present_goals + self.random_goals > 1:
            raise ValueError(
                f"method.present_goals={self.present_goals} and method.random_goals={self.random_goals} are shares of "
                "all goals: they must sum to 1 at most"
            )


class GcivlModel(nn.Module):
    """A GoalPolicy with a value, and their losses.

    Batches hold `features` [B, T + 3, D] or, for networks with encoders of their own, `pixels` [B, T + 3, H, W, C]: T
    frames up to the present one, the next, the goal of the value and that of the policy; `valid` [B, T + 1], `action`
    [B, K, A] and `recorded` [B, K], as of `data.goal_pairs.GoalTransitions`; `reached` [B], whether the present frame
    is the value's goal.
    """

    def __init__(self, config: GcivlConfig, policy: GoalPolicy) -> None:
        super().__init__()
        assert policy.value is not None and not policy.config.steps_left
        self.config, self.policy = config, policy
        init_xavier(policy.layers, LAST_GAIN)
        self.target = copy.deepcopy(policy.value).requires_grad_(False)

    @property
    def value(self) -> GoalValue:
        """The value that is trained."""
        assert self.policy.value is not None
        return self.policy.value

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both losses, and each as a term. Beside them, not in the sum: the mean value, and the mean weight
        of recorded actions."""
        history = 1 + step % self.policy.config.history
        value, mean_value = self.measure_value_loss(batch, history)
        policy, weight = self.measure_policy_loss(batch, history)
        return value + policy, {"value": value, "policy": policy, "mean_value": mean_value, "weight": weight}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Let the target values follow."""
        rate = self.config.target_rate
        torch._foreach_lerp_(list(self.target.parameters()), list(self.value.parameters()), rate)

    def measure_value_loss(self, batch: Batch, history: int) -> tuple[Tensor, Tensor]:
        """The value's loss with the last `history` frames, and the mean value."""
        frames, steps = read_frames(batch), batch["valid"].shape[1] - 1
        with torch.no_grad():
            known = self.target.embed(frames[:, : steps + 2])
            goal = known[:, -1]
            next_2B = self.target(*show_next(known[:, 1:-1], batch["valid"], history), goal)
            now_2B = self.target(*hide_older(known[:, :-2], batch["valid"][:, :-1], history), goal)
            targets_2B, advantage_B = compute_targets(next_2B, now_2B, batch["reached"], self.config.discount)
        known = self.value.embed(torch.cat((frames[:, :steps], frames[:, steps + 1 : steps + 2]), 1))
        values_2B = self.value(*hide_older(known[:, :-1], batch["valid"][:, :-1], history), known[:, -1])
        loss = weigh_expectile(targets_2B - values_2B, advantage_B, self.config.expectile).mean(1).sum()
        return loss, values_2B.detach().mean()

    def measure_policy_loss(self, batch: Batch, history: int) -> tuple[Tensor, Tensor]:
        """The policy's loss with the last `history` frames, and the mean weight. Values get no gradient."""
        frames, steps = read_frames(batch), batch["valid"].shape[1] - 1
        known_valid, next_valid = batch["valid"][:, :-1], batch["valid"]
        with torch.no_grad():
            known = self.value.embed(torch.cat((frames[:, : steps + 1], frames[:, steps + 2 :]), 1))
            goal = known[:, -1]
            next_B = self.value(*show_next(known[:, 1:-1], next_valid, history), goal).mean(0)
            now_B = self.value(*hide_older(known[:, :-2], known_valid, history), goal).mean(0)
            weight_B = weigh_actions(next_B - now_B, self.config.alpha, self.config.most_weight)
        known = self.policy.embed(torch.cat((frames[:, :steps], frames[:, steps + 2 :]), 1))
        seen, valid = hide_older(known[:, :-1], known_valid, history)
        mean_BKA = self.policy(seen, valid, known[:, -1]).float()
        log_prob_BK = measure_log_prob(mean_BKA, self.policy.normalise_actions(batch["action"]))
        return -average_recorded(weight_B[:, None] * log_prob_BK, batch["recorded"]), weight_B.mean()


def compute_targets(next_2B: Tensor, now_2B: Tensor, reached_B: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Targets [2, B] of both members, and advantages [B], of target values after and before transitions."""
    rewards_B, follows_B = reached_B.float() - 1, discount * ~reached_B
    return rewards_B + follows_B * next_2B, rewards_B + follows_B * next_2B.amin(0) - now_2B.mean(0)


def weigh_expectile(errors: Tensor, advantage: Tensor, expectile: float) -> Tensor:
    """Squared errors, weighted by the expectile where the advantage is at least 0, else by 1 - expectile."""
    return torch.where(advantage >= 0, expectile, 1 - expectile) * errors.square()


def weigh_actions(advantage: Tensor, alpha: float, most: float) -> Tensor:
    """Weights min(exp(alpha advantage), most) of recorded actions."""
    return (alpha * advantage).clamp_max(math.log(most)).exp()


def measure_log_prob(mean: Tensor, actions: Tensor) -> Tensor:
    """ln N(actions; mean, 1) [...], nats. mean, actions: [..., A]."""
    return -0.5 * ((actions - mean).square() + math.log(2 * math.pi)).sum(-1)


def show_next(next_BTD: Tensor, valid_Bt: Tensor, history: int) -> tuple[Tensor, Tensor]:
    """What is seen one model step after the last `history` frames were: one frame more, up to T of them. valid_Bt: of
    the frames before, too, t = T + 1."""
    return hide_older(next_BTD, valid_Bt[:, 1:], min(history + 1, next_BTD.shape[1]))


def draw_goal_frames(
    config: GcivlConfig, transition_B: Tensor, after_B: Tensor, count: int, seed: int, step: int
) -> tuple[DistantGoals, DistantGoals]:
    """Goals of the value and of the policy for a batch of transitions among `count`: a function of seed and step."""
    generator = make_generator(seed, step)
    shares = (config.present_goals, config.random_goals)
    value = draw_distant_goals(transition_B, after_B, count, *shares, config.discount, generator)
    policy = draw_distant_goals(transition_B, after_B, count, 0.0, config.policy_random_goals, None, generator)
    return value, policy
