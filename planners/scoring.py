"""Costs of candidates (`score`), their gradients (`Problem.differentiate`), and the chunks both are computed in.

This file alone decides how many candidate steps are imagined at once, over environments x candidates, by the memory
of a step. Each chunk is imagined and scored together, so no imagined future outlives its chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from planners.costs import RETURN
from planners.noise import upload
from planners.protocol import Context, Cost, Dynamics, DynamicsSpec, Goal, Keep, Noise

Precision = Literal["fp32", "tf32", "bf16"]
# Evaluates one chunk: (context, goal, noise, actions_BSKA) -> tensors [B, S, ...]
Evaluate = Callable[[Context, Goal, Noise | None, Tensor], tuple[Tensor, ...]]

CPU_CHUNK_BYTES = 1 << 30
CUDA_CHUNK_SHARE = 0.25  # of the device's memory; of the total, so that the chunks are the same on every run
GRADIENT_MEMORY = 4  # times the memory of a step: backward needs what every layer of every step computed


def make_bounds(spec: DynamicsSpec) -> tuple[Tensor, Tensor]:
    """low_A, high_A on the dynamics' device."""
    low, high = upload(torch.tensor([spec.action_low, spec.action_high]), spec.device)
    return low, high


def compute_chunk_size(spec: DynamicsSpec) -> int:
    """How many imagined candidate steps (B x S x K) fit into memory at once; 0: no limit known."""
    if spec.step_bytes == 0:
        return 0
    budget: float = CPU_CHUNK_BYTES
    if spec.device.type == "cuda":
        budget = CUDA_CHUNK_SHARE * torch.cuda.get_device_properties(spec.device).total_memory
    return max(1, int(budget / spec.step_bytes))


def score(
    dynamics: Dynamics,
    context: Context,
    goal: Goal,
    cost: Cost,
    actions_BSKA: Tensor,
    noise: Noise | None = None,
    chunk_elements: int = 0,
) -> Tensor:
    """cost_BS of imagining the candidates; NaN and infinities become +inf.

    Imagines at most `chunk_elements` candidate steps (B x S x K) at a time, 0: as many as memory allows:
    whole environments where they fit, so that a context is shared by its candidates, else parts of one
    environment. Leaves gradients to the caller: planners that need none switch them off.
    """
    return score_each(dynamics, context, goal, [cost], actions_BSKA, noise, chunk_elements)[0]


def score_each(
    dynamics: Dynamics,
    context: Context,
    goal: Goal,
    costs: Sequence[Cost],
    actions_BSKA: Tensor,
    noise: Noise | None = None,
    chunk_elements: int = 0,
) -> Tensor:
    """cost_CBS of the candidates by each of C costs, as of `score`; the candidates are imagined once."""
    keep: Keep = "last" if all(cost.keep == "last" for cost in costs) else "path"

    def evaluate(context: Context, goal: Goal, noise: Noise | None, actions: Tensor) -> tuple[Tensor, ...]:
        imagined = dynamics.imagine(context, actions, generator=noise, keep=keep)
        return tuple(cost(imagined, goal, actions) for cost in costs)

    limit = chunk_elements or compute_chunk_size(dynamics.spec)
    cost_CBS = torch.stack(_map_chunks(evaluate, context, goal, noise, actions_BSKA, limit))
    return cost_CBS.masked_fill(~cost_CBS.isfinite(), math.inf)


@contextmanager
def reduce_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Matrix products in this number format: bf16 by autocast; tf32 on GPUs that have it, elsewhere as fp32.

    A compiled function takes tf32 from its caller.
    """
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
    elif precision == "tf32" and not torch.compiler.is_compiling():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        yield


@dataclass(frozen=True)
class Problem:
    """A planning problem: model, context, goal and cost; chunk_elements: candidate steps imagined at once; precision:
    number format of products; distances are computed in fp32."""

    dynamics: Dynamics
    context: Context
    goal: Goal
    cost: Cost
    chunk_elements: int = 0
    precision: Precision = "fp32"

    def score(self, actions_BSKA: Tensor, noise: Noise) -> Tensor:
        """See the function `score`."""
        with reduce_precision(self.precision, self.dynamics.spec.device):
            return score(self.dynamics, self.context, self.goal, self.cost, actions_BSKA, noise, self.chunk_elements)

    def differentiate(self, actions_BSKA: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """cost_BS as of `score`, and gradient_BSKA, 0 where it is not finite; in chunks, each one's
        graph freed before the next. Works under no_grad. Raises ValueError where nothing leads back to actions."""
        dynamics, cost = self.dynamics, self.cost

        def evaluate(context: Context, goal: Goal, noise: Noise | None, actions: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad(), reduce_precision(self.precision, dynamics.spec.device):
                given = actions.detach().requires_grad_()
                value = cost(dynamics.imagine(context, given, generator=noise, keep=cost.keep), goal, given)
                if not value.requires_grad:
                    raise ValueError(
                        "this planner follows gradients and these dynamics give none; choose planner=cem or another "
                        "that samples"
                    )
                # A cost of no finite value is cut off; its gradient comes out as 0 or NaN.
                (gradient,) = torch.autograd.grad(value.masked_fill(~value.isfinite(), 0.0).sum(), given)
            return value.detach(), gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

        limit = self.chunk_elements or math.ceil(compute_chunk_size(dynamics.spec) / GRADIENT_MEMORY)
        cost_BS, gradient = _map_chunks(evaluate, self.context, self.goal, noise, actions_BSKA, limit)
        return cost_BS.masked_fill(~cost_BS.isfinite(), math.inf), gradient


def _map_chunks(
    evaluate: Evaluate, context: Context, goal: Goal, noise: Noise | None, actions_BSKA: Tensor, limit: int
) -> tuple[Tensor, ...]:
    """What `evaluate` returns for all candidates, at most `limit` candidate steps a call (0: all at once)."""
    num_envs, samples, horizon, _ = actions_BSKA.shape
    limit = limit or actions_BSKA.numel()
    envs_at_once, samples_at_once = _split_evenly(num_envs, samples, max(1, limit // horizon))
    rows = []
    for start in range(0, num_envs, envs_at_once):
        envs = slice(start, min(start + envs_at_once, num_envs))
        whole = envs_at_once == num_envs
        part_context, part_goal = (context, goal) if whole else (context.select(envs), goal.select(envs))
        part_noise = noise if noise is None or whole else noise.select(envs)
        parts = []
        for actions in actions_BSKA[envs].split(samples_at_once, dim=1):
            parts.append(evaluate(part_context, part_goal, part_noise, actions))
            assert parts[-1][0].shape == actions.shape[:2], (parts[-1][0].shape, actions.shape)
        rows.append([torch.cat(part, dim=1) for part in zip(*parts, strict=True)])
    return tuple(torch.cat(row) for row in zip(*rows, strict=True))


def _split_evenly(num_envs: int, samples: int, limit: int) -> tuple[int, int]:
    """(environments, candidates) a chunk of at most `limit` candidates, in chunks of about equal size."""
    if samples > limit:
        return 1, math.ceil(samples / math.ceil(samples / limit))
    at_once = min(num_envs, limit // samples)
    return math.ceil(num_envs / math.ceil(num_envs / at_once)), samples


def measure_elite_overlap(cost_BS: Tensor, other_BS: Tensor) -> float:
    """Share of the best tenth of candidates that is the best tenth by other costs, too, mean over environments."""
    count = max(1, cost_BS.shape[1] // 10)
    best, others = (costs.topk(count, dim=1, largest=False).indices for costs in (cost_BS, other_BS))
    return float((best[:, :, None] == others[:, None]).any(2).float().mean())


def average_finite(cost: Tensor) -> Tensor:
    """Mean over the last axis of what is finite; inf where nothing is."""
    finite = cost.isfinite()
    mean = cost.masked_fill(~finite, 0.0).sum(-1) / finite.sum(-1)  # 0 / 0 where nothing is
    return mean.nan_to_num(nan=math.inf)


def check_fit(spec: DynamicsSpec, cost: Cost, horizon: int) -> None:
    """Raise ValueError where the model cannot serve this cost or horizon."""
    if cost.view not in spec.views:
        raise ValueError(f"cost view is {cost.view!r}, but this model offers {', '.join(spec.views)}")
    if getattr(cost, "reduce", None) == RETURN and not spec.estimates_return:
        raise ValueError(
            f"cost reduce is {RETURN}, and this model estimates no return, as models of objective=tdmpc2 do; choose "
            "planner.cost.reduce=closest or another distance"
        )
    if horizon > spec.max_horizon:
        raise ValueError(f"planner horizon is {horizon}, but this model plans {spec.max_horizon} at most")
