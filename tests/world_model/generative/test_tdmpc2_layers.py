"""Layers of TD-MPC2 against their equations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from world_model.generative.tdmpc2_layers import (
    Ensemble,
    GaussianPolicy,
    ImageEncoder,
    Mlp,
    NormedLinear,
    SimNorm,
    measure_maps,
    shift_frames,
)


def test_every_group_of_a_simnorm_sums_to_one():
    x = 5 * torch.randn(3, 4, 24)
    normed = SimNorm(8)(x)
    assert normed.shape == x.shape and (normed > 0).all()
    assert torch.allclose(normed.unflatten(-1, (3, 8)).sum(-1), torch.ones(3, 4, 3))


def test_a_simnorm_is_a_softmax_of_each_group_by_hand():
    x = torch.tensor([0.0, math.log(3), math.log(2), math.log(2)])
    assert torch.allclose(SimNorm(2)(x), torch.tensor([0.25, 0.75, 0.5, 0.5]))


def test_a_normed_linear_layer_is_mish_of_the_norm_of_the_map():
    layer = NormedLinear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    x = torch.tensor([[3.0, -1.0]])  # mean 1, deviation 2: normed to 1 and -1
    mish = [z * math.tanh(math.log(1 + math.exp(z))) for z in (1.0, -1.0)]
    assert torch.allclose(layer(x), torch.tensor([mish]), atol=1e-4)
    dropped = layer(x, torch.tensor([[0.0, 2.0]]))  # the map's outputs become 0 and -2: normed to 1 and -1
    assert torch.allclose(dropped, torch.tensor([mish]), atol=1e-4)
    assert not torch.allclose(layer(x, torch.tensor([[2.0, 0.0]]))[0, 1], dropped[0, 0])


def test_networks_begin_with_the_published_weights():
    torch.manual_seed(0)
    network, ensemble = Mlp(40, 64, 16, group=8), Ensemble(3, 40, 64, 5)
    for layer in (network.first, network.second, network.last):
        assert layer.bias.abs().max() == 0 and layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert ensemble(torch.randn(7, 40)).abs().max() == 0, "values begin as zero"
    assert not torch.equal(ensemble.members[0].first.weight, ensemble.members[1].first.weight)


def test_members_of_an_ensemble_have_their_own_dropout():
    ensemble, x = Ensemble(2, 4, 8, 3), torch.randn(5, 4)
    for member in ensemble.members:
        torch.nn.init.normal_(member.last.weight)
    keep = (torch.rand(2, 5, 8) > 0.3).float()
    alone = torch.stack([member(x, mask) for member, mask in zip(ensemble.members, keep, strict=True)])
    assert torch.equal(ensemble(x, keep), alone) and not torch.allclose(ensemble(x), alone)


@pytest.mark.parametrize("image_px", [(64, 64), (47, 102), (48, 64)])
def test_the_encoder_has_the_maps_that_are_told(image_px):
    encoder, (height, width) = ImageEncoder(9, 8, 8), measure_maps(image_px)
    latents = encoder(torch.randint(0, 256, (2, *image_px, 9), dtype=torch.uint8))
    assert latents.shape == (2, 8 * height * width)
    assert image_px != (64, 64) or (height, width) == (4, 4)


def test_the_encoder_is_four_convolutions_of_centred_pixels():
    encoder, frames = ImageEncoder(3, 8, 8), torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    x = frames.float().permute(0, 3, 1, 2) / 255 - 0.5
    for convolution, stride in zip(encoder.convolutions, (2, 2, 2, 1), strict=True):
        x = F.conv2d(x, convolution.weight, convolution.bias, stride)
        x = F.relu(x) if convolution is not encoder.convolutions[-1] else x
    assert torch.allclose(encoder(frames), SimNorm(8)(x.flatten(1)), atol=1e-6)


def test_a_layer_norm_before_the_simnorm_makes_frames_differ_more():
    torch.manual_seed(0)
    frames = torch.full((2, 64, 64, 9), 128, dtype=torch.uint8)
    frames[1, 20:40, 20:40] = 255
    plain, normed = ImageEncoder(9, 8, 8), ImageEncoder(9, 8, 8, normed=128)
    normed.convolutions.load_state_dict(plain.convolutions.state_dict())
    latents = [encoder(frames) for encoder in (plain, normed)]
    assert torch.allclose(latents[1].unflatten(-1, (-1, 8)).sum(-1), torch.ones(2, 16))
    spread = [(found[0] - found[1]).abs().mean() for found in latents]
    assert spread[1] > 5 * spread[0] > 0


def test_a_shift_moves_a_frame_and_repeats_its_border():
    frame = torch.arange(12).view(1, 3, 4, 1)
    down_and_left = shift_frames(frame, torch.tensor([[1, -2]]))[0, ..., 0]
    assert down_and_left.tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    assert torch.equal(shift_frames(frame, torch.tensor([[0, 0]])), frame)


def test_a_policy_acts_within_bounds_and_its_deviation_has_the_published_ones():
    torch.manual_seed(0)
    policy = GaussianPolicy(6, 16, 2, (-10.0, 2.0))
    torch.nn.init.normal_(policy.network.last.weight, std=50.0)
    x = torch.randn(300, 6)
    mean, log_std = policy(x)
    assert log_std.min() >= -10 and log_std.max() <= 2 and log_std.max() - log_std.min() > 10
    assert policy.act(x, torch.randn(300, 2)).abs().max() <= 1
    assert torch.equal(policy.act(x), mean.tanh())


def test_the_deviation_of_a_policy_by_hand():
    policy = GaussianPolicy(3, 4, 1, (-10.0, 2.0))
    with torch.no_grad():
        policy.network.last.weight.zero_()
        policy.network.last.bias.copy_(torch.tensor([0.5, math.atanh(0.5)]))
    mean, log_std = policy(torch.randn(1, 3))
    assert mean.item() == 0.5 and log_std.item() == pytest.approx(-10 + 0.5 * 12 * 1.5, abs=1e-5)
    action = policy.act(torch.randn(1, 3), torch.tensor([[2.0]]))
    assert action.item() == pytest.approx(math.tanh(0.5 + 2 * math.exp(-1)), abs=1e-5)
