"""Keys of the groups planner and dynamics, and those of a whole model: encoder, objective, both stages, planner."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval

from commands.config.keys import EnvKeys, GymKeys, RunKeys
from commands.config.planner_modules import ModulePlannerConfig, make_module_planner
from commands.shared.errors import UsageError
from planners.cem import CEM, CEMConfig
from planners.cem_gradient import CEMGradient, CEMGradientConfig
from planners.costs import GoalCost
from planners.gradient import Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.mpc import MPCConfig
from planners.mppi import MPPI, MPPIConfig
from planners.nevergrad_search import Nevergrad, NevergradConfig
from planners.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planners.projected_gradient import ProjectedGradient, ProjectedGradientConfig
from planners.proposals import Direct, DirectConfig, ProposalConfig, check_candidates
from planners.sampling import BasePlanner
from planners.settings import PlannerConfig
from world_model.dynamics import DynamicsConfig
from world_model.encoder import EncoderConfig
from world_model.nn.flow import MOST_STEPS
from world_model.objectives.families import Stage1Config
from world_model.objectives.future import FutureConfig
from world_model.training.loop import TrainerConfig
from world_model.training.posttrain import PosttrainConfig


@dataclass(frozen=True)
class GoalKeys:
    """What every planner has beside its search: the cost, and the receding horizon."""

    cost: GoalCost = field(default_factory=GoalCost)
    """cost of an imagined path"""
    mpc: MPCConfig = field(default_factory=MPCConfig)
    """receding horizon"""
    proposal: ProposalConfig = field(default_factory=ProposalConfig)
    """first candidates from data"""
    flow_steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] | None = None
    """Euler steps per sample of a model with dynamics.flow or of objective=diamond; null: the model's own"""
    value: str | None = None
    """run folder of jepa clone method=gcivl, whose value estimates the distance to the goal, or own, as of
    proposal.source; null: cost.metric"""
    compile: bool = False
    """whether the model's transformer is compiled: plans are faster after a minute, and differ in the last digits"""
    name: str = ""
    """update rule"""


def _make_keys(name: str, config: type) -> Any:
    """Return the dataclass of the keys of planner=NAME: those of its own configuration, and GoalKeys."""
    tag = ("name", Literal[name], field(default=name))
    space = {"__doc__": f"planner={name}.", "__module__": __name__}
    return make_dataclass(f"{name}_keys", [tag], bases=(GoalKeys, config), frozen=True, namespace=space)


PLANNERS: dict[Any, type[BasePlanner]] = {
    _make_keys("cem", CEMConfig): CEM,
    _make_keys("cem_gradient", CEMGradientConfig): CEMGradient,
    _make_keys("gradient", GradientConfig): Gradient,
    _make_keys("icem", ICEMConfig): ICEM,
    _make_keys("mppi", MPPIConfig): MPPI,
    _make_keys("nevergrad", NevergradConfig): Nevergrad,
    _make_keys("predictive_sampling", PredictiveSamplingConfig): PredictiveSampling,
    _make_keys("projected_gradient", ProjectedGradientConfig): ProjectedGradient,
}
CEMKeys = next(iter(PLANNERS))  # the default
ModuleKeys = _make_keys("module", ModulePlannerConfig)
DirectKeys = _make_keys("direct", DirectConfig)
if TYPE_CHECKING:

    class PlannerKeys(GoalKeys, PlannerConfig):
        """The keys of any planner."""

else:
    PlannerKeys = reduce(or_, (*PLANNERS, ModuleKeys, DirectKeys))


def make_planner(keys: PlannerKeys) -> BasePlanner:
    """Return the planner with these settings; UsageError for one that has no room for its first candidates."""
    planner = _make_planner(keys)
    if keys.proposal.num_candidates:
        check_candidates(planner, keys.proposal.num_candidates)
    return planner


def _make_planner(keys: PlannerKeys) -> Any:
    if type(keys) is DirectKeys:
        if not keys.proposal.num_candidates:
            raise UsageError(
                "planner=direct executes proposals and planner.proposal.source is none: give retrieval, or a run "
                "folder of jepa clone"
            )
        return Direct(keys)  # type: ignore[arg-type]
    return make_module_planner(keys) if type(keys) is ModuleKeys else PLANNERS[type(keys)](keys)  # type: ignore[call-arg]


@dataclass(frozen=True)
class DynamicsKeys(DynamicsConfig):
    """Shape and losses of latent dynamics (group dynamics)."""

    frame_skip: Annotated[int, Ge(1)] | None = None
    """environment steps per model step, whose actions are stacked; null: the task's own"""
    losses: PosttrainConfig = field(default_factory=PosttrainConfig)
    """losses of stage 2"""
    proprio_dim: int = field(default=0, repr=False)  # follows from the data

    def __post_init__(self) -> None:
        self.shape(1)  # raises for a combination that no robot state could mend
        losses = self.losses
        if losses.rollout_steps > self.horizon:
            raise ValueError(f"losses.rollout_steps={losses.rollout_steps} exceeds dynamics.horizon={self.horizon}")
        if losses.rollout_history > self.history:
            raise ValueError(f"losses.rollout_history={losses.rollout_history} exceeds dynamics.history={self.history}")
        if self.flow is not None and losses.loss != "l2":
            raise ValueError(
                f"dynamics.losses.loss={losses.loss}: dynamics.flow is trained by a squared error, give "
                "dynamics.losses.loss=l2"
            )

    def shape(self, proprio_dim: int) -> DynamicsConfig:
        """The shape of the dynamics; proprio_dim: size of the robot's state, if these dynamics take it."""
        values = {item.name: getattr(self, item.name) for item in fields(DynamicsConfig)}
        return DynamicsConfig(**{**values, "proprio_dim": 0 if self.proprio_model == "none" else proprio_dim})


@dataclass(frozen=True, kw_only=True)
class ModelKeys(RunKeys):
    """Keys of a task, a model, both stages of its training, and the planner."""

    env: EnvKeys | GymKeys
    """task"""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """sizes of the encoder"""
    objective: Stage1Config = field(default_factory=FutureConfig)
    """what stage 1 predicts from what"""
    pretrain: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation of stage 1"""
    dynamics: DynamicsKeys = field(default_factory=DynamicsKeys)
    """shape and losses of the latent dynamics"""
    posttrain: TrainerConfig = field(default_factory=TrainerConfig)
    """optimisation of stage 2"""
    planner: PlannerKeys = field(default_factory=CEMKeys)
    """search, cost and receding horizon"""
