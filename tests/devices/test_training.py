"""Training on another device: a step of every objective and of every kind of dynamics loses there what it loses on the
CPU, and what watches and follows the training reads the device's tensors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from commands.config.compose import list_choices, load_config
from commands.training.monitors import Monitor
from commands.training.pretraining import make_random_stage1
from tests.devices.test_world_models import MODELS
from tests.world_model.small import FUTURE, ONE_STAGE, POOLS, SIZES, VJEPA2, dynamics, encoder, frames
from world_model.actions import ActionSpec
from world_model.generative.diamond import DiamondConfig
from world_model.generative.rssm import RssmConfig
from world_model.nn.reachability import ReachConfig, fit_reach, make_pair_source
from world_model.objectives.end_to_end import EndToEnd
from world_model.objectives.metric import MetricConfig, fit_metric
from world_model.objectives.pretrain_model import PretrainModel
from world_model.probing.readout import ReadoutConfig, Samples, fit_readouts
from world_model.training.augment import CropConfig
from world_model.training.loop import Checkpoints, Hooks, TrainerConfig, make_optimizer, train
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

CPU = torch.device("cpu")
SMALL = TrainerConfig(steps=1, batch_size=2, warmup=1, log_every=1, precision="fp32")  # `auto` is bf16 on a GPU


class Batches:
    """The same batch at every step, on the CPU, as a loader gives it."""

    def __init__(self, batch):
        self.read_batch = lambda step: batch


def losses(model, batch, device, config=SMALL, checkpoints=None):
    """Losses and their terms at every step."""
    lines = []
    model.to(device)
    optimizer = make_optimizer(model, config)
    train(model, lambda step: batch, optimizer, config, checkpoints, Hooks(log=lines.append), device)
    keys = sorted(set(lines[0]) - {"step", "kind", "seconds"})
    return torch.tensor([[line[key] for key in keys] for line in lines])


@cache
def composed(name):
    """The settings of an objective with a small encoder; composing them takes a while."""
    words = [f"objective={name}", "encoder=tiny", "trainer@pretrain=debug", "pretrain.batch_size=2", "encoder.depth=4"]
    return load_config("bench", words)


def stage_1(name):
    """A small model of an objective, and a batch for it on the CPU."""
    torch.manual_seed(0)
    config = composed(name)
    return make_random_stage1(config.encoder, config.objective, config.pretrain, config.env.name, config.seed, CPU)


@pytest.mark.parametrize("name", sorted(set(list_choices("objective")) - set(ONE_STAGE)))
def test_a_step_of_every_objective_and_what_follows_it_are_there(name, cuda):
    model, batch = stage_1(name)
    here = losses(model, batch, CPU)
    model, batch = stage_1(name)
    torch.testing.assert_close(losses(model, batch, cuda), here, rtol=2e-3, atol=2e-4)
    clips = list(frames(3, 6))
    assert np.isfinite(list(Monitor(model, list(frames(2, 2)), clips, Batches(batch), cuda)(0).values())).all()
    if model.config.metric is not None:
        metric = fit_metric(model.trained_encoder, model.config.metric, (clip.to(cuda) for clip in clips))
        metric.fold_into(model.trained_encoder.pool)
    assert {value.device for value in model.state_dict().values()} == {cuda}
    assert model.trained_encoder.embed_frames(frames(1, 2).to(cuda)).device == cuda
    if isinstance(model.objective, EndToEnd):
        assert model.objective.make_dynamics(model.encoder).spec.device == cuda


RSSM = RssmConfig(frames=4, context_frames=2, deter=16, hidden=8, stoch=3, classes=4, depth=2, units=4)
DIAMOND = DiamondConfig(frames=4, context_frames=2, widths=(8, 8), condition_dim=8, rollout=2)


@pytest.mark.parametrize(("config", "optimizer"), [(RSSM, "adamw"), (RSSM, "laprop"), (DIAMOND, "adamw")])
def test_a_world_model_of_one_stage_loses_there_what_it_loses_here(config, optimizer, cuda):
    actions = ActionSpec((-1.0, -1.0), (1.0, 1.0), 2)
    batch = {"pixels": torch.randint(0, 256, (2, 4, 48, 48, 3), dtype=torch.uint8), "action": torch.rand(2, 3, 4)}
    trainer, found = replace(SMALL, steps=3, optimizer=optimizer, adaptive_clip=0.3), []
    for device in (CPU, cuda):
        torch.manual_seed(0)
        found.append(losses(config.make_world_model((48, 48), actions), batch, device, trainer))
    torch.testing.assert_close(found[1], found[0], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("of", ["pooled", "inputs"])
@pytest.mark.parametrize("pool", ["learned", "keypoints"])
def test_the_metric_is_fitted_there(pool, of, cuda):
    model = encoder(config=replace(SIZES, pool=POOLS[pool])).to(cuda)
    config = MetricConfig("biharmonic", lag=1, source=of, modes=4)
    fit_metric(model, config, (clip.to(cuda) for clip in frames(3, 12))).fold_into(model.pool)
    assert model.embed_frames(frames(1, 2).to(cuda)).device == cuda


def test_crops_are_cut_there(cuda):
    found = []
    for device in (CPU, cuda):
        model = PretrainModel(encoder(), FUTURE, steps=2, crop=CropConfig()).to(device)
        batch = {"pixels": frames(2, 5), "aspect": torch.ones(2), "draw": torch.arange(2)}
        found.append(model.loss({name: value.to(device) for name, value in batch.items()}, 0)[0].cpu())
    torch.testing.assert_close(*found)


def test_bfloat16_trains_there(cuda):
    model, batch = stage_1("future")
    assert losses(model, batch, cuda, replace(SMALL, precision="bf16")).isfinite().all()


def test_a_training_there_is_resumed_as_if_it_had_never_stopped(cuda, tmp_path):
    found = []
    for parts in ((4,), (2, 4)):
        model, folder = PretrainModel(encoder(), VJEPA2, steps=4), Checkpoints(tmp_path / str(len(parts)))
        for steps in parts:
            config = replace(SMALL, steps=steps, schedule="constant")
            steps_2_and_3 = losses(model, {"pixels": frames(2, 8)}, cuda, config, folder)[-2:]
        found += [steps_2_and_3, torch.stack([value.sum() for value in model.objective.teacher.parameters()])]
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_dynamics_trains_there_as_on_the_cpu(kind, cuda):
    found = []
    for device in (CPU, cuda):
        torch.manual_seed(0)
        model = PosttrainModel(dynamics(**MODELS[kind]).to(device), PosttrainConfig(rollout_steps=3))
        made, pixels = model.dynamics, frames(2, model.window)
        with torch.no_grad():
            batch = {name: value.cpu() for name, value in made.read(pixels.to(device)).items()}
        made.features.set_statistics(lambda name, batch=batch: batch[name])
        if made.config.proprio_dim:
            batch["proprio"] = torch.rand(2, model.window, made.config.proprio_dim)
            made.states.set_statistics(batch["proprio"][0])
        if "scene" in batch:
            batch["scene"] = batch["scene"][:, : made.config.history]
        batch |= {"pixels": pixels, "action": torch.rand(2, model.window - 1, made.spec.block_dim)}
        steps = losses(model, batch, device)
        errors = model.measure_error_by_horizon({name: value.to(device) for name, value in batch.items()})
        found.append((steps, torch.tensor(list(errors.values()))))
    for there, here in zip(*reversed(found), strict=True):
        torch.testing.assert_close(there, here, rtol=2e-3, atol=2e-4)


def test_reachability_is_learned_there_from_the_same_pairs(cuda):
    found = []
    for device in (CPU, cuda):
        torch.manual_seed(0)
        head = dynamics().reach.to(device).requires_grad_(True)
        config = ReachConfig(dim=5, hidden=8, steps=3, batch_size=4, other_episodes=0.5)
        features = torch.rand(20, 12).to(device)
        head.set_statistics(features)
        found.append(fit_reach(head, make_pair_source(features, [(0, 10), (10, 10)], 1, config), config, seed=1))
    assert found[1]["reach_loss"] == pytest.approx(found[0]["reach_loss"], rel=1e-4)


def test_readouts_are_trained_there_as_on_the_cpu(cuda):
    config = ReadoutConfig(steps=2, batch_size=4, lrs=(1e-3,), depth=2, heads=2)
    draw = torch.Generator().manual_seed(0)
    splits = {
        split: Samples(torch.rand(8, 2, 4, 8, generator=draw), torch.rand(8, 3, generator=draw))
        for split in ("train", "val", "test")
    }
    here, there = (fit_readouts(splits, config, 0, device) for device in (CPU, cuda))
    for kind, numbers in here.items():
        assert there[kind]["r2"] == pytest.approx(numbers["r2"], rel=1e-3)
