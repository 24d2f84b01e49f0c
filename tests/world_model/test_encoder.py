"""The video encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import repeat

from tests.world_model.small import POOLS, SIZES, encoder, frames
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.layers import gather_tokens
from world_model.nn.stem import ConvStemConfig, LinearStemConfig


def test_a_frame_alone_equals_the_frame_repeated_to_one_tubelet():
    model, clip = encoder(), frames(2, 1)
    alone = model.encode_frames(clip)[:, 0]
    repeated = model(model.normalise(repeat(clip, "b 1 h w c -> b t h w c", t=2)))
    torch.testing.assert_close(alone, repeated, atol=1e-5, rtol=1e-5)


def test_a_convolutional_stem_keeps_the_encoder_s_promises():
    model, clip = encoder(config=replace(SIZES, stem=ConvStemConfig())), frames(2, 4)
    normalised = model.normalise(clip)
    assert model(normalised).shape == (2, 32, 24)
    alone = model.encode_frames(clip[:, :1])[:, 0]
    repeated = model(model.normalise(repeat(clip[:, :1], "b 1 h w c -> b t h w c", t=2)))
    torch.testing.assert_close(alone, repeated, atol=1e-5, rtol=1e-5)
    few = torch.tensor([[3, 30], [17, 0]])
    torch.testing.assert_close(
        model.patch_embed(normalised, few), gather_tokens(model.patch_embed(normalised), few), atol=1e-6, rtol=1e-6
    )
    changed = normalised.clone()
    changed[:, :, 2:, 16, 32] += 1  # second tubelet, where the third token of its second row is centred
    moved = (model.patch_embed(changed) - model.patch_embed(normalised)).abs().amax(-1)[0]
    assert moved[:16].max() == 0 and moved[16:].argmax() == 4 + 2  # not in time, and most where it was


def test_a_convolutional_stem_starts_with_tokens_as_large_as_those_of_patches():
    stems = LinearStemConfig(), ConvStemConfig()
    made = {stem.kind: VideoEncoder(EncoderConfig(patch_px=16, width=128, stem=stem)) for stem in stems}
    stds = {stem: model.patch_embed(torch.randn(4, 3, 2, 64, 64)).std().item() for stem, model in made.items()}
    assert 0.3 < stds["conv"] / stds["linear"] < 3, stds


def test_a_convolutional_stem_needs_patches_that_can_be_halved():
    with pytest.raises(ValueError, match="patch_px=12 is not a power of two"):
        replace(SIZES, stem=ConvStemConfig(), patch_px=12, image_px=(48, 48))


def test_frames_are_encoded_independently_of_their_neighbours():
    model, clip = encoder(), frames(1, 3)
    torch.testing.assert_close(
        model.encode_frames(clip)[:, 1:2], model.encode_frames(clip[:, 1:2]), atol=1e-5, rtol=1e-5
    )


def test_tokens_of_a_clip_come_in_raster_order_time_slowest():
    model, clip = encoder(), frames(1, 4)
    normalised = model.normalise(clip)
    embedded = model.patch_embed(normalised)
    changed = normalised.clone()
    changed[:, :, 2:, 16:32, 32:48] += 1  # second tubelet, second row, third column
    moved = (model.patch_embed(changed) != embedded).any(-1)[0].nonzero().flatten().tolist()
    assert moved == [16 + 1 * 4 + 2]


def test_listed_tokens_know_their_places():
    model, clip = encoder(), frames(2, 4)
    normalised = model.normalise(clip)
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(model(normalised, everything), model(normalised), atol=1e-5, rtol=1e-5)
    shuffled = everything[:, torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    found = model(normalised, shuffled)
    torch.testing.assert_close(
        found, model(normalised).gather(1, shuffled[..., None].expand(-1, -1, 24)), atol=1e-5, rtol=1e-5
    )


def test_pixels_are_normalised_by_the_buffers():
    model = encoder()
    model.set_pixel_statistics(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 4.0, 0.0]))
    clip = torch.full((1, 1, 64, 64, 3), 30, dtype=torch.uint8)
    torch.testing.assert_close(model.normalise(clip)[0, :, 0, 0, 0], torch.tensor([10.0, 2.5, 0.0]))
    assert {"pixel_mean", "pixel_std"} <= set(model.state_dict())


def test_without_a_pool_head_the_embedding_is_the_mean_token():
    model = encoder(config=replace(SIZES, pool=None))
    tokens = model.encode_frames(frames(1, 2))
    torch.testing.assert_close(model.pool_tokens(tokens), tokens.mean(2))


def test_a_patch_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ValueError, match="patch_px=12"):
        EncoderConfig(patch_px=12)


VARIANTS = {
    "swiglu": {"feedforward": "swiglu"},
    "levels": {"levels": (0, 1)},
    "a patch embedding for images": {"stem": LinearStemConfig(images=True)},
    "causal": {"causal": True},
    "tiled": {"rope": "tiled"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_the_tokens_and_takes_clips_of_other_sizes(name):
    plain, varied = encoder(), encoder(config=replace(SIZES, **VARIANTS[name]))
    clip = plain.normalise(frames(1, 4))
    assert not torch.allclose(varied(clip), plain(clip), atol=1e-3)
    assert varied(torch.randn(2, 3, 6, 48, 32)).shape == (2, 3 * 3 * 2, 24)
    assert varied.encode_frames(frames(2, 3)).shape == (2, 3, 16, 24)
    with pytest.raises(ValueError, match="does not divide"):
        varied(torch.randn(1, 3, 3, 64, 64))


def test_another_resolution_is_seen_within_the_trained_extent():
    model = encoder(config=replace(SIZES, positions_px=SIZES.image_px))
    places = model.make_positions((1, 8, 8), torch.device("cpu"))
    assert places[:, 1:].max() == 3 and places[9].tolist() == pytest.approx([0, 3 / 7, 3 / 7])
    clip = torch.randn(1, 3, 2, 128, 128)
    assert not torch.allclose(model(clip), encoder()(clip), atol=1e-3)
    at_home = torch.randn(1, 3, 2, 64, 64)
    torch.testing.assert_close(model(at_home), encoder()(at_home))


def test_levels_are_normed_each_by_itself_and_blocks_by_the_last_norm():
    model = encoder(config=replace(SIZES, levels=(0, 1)))
    clip = torch.randn(1, 3, 4, 64, 64)
    first, last = model.encode_levels(clip)
    torch.testing.assert_close(model(clip), last)
    chosen = model.encode_levels(clip, blocks=(0, 1))
    torch.testing.assert_close(chosen[1], last)
    assert not torch.allclose(chosen[0], first)


@pytest.mark.parametrize("choice", ["selective", "full"])
def test_checkpointing_gives_the_same_gradients(choice):
    plain, saving = encoder(), encoder(config=replace(SIZES, checkpointing=choice))
    clip = torch.randn(2, 3, 4, 64, 64)
    for model in (plain, saving):
        model(clip).square().mean().backward()
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_levels_beyond_the_depth_and_uneven_heads_are_refused():
    for wrong, said in (({"levels": (1, 5)}, "ascending blocks of 0..1"), ({"heads": 5}, "heads=5")):
        with pytest.raises(ValueError, match=said):
            replace(SIZES, **wrong)


def test_positions_reach_as_far_as_those_of_another_size_where_one_is_given():
    config = EncoderConfig((64, 64), 8, 2, 24, 2, 2, pool=None, positions_px=(32, 32))
    places = VideoEncoder(config).make_positions((2, 8, 8), torch.device("cpu"))
    assert places.amax(0).tolist() == [1, 3, 3] and places[1].tolist() == pytest.approx([0, 0, 3 / 7])
    plain = VideoEncoder(replace(config, positions_px=None)).make_positions((2, 8, 8), torch.device("cpu"))
    assert plain.amax(0).tolist() == [1, 7, 7]


def test_principal_components_of_tokens_keep_distances_that_they_can_hold():
    made = encoder(config=replace(SIZES, pool=POOLS["principal"]))
    seen = frames(40)
    tokens = torch.cat([made.encode_frames(chunk[None])[0] for chunk in seen.split(20)])
    before = {name: value.clone() for name, value in made.state_dict().items() if not name.startswith("pool.")}
    made.pool.fit(tokens)
    flat = F.layer_norm(tokens, tokens.shape[-1:]).flatten(1).double()
    flat = flat - flat.mean(0)
    power = torch.linalg.svdvals(flat).square()
    embedded = made.pool_tokens(tokens[None])[0].double()
    # As many components as the pool has numbers: the strongest, uncorrelated, centred; nothing else moves.
    torch.testing.assert_close(embedded.T @ embedded, torch.diag(power[:12]), atol=1e-3 * power[0].item(), rtol=0)
    assert embedded.mean(0).abs().max() < 1e-3
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items() if name in before)
    assert not any(parameter.requires_grad for parameter in made.pool.parameters())


def test_fewer_frames_than_components_leave_the_rest_at_zero():
    made = encoder(config=replace(SIZES, pool=POOLS["principal"]))
    made.pool.fit(made.encode_frames(frames(1, 5))[0])
    assert made.pool_tokens(made.encode_frames(frames(1, 5)))[0, :, 4:].abs().max() == 0
