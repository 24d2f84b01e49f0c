"""DreamerV3's state-space model against the equations of its paper, and as a planner sees it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from commands.config.compose import load_config
from tests.world_model.small import make_batch, make_draws
from world_model.actions import ActionSpec
from world_model.generative.rssm import Rssm, RssmConfig, measure_kl
from world_model.generative.rssm_layers import BlockLinear, RMSNorm, make_layer
from world_model.generative.rssm_networks import Core
from world_model.training.loop import Checkpoints, Hooks, TrainerConfig, make_optimizer, train
from world_model.training.loss_watch import TrainingError

SMALL = RssmConfig(
    frames=6, context_frames=2, deter=16, hidden=8, stoch=3, classes=4, depth=2, units=4, draws=3, goal_hidden=8
)
ACTIONS = ActionSpec((-2.0, 0.0), (2.0, 1.0), 2)
PX = (48, 64)


def model(config: RssmConfig = SMALL, seed: int = 0) -> Rssm:
    torch.manual_seed(seed)
    return Rssm(config, PX, ACTIONS).eval()


def batch(clips: int = 3, frames: int = 6) -> dict[str, torch.Tensor]:
    return make_batch(PX, ACTIONS, clips, frames)


def test_a_block_linear_map_is_a_dense_one_with_a_block_diagonal_matrix():
    layer, x = BlockLinear(6, 4, 2), torch.randn(5, 6)
    dense = torch.block_diag(*layer.weight)
    assert torch.allclose(layer(x), x @ dense + layer.bias, atol=1e-6)


def test_the_norm_divides_by_the_root_mean_square():
    x = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(RMSNorm(2)(x), x / (12.5 + 1e-4) ** 0.5)


def test_the_gru_is_that_of_the_paper_by_hand():
    """update * tanh(reset * candidate) + (1 - update) * h, with a bias of -1 before the update's sigmoid."""
    core = Core(SMALL, 4)
    deter, stoch, action = torch.randn(2, 16), torch.randn(2, 12), 3 * torch.randn(2, 4)
    parts = [layer(x) for layer, x in zip(core.inputs, (deter, stoch, action / action.abs().clamp_min(1)), strict=True)]
    seen = torch.cat(parts, -1)
    rows = [torch.cat((part, seen), -1) for part in deter.chunk(8, -1)]
    hidden = torch.cat([row @ weight for row, weight in zip(rows, core.hidden.weight, strict=True)], -1)
    hidden = F.silu(core.norm(hidden + core.hidden.bias))
    gates = [part @ weight for part, weight in zip(hidden.chunk(8, -1), core.gates.weight, strict=True)]
    reset, candidate, update = (torch.cat([gate.chunk(3, -1)[n] for gate in gates], -1) for n in range(3))
    update = torch.sigmoid(update - 1)
    expected = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * deter
    assert torch.allclose(core(deter, stoch, action), expected, atol=1e-5)


def test_the_divergence_is_a_sum_over_latents_in_nats():
    first = torch.tensor([[0.5, 0.5], [1.0 - 1e-7, 1e-7]])
    second = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    by_hand = 0.5 * torch.tensor([2.0, 2.0 / 3.0]).log().sum() + torch.tensor(2.0).log()
    assert measure_kl(first, second) == pytest.approx(by_hand.item(), abs=1e-5)


def test_a_class_without_probability_counts_nothing_and_leaves_gradients_finite():
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    first = logits.softmax(-1)
    assert first[0, 1] == 0
    divergence = measure_kl(first, torch.tensor([[0.5, 0.5]]))
    assert divergence.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(divergence, logits)
    assert gradient.isfinite().all()


def test_divergences_below_the_free_nats_have_no_gradient_and_count_as_them():
    free, counted = (model(RssmConfig(**{**vars(SMALL), "free_nats": nats})) for nats in (1e3, 0.0))
    loss, terms = free.loss(batch(), 0)
    assert terms["dynamics_kl"].item() == 1e3 and terms["representation_kl"].item() == pytest.approx(1e2)
    loss.backward()
    assert all(not p.grad.abs().max() for p in free.prior.parameters() if p.grad is not None)
    counted.loss(batch(), 0)[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in counted.prior[-1].parameters())


def test_each_divergence_trains_its_side_alone():
    """`dynamics_kl` moves the prior towards a fixed posterior, `representation_kl` the other way."""
    config = {**vars(SMALL), "free_nats": 0.0}
    made = model(RssmConfig(**config))
    _, terms = made.loss(batch(), 0)
    logits = made.prior[-1].weight
    (of_prior,) = torch.autograd.grad(terms["representation_kl"], logits, retain_graph=True, allow_unused=True)
    assert of_prior is None
    assert torch.autograd.grad(terms["dynamics_kl"], logits)[0].abs().max() > 0


def test_a_perfect_picture_has_no_error_and_a_grey_one_that_of_its_squares():
    made, data = model(), batch()
    made.decoder.forward = lambda deter, stoch: data["pixels"].flatten(0, 1).float() / 255
    assert made.loss(data, 0)[1]["prediction"] == 0
    made.decoder.forward = lambda deter, stoch: torch.full((len(deter), *PX, 3), 0.5)
    wanted = (data["pixels"].float() / 255 - 0.5).square().sum((-3, -2, -1)).mean()
    assert torch.allclose(made.loss(data, 0)[1]["prediction"], wanted)


def test_class_probabilities_hold_their_share_of_the_uniform_and_samples_pass_gradients():
    made = model()
    logits = (10 * torch.randn(5, 12)).requires_grad_()
    probabilities = made.get_probabilities(logits)
    assert torch.allclose(probabilities.sum(-1), torch.ones(5, 3)) and probabilities.min() >= 0.01 / 4 - 1e-9
    chosen = made.draw(probabilities, None)
    assert torch.allclose(chosen.unflatten(-1, (3, 4)).argmax(-1), probabilities.argmax(-1))
    assert set(chosen.detach().round(decimals=5).flatten().tolist()) <= {0.0, 1.0}
    weights = torch.randn(12)
    (through,) = torch.autograd.grad((chosen * weights).sum(), logits, retain_graph=True)
    (straight,) = torch.autograd.grad((probabilities.flatten(-2) * weights).sum(), logits)
    assert torch.allclose(through, straight)


def test_noise_draws_classes_as_often_as_their_probabilities():
    made = model()
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(20000, 3, 4)
    gumbel = -torch.empty(20000, 3, 4).exponential_(generator=torch.Generator().manual_seed(0)).log()
    shares = made.draw(probabilities, gumbel).unflatten(-1, (3, 4)).mean((0, 1))
    assert torch.allclose(shares, probabilities[0, 0], atol=0.01)
    normal = made._draw_noise(make_draws(range(40)), 3, 4)
    assert normal.mean() == pytest.approx(0.5772, abs=0.05) and normal.std() == pytest.approx(1.2825, abs=0.05)


def test_the_past_before_an_episode_began_leaves_no_trace():
    made, data = model(), batch(2)
    valid = torch.tensor([[False, True], [True, True]])
    padded = made.observe(data["pixels"][:, :2], data["action"][:, :1], valid)
    other = data["pixels"][:, :2].clone()
    other[0, 0] = 0
    assert torch.equal(made.observe(other, data["action"][:, :1], valid).deter[0], padded.deter[0])
    assert not torch.equal(
        made.observe(other, data["action"][:, :1], torch.ones(2, 2).bool()).deter[0], padded.deter[0]
    )


@torch.no_grad()
def test_imagined_steps_follow_the_past_as_seen_steps_do():
    """With the likeliest classes, h after an action is the same whether imagined or watched: it sees no later frame."""
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(3, 2).bool())
    actions = made.normalise_actions(F.pad(data["action"], (0, 0, 1, 0)))
    actions[:, 0] = 0
    features = made.encode(data["pixels"][:, :3])
    deter, _, _ = made.watch(features, actions[:, :3], None, None)
    ahead = made.core(context.deter, context.stoch, made.normalise_actions(data["action"][:, 1]))
    assert torch.allclose(ahead, deter[:, 2], atol=1e-5)


@torch.no_grad()
def test_candidates_share_draws_and_chunks_and_batches_change_nothing():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(3, 2).bool())
    actions = data["action"][:, None, 1:].expand(3, 5, -1, -1)
    whole = made.imagine(context, actions, make_draws())
    assert whole.view("pixels").shape == (3, 3, 5, 4, *PX, 3) and whole.view("pooled").shape == (3, 3, 5, 4, 12)
    pooled = whole.view("pooled")
    assert torch.allclose(pooled[:, :, :1].expand_as(pooled), pooled, atol=1e-5)  # the same actions, the same future
    assert not torch.allclose(pooled[0, :, :, -1], pooled[1, :, :, -1])  # another draw, another one
    part = made.imagine(context, actions[:, 3:], make_draws()).view("pooled")
    assert torch.allclose(part, pooled[:, :, 3:], atol=1e-5)
    alone = made.imagine(context.select(slice(1, 2)), actions[1:2], make_draws().select(slice(1, 2))).view("pooled")
    assert torch.allclose(alone, pooled[:, 1:2], atol=1e-5)
    last = made.imagine(context, actions, make_draws(), keep="last")
    assert torch.allclose(last.view("pixels")[:, :, :, 0], whole.view("pixels")[:, :, :, -1], atol=1e-3)


@torch.no_grad()
def test_without_draws_the_future_is_the_likeliest_and_goals_are_views():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(3, 2).bool())
    path = made.imagine(context, data["action"][:, None, 1:])
    assert path.view("pixels").shape == (1, 3, 1, 4, *PX, 3) and 0 <= path.view("pixels").min()
    goal = made.encode_goal(data["pixels"][:, 0])
    assert goal.view("pooled").shape == (3, 12)
    assert torch.allclose(goal.view("pooled").unflatten(-1, (3, 4)).sum(-1), torch.ones(3, 3))
    with pytest.raises(ValueError, match="view 'tokens' is not offered"):
        goal.view("tokens")


def test_imagined_futures_have_gradients_for_planners_that_descend():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(3, 2).bool())
    actions = data["action"][:, None, 1:].clone().requires_grad_()
    made.imagine(context, actions, make_draws()).view("pixels").mean().backward()
    assert actions.grad.abs().max() > 0


def test_the_goal_head_is_judged_on_the_state_by_hand():
    """Squared error of h, summed, and KL of the posterior from the prediction; frames after the context alone."""
    made = model(RssmConfig(**{**vars(SMALL), "uniform": 0.0}))
    made.goal_head.forward = lambda features: (torch.full((2, 6, 16), 0.5), torch.zeros(2, 6, 12))
    deter, posterior = torch.zeros(2, 6, 16), torch.full((2, 6, 3, 4), 0.25)
    deter[:, :2] = 100.0  # frames of the context
    deter[0, 2, 0] = 1.5
    posterior[1, 5, 0] = torch.tensor([0.5, 0.5 - 2e-9, 1e-9, 1e-9])
    error = made.measure_goal_error(torch.zeros(2, 6, 4), deter, posterior)
    assert error.item() == pytest.approx(16 * 0.25 + (0.75 + math.log(2)) / 8, abs=1e-5)


def test_the_goal_head_teaches_the_rest_nothing():
    made = model()
    loss, terms = made.loss(batch(), 0)
    assert torch.allclose(loss, sum(terms.values())) and list(terms)[-1] == "goal_state"
    of_rest = [p for name, p in made.named_parameters() if not name.startswith("goal_head")]
    assert all(
        g is None for g in torch.autograd.grad(terms["goal_state"], of_rest, retain_graph=True, allow_unused=True)
    )
    of_head = torch.autograd.grad(terms["goal_state"], list(made.goal_head.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in of_head)


@torch.no_grad()
def test_the_view_state_compares_imagined_states_with_the_predicted_one():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(3, 2).bool())
    path = made.imagine(context, data["action"][:, None, 1:], make_draws())
    state = path.view("state")
    assert state.shape == (3, 3, 1, 4, 16 + 12) and torch.equal(state[..., 16:], path.view("pooled"))
    first = made.core(context.deter, context.stoch, made.normalise_actions(data["action"][:, 1]))
    assert torch.allclose(state[:, :, 0, 0, :16], first.expand(3, 3, 16), atol=1e-5)
    goal = made.encode_goal(data["pixels"][:, 0]).view("state")
    deter, logits = made.goal_head(made.encoder(data["pixels"][:, 0]))
    assert torch.allclose(goal, torch.cat((deter, made.get_probabilities(logits).flatten(-2)), -1), atol=1e-6)
    assert goal[:, :16].abs().max() <= 1


def test_a_model_without_a_goal_head_offers_no_state():
    made = model(RssmConfig(**{**vars(SMALL), "goal_hidden": 0}))
    assert made.spec.views == ("pixels", "pooled") and "goal_state" not in made.loss(batch(), 0)[1]
    with pytest.raises(ValueError, match="view 'state' is not offered"):
        made.encode_goal(batch()["pixels"][:, 0]).view("state")


def test_a_kl_that_is_not_finite_ends_the_training_and_is_named(tmp_path):
    """With the step, and the last good checkpoint."""
    made, data = model(), batch()
    trainer = TrainerConfig(steps=4, batch_size=3, checkpoint_every=2, warmup=0, evaluate_every=9)

    def spoil(step: int) -> dict[str, torch.Tensor]:
        if step == 3:
            with torch.no_grad():
                made.prior[-1].bias[0] = math.nan
        return data

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TrainingError) as caught:
        train(made, spoil, make_optimizer(made, trainer), trainer, checkpoints, Hooks(), torch.device("cpu"))
    assert "not finite at step 3: dynamics_kl, representation_kl are not (prediction " in str(caught.value)
    assert f"the last good checkpoint is {tmp_path / 'step-00000002.safetensors'}" in str(caught.value)


def test_the_loss_is_a_function_of_batch_and_step():
    made, data = model(), batch()
    assert made.loss(data, 3)[0] == made.loss(data, 3)[0] != made.loss(data, 4)[0]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"frames": 2}, "frames=2 leaves nothing to predict after objective.context_frames=2"),
        ({"deter": 20}, "deter=20 is not a multiple of objective.blocks=8"),
        ({"depth": 3}, "depth=3: the decoder's 12 channels do not divide into objective.blocks=8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        Rssm(RssmConfig(**{**vars(SMALL), **keys}), PX, ACTIONS)


def test_frames_that_cannot_be_halved_four_times_are_refused():
    with pytest.raises(ValueError, match="give multiples of 16 from 48 to 256"):
        Rssm(SMALL, (40, 64), ACTIONS)


def count_published(deter: int, hidden: int, classes: int, depth: int, units: int, actions: int) -> dict[str, int]:
    """Parameters of the parts of the published agent on frames of 64 x 64: inputs x outputs + outputs of every layer,
    and one scale a channel of a norm (github.com/danijar/dreamerv3, e3f0224: rssm.py, agent.py, configs.yaml)."""

    def linear(inputs: int, outputs: int, norm: bool = True, blocks: int = 1) -> int:
        return inputs * outputs // blocks + outputs + (outputs if norm else 0)

    latents, features = 32 * classes, 4 * 4 * 4 * depth
    channels = [3, 2 * depth, 3 * depth, 4 * depth, 4 * depth]
    core = linear(deter, hidden) + linear(latents, hidden) + linear(actions, hidden)
    core += linear(deter + 8 * 3 * hidden, deter, blocks=8) + linear(deter, 3 * deter, False, blocks=8)
    prior = linear(deter, hidden) + linear(hidden, hidden) + linear(hidden, latents, False)
    posterior = linear(deter + features, hidden) + linear(hidden, latents, False)
    encoder = sum(linear(25 * a, b) for a, b in zip(channels, channels[1:], strict=False))
    decoder = linear(deter, features, False, blocks=8) + linear(latents, 2 * units)
    decoder += linear(2 * units, features, False) + 4 * depth
    pairs = ((4 * depth, 4 * depth), (4 * depth, 3 * depth), (3 * depth, 2 * depth))
    decoder += sum(linear(25 * a, b) for a, b in pairs) + linear(25 * 2 * depth, 3, False)
    state = deter + latents
    behaviour = linear(state, units) + 2 * linear(units, units)  # three layers, of actor and of critic
    return {
        "core": core,
        "prior": prior,
        "posterior": posterior,
        "encoder": encoder,
        "decoder": decoder,
        "reward": linear(state, units) + linear(units, 255, False),
        "continuation": linear(state, units) + linear(units, 1, False),
        "actor": behaviour + 2 * linear(units, actions, False),  # mean and deviation
        "critic": behaviour + linear(units, 255, False),
    }


WORLD_MODEL_PARTS = ("core", "prior", "posterior", "encoder", "decoder")
SIZE_12M = {"deter": 2048, "hidden": 256, "classes": 16, "depth": 16, "units": 256}
SIZE_1M = {"deter": 512, "hidden": 64, "classes": 4, "depth": 4, "units": 64}


@pytest.mark.parametrize("sizes", [SIZE_12M, SIZE_1M])
def test_every_part_has_the_parameters_of_the_published_one(sizes):
    """For the six numbers of an action of walker, which the paper trains on."""
    walker = ActionSpec((-1.0,) * 6, (1.0,) * 6, 1)
    with torch.device("meta"):
        made = Rssm(RssmConfig(**sizes), (64, 64), walker)
    published = count_published(**sizes, actions=6)
    for part in WORLD_MODEL_PARTS:
        assert sum(p.numel() for p in getattr(made, part).parameters()) == published[part], part


def test_the_world_model_is_two_thirds_of_the_agent_that_is_called_12_m():
    """Ours lacks reward, continuation, actor and critic; the agent keeps a slow copy of its critic, too."""
    parts = count_published(**SIZE_12M, actions=6)
    assert sum(parts[part] for part in WORLD_MODEL_PARTS) == 7_472_067
    assert sum(parts.values()) == 10_494_158 and sum(parts.values()) + parts["critic"] == 11_347_661


def test_the_presets_have_the_published_sizes():
    for name, sizes in (("dreamerv3_12m", SIZE_12M), ("dreamerv3", SIZE_1M)):
        config = vars(load_config("pretrain", ["data=x", f"objective={name}"]).objective)
        assert {key: config[key] for key in sizes} == sizes


def test_weights_begin_with_the_variance_of_the_whole_fan_in():
    """Published: truncated normal of variance 1 / inputs, where a block-diagonal matrix counts the inputs of all."""
    torch.manual_seed(0)
    for weight in (BlockLinear(512, 512, 8).weight, make_layer(512, 512)[0].weight):
        assert weight.std().item() == pytest.approx(512**-0.5, rel=0.03)
        assert weight.abs().max() <= 2 * 1.1368 * 512**-0.5 + 1e-6
