"""Symlog and two-hot numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from world_model.generative.two_hot import TwoHot, symexp, symlog


def test_symlog_is_the_logarithm_of_one_more_on_both_sides_and_symexp_undoes_it():
    x = torch.tensor([0.0, math.e - 1, 1 - math.e, 99.0])
    assert torch.allclose(symlog(x), torch.tensor([0.0, 1.0, -1.0, math.log(100)]))
    assert torch.allclose(symexp(symlog(x)), x, rtol=1e-5)


def test_a_number_between_two_bins_is_shared_by_how_near_they_are():
    two_hot = TwoHot(5, -2.0, 2.0)  # bins at -2, -1, 0, 1, 2
    x = symexp(torch.tensor([0.25, -1.0, -1.9, 2.0, 7.0]))
    want = [[0, 0, 0.75, 0.25, 0], [0, 1, 0, 0, 0], [0.9, 0.1, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    assert torch.allclose(two_hot.encode(x), torch.tensor(want), atol=1e-5)


def test_numbers_within_the_published_bins_come_back():
    two_hot = TwoHot(101, -10.0, 10.0)
    x = torch.tensor([[-20.0, -1.0, -0.37], [0.0, 0.02, 1500.0]])
    assert torch.allclose(two_hot.decode(two_hot.encode(x).clamp_min(1e-30).log()), x, rtol=1e-4, atol=1e-5)


def test_the_number_of_logits_is_symexp_of_the_mean_bin():
    two_hot = TwoHot(3, -1.0, 1.0)
    logits = torch.tensor([0.2, 0.3, 0.5]).log()
    assert two_hot.decode(logits).item() == pytest.approx(math.exp(0.3) - 1, rel=1e-5)  # 0.5 - 0.2
    assert two_hot.decode(torch.zeros(4, 3)).abs().max() < 1e-6


def test_the_cross_entropy_is_that_of_the_two_weights():
    two_hot, x = TwoHot(3, -1.0, 1.0), symexp(torch.tensor([0.25]))  # weights 0, 0.75, 0.25
    logits = torch.tensor([[0.2, 0.3, 0.5]]).log()
    by_hand = -(0.75 * math.log(0.3) + 0.25 * math.log(0.5))
    assert two_hot.cross_entropy(logits, x).item() == pytest.approx(by_hand, rel=1e-5)
