"""The flow-matching head against mathematics: exact velocities, and distributions that it has to learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from world_model.nn.flow import FlowConfig, FlowHead, integrate


def test_the_exact_velocity_of_a_point_leads_there_in_any_number_of_steps():
    start, point = torch.randn(5, 3), torch.tensor([1.0, -2.0, 0.5])
    for steps in (1, 2, 4, 8):
        end = integrate(lambda x, t: (point - x) / (1 - t), start, steps)
        torch.testing.assert_close(end, point.expand(5, 3))


def test_the_exact_velocity_of_a_gaussian_carries_noise_to_it_with_an_error_that_halves_with_the_step():
    """N(m, s^2) in one dimension: E[x_1 - x_0 | x_t] is linear in x_t, and its flow takes x_0 to m + s x_0."""
    mean, std, start = 1.5, 0.4, torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        slope = (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2)
        return mean + slope * (x - t * mean)

    errors = [(integrate(velocity, start, n) - mean - std * start).abs().max() for n in (64, 128, 256)]
    assert errors[0] < 0.05
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05) == errors[2] / errors[1]
    torch.testing.assert_close(integrate(velocity, start, 1), torch.full((1000,), mean))  # one step: the mean


def make_head(depth: int = 2, of_change: bool = False) -> FlowHead:
    """A head of 5 numbers to 3, shaken so that every weight matters."""
    torch.manual_seed(0)
    head = FlowHead(5, 3, FlowConfig(4, 8, depth), of_change)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head


@pytest.mark.parametrize("of_change", [False, True])
def test_the_loss_is_the_weighted_error_of_the_velocity(of_change):
    """(1 - t)^2 || v - (x_1 - x_0) ||^2, with v from one Euler step of the sampler's own velocity."""
    head, rows = make_head(of_change=of_change), (7, 4)
    hidden, before, target, noise = (torch.randn(*rows, size) for size in (5, 3, 3, 3))
    time = torch.rand(*rows, 1)
    x_1 = target - before if of_change else target
    x_t = (1 - time) * noise + time * x_1
    end = head.predict_end(x_t, time, head.proj(hidden), head.read_hidden(hidden))
    velocity = (end - x_t) / (1 - time)
    wanted = ((1 - time) ** 2 * (velocity - (x_1 - noise)) ** 2).mean()
    torch.testing.assert_close(head.compute_loss(hidden, before, target, time, noise), wanted)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_sample_is_euler_steps_of_the_velocity_and_adds_a_change_to_the_frame_before(depth):
    head, changes = make_head(depth), make_head(depth, of_change=True)
    hidden, before, noise = (torch.randn(2, 4, size) for size in (5, 3, 3))
    x = noise
    for step in range(4):
        time = torch.tensor([step / 4])
        end = head.predict_end(x, time, head.proj(hidden), head.read_hidden(hidden))
        x = x + (end - x) / (1 - step / 4) / 4
    torch.testing.assert_close(head.sample(hidden, before, noise), x)
    torch.testing.assert_close(changes.sample(hidden, before, noise), before + x)
    shared = head.sample(hidden, before, noise[:1])
    torch.testing.assert_close(shared, head.sample(hidden, before, noise[:1].expand(2, -1, -1)))


def test_a_new_head_draws_what_a_new_regression_head_predicts():
    torch.manual_seed(0)
    head, hidden = FlowHead(5, 3, FlowConfig(), False), torch.randn(6, 5)
    for steps in (1, 4):
        head.steps = steps
        torch.testing.assert_close(head.sample(hidden, hidden, torch.randn(6, 3)), head.proj(hidden))


def make_forks(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers h [count, 2] and targets h + (1, 1) or h - (1, 1), as likely."""
    hidden = torch.randn(count, 2, generator=generator)
    sign = 2.0 * torch.randint(0, 2, (count, 1), generator=generator) - 1
    return hidden, hidden + sign


def test_a_trained_head_draws_both_branches_where_a_regression_gives_their_mean():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    head, mean = FlowHead(2, 2, FlowConfig(8, 48), False), torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([*head.parameters(), *mean.parameters()], lr=5e-3)
    for _ in range(400):
        hidden, target = make_forks(256, generator)
        time, noise = torch.rand(256, 1, generator=generator), torch.randn(256, 2, generator=generator)
        loss = head.compute_loss(hidden, target, target, time, noise) + F.mse_loss(mean(hidden), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        hidden, _ = make_forks(2000, generator)
        offset = head.sample(hidden, hidden, torch.randn(2000, 2, generator=generator)) - hidden
        regressed = mean(hidden) - hidden
        head.steps = 1
        single = head.sample(hidden, hidden, torch.randn(2000, 2, generator=generator)) - hidden
    assert regressed.abs().mean() < 0.15, "the regression head is between the branches"
    assert ((offset.abs() - 1).abs().amax(1) < 0.3).float().mean() > 0.75, "most samples lie on a branch"
    assert (offset > 0).float().mean() == pytest.approx(0.5, abs=0.1), "on either"
    assert single.abs().mean() < 0.4, "one Euler step gives about the mean"
