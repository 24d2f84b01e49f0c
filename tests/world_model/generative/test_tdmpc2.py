"""TD-MPC2 towards goal images: its loss by hand, what it learns, and what a planner asks of it."""

from __future__ import annotations

import pytest
import torch

from commands.config.compose import load_config
from planners.costs import GoalCost
from planners.mppi import MPPI, MPPIConfig
from planners.protocol import Dynamics, PolicyPrior, ReturnImagined
from tests.world_model.small import make_batch, make_draws
from world_model.actions import ActionSpec
from world_model.generative.tdmpc2 import Tdmpc2, Tdmpc2Config
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

SMALL = Tdmpc2Config(frames=7, context_frames=2, channels=2, hidden=16, num_values=3)
ACTIONS = ActionSpec((-2.0, 0.0), (2.0, 1.0), 2)
PX = (48, 64)
LATENTS = 2 * 2 * 4


def model(config: Tdmpc2Config = SMALL) -> Tdmpc2:
    torch.manual_seed(0)
    return Tdmpc2(config, PX, ACTIONS).eval()


def change(**keys) -> Tdmpc2Config:
    return Tdmpc2Config(**{**vars(SMALL), **keys})


def batch(clips: int = 3, frames: int = 7) -> dict[str, torch.Tensor]:
    return make_batch(PX, ACTIONS, clips, frames)


def observe(made: Tdmpc2, data: dict[str, torch.Tensor]):
    return made.observe(data["pixels"][:, :2], data["action"][:, :1], torch.ones(len(data["pixels"]), 2).bool())


def test_inputs_are_frames_in_a_row_side_by_side_and_a_goal_is_repeated():
    made, pixels = model(), batch()["pixels"]
    stacked = made.stack_frames(pixels)
    assert stacked.shape == (3, 6, *PX, 6)
    assert torch.equal(stacked[:, 4, ..., :3], pixels[:, 4]) and torch.equal(stacked[:, 4, ..., 3:], pixels[:, 5])
    goal = made.encode_goal(pixels[:, 3]).view("pooled")
    held = made.observe(pixels[:, [3, 3]], torch.zeros(3, 1, 4), torch.ones(3, 2).bool())
    assert torch.allclose(goal, held.latent_BD, atol=1e-6)
    assert torch.allclose(goal.unflatten(-1, (-1, 8)).sum(-1), torch.ones(3, LATENTS // 8))


@torch.no_grad()
def test_the_error_of_predicted_latents_by_hand():
    """20 / 3 of the sum of rho^t (mean squared difference to the latents of what was recorded)."""
    made, data = model(), batch()
    pixels, actions = data["pixels"], made.normalise_actions(data["action"])
    latent = made.encoder(torch.cat((pixels[:, 0], pixels[:, 1]), -1))
    expected = torch.zeros(())
    for t in range(3):
        latent = made.dynamics(torch.cat((latent, actions[:, 1 + t]), -1))
        recorded = made.encoder(torch.cat((pixels[:, 1 + t], pixels[:, 2 + t]), -1))
        expected = expected + 20 / 3 * 0.5**t * (latent - recorded).square().mean()
    assert torch.allclose(made.loss(data, 0)[1]["prediction"], expected, rtol=1e-5)


def test_recorded_latents_are_targets_without_a_gradient_and_the_policy_moves_nothing_but_itself():
    made, data = model(), batch()
    torch.nn.init.normal_(made.heads.reward.last.weight)
    for member in made.heads.values.members:
        torch.nn.init.normal_(member.last.weight)
    terms = made.loss(data, 0)[1]
    moved = torch.autograd.grad(terms["policy"], made.encoder.convolutions[0].weight, allow_unused=True)
    assert moved == (None,)
    assert all(p.grad is None for p in made.heads.target_values.parameters())
    for name in ("prediction", "reward", "value"):  # the first latent and the goal learn from all three
        (gradient,) = torch.autograd.grad(terms[name], made.encoder.convolutions[0].weight, retain_graph=True)
        assert gradient.abs().max() > 0
    learned = [p for p in made.heads.parameters() if p.requires_grad]
    assert set(torch.autograd.grad(terms["prediction"], learned, allow_unused=True)) == {None}


def test_the_loss_is_the_sum_of_its_four_terms():
    loss, terms = model().loss(batch(), 0)
    assert torch.allclose(loss, sum(terms[name] for name in ("prediction", "reward", "value", "policy")))
    assert terms["latent_std"] > 0 and terms["value_range"] == 1


def test_rewards_count_steps_until_the_goal():
    """With goals that are present frames: 0 at the first step and -1 at the others, and no value after the first."""
    made, seen = model(change(present_goals=1.0, random_goals=0.0)), {}

    def record(next_BTD, goal_BTD, rewards_BT, reached_BT, generator):
        seen.update(rewards=rewards_BT, reached=reached_BT, goal=goal_BTD)
        return rewards_BT

    made.heads.compute_targets = record
    data = batch()
    made.loss(data, 0)
    assert torch.equal(seen["rewards"], torch.tensor([[0.0, -1.0, -1.0]]).expand(3, 3))
    assert torch.equal(seen["reached"], torch.tensor([[True, False, False]]).expand(3, 3))
    goal = made.encode_goal(data["pixels"][:, 1]).view("pooled")
    assert torch.allclose(seen["goal"], goal[:, None].expand_as(seen["goal"]), atol=1e-6)


def test_the_loss_is_a_function_of_batch_step_and_seed():
    made, data = model().train(), batch()
    assert made.loss(data, 3)[0] == made.loss(data, 3)[0] != made.loss(data, 4)[0]
    other = Tdmpc2(SMALL, PX, ACTIONS, seed=1).train()
    other.load_state_dict(made.state_dict())
    assert other.loss(data, 3)[0] != made.loss(data, 3)[0]
    assert made.eval().loss(data, 3)[0] != made.train().loss(data, 3)[0], "frames are shifted in training alone"


def test_what_it_predicts_is_learned_in_a_few_dozen_steps():
    made, data = model(), batch(8)
    config = TrainerConfig(steps=40, lr=3e-3, warmup=1, schedule="constant", weight_decay=0.0, clip_norm=20.0)
    optimizer = make_optimizer(made, config)
    before = made.eval().loss(data, 0)[1]
    target = [p.clone() for p in made.heads.target_values.parameters()]
    for step in range(40):
        train_step(made, data, optimizer, config, step)
    after = made.eval().loss(data, 0)[1]
    assert after["prediction"] < 0.5 * before["prediction"] and after["reward"] < 0.5 * before["reward"]
    assert not any(map(torch.equal, made.heads.target_values.parameters(), target))
    assert made.heads.spread >= 1 and all(value.isfinite() for value in after.values())


@torch.no_grad()
def test_imagined_steps_are_the_dynamics_one_after_another():
    made, data = model(), batch()
    context, actions = observe(made, data), data["action"][:, None, 1:6].expand(3, 4, -1, -1)
    path = made.imagine(context, actions)
    latent = context.latent_BD
    for k in range(5):
        latent = made.dynamics(torch.cat((latent, made.normalise_actions(actions[:, 0, k])), -1))
        assert torch.allclose(path.view("pooled")[:, 2, k], latent, atol=1e-6)
    last = made.imagine(context, actions, keep="last")
    assert torch.equal(last.view("pooled")[:, :, 0], path.view("pooled")[:, :, -1])
    with pytest.raises(ValueError, match="view 'pixels' is not offered by this model"):
        path.view("pixels")


@torch.no_grad()
def test_a_path_estimates_its_return_towards_each_goal():
    made, data = model(), batch()
    for network in (made.heads.reward, *made.heads.values.members):
        torch.nn.init.normal_(network.last.weight)
    context, actions = observe(made, data), data["action"][:, None, 1:4].expand(3, 4, -1, -1)
    goal = made.encode_goal(data["pixels"][:, 6])
    path = made.imagine(context, actions)
    assert isinstance(made, Dynamics) and isinstance(made, PolicyPrior) and isinstance(path, ReturnImagined)
    returns = path.estimate_return(goal)
    assert returns.shape == (3, 4) and torch.allclose(returns, returns[:, :1].expand(3, 4), atol=1e-5)
    latents = torch.cat((context.latent_BD[:, None], path.view("pooled")[:, 0]), 1)[:, None]
    scaled = made.normalise_actions(actions[:, :1])
    by_hand = made.heads.estimate_return(latents, scaled, goal.view("pooled"))
    assert torch.allclose(returns[:, :1], by_hand, atol=1e-5)
    assert not torch.allclose(path.estimate_return(made.encode_goal(data["pixels"][:, 0])), returns)
    assert torch.allclose(made.imagine(context, actions, keep="last").estimate_return(goal), returns)


def test_a_return_has_gradients_for_planners_that_descend():
    made, data = model(), batch()
    for network in (made.heads.reward, *made.heads.values.members):
        torch.nn.init.normal_(network.last.weight)
    actions = data["action"][:, None, 1:4].clone().requires_grad_()
    cost = GoalCost(reduce="return")
    cost(made.imagine(observe(made, data), actions), made.encode_goal(data["pixels"][:, 6]), actions).sum().backward()
    assert actions.grad.abs().max() > 0


@torch.no_grad()
def test_the_policy_proposes_the_same_within_bounds_alone_and_in_a_batch():
    made, data = model(), batch()
    torch.nn.init.normal_(made.heads.policy.network.last.weight, std=5.0)
    context, goal = observe(made, data), made.encode_goal(data["pixels"][:, 6])
    whole = made.propose(context, goal, 5, 3, make_draws())
    low, high = torch.tensor(ACTIONS.block_low), torch.tensor(ACTIONS.block_high)
    assert whole.shape == (3, 5, 3, 4) and (whole >= low).all() and (whole <= high).all()
    rows = torch.tensor([1])
    alone = made.propose(context.select(rows), goal.select(rows), 5, 3, make_draws((6,)))
    assert torch.allclose(alone, whole[1:2], atol=1e-5)
    assert not torch.allclose(whole[:, 0], whole[:, 1], atol=0.1)


@torch.no_grad()
def test_mppi_with_its_policy_finds_a_return_no_worse_than_the_policys_paths():
    made, data = model(), batch()
    for network in (made.heads.reward, *made.heads.values.members):
        torch.nn.init.normal_(network.last.weight)
    context, goal, cost = observe(made, data), made.encode_goal(data["pixels"][:, 6]), GoalCost(reduce="return")
    planner = MPPI(MPPIConfig(samples=16, prior_samples=6, iterations=2, horizon=3, elites=4, return_best=True))
    plan = planner.plan(made, context, goal, cost, seeds=(5, 6, 7))
    proposed = made.propose(context, goal, 6, 3, make_draws())
    returns = made.imagine(context, proposed).estimate_return(goal)
    assert (-plan.cost_B >= returns.amax(1) - 1e-4).all()


@torch.no_grad()
def test_what_imagined_latents_are_compared_with_begins_at_the_last_context_frame():
    made, data = model(), batch()
    recorded = made.read_open_loop(data["pixels"])
    assert recorded.shape == (3, 6, LATENTS)
    assert torch.allclose(recorded[:, 0], observe(made, data).latent_BD, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"frames": 3}, "frames=3 leaves no later frame as a goal.*give at least 4"),
        ({"unroll": 6}, "unroll=6 exceeds objective.frames - objective.context_frames = 5"),
        ({"bin_range": (2.0, 2.0)}, r"objective.bin_range=\[2.0,2.0\]: give the lower bound first"),
        ({"log_std": (2.0, -10.0)}, r"objective.log_std=\[2.0,-10.0\]: give the lower bound first"),
        ({"present_goals": 0.8}, "present_goals=0.8 and objective.random_goals=0.3 .* sum to 1 at most"),
        ({"channels": 1}, "channels=1 makes 8 latents.*objective.group=16"),
    ],
)
def test_sizes_and_shares_that_do_not_fit_are_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        model(change(**keys, **({"group": 16} if "channels" in keys else {})))


def test_frames_that_its_encoder_is_not_made_for_are_refused():
    for image_px in ((46, 64), (64, 103)):
        with pytest.raises(ValueError, match="made for frames of 64 x 64 pixels; give 47 to 102 pixels a side"):
            Tdmpc2(SMALL, image_px, ACTIONS)


def test_goals_of_other_clips_need_a_batch_of_two():
    change(random_goals=0.0).check_batch(1)
    with pytest.raises(ValueError, match="batch_size=1 has none: give at least 2, or objective.random_goals=0"):
        SMALL.check_batch(1)


def test_the_published_size_has_the_parameters_of_its_layers():
    """The default of config.yaml and common/layers.py of github.com/nicklashansen/tdmpc2, for stacks of three frames of
    64 pixels and 6 actions: latents 512, hidden 512, 32 channels, 5 values, 101 bins. A goal adds its latent to the
    inputs of rewards, values and policy, and nothing else."""
    config = load_config("pretrain", ["data=x", "objective=tdmpc2_5m"]).objective
    actions = ActionSpec((-1.0,) * 6, (1.0,) * 6)
    with torch.device("meta"):
        made = config.make_world_model((64, 64), actions)

    def count_normed(inputs: int, outputs: int = 512) -> int:
        return inputs * outputs + outputs + 2 * outputs

    def mlp(inputs: int, outputs: int) -> int:
        return count_normed(inputs) + count_normed(512) + 512 * outputs + outputs

    encoder = 9 * 32 * 49 + 32 * 32 * 25 + 2 * 32 * 32 * 9 + 4 * 32
    dynamics = count_normed(512 + 6) + count_normed(512) + count_normed(512)
    goal = 512 * 512
    parts = {
        "encoder": (made.encoder, encoder),
        "dynamics": (made.dynamics, dynamics),
        "reward": (made.heads.reward, mlp(512 + 6, 101) + goal),
        "values": (made.heads.values, 5 * (mlp(512 + 6, 101) + goal)),
        "policy": (made.heads.policy, mlp(512, 2 * 6) + goal),
    }
    for name, (part, count) in parts.items():
        assert sum(p.numel() for p in part.parameters()) == count, name
    learned = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert learned == sum(count for _, count in parts.values())
    assert learned - 7 * goal == 4_879_370, "without goals: model_size=5, whose encoder of states has 0.1 M more"


def test_the_defaults_are_those_of_the_published_configuration():
    """config.yaml of github.com/nicklashansen/tdmpc2."""
    config = load_config("pretrain", ["data=x", "objective=tdmpc2_5m"]).objective
    assert (config.consistency, config.reward, config.value, config.rho) == (20, 0.1, 0.1, 0.5)
    assert (config.unroll, config.target_rate, config.entropy, config.log_std) == (3, 0.01, 1e-4, (-10, 2))
    assert (config.bins, config.bin_range, config.group, config.dropout) == (101, (-10, 10), 8, 0.01)
    keys = load_config("plan", ["model=x", "data=x", "planner=mppi_tdmpc2"]).planner
    assert (keys.samples, keys.prior_samples, keys.elites, keys.iterations, keys.horizon) == (512, 24, 64, 6, 3)
    assert (1 / keys.temperature, keys.std_min, keys.std_init, keys.relative) == (0.5, 0.05, 2.0, False)
    assert (keys.cost.reduce, keys.mpc.tail, keys.std_warm, keys.noise_beta) == ("return", "zero", 0.0, 0.0)
