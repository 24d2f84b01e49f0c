"""Keys of the groups planner and dynamics: the settings of planners and latent dynamics with what goes beside them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

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
from planners.sampling import BasePlanner, PlannerConfig
from world_model.dynamics import DynamicsConfig
from world_model.training.posttrain import PosttrainConfig


@dataclass(frozen=True)
class GoalKeys:
    """What every planner has beside its search: the cost, and the receding horizon."""

    cost: GoalCost = field(default_factory=GoalCost)
    """cost of an imagined path"""
    mpc: MPCConfig = field(default_factory=MPCConfig)
    """receding horizon"""


@dataclass(frozen=True)
class CEMKeys(GoalKeys, CEMConfig):
    """planner=cem and the published searches that are CEM."""

    name: Literal["cem"] = "cem"
    """update rule"""


@dataclass(frozen=True)
class CEMGradientKeys(GoalKeys, CEMGradientConfig):
    """planner=cem_gradient."""

    name: Literal["cem_gradient"] = "cem_gradient"
    """update rule"""


@dataclass(frozen=True)
class GradientKeys(GoalKeys, GradientConfig):
    """planner=gradient."""

    name: Literal["gradient"] = "gradient"
    """update rule"""


@dataclass(frozen=True)
class ICEMKeys(GoalKeys, ICEMConfig):
    """planner=icem."""

    name: Literal["icem"] = "icem"
    """update rule"""


@dataclass(frozen=True)
class MPPIKeys(GoalKeys, MPPIConfig):
    """planner=mppi."""

    name: Literal["mppi"] = "mppi"
    """update rule"""


@dataclass(frozen=True)
class NevergradKeys(GoalKeys, NevergradConfig):
    """planner=nevergrad."""

    name: Literal["nevergrad"] = "nevergrad"
    """update rule"""


@dataclass(frozen=True)
class PredictiveSamplingKeys(GoalKeys, PredictiveSamplingConfig):
    """planner=predictive_sampling."""

    name: Literal["predictive_sampling"] = "predictive_sampling"
    """update rule"""


@dataclass(frozen=True)
class ProjectedGradientKeys(GoalKeys, ProjectedGradientConfig):
    """planner=projected_gradient."""

    name: Literal["projected_gradient"] = "projected_gradient"
    """update rule"""


PlannerKeys = (
    CEMKeys
    | CEMGradientKeys
    | GradientKeys
    | ICEMKeys
    | MPPIKeys
    | NevergradKeys
    | PredictiveSamplingKeys
    | ProjectedGradientKeys
)
PLANNERS: dict[type[PlannerConfig], type[BasePlanner]] = {
    CEMKeys: CEM,
    CEMGradientKeys: CEMGradient,
    GradientKeys: Gradient,
    ICEMKeys: ICEM,
    MPPIKeys: MPPI,
    NevergradKeys: Nevergrad,
    PredictiveSamplingKeys: PredictiveSampling,
    ProjectedGradientKeys: ProjectedGradient,
}


def make_planner(keys: PlannerKeys) -> BasePlanner:
    """Return the planner with these settings."""
    return PLANNERS[type(keys)](keys)  # type: ignore[call-arg]


@dataclass(frozen=True)
class DynamicsKeys(DynamicsConfig):
    """Shape and losses of latent dynamics (group dynamics)."""

    frame_skip: int | None = None
    """environment steps per model step, whose actions are stacked; null: the task's own"""
    losses: PosttrainConfig = field(default_factory=PosttrainConfig)
    """losses of stage 2"""
    proprio_dim: int = field(default=0, repr=False)  # follows from the data

    def __post_init__(self) -> None:
        self.shape(1)  # raises for a combination that no robot state could mend
        if self.losses.rollout_steps > self.horizon:
            raise ValueError(
                f"losses.rollout_steps={self.losses.rollout_steps} is more than dynamics.horizon={self.horizon}"
            )
        if self.losses.rollout_history > self.history:
            raise ValueError(
                f"losses.rollout_history={self.losses.rollout_history} is more than dynamics.history={self.history}"
            )

    def shape(self, proprio_dim: int) -> DynamicsConfig:
        """The shape of the dynamics; proprio_dim: numbers of the robot's state, if these dynamics take it."""
        values = {item.name: getattr(self, item.name) for item in fields(DynamicsConfig)}
        return DynamicsConfig(**{**values, "proprio_dim": 0 if self.proprio_model == "none" else proprio_dim})
