"""TD-MPC2 (Hansen et al., arXiv 2310.16828), trained on recorded data alone and conditioned on goal images.

A latent z is learned without a decoder, from what it predicts of its own future, of rewards and of values. Rewards,
values and the policy see the goal's latent g beside it (`world_model.generative.tdmpc2_heads`):

    encoder      z = h(s)                    dynamics     z' = d(z, a)
    reward       r^ = R(z, a, g)             values       q^ = Q(z, a, g)             policy      a ~ p(z, g)

    loss = mean over t of  rho^t (20 |z[t+1] - sg h(s[t+1])|^2 + 0.1 CE(R(z[t], a[t], g), r[t])
                                  + 0.1 CE(Q(z[t], a[t], g), q[t]))  + loss of the policy, at sg z[t]
    z[0] = h(s[0])        z[t+1] = d(z[t], a[t])

|.|^2 is a mean over latents and CE the cross-entropy with two-hot targets, both as in the authors' code at
github.com/nicklashansen/tdmpc2 (MIT licence), whose sizes and weights these are. s is a stack of frames, as there.

Rewards and goals are hindsight's (`world_model.hindsight`): no reward and no state of a simulator is read.
stable-worldmodel's TD-MPC2 instead reads rewards that a simulator recorded, with an episode's last observation as goal.

A plan maximises the return (`planner.cost.reduce=return`): predicted rewards of a path, and the value of its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from planners.protocol import Goal, Keep, Noise, Rows, Views
from world_model.actions import ActionSpec
from world_model.draws import make_generator
from world_model.generative.tdmpc2_heads import GoalHeads, HeadsConfig
from world_model.generative.tdmpc2_layers import ImageEncoder, Mlp, measure_maps, shift_frames
from world_model.generative.world_model import Batch, WorldModel, WorldModelConfig
from world_model.hindsight import draw_goals

LEAST_MAP, MOST_MAP = 2, 8  # side of the encoder's last maps
POLICY_STREAM = 1  # of a planner's draws


@dataclass(frozen=True)
class Tdmpc2Config(HeadsConfig, WorldModelConfig):
    """Sizes of the published 1 M model, for two cores; `objective=tdmpc2_5m` has those of the published default."""

    family: Literal["tdmpc2"] = "tdmpc2"
    """TD-MPC2: latents without a decoder, rewards, values and a policy towards a goal image"""
    frames: Annotated[int, Ge(3)] = 16
    """frames of a clip (> context_frames + 1), of which later ones are goals; the longest plan is frames -
    context_frames model steps"""
    frame_gap: Annotated[int, Ge(0)] = 0
    """environment steps between the frames of a clip; 0: the task's model step"""
    context_frames: Annotated[int, Ge(1)] = 3
    """frames that are stacked as one input, so that it shows velocities; a goal is repeated as often"""
    unroll: Annotated[int, Ge(1)] = 3
    """imagined model steps of a training clip (at most frames - context_frames)"""
    channels: Annotated[int, Ge(1)] = 8
    """channels of the convolutions; frames of 64 pixels have 16 times as many latents"""
    encoder_norm: bool = False
    """whether a layer norm precedes the encoder's SimNorm, as published for states alone; latents of frames then differ
    twenty times as much from the start"""
    group: Annotated[int, Ge(2)] = 8
    """latents that sum to one (SimNorm)"""
    consistency: Annotated[float, Gt(0)] = 20.0
    """weight of the error of predicted latents"""
    reward: Annotated[float, Ge(0)] = 0.1
    """weight of the reward's cross-entropy"""
    value: Annotated[float, Ge(0)] = 0.1
    """weight of the values' cross-entropy"""
    present_goals: Annotated[float, Interval(ge=0, le=1)] = 0.2
    """share of goals that are the present frame"""
    random_goals: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """share of goals that are frames of other clips; the rest are later frames of the same clip"""
    shift_px: Annotated[int, Ge(0)] = 3
    """largest random shift of frames in training, pixels (0: none)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames <= self.context_frames + 1:
            raise ValueError(
                f"objective.frames={self.frames} leaves no later frame as a goal after "
                f"objective.context_frames={self.context_frames}: give at least {self.context_frames + 2}"
            )
        if self.unroll > self.horizon:
            raise ValueError(
                f"objective.unroll={self.unroll} exceeds objective.frames - objective.context_frames = {self.horizon}"
            )
        if self.present_goals + self.random_goals > 1:
            raise ValueError(
                f"objective.present_goals={self.present_goals} and objective.random_goals={self.random_goals} are "
                "shares of all goals: they must sum to 1 at most"
            )

    def check_batch(self, batch_size: int) -> None:
        """Raise ValueError for a batch of one clip where goals come from others."""
        if batch_size < 2 and self.random_goals:
            raise ValueError(
                f"objective.random_goals={self.random_goals} takes goals from other clips of a batch, and "
                f"batch_size={batch_size} has none: give at least 2, or objective.random_goals=0"
            )

    def make_world_model(self, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> Tdmpc2:
        """The model for frames of this size."""
        return Tdmpc2(self, image_px, actions, seed)


@dataclass
class LatentState:
    """Latents [B, D] of B environments now."""

    latent_BD: Tensor

    def select(self, rows: Rows) -> LatentState:
        """Those environments only."""
        return LatentState(self.latent_BD[rows])


class ImaginedLatents(Views):
    """An imagined path that also estimates its return (`planners.protocol.ReturnImagined`).

    path_BSKD: latents before each of the action blocks and after the last, so K + 1 of them. actions_BSKA: -1 to 1.
    """

    def __init__(self, model: Tdmpc2, path_BSKD: Tensor, actions_BSKA: Tensor, keep: Keep) -> None:
        super().__init__({"pooled": path_BSKD[:, :, -1:] if keep == "last" else path_BSKD[:, :, 1:]}, keep)
        self.model, self.path_BSKD, self.actions_BSKA = model, path_BSKD, actions_BSKA

    def estimate_return(self, goal: Goal) -> Tensor:
        """return_BS: discounted rewards of the path, and the discounted value of its end."""
        return self.model.heads.estimate_return(self.path_BSKD, self.actions_BSKA, goal.view("pooled"))


class Tdmpc2(WorldModel):
    """TD-MPC2's world model, with its values and its policy (`planners.protocol.PolicyPrior`)."""

    config: Tdmpc2Config
    views = ("pooled",)
    open_loop_view = "pooled"
    estimates_return = True

    def __init__(self, config: Tdmpc2Config, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> None:
        super().__init__(config, image_px, actions)
        maps = measure_maps(image_px)
        if not all(LEAST_MAP <= side <= MOST_MAP for side in maps):
            raise ValueError(
                f"encoder.image_px={list(image_px)}: TD-MPC2's encoder is made for frames of 64 x 64 pixels; give 47 "
                "to 102 pixels a side"
            )
        latents = config.channels * maps[0] * maps[1]
        if latents % config.group:
            raise ValueError(
                f"objective.channels={config.channels} makes {latents} latents of frames of {list(image_px)} pixels, "
                f"which do not divide into objective.group={config.group}"
            )
        self.seed, block = seed, actions.block_dim
        normed = latents if config.encoder_norm else 0
        self.encoder = ImageEncoder(3 * config.context_frames, config.channels, config.group, normed)
        self.dynamics = Mlp(latents + block, config.hidden, latents, config.group)
        self.heads = GoalHeads(config, latents, block)

    # -- latents -------------------------------------------------------------------------------------------------

    def stack_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """Inputs [B, T - n + 1, H, W, n * C] of each n = context_frames frames in a row, oldest first."""
        count = self.config.context_frames
        steps = frames_BTHWC.shape[1] - count + 1
        return torch.cat([frames_BTHWC[:, n : n + steps] for n in range(count)], -1)

    def repeat_frames(self, frames_BHWC: Tensor) -> Tensor:
        """Inputs [B, H, W, n * C] of frames that are held still."""
        return torch.cat([frames_BHWC] * self.config.context_frames, -1)

    def encode(self, inputs_BTHWC: Tensor) -> Tensor:
        """Latents [B, T, D]."""
        return self.encoder(inputs_BTHWC.flatten(0, 1)).unflatten(0, inputs_BTHWC.shape[:2])

    # -- training ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of the module's docstring, for the first transitions of each clip. Beside them, not in the sum:
        how latents differ between clips, and the range of values. Shifts and dropout are of training mode alone."""
        config, frames = self.config, batch["pixels"]
        generator, first = make_generator(self.seed, step), config.context_frames - 1
        shares = (config.present_goals, config.random_goals)
        goals = draw_goals(len(frames), frames.shape[1], first, *shares, generator)
        seen = self.stack_frames(frames[:, : first + 1 + config.unroll])
        inputs = torch.cat((seen, self.repeat_frames(goals.read(frames))[:, None]), 1)
        if self.training and config.shift_px:
            inputs = self._shift_inputs(inputs, generator)
        begin, goal = self.encode(inputs[:, [0, -1]]).unbind(1)
        with torch.no_grad():
            following = self.encode(inputs[:, 1:-1])
        actions = self.normalise_actions(batch["action"][:, first : first + config.unroll])
        path = self.unroll(begin, actions)
        reached = goals.find_reached(first, config.unroll).to(frames.device)
        rewards, goal_path = reached.float() - 1, goal[:, None].expand_as(path)
        targets = self.heads.compute_targets(following, goal_path[:, 1:].detach(), rewards, reached, generator)
        known = torch.cat((path[:, :-1], actions, goal_path[:, 1:]), -1)
        reward, value = self.heads.measure_errors(known, rewards, targets, generator)
        consistency = (path[:, 1:] - following).square().mean((0, 2))
        weights = self.heads.weigh_steps(consistency)
        terms = {
            "prediction": config.consistency * (weights * consistency).mean(),
            "reward": config.reward * (weights * reward).mean(),
            "value": config.value * (weights * value).mean(),
            "policy": self.heads.compute_policy_loss(path.detach(), goal_path.detach(), generator),
        }
        # Latents that no longer differ between clips have collapsed.
        logged = {"latent_std": begin.detach().std(0, unbiased=False).mean(), "value_range": self.heads.spread}
        return torch.stack(list(terms.values())).sum(), terms | logged

    def _shift_inputs(self, inputs_BTHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs moved at random, the frames of a stack together."""
        flat, most = inputs_BTHWC.flatten(0, 1), self.config.shift_px
        shifts = torch.randint(-most, most + 1, (len(flat), 2), generator=generator)
        return shift_frames(flat, shifts).unflatten(0, inputs_BTHWC.shape[:2])

    def unroll(self, latent_BD: Tensor, actions_BTA: Tensor) -> Tensor:
        """Latents [..., T + 1, D] from a first one [..., D] on, by actions [..., T, A] in -1 to 1."""
        path = [latent_BD]
        for action in actions_BTA.unbind(-2):
            path.append(self.dynamics(torch.cat((path[-1], action), -1)))
        return torch.stack(path, -2)

    def after_step(self, step: int) -> None:
        """Target values follow."""
        self.heads.follow()

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    def measure_step_bytes(self) -> int:
        """Inputs and hidden layers of the reward and of every value."""
        latents = self.dynamics.last.out_features
        return 4 * (1 + self.config.num_values) * (2 * latents + 4 * self.config.hidden)

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> LatentState:
        """The latent of the last frames. At the start of an episode they are copies of the first, as published."""
        return LatentState(self.encode(self.stack_frames(frames_BTHWC))[:, -1])

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """Latents of goal images that are held still."""
        return Views({"pooled": lambda: self.encoder(self.repeat_frames(frames_BHWC))})

    def read_open_loop(self, frames_BTHWC: Tensor) -> Tensor:
        """Latents of the seen frames."""
        return self.encode(self.stack_frames(frames_BTHWC))

    def imagine(
        self, context: LatentState, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> ImaginedLatents:
        """Futures of all candidates; nothing is drawn."""
        steps, candidates = actions_BSKA.shape[2], actions_BSKA.shape[1]
        assert steps <= self.config.horizon, (steps, self.config.horizon)
        actions = self.normalise_actions(actions_BSKA)
        begin = context.latent_BD[:, None].expand(-1, candidates, -1)
        return ImaginedLatents(self, self.unroll(begin, actions), actions, keep)

    # -- planners.protocol.PolicyPrior ---------------------------------------------------------------------------

    def propose(self, context: LatentState, goal: Goal, count: int, steps: int, generator: Noise) -> Tensor:
        """actions_BSKA in environment units: `count` paths of the policy through the model."""
        latent = context.latent_BD[:, None].expand(-1, count, -1)
        goals = goal.view("pooled")[:, None].expand(-1, count, -1)
        noise, chosen = generator.normal((count, steps, len(self.action_mid)), POLICY_STREAM), []
        for k in range(steps):
            chosen.append(self.heads.policy.act(torch.cat((latent, goals), -1), noise[:, :, k]))
            latent = self.dynamics(torch.cat((latent, chosen[-1]), -1))
        return self.restore_actions(torch.stack(chosen, 2))
