"""What TD-MPC2 predicts of a goal: rewards, values, and a policy that maximises them (arXiv 2310.16828).

All see a latent z beside the goal's latent g:

    reward  r^ = R(z, a, g)        values  q^ = Q(z, a, g), an ensemble        policy  a ~ p(z, g)

    target of a value      q[t] = r[t] + gamma min(two random members of Q-)(h(s[t+1]), a ~ p, g), r[t] at the goal
    loss of the policy     mean over t of  rho^t (-mean(two random members of Q)(z[t], a ~ p, g) / S - 1e-4 A H)

Q- is a slow copy of the ensemble, S the running range of values between their 5 and 95 % percentiles, at least 1, A the
number of actions and H the entropy before tanh: the published code's scaled entropy, of which nothing else is left.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.func import functional_call

from world_model.distributed import average
from world_model.generative.tdmpc2_layers import Ensemble, GaussianPolicy, Mlp
from world_model.generative.two_hot import TwoHot

PERCENTILES = (0.05, 0.95)  # of values, whose range is the policy's unit
LEAST_RANGE = 1.0


@dataclass(frozen=True)
class HeadsConfig:
    """Sizes and losses of rewards, values and the policy."""

    hidden: Annotated[int, Ge(1)] = 384
    """width of the hidden layers"""
    num_values: Annotated[int, Ge(2)] = 2
    """members of the ensemble of values"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.01
    """share of the first hidden layer of values that is dropped in training"""
    bins: Annotated[int, Ge(2)] = 101
    """bins of rewards and values"""
    bin_range: tuple[float, float] = (-10.0, 10.0)
    """outermost bins, in symlog space"""
    discount: Annotated[float, Interval(gt=0, lt=1)] = 0.95
    """discount of a model step"""
    rho: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """weight of an imagined step in the losses, relative to the step before"""
    entropy: Annotated[float, Ge(0)] = 1e-4
    """weight of the policy's entropy, relative to values in units of their range"""
    log_std: tuple[float, float] = (-10.0, 2.0)
    """bounds of the policy's log standard deviation"""
    target_rate: Annotated[float, Interval(gt=0, le=1)] = 0.01
    """share by which target values and the range of values follow, a step"""

    def __post_init__(self) -> None:
        for key, (low, high) in (("bin_range", self.bin_range), ("log_std", self.log_std)):
            if low >= high:
                raise ValueError(f"objective.{key}=[{low},{high}]: give the lower bound first, and a higher one")


class GoalHeads(nn.Module):
    """Rewards, values and policy. latents: numbers of a latent. action_dim: of an action block in -1 to 1."""

    spread: Tensor

    def __init__(self, config: HeadsConfig, latents: int, action_dim: int) -> None:
        super().__init__()
        self.config, self.action_dim = config, action_dim
        inputs = 2 * latents + action_dim
        self.reward = Mlp(inputs, config.hidden, config.bins)
        nn.init.zeros_(self.reward.last.weight)
        self.values = Ensemble(config.num_values, inputs, config.hidden, config.bins)
        self.policy = GaussianPolicy(2 * latents, config.hidden, action_dim, config.log_std)
        self.target_values = copy.deepcopy(self.values).requires_grad_(False)
        self.two_hot = TwoHot(config.bins, *config.bin_range)
        self.register_buffer("spread", torch.ones(()))
        self._next_spread: Tensor | None = None

    # -- losses --------------------------------------------------------------------------------------------------

    def measure_errors(
        self, known_BTI: Tensor, rewards_BT: Tensor, targets_BT: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropies [T] of rewards and of values, for latents, actions and goals side by side [B, T, I]."""
        reward = self.two_hot.cross_entropy(self.reward(known_BTI), rewards_BT).mean(0)
        logits = self.values(known_BTI, self._draw_dropout(known_BTI, generator))
        return reward, self.two_hot.cross_entropy(logits, targets_BT.expand(logits.shape[:-1])).mean((0, 1))

    @torch.no_grad()
    def compute_targets(
        self, next_BTD: Tensor, goal_BTD: Tensor, rewards_BT: Tensor, reached_BT: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Targets of values [B, T]. next_BTD: latents after the transitions. reached_BT: bool, at which the goal is
        reached, so that nothing follows."""
        noise = self.draw_noise(next_BTD, generator)
        actions = self.policy.act(torch.cat((next_BTD, goal_BTD), -1), noise)
        values = self.two_hot.decode(self.target_values(torch.cat((next_BTD, actions, goal_BTD), -1)))
        least = values[draw_pair(len(values), generator)].amin(0)
        return rewards_BT + self.config.discount * least * ~reached_BT

    def compute_policy_loss(self, latents_BTD: Tensor, goal_BTD: Tensor, generator: torch.Generator) -> Tensor:
        """The policy's loss; values get no gradient. In training it moves the range of values."""
        noise = self.draw_noise(latents_BTD, generator)
        mean, log_std = self.policy(torch.cat((latents_BTD, goal_BTD), -1))
        actions = (mean + noise * log_std.exp()).tanh()
        fixed = {name: value.detach() for name, value in self.values.named_parameters()}
        logits = functional_call(self.values, fixed, (torch.cat((latents_BTD, actions, goal_BTD), -1),))
        values = self.two_hot.decode(logits)[draw_pair(len(logits), generator)].mean(0)
        spread = self.spread
        if self.training:
            low, high = average(values[:, 0].detach().quantile(values.new_tensor(PERCENTILES)))
            spread = spread.lerp((high - low).clamp_min(LEAST_RANGE), self.config.target_rate)
            self._next_spread = spread
        entropy = self.action_dim * measure_entropy(noise, log_std)
        gains_T = (values / spread + self.config.entropy * entropy).mean(0)
        return -(self.weigh_steps(gains_T) * gains_T).mean()

    def weigh_steps(self, values_T: Tensor) -> Tensor:
        """rho^t [T]."""
        return self.config.rho ** torch.arange(len(values_T), device=values_T.device)

    def draw_noise(self, latents_BTD: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal numbers [B, T, A]; drawn on the CPU, the same for every device."""
        shape = (*latents_BTD.shape[:2], self.action_dim)
        return torch.randn(shape, generator=generator).to(latents_BTD.device)

    def _draw_dropout(self, known_BTI: Tensor, generator: torch.Generator) -> Tensor | None:
        """Factors [E, B, T, hidden] of the first layer of values; None outside of training."""
        share = self.config.dropout
        if not (self.training and share):
            return None
        shape = (self.config.num_values, *known_BTI.shape[:2], self.config.hidden)
        return ((torch.rand(shape, generator=generator) >= share) / (1 - share)).to(known_BTI.device)

    @torch.no_grad()
    def follow(self) -> None:
        """Let target values and the range of values follow what was learned in a step."""
        rate = self.config.target_rate
        torch._foreach_lerp_(list(self.target_values.parameters()), list(self.values.parameters()), rate)
        if self._next_spread is not None:
            self.spread.copy_(self._next_spread)

    # -- plans ---------------------------------------------------------------------------------------------------

    def estimate_return(self, path_BSKD: Tensor, actions_BSKA: Tensor, goal_BD: Tensor) -> Tensor:
        """return_BS of K action blocks in -1 to 1 and the K + 1 latents around them: the sum of gamma^k R(z_k, a_k, g),
        and gamma^K Q(z_K, a, g), the mean of all members, of the policy's mean action there."""
        steps, gamma = actions_BSKA.shape[2], self.config.discount
        goals = goal_BD[:, None, None].expand_as(path_BSKD)
        rewards = self.two_hot.decode(self.reward(torch.cat((path_BSKD[:, :, :-1], actions_BSKA, goals[:, :, 1:]), -1)))
        end, goal = path_BSKD[:, :, -1], goals[:, :, -1]
        action = self.policy.act(torch.cat((end, goal), -1))
        value = self.two_hot.decode(self.values(torch.cat((end, action, goal), -1))).mean(0)
        return rewards @ gamma ** torch.arange(steps, device=rewards.device) + gamma**steps * value


def draw_pair(count: int, generator: torch.Generator) -> Tensor:
    """Two different members of `count`, int64 [2]."""
    return torch.randperm(count, generator=generator)[:2]


def measure_entropy(noise: Tensor, log_std: Tensor) -> Tensor:
    """-ln N(x; mean, std) [...] of x = mean + noise std, nats. noise, log_std: [..., A]."""
    return (0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)
