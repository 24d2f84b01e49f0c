"""Models of configured sizes, untrained, with the frames that a plan begins at: what the speed of planning is measured
on. A plan takes as long with trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import envs
from commands.config.compose import compose_defaults, load_config, nest_overrides
from commands.config.groups import ModelKeys, make_planner
from commands.config.schema import override
from commands.evaluation.models import prepare_model
from commands.shared.errors import UsageError
from commands.shared.flops import count_flops
from commands.training.posttraining import make_dynamics
from planners.costs import GoalCost, focus_goal
from planners.noise import Draws
from planners.protocol import Plan
from planners.sampling import BasePlanner
from planners.scoring import score
from world_model.actions import ActionSpec
from world_model.dynamics import LatentDynamics
from world_model.generative.world_model import WorldModel, WorldModelConfig

Model = LatentDynamics | WorldModel
Keys = TypeVar("Keys", bound=ModelKeys)


@dataclass(frozen=True)
class Start:
    """What B environments have seen when a plan begins: frames uint8 [B, T, H, W, C], action blocks float32 [B, T-1, A]
    between them, valid bool [B, T], proprioception float32 [B, T, Q]; and goal images uint8 [B, H, W, C]."""

    frames: Tensor
    past: Tensor
    valid: Tensor
    proprio: Tensor
    goal: Tensor


@dataclass(frozen=True)
class PlanCase:
    """A model, a search and a cost, and where its plans begin."""

    model: Model
    planner: BasePlanner
    cost: GoalCost
    start: Start

    def observe(self) -> tuple[Any, Any]:
        """The context and the goal, as a planner takes them."""
        start = self.start
        with torch.no_grad():
            context = self.model.observe(start.frames, start.past, start.valid, start.proprio)
            goal = self.model.encode_goal(start.goal)
            return context, focus_goal(self.model, self.cost, goal, start.frames[:, -1])

    def plan(self, number: int) -> Plan:
        """Encode frames and goals, and plan once. number: other numbers draw other candidates."""
        context, goal = self.observe()
        seeds = range(len(self.start.frames))
        return self.planner.plan(self.model, context, goal, self.cost, seeds=seeds, replan=number)


def count_parameters(module: nn.Module) -> int:
    """Numbers that a training could change."""
    return sum(parameter.numel() for parameter in module.parameters())


def make_model(keys: ModelKeys, device: torch.device) -> Model:
    """The model that `jepa plan` would have of these keys, before its training: latent dynamics with their encoder, or
    a world model of one stage."""
    objective = keys.objective
    if isinstance(objective, WorldModelConfig):
        task = envs.get_task(keys.env.name)
        actions = ActionSpec(task.action_low, task.action_high, objective.frame_gap or task.frame_skip)
        return objective.make_world_model(keys.encoder.image_px, actions, keys.seed).to(device).eval()
    return make_dynamics(objective.adapt_encoder(keys.encoder), keys.dynamics, keys.env.name).to(device).eval()


def make_start(model: Model, environments: int) -> Start:
    """Random pictures, and no action before."""
    spec = model.spec
    rows = (environments, spec.history)

    def draw_pictures(*lead: int) -> Tensor:
        return torch.randint(0, 256, (*lead, *spec.frame_hw, 3), dtype=torch.uint8, device=spec.device)

    return Start(
        draw_pictures(*rows),
        torch.zeros(environments, spec.history - 1, spec.block_dim, device=spec.device),
        torch.ones(rows, dtype=torch.bool, device=spec.device),
        torch.zeros(*rows, spec.proprio_dim, device=spec.device),
        draw_pictures(environments),
    )


def make_case(keys: ModelKeys, environments: int, device: torch.device, name: str = "this model") -> PlanCase:
    """The model of these keys with their planner and cost. ValueError for a view that the model does not offer, and for
    a key of the planner that it cannot follow."""
    model = make_model(keys, device)
    prepare_model(keys.planner, model, name)
    return PlanCase(model, make_planner(keys.planner), keys.planner.cost, make_start(model, environments))


def choose_parts(keys: Keys, words: Sequence[Any], where: str) -> Keys:
    """These keys with overrides as on a command line: choices of groups (objective=NAME, dynamics=NAME), which begin at
    that choice's values, and then single keys. where: of the message, as models.tokens. UsageError for an unknown one.
    """
    groups = compose_defaults("bench").choices
    chosen = [word for word in words if isinstance(word, str) and word.partition("=")[0] in groups]
    try:
        for word in chosen:
            group = word.partition("=")[0]
            keys = replace(keys, **{group: getattr(load_config("bench", [word]), group)})
        nested = nest_overrides([word for word in words if word not in chosen])
        return override(keys, nested) if nested else keys
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def allow_steps(keys: Keys, steps: int) -> Keys:
    """These keys with a model that can be planned so many steps ahead."""
    objective = keys.objective
    if isinstance(objective, WorldModelConfig):
        frames = max(objective.frames, objective.context_frames + steps)
        return replace(keys, objective=replace(objective, frames=frames))
    return replace(keys, dynamics=replace(keys.dynamics, horizon=max(keys.dynamics.horizon, steps)))


def estimate_plan_flops(case: PlanCase) -> float:
    """Operations of a plan: those that encode frames and goal, and as many for each of samples x iterations candidates
    as one takes. Counted on two candidates, so that a plan of hours is known before it is begun. A search that follows
    gradients takes more, and one whose population shrinks takes less."""
    config, count = case.planner.config, len(case.start.frames)
    noise = Draws(tuple(range(count)), 0, case.model.spec.device)
    context, goal = case.observe()
    goal.view(case.cost.view)  # computed once, here

    def score_few(samples: int) -> None:
        actions = torch.zeros(count, samples, config.horizon, case.model.spec.block_dim, device=noise.device)
        with torch.no_grad():
            score(case.model, context, goal, case.cost, actions, noise)

    encoding = count_flops(lambda: case.observe()[1].view(case.cost.view))
    one, two = count_flops(lambda: score_few(1)), count_flops(lambda: score_few(2))
    return encoding + (two - one) * config.samples * config.iterations
