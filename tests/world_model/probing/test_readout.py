"""Readouts of frozen features: what is there is found, what is not is not, on samples never fitted on."""

from __future__ import annotations

import pytest
import torch

from world_model.probing.readout import KINDS, ReadoutConfig, Samples, fit_readouts, make_time_code, score_r2

CONFIG = ReadoutConfig(steps=150, batch_size=32, lrs=(3e-3, 1e-8), depth=2, heads=2)


def splits(values_of, n=240, width=8):
    """Tokens [n, 2, 3, D] of noise, and values read off them by a function."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, 2, 3, width, generator=generator)
    values = values_of(tokens, generator)
    parts = {"train": slice(0, 160), "val": slice(160, 200), "test": slice(200, n)}
    return {name: Samples(tokens[rows], values[rows]) for name, rows in parts.items()}


def mean_of_the_second_frame(tokens, _):
    return tokens[:, 1, :, :1].mean(1) * 3 + 5


@pytest.fixture(scope="module")
def found():
    return fit_readouts(splits(mean_of_the_second_frame), CONFIG, seed=0, device=torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_a_value_that_is_there(found, kind):
    assert found[kind]["r2"][0] > (0.95 if kind == "ridge" else 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_of_several_learning_rates_the_best_on_val_is_kept(found, kind):
    assert found[kind]["hyperparameters"]["lr"] == 3e-3  # 1e-8 learns nothing


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_not_read(kind):
    data = splits(lambda tokens, generator: torch.randn(len(tokens), 1, generator=generator))
    config = ReadoutConfig(kinds=(kind,), steps=20, batch_size=32, lrs=(1e-3,), depth=2, heads=2)
    assert fit_readouts(data, config, seed=0, device=torch.device("cpu"))[kind]["r2"][0] < 0.2


def test_what_is_reported_comes_from_test_alone():
    data = splits(mean_of_the_second_frame)
    config = ReadoutConfig(kinds=("ridge",))
    data["test"] = Samples(data["test"].tokens, data["test"].values.flip(0))
    found = fit_readouts(data, config, seed=0, device=torch.device("cpu"))["ridge"]
    assert found["val"] > 0.9 and found["r2"][0] < 0.2


def test_features_wider_than_samples_have_the_same_ridge_as_in_full():
    data = splits(mean_of_the_second_frame, width=40)  # 240 numbers a sample, 160 samples
    assert (
        fit_readouts(data, ReadoutConfig(kinds=("ridge",)), seed=0, device=torch.device("cpu"))["ridge"]["r2"][0] > 0.3
    )


def test_r2_is_one_minus_error_over_variance_and_zero_where_nothing_varies():
    values = torch.tensor([[0.0, 7.0], [2.0, 7.0]])
    assert score_r2(torch.tensor([[0.5, 7.0], [1.5, 7.0]]), values).tolist() == [0.75, 0.0]


def test_times_have_different_codes():
    code = make_time_code(5, 7)
    assert code.shape == (5, 1, 7)
    assert torch.cdist(code[:, 0], code[:, 0]).add(torch.eye(5)).min() > 0.1


def test_unknown_kinds_and_empty_grids_are_refused():
    with pytest.raises(ValueError, match="choose from ridge, linear, attentive"):
        ReadoutConfig(kinds=("knn",))
    with pytest.raises(ValueError, match="at least one value"):
        ReadoutConfig(lrs=())
