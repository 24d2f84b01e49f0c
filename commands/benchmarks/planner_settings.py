"""Settings of planners for `jepa bench planners`: what is swept, and what the sweep found."""

from __future__ import annotations

from typing import Any

# What is swept: {planner: {setting: values}}; `elites` and `keep_elites` are shares of the samples.
_DRAWN: dict[str, list[Any]] = {
    "std_init": [0.2, 0.4, 0.7, 1.0],
    "noise_beta": [0.0, 1.0, 2.0, 3.0],
    "return_best": [True, False],
}
_REFIT: dict[str, list[Any]] = {"elites": [0.05, 0.1, 0.2], "std_min": [0.0, 0.01, 0.05], "momentum_mean": [0.0, 0.2]}
_REFIT |= {"momentum_std": [0.0, 0.2], "keep_elites": [0.0, 0.03]}
_DESCENT: dict[str, list[Any]] = {
    "iterations": [8, 16, 32, 64],
    "learning_rate": [0.05, 0.1, 0.2, 0.4],
    "lr_end": [0.01, 0.1],
}
SPACE: dict[str, dict[str, list[Any]]] = {
    "cem": {**_DRAWN, **_REFIT, "iterations": [2, 4, 8, 16]},
    "icem": {**_DRAWN, **_REFIT, "iterations": [2, 4, 8, 16], "shrink": [1.0, 1.1, 1.25], "keep_elites": [0.02, 0.05]},
    "mppi": {
        **_DRAWN,
        "iterations": [2, 4, 8, 16],
        "temperature": [0.03, 0.1, 0.2, 0.4],
        "update_std": [True, False],
        "std_min": [0.0, 0.01, 0.05],
        "momentum": [0.0, 0.2],
        "elites": [0.0, 0.1],
    },
    "predictive_sampling": {**_DRAWN, "iterations": [2, 4, 8, 16, 32], "std_decay": [0.6, 0.75, 0.9, 1.0]},
    "gradient": {
        **_DRAWN,
        **_DESCENT,
        "momentum": [0.7, 0.9],
        "square_momentum": [0.9, 0.99],
        "bounds": ["clamp", "tanh"],
        "noise": [0.0, 0.05],
    },
    "projected_gradient": {**_DRAWN, **_DESCENT, "momentum": [0.0, 0.5, 0.8]},
    "cem_gradient": {
        **_DRAWN,
        **_REFIT,
        "iterations": [2, 4, 8],
        "refined": [0.05, 0.1, 0.2],
        "steps": [1, 2, 4, 8],
        "learning_rate": [0.05, 0.1, 0.2, 0.4],
    },
    "nevergrad": {
        "iterations": [2, 4, 8, 16, 32],
        "std_init": [0.2, 0.4, 0.7, 1.0],
        "optimizer": ["CMA", "DE", "TwoPointsDE", "PSO"],
    },
}
# What `sweep=true` finds; of nevergrad, an extra, a guess.
TUNED: dict[str, dict[str, Any]] = {
    "cem": {
        "std_init": 1.0,
        "noise_beta": 3.0,
        "return_best": True,
        "elites": 0.2,
        "std_min": 0.05,
        "momentum_mean": 0.2,
        "momentum_std": 0.2,
        "keep_elites": 0.03,
        "iterations": 8,
    },
    "icem": {
        "std_init": 1.0,
        "noise_beta": 2.0,
        "return_best": False,
        "elites": 0.1,
        "std_min": 0.05,
        "momentum_mean": 0.0,
        "momentum_std": 0.2,
        "keep_elites": 0.05,
        "iterations": 16,
        "shrink": 1.1,
    },
    "mppi": {
        "std_init": 1.0,
        "noise_beta": 2.0,
        "return_best": False,
        "iterations": 4,
        "temperature": 0.1,
        "update_std": True,
        "std_min": 0.0,
        "momentum": 0.0,
        "elites": 0.0,
    },
    "predictive_sampling": {
        "std_init": 0.2,
        "noise_beta": 2.0,
        "return_best": False,
        "iterations": 32,
        "std_decay": 0.9,
    },
    "gradient": {
        "std_init": 1.0,
        "noise_beta": 2.0,
        "return_best": False,
        "iterations": 64,
        "learning_rate": 0.4,
        "lr_end": 0.01,
        "momentum": 0.7,
        "square_momentum": 0.99,
        "bounds": "clamp",
        "noise": 0.0,
    },
    "projected_gradient": {
        "std_init": 0.4,
        "noise_beta": 3.0,
        "return_best": True,
        "iterations": 64,
        "learning_rate": 0.1,
        "lr_end": 0.01,
        "momentum": 0.8,
    },
    "cem_gradient": {
        "std_init": 0.2,
        "noise_beta": 0.0,
        "return_best": True,
        "elites": 0.1,
        "std_min": 0.0,
        "momentum_mean": 0.0,
        "momentum_std": 0.2,
        "keep_elites": 0.03,
        "iterations": 8,
        "refined": 0.1,
        "steps": 4,
        "learning_rate": 0.4,
    },
    "nevergrad": {
        "iterations": 16,
        "std_init": 0.4,
        "optimizer": "CMA",
    },
}
