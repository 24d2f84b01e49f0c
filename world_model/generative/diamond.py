"""DIAMOND's world model (Alonso et al., arXiv 2405.12399): the next frame by diffusion in pixels.

Frames x are in -1..1. A network F sees the last frames, the actions after each of them, and the next frame under noise.
With the preconditioning of EDM (Karras et al., arXiv 2206.00364, equation 7), the denoiser is

    D(x; s) = c_skip(s) x + c_out(s) F(c_in(s) x, c_noise(s), past frames / sigma_data, actions)

and is trained by equation 8 of EDM: F learns the target (clean - c_skip x) / c_out under noise of random levels. A
sample takes a few Euler steps along the noise levels of EDM (equation 5). Offset noise and its share in the
preconditioning, the noise that a sample begins with, sizes and initial weights are those of the authors' code at
github.com/eloialonso/diamond (MIT licence). Its model of rewards and ends, actor and critic are left out: goals are
images here. Continuous actions go through a linear map, where the published network has an embedding of each action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from einops import rearrange
from torch import Tensor, nn

from planners.protocol import Keep, Noise, Rows, Views
from world_model.actions import ActionSpec
from world_model.distributed import WorldInfo, world_info
from world_model.draws import draw_rows, make_generator
from world_model.generative.edm import Preconditioning, make_sigmas, precondition, spread, step_euler
from world_model.generative.unet import NORM_EPS, NoiseFeatures, UNet, count_groups, make_convolution
from world_model.generative.world_model import Batch, WorldModel, WorldModelConfig
from world_model.nn.flow import MOST_STEPS

CHANNELS = 3  # of a frame
LEAST_SIGMA, MOST_SIGMA = 2e-3, 20.0  # noise levels of a training
HALF_RANGE = 127.5  # levels of a pixel that 1 stands for
WIDTH_MULTIPLE = 8  # of all widths, so that attention heads divide them
FORMAT = torch.channels_last  # of all maps: small networks take up to half as long again on a CPU otherwise


@dataclass(frozen=True)
class DiamondConfig(WorldModelConfig):
    """Sizes for two cores, noise as published; `objective=diamond_published` has the published sizes."""

    family: Literal["diamond"] = "diamond"
    """DIAMOND's diffusion of pixels: past frames and actions -> next frame"""
    frames: Annotated[int, Ge(2)] = 16
    """frames of a clip (>= context_frames + rollout); the longest plan is frames - context_frames model steps"""
    frame_gap: Annotated[int, Ge(0)] = 0
    """environment steps between the frames of a clip; 0: the task's model step"""
    context_frames: Annotated[int, Ge(1)] = 4
    """past frames that the network sees"""
    widths: tuple[Annotated[int, Ge(1)], ...] = (16, 32, 32, 32)
    """channels of the U-Net's levels, multiples of 8; each level halves the maps of the one before"""
    depth: Annotated[int, Ge(1)] = 1
    """residual blocks of a level on the way down, one more on the way up"""
    condition_dim: Annotated[int, Ge(2)] = 64
    """width of the condition, even and a multiple of context_frames"""
    rollout: Annotated[int, Ge(1)] = 1
    """frames of a training step that are predicted one after another, the later ones from the model's own frames"""
    short_past: Annotated[float, Interval(ge=0, le=1)] = 0.25
    """share of training clips whose first past frames are copies of a later one, as where an episode has just begun"""
    sigma_data: Annotated[float, Gt(0)] = 0.5
    """standard deviation of pixels in -1..1 that the preconditioning assumes"""
    offset_std: Annotated[float, Ge(0)] = 0.3
    """standard deviation of the training noise that all pixels of a colour share"""
    noise_loc: Annotated[float, Interval(ge=-10, le=10)] = -0.4
    """mean of the logarithm of the training noise's standard deviation"""
    noise_scale: Annotated[float, Ge(0)] = 1.2
    """standard deviation of the logarithm of the training noise's standard deviation"""
    sampling_steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] = 3
    """Euler steps per imagined frame (planner.flow_steps: other ones in planning)"""
    sigma_max: Annotated[float, Gt(0)] = 5.0
    """noise level of the first Euler step"""
    sigma_min: Annotated[float, Gt(0)] = 2e-3
    """noise level of the last Euler step, where there are several"""
    rho: Annotated[float, Gt(0)] = 7.0
    """exponent that spaces the noise levels: the larger, the more of them are small"""
    start_std: Annotated[float, Ge(0)] = 1.0
    """standard deviation of the noise that a sample begins with (released code: 1; EDM: sigma_max)"""
    draws: Annotated[int, Ge(0)] = 1
    """imagined paths per candidate, over which the cost is averaged; 0: one, from noise that is always the same"""

    def __post_init__(self) -> None:
        if self.frames < self.context_frames + self.rollout:
            raise ValueError(
                f"objective.frames={self.frames} does not hold objective.context_frames={self.context_frames} and "
                f"objective.rollout={self.rollout} more: give at least {self.context_frames + self.rollout}"
            )
        if not self.widths or any(width % WIDTH_MULTIPLE for width in self.widths):
            raise ValueError(
                f"objective.widths={list(self.widths)}: give each level of the U-Net a multiple of {WIDTH_MULTIPLE}"
            )
        if self.condition_dim % 2 or self.condition_dim % self.context_frames:
            raise ValueError(
                f"objective.condition_dim={self.condition_dim} is not even and a multiple of "
                f"objective.context_frames={self.context_frames}"
            )
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"objective.sigma_min={self.sigma_min:g} is not below objective.sigma_max={self.sigma_max:g}"
            )

    def make_world_model(self, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> Diamond:
        """The model for frames of this size."""
        return Diamond(self, image_px, actions, seed)


def to_unit(frames: Tensor) -> Tensor:
    """Pixels in 0..255 -> -1..1."""
    return frames.float() / HALF_RANGE - 1


def round_levels(x: Tensor) -> Tensor:
    """Pixels in -1..1 -> the nearest whole levels 0..255, float (the released code takes the next lower ones). The
    gradient is that of no rounding, and 0 beyond the range."""
    levels = (x.clamp(-1, 1) + 1) * HALF_RANGE
    return levels + (levels.round() - levels).detach()


class Network(nn.Module):
    """The network F: noisy frames, past frames and actions -> maps [N, 3, H, W]."""

    def __init__(self, config: DiamondConfig, action_dim: int) -> None:
        super().__init__()
        width, dim = config.widths[0], config.condition_dim
        self.embed_noise = NoiseFeatures(dim)
        self.embed_action = nn.Linear(action_dim, dim // config.context_frames)
        self.mix = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.read = make_convolution((config.context_frames + 1) * CHANNELS, width)
        self.unet = UNet(config.widths, config.depth, dim)
        self.norm = nn.GroupNorm(count_groups(width), width, eps=NORM_EPS)
        self.paint = make_convolution(width, CHANNELS)
        nn.init.zeros_(self.paint.weight)

    def forward(self, noisy_NCHW: Tensor, noise_N: Tensor, past_NTCHW: Tensor, actions_NTA: Tensor) -> Tensor:
        """noise_N: c_noise of each frame, or [1] of all. actions_NTA: the action after each past frame."""
        condition = self.mix(self.embed_noise(noise_N) + self.embed_action(actions_NTA).flatten(1))
        x = self.read(torch.cat((past_NTCHW.flatten(1, 2), noisy_NCHW), 1).contiguous(memory_format=FORMAT))
        return self.paint(F.silu(self.norm(self.unet(x, condition))))


@dataclass
class DiamondContext:
    """What B environments have seen: frames [B, T, C, H, W] in -1..1, and scaled action blocks [B, T-1, A]."""

    frames: Tensor
    actions: Tensor

    def select(self, rows: Rows) -> DiamondContext:
        """The context of those environments only."""
        return DiamondContext(self.frames[rows], self.actions[rows])


class Diamond(WorldModel):
    """DIAMOND's world model. sampling_steps: Euler steps per imagined frame."""

    config: DiamondConfig
    views = ("pixels",)

    def __init__(self, config: DiamondConfig, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> None:
        super().__init__(config, image_px, actions)
        self.seed, self.sampling_steps = seed, config.sampling_steps
        self.network = Network(config, actions.block_dim).to(memory_format=FORMAT)

    def predict(self, noisy_NCHW: Tensor, factors: Preconditioning, past_NTCHW: Tensor, actions_NTA: Tensor) -> Tensor:
        """The network's output for frames under noise, float32. factors: of each frame, or [1] of all."""
        scaled = spread(factors.input) * noisy_NCHW
        return self.network(scaled, factors.noise, past_NTCHW / self.config.sigma_data, actions_NTA).float()

    def denoise(self, noisy_NCHW: Tensor, output_NCHW: Tensor, factors: Preconditioning) -> Tensor:
        """The denoised frame D in whole levels 0..255, from the network's output."""
        return round_levels(factors.combine(noisy_NCHW, output_NCHW))

    # -- training ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the network's outputs, over `rollout` frames after a random place of each clip."""
        shard, generator = world_info(), make_generator(self.seed, step)
        frames, actions = self._cut(batch, shard, generator)
        seen, errors = self.config.context_frames, []
        past = frames[:, :seen]
        for k in range(self.config.rollout):
            clean = frames[:, seen + k]
            sigma, noisy = self.add_noise(clean, shard, generator)
            factors = precondition(sigma, self.config.sigma_data, self.config.offset_std)
            output = self.predict(noisy, factors, past, actions[:, k : k + seen])
            errors.append(F.mse_loss(output, factors.make_target(clean, noisy)))
            own = to_unit(self.denoise(noisy, output, factors).detach())
            past = torch.cat((past[:, 1:], own[:, None]), 1)
        error = torch.stack(errors).mean()
        return error, {"prediction": error}

    def add_noise(self, clean_NCHW: Tensor, shard: WorldInfo, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Log-normal noise levels [N], and the frames under independent noise of these levels and offset noise."""
        config = self.config
        level, offset, noise = (
            draw_rows((len(clean_NCHW), *shape), shard, generator).to(clean_NCHW.device)
            for shape in ((), (CHANNELS, 1, 1), clean_NCHW.shape[1:])
        )
        sigma = (config.noise_loc + config.noise_scale * level).exp().clamp(LEAST_SIGMA, MOST_SIGMA)
        return sigma, clean_NCHW + config.offset_std * offset + spread(sigma) * noise

    def _cut(self, batch: Batch, shard: WorldInfo, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames [B, T + rollout, C, H, W] in -1..1 and scaled actions [B, T + rollout - 1, A] from a random place of
        each clip. Some of their pasts are as an `MPC` gives them when an episode has just begun: copies of the first
        frame, with actions of 0 between them."""
        pixels, actions = batch["pixels"], batch["action"]
        clips, seen, length = len(pixels), self.config.context_frames, self.config.context_frames + self.config.rollout
        place, short, lacking = draw_rows((clips, 3), shard, generator, uniform=True).to(pixels.device).unbind(1)
        first = (place * (pixels.shape[1] - length + 1)).long()
        missing = torch.where(short < self.config.short_past, 1 + (lacking * (seen - 1)).long(), 0).clamp_max(seen - 1)
        index = torch.arange(length, device=pixels.device).expand(clips, -1)
        rows = torch.arange(clips, device=pixels.device)[:, None]
        frames = pixels[rows, first[:, None] + index.maximum(missing[:, None])]
        taken = actions[rows, first[:, None] + index[:, :-1]] * (index[:, :-1] >= missing[:, None])[..., None]
        return rearrange(to_unit(frames), "b t h w c -> b t c h w"), self.normalise_actions(taken)

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    def measure_step_bytes(self) -> int:
        """The U-Net's maps of a frame, those kept for the way up and those of a block at full size, of each draw and
        Euler step: a gradient keeps them all."""
        height, width = self.image_px
        kept = sum((self.config.depth + 1) * channels / 4**level for level, channels in enumerate(self.config.widths))
        maps = kept + 8 * self.config.widths[0] + (self.config.context_frames + 2) * CHANNELS
        return 4 * max(1, self.config.draws) * self.sampling_steps * round(maps * height * width)

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> DiamondContext:
        """The past itself. Places before an episode began hold copies of its first frame, as in training."""
        frames = rearrange(to_unit(frames_BTHWC), "b t h w c -> b t c h w")
        return DiamondContext(frames, self.normalise_actions(past_actions_BtA))

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """Goal images as they are."""
        return Views({"pixels": frames_BHWC})

    def imagine(
        self, context: DiamondContext, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> Views:
        """Frames [E, B, S, K, H, W, C] of all candidates, E draws, whose noise all candidates of an environment share;
        without a generator, or with draws=0, from noise that is always the same."""
        batch, candidates, steps, _ = actions_BSKA.shape
        assert steps <= self.config.horizon, (steps, self.config.horizon)
        draws = max(1, self.config.draws if generator is not None else 0)
        rows, seen = (draws, batch, candidates), self.config.context_frames
        taken = context.actions[:, None].expand(-1, candidates, -1, -1)
        actions = torch.cat((taken, self.normalise_actions(actions_BSKA)), 2)
        actions = actions.expand(draws, -1, -1, -1, -1).flatten(0, 2)
        past = context.frames[None, :, None].expand(*rows, -1, -1, -1, -1).flatten(0, 2)
        path: list[Tensor] = []
        for k in range(steps):
            start = self._draw_start(generator if self.config.draws else None, draws, batch, k)
            noise = start[:, :, None].expand(*rows, -1, -1, -1).flatten(0, 2)
            levels = self.sample(past, actions[:, k : k + seen], noise)
            past = torch.cat((past[:, 1:], to_unit(levels)[:, None]), 1)
            path = [levels] if keep == "last" else [*path, levels]
        frames = torch.stack(path, 1).unflatten(0, rows)
        return Views({"pixels": rearrange(frames, "e b s k c h w -> e b s k h w c")}, keep)

    def sample(self, past_NTCHW: Tensor, actions_NTA: Tensor, noise_NCHW: Tensor) -> Tensor:
        """The next frames in whole levels 0..255, by Euler steps from standard normal noise."""
        config = self.config
        levels = make_sigmas(self.sampling_steps, config.sigma_min, config.sigma_max, config.rho)
        sigmas = torch.tensor(levels, device=noise_NCHW.device)
        x = config.start_std * noise_NCHW
        for sigma, next_sigma in zip(sigmas[:-1], sigmas[1:], strict=True):
            factors = precondition(sigma[None], config.sigma_data, config.offset_std)
            denoised = self.denoise(x, self.predict(x, factors, past_NTCHW, actions_NTA), factors)
            x = step_euler(x, to_unit(denoised), sigma, next_sigma)
        return denoised  # where the last step ends

    def _draw_start(self, generator: Noise | None, draws: int, batch: int, step: int) -> Tensor:
        """Standard normal noise [E, B, C, H, W] of a step of a path; None: the same for all environments and calls."""
        shape = (CHANNELS, *self.image_px)
        if generator is not None:
            return generator.normal((draws, *shape), stream=1 + step).transpose(0, 1)
        fixed = torch.randn(shape, generator=make_generator(step)).to(self.action_mid.device)
        return fixed.expand(draws, batch, *shape)
