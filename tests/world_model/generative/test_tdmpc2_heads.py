"""Rewards, values and the policy of TD-MPC2 by hand."""

from __future__ import annotations

import math

import pytest
import torch

from world_model.generative.tdmpc2_heads import GoalHeads, HeadsConfig, draw_pair, measure_entropy
from world_model.generative.two_hot import symlog

LATENTS, ACTIONS = 4, 2
CONFIG = HeadsConfig(hidden=8, num_values=3, bins=21, bin_range=(-3.0, 3.0), discount=0.9)


def heads(config: HeadsConfig = CONFIG) -> GoalHeads:
    torch.manual_seed(0)
    return GoalHeads(config, LATENTS, ACTIONS).eval()


def answer(network: torch.nn.Module, made: GoalHeads, value: float) -> None:
    """Make a network say this number, whatever it sees."""
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.copy_(made.two_hot.encode(torch.tensor(value)).clamp_min(1e-12).log())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(7))


def test_a_target_is_the_reward_and_the_discounted_smaller_value_of_two_random_members():
    made = heads()
    for member, value in zip(made.target_values.members, (-1.0, -2.0, -4.0), strict=True):
        answer(member, made, value)
    rewards, reached = torch.tensor([[-1.0, 0.0]]), torch.tensor([[False, True]])
    seen = set()
    for seed in range(20):
        targets = made.compute_targets(draw(1, 2, LATENTS), draw(1, 2, LATENTS), rewards, reached, generator(seed))
        assert targets[0, 1] == 0, "nothing follows a goal"
        seen.add(round(targets[0, 0].item(), 3))
    assert seen == {-1 - 0.9 * 2, -1 - 0.9 * 4}  # the smaller of (-1, -2), of (-1, -4) and of (-2, -4)


def test_pairs_are_different_and_all_are_drawn():
    pairs = [tuple(sorted(draw_pair(3, generator(seed)).tolist())) for seed in range(40)]
    assert set(pairs) == {(0, 1), (0, 2), (1, 2)}


def test_errors_are_cross_entropies_of_every_step():
    made = heads()
    answer(made.reward, made, -1.0)
    for member in made.values.members:
        answer(member, made, -2.0)
    known, rewards = draw(5, 2, 2 * LATENTS + ACTIONS), torch.full((5, 2), -1.0)
    targets = torch.tensor([-2.0, -2.0]).expand(5, 2)
    reward, value = made.measure_errors(known, rewards, targets, generator())
    entropies = []
    for x in (-1.0, -2.0):  # of two-hot weights w and 1 - w
        place = symlog(torch.tensor(x)).item() / 0.3
        share = place - math.floor(place)
        entropies.append(-sum(w * math.log(w) for w in (share, 1 - share)))
    assert torch.allclose(reward, torch.full((2,), entropies[0]), atol=1e-4)
    assert torch.allclose(value, torch.full((2,), entropies[1]), atol=1e-4)


def test_the_policys_loss_by_hand():
    """-(Q / S + c A H) at each of three steps, weighted by rho^t, over three."""
    made = heads()
    for member in made.values.members:
        answer(member, made, -2.0)
    made.spread.fill_(4.0)
    latents, goals, draws = draw(6, 3, LATENTS), draw(6, 3, LATENTS), generator(3)
    loss = made.compute_policy_loss(latents, goals, generator(3))
    noise = torch.randn(6, 3, ACTIONS, generator=draws)
    _, log_std = made.policy(torch.cat((latents, goals), -1))
    normal = torch.distributions.Normal(torch.zeros_like(log_std), log_std.exp())
    entropy = -normal.log_prob(noise * log_std.exp()).sum(-1)
    gains = -2.0 / 4.0 + 1e-4 * ACTIONS * entropy
    by_hand = -(gains.mean(0) * torch.tensor([1.0, 0.5, 0.25])).sum() / 3
    assert torch.allclose(loss, by_hand, atol=1e-5)
    assert torch.allclose(measure_entropy(noise, log_std), entropy, atol=1e-5)


def test_the_policy_climbs_values_that_get_no_gradient_from_it():
    made = heads()
    for member in made.values.members:
        torch.nn.init.normal_(member.last.weight)
    made.compute_policy_loss(draw(6, 2, LATENTS), draw(6, 2, LATENTS), generator()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.policy.parameters())
    assert all(p.grad is None for p in [*made.values.parameters(), *made.target_values.parameters()])


def test_targets_follow_by_a_hundredth_and_so_does_the_range_of_values():
    made = heads()
    before = [p.clone() for p in made.target_values.parameters()]
    with torch.no_grad():
        for parameter in made.values.parameters():
            parameter.add_(1.0)
    made.follow()
    for old, new in zip(before, made.target_values.parameters(), strict=True):
        assert torch.allclose(new, old + 0.01, atol=1e-6) and not new.requires_grad
    assert made.spread == 1.0, "outside of training nothing moves it"


def test_the_range_of_values_is_between_their_percentiles_and_at_least_one():
    made = heads(HeadsConfig(**{**vars(CONFIG), "num_values": 2, "target_rate": 0.25})).train()
    values = torch.linspace(-10, 10, 101)[:, None].expand(101, 2)  # 5 and 95 % at -9 and 9
    made.two_hot.decode = lambda logits: values.expand(2, 101, 2)
    made.compute_policy_loss(draw(101, 2, LATENTS), draw(101, 2, LATENTS), generator())
    assert made.spread == 1.0, "until the step is over"
    made.follow()
    assert made.spread.item() == pytest.approx(1 + 0.25 * 17)
    made.two_hot.decode = lambda logits: torch.zeros(2, 101, 2)
    made.compute_policy_loss(draw(101, 2, LATENTS), draw(101, 2, LATENTS), generator())
    made.follow()
    assert made.spread.item() == pytest.approx(5.25 + 0.25 * (1 - 5.25))


def test_a_return_is_the_discounted_rewards_and_the_discounted_mean_value_of_the_end():
    made = heads()
    answer(made.reward, made, -1.0)
    for member, value in zip(made.values.members, (-1.0, -2.0, -6.0), strict=True):
        answer(member, made, value)
    returns = made.estimate_return(draw(2, 5, 4, LATENTS), draw(2, 5, 3, ACTIONS), draw(2, LATENTS))
    assert torch.allclose(returns, torch.full((2, 5), -1 - 0.9 - 0.81 - 0.729 * 3), atol=1e-3)


def test_dropout_is_of_training_alone_and_a_function_of_its_generator():
    made, known = heads(), draw(4, 2, 2 * LATENTS + ACTIONS)
    for member in made.values.members:
        torch.nn.init.normal_(member.last.weight)
    rewards, many = torch.zeros(4, 2), HeadsConfig(**{**vars(CONFIG), "dropout": 0.5})
    made.config = many
    still = [made.measure_errors(known, rewards, rewards, generator(seed))[1] for seed in range(2)]
    made.train()
    moved = [made.measure_errors(known, rewards, rewards, generator(seed))[1] for seed in (0, 0, 1)]
    assert torch.equal(*still) and torch.equal(*moved[:2]) and not torch.equal(*moved[1:])
