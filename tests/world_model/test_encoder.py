"""The video encoder."""

from __future__ import annotations

import pytest
import torch
from einops import repeat

from tests.world_model.small import SIZES, encoder, frames
from world_model.encoder import EncoderConfig


def test_a_frame_alone_equals_the_frame_repeated_to_one_tubelet():
    model, clip = encoder(), frames(2, 1)
    alone = model.encode_frames(clip)[:, 0]
    repeated = model(model.normalise(repeat(clip, "b 1 h w c -> b t h w c", t=2)))
    torch.testing.assert_close(alone, repeated, atol=1e-5, rtol=1e-5)


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
    config = EncoderConfig(**{**SIZES.__dict__, "pooled_dim": 0})
    model = encoder(config=config)
    tokens = model.encode_frames(frames(1, 2))
    torch.testing.assert_close(model.pooled(tokens), tokens.mean(2))


def test_a_patch_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ValueError, match="patch_px=12"):
        EncoderConfig(patch_px=12)
