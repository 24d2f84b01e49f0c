"""Our search beside another package's, with the same model and the same numbers of candidates, and beside that
package's own LeWorldModel (arXiv 2603.19312) of the same sizes, without its projections: our dynamics have none.

`stable_worldmodel` is github.com/galilai-group/stable-worldmodel (MIT), whose CEMSolver asks a model for the costs of
candidates. `torch_world` is github.com/latent-horizon/pytorch-world (Apache 2.0), whose CEM asks a model to roll
candidates out and to judge them. Both run as installed. They draw candidates in units of half the action range, so that
actions are brought to environment units here; stable-worldmodel clips none, so they are clipped here.

Every side plans for one environment, and encodes its frames and the goal image anew in each plan. The packages' own
models see the present frame alone, as in their evaluations; ours sees its whole history.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from commands.benchmarks.measurements import Row, make_row, time_rounds
from commands.benchmarks.plan_cases import PlanCase, allow_steps, count_parameters, make_case
from commands.benchmarks.plan_tables import PlanBenchKeys, set_sizes
from commands.shared.errors import UsageError
from planners.cem import CEMConfig
from planners.noise import Draws
from planners.sampling import make_action_box
from planners.scoring import score
from world_model.dynamics import LatentDynamics

OURS = "ours"
CEM_NAME = "cem"
FIRST_SEED = 0


@dataclass(frozen=True)
class Side:
    """One side of the comparison. plan: called with a number, plans once. parameters: of what imagines, without the
    encoder of pictures."""

    plan: Callable[[int], Any]
    parameters: int


def check_versus(keys: PlanBenchKeys) -> None:
    """Raise UsageError for another search than CEM, whose settings the packages share, and for a package that is not
    installed."""
    if keys.planner.name != CEM_NAME:
        raise UsageError(
            f"versus={keys.versus} compares searches by CEM, and planner={keys.planner.name}: give planner=cem"
        )
    set_sizes(keys)
    assert keys.versus is not None
    if importlib.util.find_spec(keys.versus) is None:
        raise UsageError(f"versus={keys.versus}: {_describe_installation(keys.versus)}")


def import_part(package: str, part: str = "") -> Any:
    """A module of an opponent's package; UsageError where it cannot be imported."""
    try:
        return importlib.import_module(f"{package}.{part}" if part else package)
    except ImportError as error:
        raise UsageError(f"versus={package}: {error}; {_describe_installation(package)}") from error


def _describe_installation(package: str) -> str:
    extra = package.replace("_", "-")
    return f"it needs the package {extra}: pip install 'jepa-lab[{extra}]'"


def compare_searches(keys: PlanBenchKeys, device: torch.device) -> list[Row]:
    """Seconds of a plan by each side, in turns, as ratios to ours."""
    sized = set_sizes(keys)
    torch.manual_seed(keys.seed)
    case = make_case(allow_steps(sized, sized.planner.horizon), 1, device)
    assert keys.versus is not None
    sides = {OURS: Side(case.plan, count_imagining(case)), **OPPONENTS[keys.versus](case)}
    times = time_rounds({name: side.plan for name, side in sides.items()}, keys.seconds * len(sides), OURS)
    return [
        make_row(
            name,
            times[name].seconds,
            "s a plan",
            f"{times[name].ratio:.3g} times ours; {side.parameters / 1e6:.3g} M parameters without the encoder",
            ratio=times[name].ratio,
            parameters=side.parameters,
        )
        for name, side in sides.items()
    ]


def count_imagining(case: PlanCase) -> int:
    """Parameters of a model but those of its picture encoder."""
    encoder = getattr(case.model, "encoder", None)
    return count_parameters(case.model) - (count_parameters(encoder) if isinstance(encoder, nn.Module) else 0)


class SharedModel:
    """Our model and cost, as a package's search asks for them: costs of candidates in units of half the action range.

    `begin` must be called before every plan.
    """

    def __init__(self, case: PlanCase) -> None:
        self.case = case
        self.box = make_action_box(case.model.spec, case.planner.horizon)

    def begin(self, number: int) -> None:
        """Encode frames and goal. number: of the plan, which keys the draws of a model that has some."""
        self.context, self.goal = self.case.observe()
        self.draws = Draws((FIRST_SEED,), number, self.case.model.spec.device)

    def score(self, unit_BSKA: Tensor) -> Tensor:
        """cost_BS of candidates [1, S, K, A]."""
        actions = self.box.denormalise(unit_BSKA)
        cost_BS = score(self.case.model, self.context, self.goal, self.case.cost, actions, self.draws)
        self.draws = self.draws.at(self.draws.iteration + 1)
        return cost_BS


class CostModel(SharedModel):
    """stable-worldmodel's protocol `Costable`."""

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """cost_BS of action_candidates [1, S, K, A]."""
        return self.score(action_candidates)

    def criterion(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """The same."""
        return self.score(action_candidates)


class RolloutModel(SharedModel):
    """What torch-world's CEM asks of a `WorldModel`."""

    def rollout(self, z: Tensor, actions: Tensor) -> Tensor:
        """Costs [S, 1] in place of latents, of actions [S, K, A]: our model imagines and judges in one call."""
        return self.score(actions[None])[0][:, None]

    def cost(self, z: Tensor, goal: Tensor) -> Tensor:
        """Costs [S] as `rollout` gave them."""
        return z[:, -1]


class PictureEncoder(nn.Module):
    """Our encoder for a package's LeWorldModel: pictures [N, 3, H, W], 0..255 -> embeddings [N, width]."""

    def __init__(self, model: LatentDynamics) -> None:
        super().__init__()
        self.model, self.out = model, nn.Linear(model.features.dim, model.config.predictor.width)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        features = self.model.read(pictures_NCHW.movedim(1, -1)[:, None])["features"]
        return self.out(features[:, 0, 0])


class TokenEncoder(PictureEncoder):
    """The same as stable-worldmodel takes it: the first token of a transformer's last hidden state."""

    def forward(self, pictures_NCHW: Tensor, interpolate_pos_encoding: bool = True) -> Any:
        return SimpleNamespace(last_hidden_state=super().forward(pictures_NCHW)[:, None])


def has_lewm_sizes(case: PlanCase) -> bool:
    """Whether LeWorldModel has a model of these sizes: one embedding a frame, predicted as such."""
    model = case.model
    return isinstance(model, LatentDynamics) and model.features.num_tokens == 1 and model.config.pixels is None


def read_pictures(case: PlanCase) -> tuple[Tensor, Tensor]:
    """The present frame and the goal image, float [1, 1, 3, H, W], 0..255."""
    start = case.start
    present, goal = (frames.movedim(-1, 1)[:, None].float() for frames in (start.frames[:, -1], start.goal))
    return present, goal


def list_stable_worldmodel(case: PlanCase) -> dict[str, Side]:
    """The sides of stable-worldmodel: its CEMSolver with our model, and with its LeWM where that has such sizes."""
    name, config, spec = "stable_worldmodel", case.planner.config, case.model.spec
    assert isinstance(config, CEMConfig), config
    from gymnasium.spaces import Box

    make_solver, plan_config = import_part(name, "solver").CEMSolver, import_part(name).PlanConfig

    def configure(model: Any) -> Any:
        solver = make_solver(
            model=model,
            batch_size=1,
            num_samples=config.samples,
            var_scale=config.std_init,
            n_steps=config.iterations,
            topk=config.elites,
            device=spec.device,
        )
        space = Box(-1.0, 1.0, (1, spec.action_dim), np.float32)
        rhythm = plan_config(horizon=config.horizon, receding_horizon=1, action_block=spec.frame_skip)
        solver.configure(action_space=space, n_envs=1, config=rhythm)
        return solver

    shared = CostModel(case)
    solver = configure(shared)

    def plan_shared(number: int) -> Any:
        shared.begin(number)
        with redirect_stdout(io.StringIO()):  # it prints its own time
            return solver.solve({"pixels": case.start.frames})

    sides = {f"{name}'s search, our model": Side(plan_shared, count_imagining(case))}
    if not has_lewm_sizes(case):
        return sides
    assert isinstance(case.model, LatentDynamics)
    wm, parts = import_part(name, "wm.lewm"), import_part(name, "wm.lewm.module")
    sizes, width, block = case.model.config.predictor, case.model.config.predictor.width, spec.block_dim
    encoder = TokenEncoder(case.model)
    predictor = parts.Predictor(
        num_frames=case.model.config.history,
        depth=sizes.depth,
        heads=sizes.heads,
        mlp_dim=round(sizes.mlp_ratio * width),
        input_dim=width,
        hidden_dim=width,
        dim_head=sizes.channels_per_head,
    )
    actions = parts.Embedder(input_dim=block, smoothed_dim=block, emb_dim=width)
    lewm = wm.LeWM(encoder, predictor, actions).to(spec.device).eval()
    own = configure(lewm)
    present, goal = read_pictures(case)
    none = torch.zeros(1, 1, block, device=spec.device)

    def plan_own(number: int) -> Any:
        with redirect_stdout(io.StringIO()):
            return own.solve({"pixels": present, "goal": goal, "action": none})

    size = count_parameters(lewm) - count_parameters(encoder)
    return {**sides, f"{name}'s search, its LeWM": Side(plan_own, size)}


def list_torch_world(case: PlanCase) -> dict[str, Side]:
    """The sides of torch-world: its CEM with our model, and with its LeWM where that has such sizes."""
    name, config, spec = "torch_world", case.planner.config, case.model.spec
    assert isinstance(config, CEMConfig), config
    search = import_part(name, "planning").CEM(
        horizon=config.horizon,
        action_dim=spec.block_dim,
        num_samples=config.samples,
        num_elites=config.elites,
        iterations=config.iterations,
        std=config.std_init,
        bounds=(-1.0, 1.0),
    )
    shared, nothing = RolloutModel(case), torch.zeros(1, 1, 1, device=spec.device)

    def plan_shared(number: int) -> Any:
        shared.begin(number)
        return search(shared, nothing, nothing[:, 0])

    sides = {f"{name}'s search, our model": Side(plan_shared, count_imagining(case))}
    if not has_lewm_sizes(case):
        return sides
    assert isinstance(case.model, LatentDynamics)
    sizes = case.model.config.predictor
    encoder = PictureEncoder(case.model)
    lewm = import_part(name, "models").LeWM(
        encoder,
        spec.block_dim,
        embed_dim=sizes.width,
        history=case.model.config.history,
        depth=sizes.depth,
        num_heads=sizes.heads,
        head_dim=sizes.channels_per_head,
        mlp_dim=round(sizes.mlp_ratio * sizes.width),
    )
    lewm.projector, lewm.pred_proj = nn.Identity(), nn.Identity()
    lewm.to(spec.device).eval()
    present, goal = read_pictures(case)

    def plan_own(number: int) -> Any:
        with torch.no_grad():
            latents, wanted = lewm.encode(present), lewm.encode(goal)[:, 0]
        return search(lewm, latents, wanted)

    size = count_parameters(lewm) - count_parameters(encoder)
    return {**sides, f"{name}'s search, its LeWM": Side(plan_own, size)}


OPPONENTS = {"stable_worldmodel": list_stable_worldmodel, "torch_world": list_torch_world}
