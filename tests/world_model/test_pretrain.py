"""Stage 1: every objective trains, teachers move, no action is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.world_model.small import FUTURE, PIXELS, SIZES, VJEPA2, encoder, frames, moving_squares
from world_model.encoder import VideoEncoder
from world_model.objectives import TermsConfig, normalised_target
from world_model.pretrain import PretrainModel, embed_frames
from world_model.training import TrainerConfig, make_optimizer, train_step

OBJECTIVES = {
    "future": FUTURE,
    "future with a rollout": replace(FUTURE, rollout=2),
    "future with sigreg": replace(FUTURE, terms=TermsConfig(sigreg=0.1)),
    "future with a teacher": replace(FUTURE, teacher="ema"),
    "future of tokens": replace(VJEPA2, context="future", masks=(), context_frames=4),
    "vjepa2": VJEPA2,
    "masked pixels": replace(VJEPA2, target="pixels"),
    "pixel twin": PIXELS,
}
CONFIG = TrainerConfig(steps=40, lr=3e-3, warmup=1, schedule="constant")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_a_fixed_batch(name):
    torch.manual_seed(0)
    model = PretrainModel(VideoEncoder(SIZES), OBJECTIVES[name], steps=40)
    optimizer, batch = make_optimizer(model, CONFIG), {"pixels": moving_squares(4, OBJECTIVES[name].frames)}
    losses = [train_step(model, batch, optimizer, CONFIG, step)[0].item() for step in range(40)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses


def test_the_masked_loss_is_l1_to_the_layer_normed_teacher_at_hidden_places():
    model = PretrainModel(encoder(), replace(VJEPA2, masks=VJEPA2.masks[:1]), steps=1)
    made = model.predict(frames(2, 8), step=4)
    context, hidden = model._masks(2, 4, 4)[0]
    clip = model.encoder.normalise(frames(2, 8))
    target = normalised_target(model.teacher(clip))
    expected = (made.predicted[0] - target[torch.arange(2)[:, None], hidden]).abs().mean()
    loss, terms = model.loss({"pixels": frames(2, 8)}, step=4)
    torch.testing.assert_close(terms["prediction"], expected)
    assert not made.targets[0].requires_grad


def test_the_teacher_follows_slowly_and_gets_no_gradient():
    model = PretrainModel(encoder(), VJEPA2, steps=10)
    name = "blocks.0.mlp.fc1.weight"
    before = model.teacher.state_dict()[name].clone()
    train_step(model, {"pixels": frames(2, 8)}, make_optimizer(model, CONFIG), CONFIG, 0)
    student, teacher = model.encoder.state_dict()[name], model.teacher.state_dict()[name]
    torch.testing.assert_close(teacher, 0.9 * before + 0.1 * student)
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    assert model.trained_encoder is model.teacher


def test_predictions_of_the_future_do_not_see_it():
    model = PretrainModel(encoder(), replace(FUTURE, rollout=2), steps=1)
    clip = frames(2, 5)
    changed = clip.clone()
    changed[:, 3:] = 0
    first, second = model.predict(clip, 0).predicted, model.predict(changed, 0).predicted
    torch.testing.assert_close(first[0][:, :2], second[0][:, :2])  # frames 2 and 3, from frames 0 to 2
    torch.testing.assert_close(first[1][:, :1], second[1][:, :1])  # frame 3, from frames 0 and 1
    assert not torch.allclose(first[0][:, 2], second[0][:, 2])


def test_the_pixel_twin_is_judged_in_pixels():
    model = PretrainModel(encoder(), PIXELS, steps=1)
    made = model.predict(frames(2, 5), 0)
    assert made.predicted[0].shape == made.targets[0].shape == (2, 3, 64, 64, 3)
    torch.testing.assert_close(made.targets[0], model.encoder.normalise(frames(2, 5)).movedim(1, -1)[:, 2:])


def test_frames_embedded_in_chunks_equal_frames_embedded_at_once():
    model, clip = encoder(), frames(30, 5)
    torch.testing.assert_close(embed_frames(model, clip), model.pooled(model.encode_frames(clip)), atol=1e-5, rtol=1e-5)
