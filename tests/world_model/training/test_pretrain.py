"""Stage 1: every objective trains, teachers move, no action is read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.world_model.small import (
    DATA2VEC,
    FUTURE,
    IJEPA,
    LEWM,
    NEPA,
    PIXELS,
    PLDM,
    SIZES,
    VAE,
    VIDEOMAE,
    VJEPA2,
    VJEPA21,
    encoder,
    frames,
    moving_squares,
)
from world_model.actions import ActionSpec
from world_model.distributed import SINGLE_PROCESS, WorldInfo
from world_model.encoder import VideoEncoder
from world_model.nn.stem import ConvStemConfig
from world_model.objectives.losses import FutureTerms, normalise_target
from world_model.objectives.masked import ContextLoss, PixelTargets, find_moving_tokens, weigh_context
from world_model.objectives.masking import FutureMask
from world_model.objectives.metric import MetricConfig
from world_model.objectives.objective import TeacherConfig
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

OBJECTIVES = {
    "future": FUTURE,
    "future with a rollout": replace(FUTURE, rollout=2),
    "future with sigreg": replace(FUTURE, terms=FutureTerms(sigreg=0.1)),
    "future with a teacher": replace(FUTURE, teacher=TeacherConfig()),
    "future of tokens": replace(VJEPA2, masks=(FutureMask(2),)),
    "vjepa2": VJEPA2,
    "vjepa21": VJEPA21,
    "ijepa": IJEPA,
    "data2vec": DATA2VEC,
    "videomae": VIDEOMAE,
    "nepa": NEPA,
    "vae": VAE,
    "future with infonce": replace(FUTURE, terms=FutureTerms(infonce=1.0)),
    "pixel baseline": PIXELS,
    "lewm": LEWM,
    "pldm": PLDM,
}
ACTIONS = ActionSpec((-1.0, 0.0), (1.0, 4.0))
CONFIG = TrainerConfig(steps=40, lr=3e-3, warmup=1, schedule="constant")


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_a_fixed_batch(name):
    torch.manual_seed(0)
    objective = OBJECTIVES[name]
    actions = ACTIONS if objective.reads_actions else None
    model = PretrainModel(VideoEncoder(objective.adapt_encoder(SIZES)), objective, steps=40, actions=actions)
    optimizer, batch = make_optimizer(model, CONFIG), {"pixels": moving_squares(4, objective.frames)}
    if objective.reads_actions:
        batch["action"] = torch.rand(4, objective.frames - 1, 2)
    losses = [train_step(model, batch, optimizer, CONFIG, step)[0].item() for step in range(40)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses


def test_the_masked_loss_is_l1_to_the_layer_normed_teacher_at_hidden_places():
    model = PretrainModel(encoder(), replace(VJEPA2, masks=VJEPA2.masks[:1]), steps=1)
    made = model.objective.predict(model.encoder, {"pixels": frames(2, 8)}, step=4)
    hidden = model.objective.sample_masks(2, (4, 4, 4), 4)[0].targets_BP[0]
    clip = model.encoder.normalise(frames(2, 8))
    target = normalise_target(model.objective.teacher(clip))
    expected = (made.predicted[0] - target[torch.arange(2)[:, None], hidden]).abs().mean()
    loss, terms = model.loss({"pixels": frames(2, 8)}, step=4)
    torch.testing.assert_close(terms["prediction"], expected)
    assert not made.targets[0].requires_grad


def test_a_reconstruction_beside_features_reaches_the_encoder_with_its_weight():
    torch.manual_seed(0)
    batch, losses, gradients = {"pixels": frames(2, 8)}, [], []
    for weight in (1.0, 2.0):
        torch.manual_seed(1)
        model = PretrainModel(encoder(), replace(VJEPA2, reconstruction=weight), 2)
        loss, terms = model.loss(batch, 0)
        painter, pixels = model.objective.painter, PixelTargets()
        assert painter.weight.shape == (pixels.out_dim(SIZES), SIZES.width)
        model.zero_grad()
        terms["reconstruction"].backward()
        losses.append(terms["reconstruction"].item())
        gradients.append(model.encoder.patch_embed.proj.weight.grad.norm().item())
    assert losses[1] == pytest.approx(2 * losses[0]) and losses[0] > 0.1
    assert gradients[1] == pytest.approx(2 * gradients[0], rel=1e-3) and gradients[0] > 0
    assert "reconstruction" not in PretrainModel(encoder(), VJEPA2, 2).loss(batch, 0)[1]
    with pytest.raises(ValueError, match="objective.targets.kind=pixels predicts pixels already"):
        replace(VIDEOMAE, reconstruction=1.0)


def test_the_autoencoder_draws_each_frame_from_its_own_noisy_tokens():
    """arXiv 1312.6114, eq. 10, with means over numbers instead of sums; and it learns to draw."""
    torch.manual_seed(0)
    model, batch = PretrainModel(encoder(), VAE, 4), {"pixels": frames(2, 3)}
    objective = model.objective
    _, terms = model.loss(batch, 1)
    mean = model.encoder.encode_frames(batch["pixels"])
    variance = math.exp(-2.0)  # at the start, everywhere
    noise = objective.draw_noise(mean, 1, SINGLE_PROCESS)
    drawn = objective.decode(model.encoder, mean + variance**0.5 * noise)
    target = model.encoder.normalise(batch["pixels"]).movedim(1, -1)
    torch.testing.assert_close(terms["prediction"], (drawn - target).square().mean())
    divergence = 0.5 * (mean.square() + variance - 1 + 2.0).mean()
    torch.testing.assert_close(terms["kl"], 1e-3 * divergence)
    two = WorldInfo(rank=1, world=2)  # the second process's rows of a batch of four
    assert torch.equal(
        objective.draw_noise(mean, 1, two), objective.draw_noise(mean.repeat(2, 1, 1, 1), 1, SINGLE_PROCESS)[2:]
    )
    alone = objective.decode(model.encoder, mean)
    mean[0, 1] += 1.0
    changed = (objective.decode(model.encoder, mean) != alone).flatten(2).any(2)
    assert changed.tolist() == [[False, True, False], [False, False, False]]


def test_tokens_move_where_a_pixel_changes_from_one_frame_to_the_next():
    clip = torch.full((1, 4, 16, 16, 3), 100, dtype=torch.uint8)
    clip[0, 2, 3, 12, 1] = 120  # a pixel that flashes in the third of four frames
    clip[0, :, 9, 1, 0] += torch.tensor([0, 3, 0, 3], dtype=torch.uint8)  # noise
    moving = find_moving_tokens(clip, tubelet=1, patch_px=8).view(4, 2, 2)
    assert moving[:, 0, 1].tolist() == [False, True, True, True] and moving.sum() == 3
    assert find_moving_tokens(clip, tubelet=2, patch_px=8).view(2, 2, 2).nonzero().tolist() == [[0, 0, 1], [1, 0, 1]]


def test_the_share_of_hidden_tokens_that_move_is_logged():
    config = replace(VJEPA2, masks=(FutureMask(3),))  # of four steps the last is hidden
    model, batch = PretrainModel(encoder(), config, 2), {"pixels": moving_squares(2, 8)}
    batch["pixels"][:, -2:] = batch["pixels"][:, -3:-2]  # at rest at the end
    _, terms = model.loss(batch, 0)
    assert terms["hidden_moving"] == 0 and terms["moving"] > 0.1


def test_masks_that_are_drawn_ahead_change_no_number():
    model, batch = PretrainModel(encoder(), VJEPA2, steps=1), {"pixels": frames(2, 8)}
    prepared = model.prepare(batch, 4)
    assert batch.keys() < prepared.keys() and prepared["mask1.hidden0"].shape[0] == 2
    drawn, ahead = model.loss(batch, 4), model.loss(prepared, 4)
    assert torch.equal(drawn[0], ahead[0]) and all(torch.equal(drawn[1][name], ahead[1][name]) for name in drawn[1])
    assert not torch.equal(model.loss(model.prepare(batch, 5), 4)[0], drawn[0]), "the masks in the batch are not used"


def test_the_teacher_follows_slowly_and_gets_no_gradient():
    model = PretrainModel(encoder(), VJEPA2, steps=10)
    name = "blocks.0.mlp.fc1.weight"
    before = model.objective.teacher.state_dict()[name].clone()
    train_step(model, {"pixels": frames(2, 8)}, make_optimizer(model, CONFIG), CONFIG, 0)
    student, teacher = model.encoder.state_dict()[name], model.objective.teacher.state_dict()[name]
    torch.testing.assert_close(teacher, 0.9 * before + 0.1 * student)
    assert all(p.grad is None and not p.requires_grad for p in model.objective.teacher.parameters())
    assert model.trained_encoder is model.objective.teacher


def test_predictions_of_the_future_do_not_see_it():
    model = PretrainModel(encoder(), replace(FUTURE, rollout=2), steps=1)
    clip = frames(2, 5)
    changed = clip.clone()
    changed[:, 3:] = 0
    first, second = (model.objective.predict(model.encoder, {"pixels": x}, 0).predicted for x in (clip, changed))
    torch.testing.assert_close(first[0][:, :2], second[0][:, :2])  # frames 2 and 3, from frames 0 to 2
    torch.testing.assert_close(first[1][:, :1], second[1][:, :1])  # frame 3, from frames 0 and 1
    assert not torch.allclose(first[0][:, 2], second[0][:, 2])


def test_the_pixel_baseline_is_judged_in_pixels():
    model = PretrainModel(encoder(), PIXELS, steps=1)
    made = model.objective.predict(model.encoder, {"pixels": frames(2, 5)}, 0)
    assert made.predicted[0].shape == made.targets[0].shape == (2, 3, 64, 64, 3)
    torch.testing.assert_close(made.targets[0], model.encoder.normalise(frames(2, 5)).movedim(1, -1)[:, 2:])


def test_frames_embedded_in_chunks_equal_frames_embedded_at_once():
    model, clip = encoder(), frames(30, 5)
    torch.testing.assert_close(
        model.embed_chunks(clip), model.pool_tokens(model.encode_frames(clip)), atol=1e-5, rtol=1e-5
    )


def test_what_is_learned_with_actions_plans_as_it_was_trained():
    torch.manual_seed(0)
    model = PretrainModel(encoder(), PLDM, steps=1, actions=ACTIONS).eval()
    clip, action = frames(2, 6), torch.rand(2, 5, 2)
    dynamics = model.objective.make_dynamics(model.encoder)
    with torch.no_grad():
        made = model.objective.predict(model.encoder, {"pixels": clip, "action": action}, step=0).predicted[0]
        context = dynamics.observe(clip[:, :1], action[:, :0], torch.ones(2, 1, dtype=torch.bool))
        path = dynamics.imagine(context, action[:, None]).view("pooled")[:, 0]
    torch.testing.assert_close(path, made)
    assert dynamics.spec.max_horizon == 5 and dynamics.spec.history == 1


def test_the_inverse_term_reads_the_action_and_its_weight_matters():
    model = PretrainModel(encoder(), PLDM, steps=1, actions=ACTIONS).eval()
    batch = {"pixels": frames(2, 6), "action": torch.rand(2, 5, 2)}
    terms = model.loss(batch, 0)[1]
    other = {**batch, "action": batch["action"].flip(1)}
    assert terms["inverse"] != model.loss(other, 0)[1]["inverse"]
    none = replace(PLDM, path_terms=replace(PLDM.path_terms, inverse=0.0))
    assert "inverse" not in PretrainModel(encoder(), none, steps=1, actions=ACTIONS).loss(batch, 0)[1]


def test_the_context_loss_grows_with_the_step_and_weighs_what_is_near():
    objective = replace(VJEPA21, targets=replace(VJEPA21.targets, context_loss=ContextLoss(0.5, (10, 20))))
    model = PretrainModel(VideoEncoder(objective.adapt_encoder(SIZES)), objective, steps=30)
    batch = {"pixels": frames(2, 8)}
    first, later = (model.loss(batch, step)[1]["context"] for step in (10, 15))
    assert first == 0 and later > 0
    places = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 0, 4], [0, 0, 9]])
    weights = weigh_context(torch.tensor([[1, 2, 3]]), torch.tensor([[0]]), places)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.5, 1 / 3]]))


def test_a_causal_encoder_predicts_the_next_token_from_those_before_it():
    model = PretrainModel(VideoEncoder(NEPA.adapt_encoder(SIZES)), NEPA, steps=1).eval()
    clip = frames(1, 8)
    changed = clip.clone()
    changed[:, 6:] = 0  # the last of four tubelets
    made, other = (model.objective.predict(model.encoder, {"pixels": x}, 0).predicted[0] for x in (clip, changed))
    torch.testing.assert_close(made[:, :48], other[:, :48])
    assert not torch.allclose(made[:, 48:], other[:, 48:])


def test_a_stem_that_sees_neighbours_trains_no_masked_objective():
    conv = replace(SIZES, stem=ConvStemConfig())
    with pytest.raises(ValueError, match="encoder.stem.kind=conv sees into hidden patches"):
        PretrainModel(VideoEncoder(conv), VJEPA2, steps=4)
    with pytest.raises(ValueError, match="encoder.stem.kind=conv sees into the next patch"):
        PretrainModel(VideoEncoder(conv), NEPA, steps=4)
    PretrainModel(VideoEncoder(VJEPA2.adapt_encoder(conv)), VJEPA2, steps=0)  # the row of an untrained encoder


def test_published_sizes_get_a_pooled_embedding_where_a_metric_weighs_it():
    bare, metric = replace(SIZES, pool=None), replace(FUTURE, metric=MetricConfig())
    assert metric.adapt_encoder(bare).pool is not None and metric.adapt_encoder(SIZES) == SIZES
    assert FUTURE.adapt_encoder(bare).pool is None
    PretrainModel(VideoEncoder(metric.adapt_encoder(bare)), metric, steps=1)
