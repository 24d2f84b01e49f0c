"""Objectives against their equations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from world_model.nn.decoder import PixelHeadConfig
from world_model.objectives.end_to_end import (
    EndToEndConfig,
    PathTerms,
    StepTerms,
    compute_path_terms,
    compute_step_terms,
)
from world_model.objectives.future import FutureConfig
from world_model.objectives.losses import (
    ClipTerms,
    FutureTerms,
    TermsConfig,
    compute_anti_collapse,
    constant_predictor_loss,
    contrast_within_clips,
    covariance,
    draw_directions,
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


def directions(size: int, count: int = 256, seed: int = 1) -> torch.Tensor:
    return draw_directions(size, count, torch.Generator().manual_seed(seed), torch.empty(0))


def test_sigreg_is_least_for_a_standard_normal():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 8, generator=generator)
    values = {
        name: sigreg(x, directions(8)).item()
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


def sum_over_knots(rows: list[list[float]], along: list[list[float]]) -> float:
    """The Epps-Pulley statistic times the number of rows, mean over directions, in plain Python."""
    total = 0.0
    for direction in along:
        h = [sum(a * b for a, b in zip(row, direction, strict=True)) for row in rows]
        for number in range(17):
            t = number * 3.0 / 16
            weight, gauss = 2 * 3.0 / 16 * (0.5 if number in (0, 16) else 1.0), math.exp(-t * t / 2)
            real, imaginary = (sum(f(t * x) for x in h) / len(h) for f in (math.cos, math.sin))
            total += weight * gauss * ((real - gauss) ** 2 + imaginary**2)
    return len(rows) * total / len(along)


@pytest.mark.parametrize(("batch", "steps", "size"), [(7, 4, 3), (2, 1, 5), (31, 2, 2)])
def test_sigreg_of_time_steps_equals_a_plain_sum_over_knots_of_each(batch, steps, size):
    embedded_BTD = torch.randn(batch, steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
    along = directions(size, 6).double()
    each = [sum_over_knots(embedded_BTD[:, t].tolist(), along.T.tolist()) for t in range(steps)]
    assert sigreg(embedded_BTD.transpose(0, 1), along).item() == pytest.approx(sum(each) / steps, rel=1e-6)
    flat = sum_over_knots(embedded_BTD.flatten(0, 1).tolist(), along.T.tolist())
    assert sigreg(embedded_BTD.flatten(0, 1), along).item() == pytest.approx(flat, rel=1e-6)
    found = compute_step_terms(
        embedded_BTD, StepTerms(sigreg=0.5, sigreg_directions=6), torch.Generator().manual_seed(1)
    )
    assert found["sigreg"].item() == pytest.approx(sum(each) / steps / 2, rel=1e-5)


def spread(values: list[float]) -> float:
    return 1 - math.sqrt(covary(values, values) + 1e-4)


def covary(first: list[float], second: list[float]) -> float:
    means = sum(first) / len(first), sum(second) / len(second)
    pairs = zip(first, second, strict=True)
    return sum((a - means[0]) * (b - means[1]) for a, b in pairs) / (len(first) - 1)


@pytest.mark.parametrize(("batch", "steps", "size"), [(5, 4, 3), (2, 3, 6), (9, 7, 2)])
def test_pldms_terms_equal_plain_sums(batch, steps, size):
    """The first frame over the batch; the later ones over time; covariances over all pairs of dimensions."""
    embedded = 0.7 * torch.randn(batch, steps, size, generator=torch.Generator().manual_seed(size))

    def hinge_and_covariance(columns: list[list[float]]) -> tuple[float, float]:
        pairs = [covary(columns[i], columns[j]) ** 2 for i in range(size) for j in range(size) if i != j]
        return sum(max(0.0, spread(column)) for column in columns) / size, sum(pairs) / len(pairs)

    first = hinge_and_covariance(embedded[:, 0].T.tolist())
    clips = [hinge_and_covariance(clip[1:].T.tolist()) for clip in embedded]
    later = [sum(values) / batch for values in zip(*clips, strict=True)]
    terms = compute_step_terms(embedded, StepTerms(variance=2.0, covariance=3.0), torch.Generator())
    assert [terms["variance"].item() / 2, terms["covariance"].item() / 3] == pytest.approx(first, rel=1e-5, abs=1e-6)
    terms = compute_path_terms(embedded, PathTerms(variance=2.0, covariance=3.0, smoothness=4.0))
    found = [terms["variance_time"].item() / 2, terms["covariance_time"].item() / 3]
    assert found == pytest.approx(later, rel=1e-5, abs=1e-6)
    moves = [(embedded[b, t + 1, d] - embedded[b, t, d]).item() ** 2 for b, t, d in ranges(batch, steps - 1, size)]
    assert terms["smoothness"].item() == pytest.approx(4 * sum(moves) / len(moves), rel=1e-5)


def ranges(*sizes: int) -> list[tuple[int, ...]]:
    return list(itertools.product(*map(range, sizes)))


@pytest.mark.parametrize(("rows", "size"), [(48, 64), (5, 3), (240, 17)])
def test_the_terms_of_other_objectives_are_what_they_were_bit_for_bit(rows, size):
    """VICReg's and SIGReg's terms of samples [N, D], as they were before end-to-end objectives had their own."""
    features = torch.randn(rows, size, generator=torch.Generator().manual_seed(rows))
    weights = FutureTerms(variance=5.0, covariance=5.0, sigreg=0.1, sigreg_directions=32)
    found = compute_anti_collapse(features, weights, torch.Generator().manual_seed(3))
    centred = features - features.mean(0)
    cov = centred.T @ centred / (rows - 1)
    drawn = torch.randn(size, 32, generator=torch.Generator().manual_seed(3))
    knots = torch.linspace(0.0, 3.0, 17)
    normal, area = torch.exp(-knots.square() / 2), torch.full((17,), 2 * 3.0 / 16)
    area[0] /= 2
    area[-1] /= 2
    phase = (features @ (drawn / drawn.norm(dim=0))).unsqueeze(-1) * knots
    distance = (phase.cos().mean(0) - normal).square() + phase.sin().mean(0).square()
    expected = {
        "variance": 5 * torch.relu(1 - (features.var(0) + 1e-4).sqrt()).mean(),
        "covariance": 5 * ((cov.square().sum() - cov.diagonal().square().sum()) / size),
        "sigreg": 0.1 * (rows * (distance * (area * normal)).sum(-1).mean()),
    }
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


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
            EndToEndConfig,
            {"frames": 2, "context_frames": 1, "path_terms": PathTerms(covariance=1.0)},
            "objective.path_terms.covariance compares the frames after the first, and objective.frames=2 has one",
        ),
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


def test_a_batch_of_one_clip_is_refused_where_terms_compare_clips():
    pldm = EndToEndConfig(terms=StepTerms(covariance=1.0))
    pldm.check_batch(2)
    EndToEndConfig().check_batch(1)  # SIGReg alone
    with pytest.raises(ValueError, match="objective.terms.covariance compares the clips of a batch, and batch_size=1"):
        pldm.check_batch(1)
