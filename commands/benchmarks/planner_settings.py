"""Settings of planners for `jepa bench planners`: the values that a sweep draws from, and the best that it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from planners.cem import CEM, CEMConfig
from planners.cem_gradient import CEMGradient, CEMGradientConfig
from planners.gradient import Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig
from planners.nevergrad_search import Nevergrad, NevergradConfig
from planners.predictive_sampling import PredictiveSampling, PredictiveSamplingConfig
from planners.projected_gradient import ProjectedGradient, ProjectedGradientConfig
from planners.sampling import BasePlanner
from planners.settings import PlannerConfig

SHARES = ("elites", "keep_elites", "refined")
LEAST_SAMPLES = 16  # per iteration; where the budget is too small for that, there are fewer iterations


@dataclass(frozen=True)
class PlannerSettings:
    """Settings of a planner for any budget. `elites`, `keep_elites` and `refined` are shares of the samples, in place
    of the numbers in `config`."""

    planner: Callable[[Any], BasePlanner]
    config: PlannerConfig
    elites: float = 0.0
    keep_elites: float = 0.0
    refined: float = 0.0

    def replace(self, values: dict[str, Any]) -> PlannerSettings:
        """These settings with other values, {setting: value}."""
        config = replace(self.config, **{name: value for name, value in values.items() if name not in SHARES})
        return replace(self, config=config, **{name: value for name, value in values.items() if name in SHARES})

    def get(self, name: str) -> Any:
        """The value of a setting."""
        return getattr(self if name in SHARES else self.config, name)

    def make_planner(self, budget: int, horizon: int) -> BasePlanner:
        """The planner with as many iterations and samples as `budget` imagined candidates allow."""
        config = self.config
        descent = isinstance(config, GradientConfig | ProjectedGradientConfig)
        differentiated = 2 * config.steps + 1 if isinstance(config, CEMGradientConfig) else 0  # per refined candidate
        least = 2 if descent else LEAST_SAMPLES + differentiated
        iterations = max(1, min(config.iterations, budget // least - descent))
        if descent:
            most = budget / (2 * iterations + 1)
        elif isinstance(config, ICEMConfig):
            most = budget / sum(config.shrink**-number for number in range(iterations))
        else:
            most = budget / iterations / (1 + self.refined * differentiated)
        samples = max(1 if descent else 4, int(most))
        elites, keep_elites, refined = (
            max(minimum, round(share * samples)) if share else 0
            for share, minimum in ((self.elites, 2), (self.keep_elites, 0), (self.refined, 1))
        )
        counts: dict[str, Any] = {"samples": samples, "iterations": iterations}
        if isinstance(config, CEMConfig | MPPIConfig):
            counts["elites"] = elites
        if isinstance(config, CEMConfig):
            counts["keep_elites"] = min(keep_elites, elites, samples - 2)
        if isinstance(config, CEMGradientConfig):
            counts["refined"] = refined
        if isinstance(config, ICEMConfig):
            counts |= {"keep_elites": max(1, counts["keep_elites"]), "carry_elites": False}
        return self.planner(replace(config, horizon=horizon, **counts))


# Values that a sweep draws from, {planner: {setting: values}}.
_NOISE: dict[str, list[Any]] = {
    "std_init": [0.2, 0.4, 0.7, 1.0],
    "noise_beta": [0.0, 1.0, 2.0, 3.0],
    "return_best": [True, False],
}
_REFIT: dict[str, list[Any]] = {
    "elites": [0.05, 0.1, 0.2],
    "std_min": [0.0, 0.01, 0.05],
    "momentum_mean": [0.0, 0.2],
    "momentum_std": [0.0, 0.2],
    "keep_elites": [0.0, 0.03],
}
_DESCENT: dict[str, list[Any]] = {
    "iterations": [8, 16, 32, 64],
    "learning_rate": [0.05, 0.1, 0.2, 0.4],
    "lr_end": [0.01, 0.1],
}
SPACE: dict[str, dict[str, list[Any]]] = {
    "cem": _NOISE | _REFIT | {"iterations": [2, 4, 8, 16]},
    "icem": _NOISE | _REFIT | {"iterations": [2, 4, 8, 16], "shrink": [1.0, 1.1, 1.25], "keep_elites": [0.02, 0.05]},
    "mppi": _NOISE
    | {"iterations": [2, 4, 8, 16], "temperature": [0.03, 0.1, 0.2, 0.4], "update_std": [True, False]}
    | {"std_min": [0.0, 0.01, 0.05], "momentum": [0.0, 0.2], "elites": [0.0, 0.1]},
    "predictive_sampling": _NOISE | {"iterations": [2, 4, 8, 16, 32], "std_decay": [0.6, 0.75, 0.9, 1.0]},
    "gradient": _NOISE
    | _DESCENT
    | {"momentum": [0.7, 0.9], "square_momentum": [0.9, 0.99], "bounds": ["clamp", "tanh"], "noise": [0.0, 0.05]},
    "projected_gradient": _NOISE | _DESCENT | {"momentum": [0.0, 0.5, 0.8]},
    "cem_gradient": _NOISE
    | _REFIT
    | {"iterations": [2, 4, 8], "refined": [0.05, 0.1, 0.2], "steps": [1, 2, 4, 8]}
    | {"learning_rate": [0.05, 0.1, 0.2, 0.4]},
    "nevergrad": {
        "iterations": [2, 4, 8, 16, 32],
        "std_init": [0.2, 0.4, 0.7, 1.0],
        "optimizer": ["CMA", "DE", "TwoPointsDE", "PSO"],
    },
}
# The best of a sweep (`sweep=true`), where it differs from the planner's defaults; of nevergrad, an extra, a guess.
TUNED: dict[str, PlannerSettings] = {
    "cem": PlannerSettings(
        CEM,
        CEMConfig(std_init=1.0, noise_beta=3.0, return_best=True, momentum_mean=0.2, momentum_std=0.2, iterations=8),
        elites=0.2,
        keep_elites=0.03,
    ),
    "icem": PlannerSettings(ICEM, ICEMConfig(iterations=16, return_best=False), elites=0.1, keep_elites=0.05),
    "mppi": PlannerSettings(MPPI, MPPIConfig(std_min=0.0)),
    "predictive_sampling": PlannerSettings(
        PredictiveSampling, PredictiveSamplingConfig(iterations=32, std_init=0.2, return_best=False)
    ),
    "gradient": PlannerSettings(Gradient, GradientConfig(iterations=64, return_best=False)),
    "projected_gradient": PlannerSettings(ProjectedGradient, ProjectedGradientConfig(iterations=64)),
    "cem_gradient": PlannerSettings(
        CEMGradient,
        CEMGradientConfig(std_init=0.2, noise_beta=0.0, return_best=True, std_min=0.0, momentum_std=0.2, iterations=8),
        elites=0.1,
        keep_elites=0.03,
        refined=0.1,
    ),
    "nevergrad": PlannerSettings(Nevergrad, NevergradConfig(iterations=16, std_init=0.4)),
}
