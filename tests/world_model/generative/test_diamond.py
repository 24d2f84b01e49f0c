"""DIAMOND's diffusion of pixels against its paper and its authors' code, and as a planner sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from planners.mpc import observe_first_frames
from tests.world_model.small import make_batch, make_draws
from world_model.actions import ActionSpec
from world_model.generative.diamond import Diamond, DiamondConfig, round_levels, to_unit
from world_model.generative.edm import Preconditioning
from world_model.generative.unet import UNet

SMALL = DiamondConfig(frames=6, context_frames=3, widths=(8, 16), condition_dim=12, draws=2)
ACTIONS = ActionSpec((-2.0, 0.0), (2.0, 1.0), 2)
PX = (12, 16)
Seen = list[tuple[torch.Tensor, Preconditioning, torch.Tensor, torch.Tensor]]


def model(config: DiamondConfig = SMALL) -> Diamond:
    """With weights that are all random: fresh ones ignore past and actions."""
    torch.manual_seed(0)
    made = Diamond(config, PX, ACTIONS).eval()
    for weight in made.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=0.1)
    return made


def batch(clips: int = 3, frames: int = 6) -> dict[str, torch.Tensor]:
    return make_batch(PX, ACTIONS, clips, frames)


def watch(made: Diamond, answer: Callable[..., torch.Tensor]) -> Seen:
    """Let `answer` stand for the network; what it is asked is appended to the list."""
    seen: Seen = []

    def predict(*asked: torch.Tensor) -> torch.Tensor:
        seen.append(asked)
        return answer(*asked)

    made.predict = predict
    return seen


def silent(noisy: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(noisy)


def differ(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean difference in levels. Rounding may fall otherwise where products are summed in another order."""
    return (first - second).abs().mean().item()


def test_pixels_become_whole_levels_and_gradients_pass():
    x = torch.tensor([-2.0, -0.9, 0.1, 0.5, 0.6, 1.3], requires_grad=True)
    levels = round_levels(x)  # -0.9: 12.75; 0.1: 140.25; 0.5: 191.25; 0.6: 204
    assert levels.tolist() == [0, 13, 140, 191, 204, 255]
    (gradient,) = torch.autograd.grad(levels.sum(), x)
    assert gradient.tolist() == [0.0, 127.5, 127.5, 127.5, 127.5, 0.0]
    every = torch.arange(256)
    assert torch.equal(round_levels(to_unit(every)), every.float())


def test_the_exact_target_has_no_loss_and_denoises_to_the_frame():
    made, data = model(), batch()
    data["pixels"] = data["pixels"][:, :1].expand(-1, 6, -1, -1, -1)  # still clips: the last past frame is the next
    seen = watch(made, lambda noisy, factors, past, actions: factors.make_target(past[:, -1], noisy))
    assert made.loss(data, 0)[0].item() < 1e-8
    noisy, factors, past, _ = seen[0]
    clean = data["pixels"][:, 0].movedim(-1, 1).float()
    assert torch.equal(to_unit(clean), past[:, -1])
    assert torch.equal(made.denoise(noisy, factors.make_target(past[:, -1], noisy), factors), clean)


def test_the_loss_is_the_mean_squared_error_to_the_target():
    made, data = model(), batch()
    data["pixels"] = data["pixels"][:, :1].expand(-1, 6, -1, -1, -1)
    seen = watch(made, silent)
    loss, terms = made.loss(data, 0)
    noisy, factors, past, _ = seen[0]
    skip, out = factors.skip.view(-1, 1, 1, 1), factors.out.view(-1, 1, 1, 1)
    assert torch.allclose(loss, (((past[:, -1] - skip * noisy) / out) ** 2).mean()) and loss == terms["prediction"]


def test_training_noise_is_log_normal_within_its_bounds_and_has_an_offset_of_each_colour():
    clean = torch.zeros(4000, 3, 2, 2)

    class Alone:
        world = 1

        def split_rows(self, total: int) -> slice:
            return slice(0, total)

    sigma, _ = model().add_noise(clean, Alone(), torch.Generator().manual_seed(0))
    assert sigma.log().mean().item() == pytest.approx(-0.4, abs=0.06)
    assert sigma.log().std().item() == pytest.approx(1.2, abs=0.04)
    wide = model(replace(SMALL, noise_scale=50.0)).add_noise(clean, Alone(), torch.Generator().manual_seed(0))[0]
    assert wide.min().item() == pytest.approx(2e-3) and wide.max().item() == 20
    least = model(replace(SMALL, noise_loc=-50.0)).add_noise(clean, Alone(), torch.Generator().manual_seed(0))[1]
    assert least.mean((2, 3)).std().item() == pytest.approx(0.3, abs=0.01)
    assert least.std((2, 3)).mean().item() < 3e-3


def test_the_next_frame_follows_as_many_frames_each_with_its_action():
    made, data = model(replace(SMALL, short_past=0.0)), batch(64)
    seen = watch(made, silent)
    made.loss(data, 0)
    frames = to_unit(data["pixels"]).movedim(-1, 2)
    places = [
        next(t for t in range(3) if torch.equal(past[0], clip[t]))
        for past, clip in zip(seen[0][2], frames, strict=True)
    ]
    assert set(places) == {0, 1, 2}
    scaled = made.normalise_actions(data["action"])
    for row, place in enumerate(places):
        assert torch.equal(seen[0][2][row], frames[row, place : place + 3])
        assert torch.equal(seen[0][3][row], scaled[row, place : place + 3])


def test_a_short_past_is_trained_as_a_plan_at_the_start_of_an_episode_has_it():
    made, data = model(replace(SMALL, short_past=1.0)), batch(64)
    seen = watch(made, silent)
    made.loss(data, 0)
    past, actions, none = seen[0][2], seen[0][3], made.normalise_actions(torch.zeros(4))
    assert torch.equal(past[:, 0], past[:, 1]) and torch.equal(actions[:, 0], none.expand(64, -1))
    lacks_two = (past[:, 1] == past[:, 2]).flatten(1).all(1)
    assert lacks_two.any() and not lacks_two.all()
    assert torch.equal((actions[:, 1] == none).all(1), lacks_two)
    context = observe_first_frames(made, data["pixels"][:, 0])
    assert torch.equal(context.frames[:, 0], context.frames[:, 2])
    assert torch.equal(context.actions, none.expand(64, 2, -1))


def test_later_frames_of_a_rollout_follow_the_models_own():
    made, data = model(replace(SMALL, rollout=2, short_past=0.0)), batch()
    seen = watch(made, silent)
    made.loss(data, 0)
    (noisy, factors, past, actions), (_, _, later, then) = seen
    assert torch.equal(later[:, :2], past[:, 1:]) and torch.equal(then[:, :2], actions[:, 1:])
    own = (factors.skip.view(-1, 1, 1, 1) * noisy).clamp(-1, 1)
    assert (later[:, -1] - own).abs().max() <= 0.5 / 127.5 + 1e-6


def test_a_sample_is_rounded_after_every_step_by_hand():
    """With levels 4, 1, 0 and a denoiser that halves its input: 0.7 -> 0.35 = level 172.1, rounded -> 0.349020;
    0.349020 + (0.7 - 0.349020) / 4 = 0.436765 -> 0.218382 = level 155.3."""
    made = model(replace(SMALL, sampling_steps=2, sigma_max=4.0, sigma_min=1.0))
    asked: list[float] = []

    def halve(noisy: torch.Tensor, output: torch.Tensor, factors: Preconditioning) -> torch.Tensor:
        asked.append(noisy.flatten()[0].item())
        return round_levels(noisy / 2)

    watch(made, silent)
    made.denoise = halve
    levels = made.sample(torch.zeros(1, 3, 3, *PX), torch.zeros(1, 3, 4), torch.full((1, 3, *PX), 0.7))
    assert asked == pytest.approx([0.7, 0.436765], abs=1e-5) and levels.unique().tolist() == [155]


@torch.no_grad()
def test_candidates_share_noise_and_chunks_and_batches_change_nothing():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :3], data["action"][:, :2], torch.ones(3, 3).bool())
    actions = data["action"][:, None, 2:].expand(3, 4, -1, -1)
    whole = made.imagine(context, actions, make_draws()).view("pixels")
    assert whole.shape == (2, 3, 4, 3, *PX, 3) and torch.equal(whole, whole.round())
    assert whole.min() >= 0 and whole.max() <= 255
    assert differ(whole[:, :, :1], whole) < 0.05  # the same actions, the same future
    assert differ(whole[0], whole[1]) > 0.5  # another draw, another one
    other = actions.clone()
    other[:, 1:] = torch.tensor(ACTIONS.block_low)
    moved = made.imagine(context, other, make_draws()).view("pixels")
    assert differ(moved[:, :, :1], whole[:, :, :1]) < 0.05 and differ(moved[:, :, 1:], whole[:, :, 1:]) > 0.5
    assert differ(made.imagine(context, actions[:, 3:], make_draws()).view("pixels"), whole[:, :, 3:]) < 0.05
    alone = made.imagine(context.select(slice(1, 2)), actions[1:2], make_draws().select(slice(1, 2))).view("pixels")
    assert differ(alone, whole[:, 1:2]) < 0.05
    last = made.imagine(context, actions, make_draws(), keep="last").view("pixels")
    assert last.shape[3] == 1 and torch.equal(last[:, :, :, 0], whole[:, :, :, -1])


@torch.no_grad()
def test_steps_of_a_path_have_noise_of_their_own_and_goals_are_pictures():
    made, data = model(), batch()
    starts = torch.stack([made._draw_start(make_draws(), 2, 3, step) for step in range(3)])
    assert starts.shape == (3, 2, 3, 3, *PX) and starts.flatten(0, 2).flatten(1).unique(dim=0).shape[0] == 18
    context = made.observe(data["pixels"][:, :3], data["action"][:, :2], torch.ones(3, 3).bool())
    path, again = (made.imagine(context, data["action"][:, None, 2:]).view("pixels") for _ in range(2))
    assert path.shape == (1, 3, 1, 3, *PX, 3) and differ(path, again) < 0.05  # without a generator: fixed noise
    goal = made.encode_goal(data["pixels"][:, 0])
    assert torch.equal(goal.view("pixels"), data["pixels"][:, 0])
    with pytest.raises(ValueError, match="view 'pooled' is not offered"):
        goal.view("pooled")


def test_imagined_futures_have_gradients_for_planners_that_descend():
    made, data = model(), batch()
    context = made.observe(data["pixels"][:, :3], data["action"][:, :2], torch.ones(3, 3).bool())
    actions = data["action"][:, None, 2:].clone().requires_grad_()
    made.imagine(context, actions, make_draws()).view("pixels")[:, :, :, -1].mean().backward()
    assert actions.grad[:, :, 0].abs().max() > 0 and actions.grad[:, :, -1].abs().max() > 0


def test_memory_grows_with_draws_and_euler_steps():
    one, made = model(replace(SMALL, draws=1)), model()
    assert made.spec.step_bytes == 2 * one.spec.step_bytes
    made.sampling_steps = 6
    assert made.spec.step_bytes == 4 * one.spec.step_bytes


def test_maps_that_do_not_halve_evenly_are_padded_and_cut():
    torch.manual_seed(0)
    net = UNet((8, 16, 16), 2, 4)
    x, condition = torch.randn(2, 8, 10, 13), torch.randn(2, 4)
    whole = net(nn.functional.pad(x, (0, 3, 0, 2)), condition)
    assert torch.allclose(net(x, condition), whole[..., :10, :13], atol=1e-5)


def test_the_published_preset_has_the_parameters_that_its_layers_have():
    """Counted from the authors' configuration: 64 channels at four levels, two blocks each, a condition of 256."""
    published = DiamondConfig(widths=(64, 64, 64, 64), depth=2, condition_dim=256)
    made = Diamond(published, (64, 64), ACTIONS)

    def convolution(inputs: int, outputs: int, kernel: int = 3) -> int:
        return kernel**2 * inputs * outputs + outputs

    def block(inputs: int, outputs: int) -> int:
        skip = 0 if inputs == outputs else convolution(inputs, outputs, 1)
        norms = sum((256 + 1) * 2 * n for n in (inputs, outputs))
        return norms + convolution(inputs, outputs) + convolution(outputs, outputs) + skip

    attention = 2 * 64 + convolution(64, 3 * 64, 1) + convolution(64, 64, 1)
    unet = 4 * 2 * block(64, 64) + 2 * (block(64, 64) + attention) + 4 * 3 * block(128, 64) + 6 * convolution(64, 64)
    assert sum(p.numel() for p in made.network.unet.parameters()) == unet == 4_263_552
    condition = 2 * (256 + 1) * 256
    whole = unet + condition + convolution(5 * 3, 64) + 2 * 64 + convolution(64, 3)
    # The authors' network with 18 actions has 4,406,851, of which 18 x 64 embed actions.
    assert whole == 4_406_851 - 18 * 64
    assert sum(p.numel() for p in made.parameters()) == whole + (4 + 1) * 64


def test_a_fresh_network_says_little_whatever_it_sees():
    """The last convolution has no weights at first, so the output is its bias."""
    torch.manual_seed(0)
    made, data = Diamond(SMALL, PX, ACTIONS), batch()
    assert not made.network.paint.weight.any()
    output = made.predict(torch.randn(3, 3, *PX), *_ask(made, data))
    assert torch.allclose(output, made.network.paint.bias.view(1, 3, 1, 1).expand_as(output), atol=1e-6)


def _ask(made: Diamond, data: dict[str, torch.Tensor]) -> tuple[Preconditioning, torch.Tensor, torch.Tensor]:
    one = torch.ones(1)
    past = to_unit(data["pixels"][:, :3]).movedim(-1, 2)
    return Preconditioning(one, one, one, one), past, made.normalise_actions(data["action"][:, :3])


def test_it_learns_a_square_that_actions_move():
    torch.manual_seed(0)
    config = replace(SMALL, frames=4, short_past=0.0)
    made = Diamond(config, (16, 16), ActionSpec((-1.0,), (1.0,), 1))
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)

    def draw_clips(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        actions = 2.0 * torch.randint(0, 2, (8, 3, 1), generator=generator) - 1
        places = 6 + torch.cat((torch.zeros(8, 1), 2 * actions[..., 0].cumsum(1)), 1)
        inside = ((torch.arange(16) - places[..., None]).abs() <= 2)[:, :, None].expand(-1, -1, 16, -1)
        return {"pixels": (200 * inside + 20)[..., None].expand(-1, -1, -1, -1, 3).to(torch.uint8), "action": actions}

    @torch.no_grad()
    def measure() -> float:
        return sum(made.loss(draw_clips(1000 + n), 1000 + n)[0].item() for n in range(2)) / 2

    before = measure()
    for step in range(30):
        optimizer.zero_grad()
        made.loss(draw_clips(step), step)[0].backward()
        optimizer.step()
    assert measure() < 0.5 * before


def test_the_loss_is_a_function_of_batch_and_step():
    made, data = model(), batch()
    assert made.loss(data, 3)[0] == made.loss(data, 3)[0] != made.loss(data, 4)[0]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"frames": 3},
            "frames=3 does not hold objective.context_frames=3 and objective.rollout=1 more: give at least 4",
        ),
        ({"rollout": 4}, "give at least 7"),
        ({"widths": (8, 12)}, r"widths=\[8, 12\]: give each level of the U-Net a multiple of 8"),
        ({"widths": ()}, r"widths=\[\]: give each level"),
        ({"condition_dim": 16}, "condition_dim=16 is not even and a multiple of objective.context_frames=3"),
        ({"sigma_min": 5.0}, "sigma_min=5 is not below objective.sigma_max=5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **keys)
