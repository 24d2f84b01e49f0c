"""Objectives against their equations."""

from __future__ import annotations

import math

import pytest
import torch

from world_model.nn.decoder import PixelHeadConfig
from world_model.objectives.end_to_end import EndToEndConfig
from world_model.objectives.future import FutureConfig
from world_model.objectives.losses import (
    ClipTerms,
    FutureTerms,
    TermsConfig,
    compute_anti_collapse,
    constant_predictor_loss,
    contrast_within_clips,
    covariance,
    normalise_target,
    regression,
    sigreg,
    variance_hinge,
)
from world_model.objectives.masked import MaskedConfig


def test_variance_hinge_is_zero_for_spread_features_and_one_for_a_constant():
    wide = 3 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    assert variance_hinge(wide) == 0
    assert abs(variance_hinge(torch.ones(10, 5)) - 0.99) < 0.001  # 1 - sqrt(1e-4)


def test_covariance_is_the_sum_of_squared_off_diagonal_entries():
    features = torch.randn(50, 4, dtype=torch.float64)
    cov = torch.cov(features.T)
    expected = sum(cov[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    torch.testing.assert_close(covariance(features), expected)


def test_sigreg_is_least_for_a_standard_normal():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 8, generator=generator)
    values = {
        name: sigreg(x, torch.Generator().manual_seed(1)).item()
        for name, x in {
            "normal": normal,
            "narrow": 0.5 * normal,
            "wide": 2 * normal,
            "constant": torch.zeros(2000, 8),
            "shifted": normal + 1,
            "line": normal[:, :1].expand(-1, 8),
        }.items()
    }
    assert all(values[name] > 5 * values["normal"] for name in values if name != "normal"), values


def test_sigreg_equals_a_plain_sum_over_knots():
    features = torch.randn(30, 3, dtype=torch.float64)
    directions = torch.randn(3, 4, generator=torch.Generator().manual_seed(7)).double()
    directions = directions / directions.norm(dim=0)
    total = 0.0
    for direction in directions.T:
        h = features @ direction
        for number in range(17):
            t = number * 3.0 / 16
            weight = 2 * 3.0 / 16 * (0.5 if number in (0, 16) else 1.0)
            gauss = torch.exp(torch.tensor(-t * t / 2))
            total += weight * gauss * (((t * h).cos().mean() - gauss) ** 2 + (t * h).sin().mean() ** 2)
    expected = 30 * total / 4
    found = sigreg(features, torch.Generator().manual_seed(7), num_directions=4)
    assert abs(found - expected) < 1e-5


def test_only_terms_with_a_weight_are_computed():
    terms = compute_anti_collapse(torch.randn(8, 4), TermsConfig(variance=2.0, sigreg=0.1), torch.Generator())
    assert set(terms) == {"variance", "sigreg"}


def test_centred_terms_count_what_moves_within_a_clip_alone():
    still = torch.randn(8, 1, 4).expand(8, 5, 4)  # differs between clips, never moves
    moving = still + torch.randn(8, 5, 4)
    plain, centred = ClipTerms(variance=1.0), ClipTerms(variance=1.0, centred=True)
    assert torch.equal(plain.select(moving), moving.flatten(0, 1))
    spread = {name: variance_hinge(centred.select(x)) for name, x in (("still", still), ("moving", moving))}
    assert spread["still"] > 0.98 and spread["moving"] < 0.3
    assert variance_hinge(plain.select(still)) < 0.3
    assert plain.compute_between_clips(moving) == {}
    assert (
        centred.compute_between_clips(0.5 * moving)["between"]
        < 0.2
        < centred.compute_between_clips(4 * moving)["between"]
    )


def test_contrast_within_clips_is_blind_to_what_is_constant_within_a_clip():
    moving = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    constant = 5 * torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1)).expand(-1, 6, -1)
    chance = math.log(6)
    assert contrast_within_clips(constant[:, 2:], constant, 2, 0.1).item() == pytest.approx(chance)
    assert contrast_within_clips(moving[:, 2:], moving, 2, 0.1).item() < 0.01
    shifted = contrast_within_clips((moving + constant)[:, 2:], moving + constant, 2, 0.1)
    torch.testing.assert_close(shifted, contrast_within_clips(moving[:, 2:], moving, 2, 0.1), atol=1e-4, rtol=0)


def test_contrast_within_clips_equals_a_plain_sum_over_frames():
    draw = torch.Generator().manual_seed(0)
    predicted, embedded = torch.randn(2, 3, 4, generator=draw), torch.randn(2, 5, 4, generator=draw)
    losses = []
    for clip in range(2):
        for window in range(3):
            logits = [-((predicted[clip, window] - embedded[clip, t]) ** 2).mean() / 0.5 for t in range(5)]
            losses.append(torch.stack(logits).logsumexp(0) - logits[2 + window])
    found = contrast_within_clips(predicted, embedded, 2, 0.5)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_a_constant_predictor_is_beaten_by_the_truth_only():
    target = torch.randn(100, 6)
    assert constant_predictor_loss(target, "l2") == pytest.approx(target.var(0, unbiased=False).mean().item(), rel=1e-5)
    assert constant_predictor_loss(target, "l1") <= regression(torch.zeros(100, 6), target, "l1")


def test_targets_are_layer_normed_without_parameters():
    target = normalise_target(5 + 3 * torch.randn(2, 7, 16))
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(-1, unbiased=False), torch.ones(2, 7), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("config", "wrong", "said"),
    [
        (MaskedConfig, {"masks": ()}, "objective.masks is empty"),
        (FutureConfig, {"frames": 2, "context_frames": 2}, "give at least 3"),
        (FutureConfig, {"frames": 5, "rollout": 4}, "objective.rollout=4: give at least 6"),
        (FutureConfig, {"frames": 3, "shared_error": 0.0}, "objective.frames=3 holds one: give at least 4"),
        (EndToEndConfig, {"frames": 3}, "leaves nothing to predict"),
        (
            FutureConfig,
            {"pixels": PixelHeadConfig(), "terms": FutureTerms(contrast=1.0)},
            "objective.terms.contrast=1 compares embeddings",
        ),
    ],
)
def test_values_that_contradict_one_another_are_refused(config, wrong, said):
    with pytest.raises(ValueError, match=said):
        config(**wrong)
