"""One plan with shared and cached keys and values, as it is and compiled, beside the same plan by a plain loop that
recomputes its window.

The loop is what the peers do (stable-worldmodel, jepa-wms, DINO-WM): every candidate has a copy of the past, and each
imagined step runs the predictor over all of past and path. Both have the same weights and draws, and no window slides:
it holds the past and the whole horizon, so that both compute the same function.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from commands.benchmarks.official import time_call
from commands.shared.flops import count_flops
from planners.cem import CEM, CEMConfig, RecordingCEM
from planners.costs import GoalCost
from planners.protocol import Views
from planners.scoring import measure_elite_overlap, score
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.nn.pools import LearnedPoolConfig
from world_model.predictor import ActionPredictor, PredictorConfig
from world_model.training.compilation import compile_blocks

STEPS = 5  # horizon, of both settings
CONTEXT = 3  # observed frames, of both settings
WHOLE = 3  # number of the side whose iterations are compiled as a whole
BF16_ITERATIONS = 5  # iterations whose candidates are scored in bf16, too, evenly spaced: slow where it is emulated


@dataclass(frozen=True)
class Setting:
    """Sizes of a model and of a search."""

    name: str
    encoder: EncoderConfig
    dynamics: DynamicsConfig
    samples: int
    iterations: int


# LeWM's latent (arXiv 2603.19312, appendix D: width 192, 6 layers of 16 heads, MLP 2048, AdaLN, history 3), its search.
LEWM = Setting(
    "LeWM-sized, one token",
    EncoderConfig(image_px=(64, 64), patch_px=16, width=32, depth=1, heads=2, pool=LearnedPoolConfig(192)),
    DynamicsConfig("pooled", CONTEXT, STEPS, PredictorConfig(192, 6, 16, 2048 / 192, conditioning="adaln")),
    samples=300,
    iterations=30,
)
# 64 patch tokens a frame and a predictor of ViT-S's sizes; time and operations grow with candidates and iterations, so
# a part of a search will do.
PATCHES = Setting(
    "ViT-S-sized, 64 tokens",
    EncoderConfig(image_px=(128, 128), patch_px=16, width=384, depth=1, heads=6),
    DynamicsConfig("tokens", CONTEXT, STEPS, PredictorConfig(384, 12, 6, conditioning="adaln")),
    samples=32,
    iterations=1,
)
SETTINGS = (LEWM, PATCHES)


@dataclass
class WindowContext:
    """Normalised features [B, T, N, F] of all frames seen, and the rows [B, T-1, A] between them."""

    features_BTNF: Tensor
    rows_BtA: Tensor


class RecomputingDynamics:
    """The dynamics of a model by a plain loop (`planners.protocol.Dynamics`, of one environment at a time)."""

    def __init__(self, model: LatentDynamics) -> None:
        self.model = model
        self.spec = replace(model.spec, step_bytes=0)

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> WindowContext:
        """The past as it is."""
        features = self.model.features.normalise(self.model.read(frames_BTHWC)["features"])
        return WindowContext(features, self.model.normalise_actions(past_actions_BtA))

    def imagine(
        self,
        context: WindowContext,
        actions_BSKA: Tensor,
        generator: Any = None,
        keep: Literal["path", "last"] = "path",
    ) -> Views:
        """Every candidate's window through the whole predictor, once a step."""
        batch, samples, steps, _ = actions_BSKA.shape
        window = context.features_BTNF.repeat_interleave(samples, 0)
        planned = self.model.normalise_actions(actions_BSKA.flatten(0, 1))
        rows = torch.cat((context.rows_BtA.repeat_interleave(samples, 0), planned), 1)
        past = context.features_BTNF.shape[1]
        for step in range(steps):
            following = self.model.predictor(window, rows[:, : past + step])
            window = torch.cat((window, following[:, -1:]), 1)
        path = window[:, past:].unflatten(0, (batch, samples))
        path = path if keep == "path" else path[:, :, -1:]
        name = self.model.config.space
        return Views({name: path.squeeze(-2) if name == "pooled" else path}, keep)


@dataclass(frozen=True)
class RolloutComparison:
    """Seconds and operations of one plan, with the cache, with compiled blocks too, by the loop, and where it was asked
    for with the cache and whole iterations compiled.

    difference: the largest one of a candidate's cost, relative to the largest cost, of the cache and the loop;
    compiled_difference: of compiled blocks, in the first iteration. same_elites: share of the elites that the loop
    picks, too; bf16_elites: likewise of the same candidates scored in bf16, in some iterations.
    """

    seconds: float
    compiled_seconds: float
    loop_seconds: float
    whole_seconds: float | None
    flops: float
    loop_flops: float
    difference: float
    compiled_difference: float
    same_elites: float
    bf16_elites: float


def compare_rollouts(
    setting: Setting, device: torch.device, repeats: int = 3, whole: bool = False
) -> RolloutComparison:
    """Plan for one environment with the cache, with compiled blocks, by the loop and, if `whole`, with whole iterations
    compiled, in turns; medians of `repeats`."""
    torch.manual_seed(0)
    model = LatentDynamics(setting.dynamics, VideoEncoder(setting.encoder), ActionSpec((-1.0,) * 2, (1.0,) * 2, 5))
    model.to(device).eval()
    randomise_modulation(model)
    compiled = copy.deepcopy(model)
    compile_blocks(compiled)
    sides: tuple[Any, ...] = (model, compiled, RecomputingDynamics(model), model)[: 4 if whole else 3]
    frames = torch.randint(0, 256, (1, CONTEXT + 1, *setting.encoder.image_px, 3), dtype=torch.uint8, device=device)
    past = torch.zeros(1, CONTEXT - 1, model.spec.block_dim, device=device)
    valid = torch.ones(1, CONTEXT, dtype=torch.bool, device=device)
    cost = GoalCost(view=setting.dynamics.space, metric="sq_l2", reduce="last")
    with torch.no_grad():
        goal = model.encode_goal(frames[:, -1])
        contexts = [side.observe(frames[:, :-1], past, valid) for side in sides]

    def plan_once(side: int, iterations: int = setting.iterations) -> RecordingCEM:
        sizes = CEMConfig(samples=setting.samples, iterations=iterations, horizon=STEPS, elites=setting.samples // 10)
        planner = RecordingCEM(replace(sizes, compile_iteration=side == WHOLE))
        (CEM(planner.config) if side == WHOLE else planner).plan(sides[side], contexts[side], goal, cost, seeds=[0])
        return planner

    cached, fast, loop, *_ = (plan_once(side) for side in range(len(sides)))  # a warm-up, too
    times = [[time_call(partial(plan_once, side))[0] for side in range(len(sides))] for _ in range(repeats)]
    flops, loop_flops = (setting.iterations * count_flops(partial(plan_once, side, 1)) for side in (0, 2))
    stride = -(-setting.iterations // BF16_ITERATIONS)
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        in_bf16 = [score(model, contexts[0], goal, cost, actions) for actions in cached.actions[::stride]]
    gap = max(float((a - b).abs().max()) for a, b in zip(cached.costs, loop.costs, strict=True))
    medians = [sorted(column)[repeats // 2] for column in zip(*times, strict=True)]
    seconds, compiled_seconds, loop_seconds = medians[:WHOLE]
    return RolloutComparison(
        seconds,
        compiled_seconds,
        loop_seconds,
        medians[WHOLE] if whole else None,
        flops,
        loop_flops,
        gap / max(float(costs.max()) for costs in loop.costs),
        float((cached.costs[0] - fast.costs[0]).abs().max() / cached.costs[0].max()),
        _mean_elite_overlap(cached.costs, loop.costs),
        _mean_elite_overlap(cached.costs[::stride], in_bf16),
    )


def _mean_elite_overlap(costs: list[Tensor], others: list[Tensor]) -> float:
    """Mean of the overlaps of all iterations."""
    return fmean(measure_elite_overlap(*pair) for pair in zip(costs, others, strict=True))


@torch.no_grad()
def randomise_modulation(model: LatentDynamics) -> None:
    """Let actions matter as in a trained model: the modulation's weights start at zero."""
    assert isinstance(model.predictor, ActionPredictor), "of a model without a flow transformer"
    model.predictor.get_parameter("action_encoder.weight").normal_()
    for block in model.predictor.predictor_blocks:
        assert block.modulation is not None
        block.modulation.weight.normal_(std=block.modulation.in_features**-0.5)
