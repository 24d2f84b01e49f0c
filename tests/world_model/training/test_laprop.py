"""LaProp and adaptive clipping against their formulas, by hand and on a quadratic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from world_model.training.laprop import LaProp, clip_adaptively
from world_model.training.loop import TrainerConfig, make_optimizer


def test_three_steps_are_those_of_the_formula():
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer, value = LaProp([p], lr=0.1, betas=(0.9, 0.99), eps=1e-20), p.detach().clone()
    v = m = torch.zeros(2)
    for count in range(1, 4):
        gradient = torch.tensor([0.5 * count, -1e-3])
        v = 0.99 * v + 0.01 * gradient**2
        m = 0.9 * m + 0.1 * gradient / (v / (1 - 0.99**count)).sqrt()
        value = value - 0.1 * m / (1 - 0.9**count)
        p.grad = gradient
        optimizer.step()
        assert torch.allclose(p, value, rtol=1e-5)


def test_the_first_step_has_the_size_of_the_learning_rate_whatever_the_gradient():
    small, large = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    small.grad, large.grad = torch.tensor([1e-6]), torch.tensor([-1e6])
    LaProp([small, large], lr=0.01).step()
    assert small.item() == pytest.approx(-0.01, rel=1e-3) and large.item() == pytest.approx(0.01, rel=1e-3)


def test_a_parameter_without_a_gradient_stays_and_one_at_rest_is_not_spoilt():
    still, zero = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    zero.grad = torch.zeros(2)
    LaProp([still, zero], lr=0.1).step()
    assert torch.equal(still, torch.ones(2)) and torch.equal(zero, torch.ones(2))


def test_clipping_limits_a_gradient_to_a_share_of_its_parameter():
    large, small, zero = (nn.Parameter(value) for value in (torch.tensor([3.0, 4.0]), torch.ones(1), torch.zeros(2)))
    large.grad, small.grad, zero.grad = torch.tensor([30.0, 40.0]), torch.tensor([0.1]), torch.tensor([0.0, 7.0])
    clip_adaptively([large, small, zero], 0.3)
    assert large.grad.norm().item() == pytest.approx(1.5) and small.grad.item() == pytest.approx(0.1)
    assert zero.grad.norm().item() == pytest.approx(0.3e-3)


def test_the_loop_makes_it_and_it_finds_a_minimum():
    model = nn.Linear(3, 1, bias=False)
    config = TrainerConfig(optimizer="laprop", lr=0.03, weight_decay=0.0)
    optimizer, x = make_optimizer(model, config), torch.randn(64, 3)
    wanted = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(x) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert isinstance(optimizer, LaProp) and loss.item() < 1e-3
