"""Arms, methods of a table's own, and controlled tables: their methods differ in the keys that are named alone, and in
size by a small share at most."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from commands.comparison.cells import ORACLE_COST
from commands.comparison.table_keys import UNTRAINED, MethodVariant, TableKeys, make_cell_keys
from commands.config.compose import list_choices
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError, describe_choices, join_names
from commands.shared.runs import get_identity
from commands.tables.rows import ORACLE
from commands.tables.sharing import FREE
from commands.training.posttraining import make_dynamics


def check_oracle_costs(config: TableKeys) -> None:
    """Raise UsageError for a method of `oracle_costs` that the table does not have."""
    for name in config.oracle_costs or ():
        if name not in config.objectives and name not in config.arms:
            raise UsageError(
                f"oracle_costs: {name} is no method of this table{describe_choices(name, config.objectives)}"
            )


def check_arms(arms: Mapping[str, Sequence[Any]]) -> None:
    """Raise UsageError for the name of an arm that another method has, or that cannot begin the name of a file."""
    taken = (ORACLE, UNTRAINED, *list_choices("objective"))
    for name in arms:
        if name in taken:
            raise UsageError(f"arms.{name}: a method of this name is there already; choose another name")
        if not re.fullmatch(r"[\w+.-]+", name):
            raise UsageError(f"arms.{name}: files are named by it; choose letters, digits and any of + - . _")


def check_control(config: TableKeys, rows: Sequence[MethodVariant]) -> None:
    """Raise UsageError, before anything is trained, for a method that differs from the first one in more keys than
    `may_differ` names, or in the number of its parameters by more than `same_size`."""
    keys = {
        row.name: make_cell_keys(config, row.objective, config.seed, row.variant)
        for row in rows
        if row.objective != ORACLE
    }
    if config.may_differ is not None and keys:
        _check_keys(keys, config.may_differ)
    if config.same_size is not None and keys:
        _check_sizes(keys, config.same_size)


def _check_keys(methods: Mapping[str, PipelineKeys], may_differ: Sequence[str]) -> None:
    apart = (*FREE, ORACLE_COST)
    (first, reference), *others = ((name, get_identity(vars(keys), apart)) for name, keys in methods.items())
    for name, settings in others:
        found = [
            key
            for key in sorted(reference.keys() | settings.keys())
            if reference.get(key) != settings.get(key)
            and not any(key == allowed or key.startswith(f"{allowed}.") for allowed in may_differ)
        ]
        if found:
            values = [f"{key}={settings.get(key)} for {reference.get(key)}" for key in found]
            raise UsageError(
                f"{name} differs from {first} in {join_names(values, 4)}: give both the same, or name the keys in "
                "may_differ"
            )


def _check_sizes(methods: Mapping[str, PipelineKeys], most: float) -> None:
    (first, reference), *others = ((name, count_parameters(keys)) for name, keys in methods.items())
    for name, sizes in others:
        for part, count in sizes.items():
            if abs(count - reference[part]) > most * reference[part]:
                raise UsageError(
                    f"{name} has {count} parameters in its {part} and {first} {reference[part]}, more than "
                    f"same_size={most:g} apart: change the sizes under arms.{name}, or give same_size=null"
                )


def count_parameters(keys: PipelineKeys) -> dict[str, int]:
    """Parameters of the encoder, and of the dynamics that stage 2 trains; a decoder that only shows is not counted."""
    if not keys.has_stage2:
        raise UsageError(
            f"same_size compares the encoder and the dynamics of methods, and objective.family={keys.objective.family} "
            "is a world model of one stage, which has neither apart: give same_size=null"
        )
    with torch.device("meta"):
        made = make_dynamics(keys.stage1.adapted_encoder, keys.dynamics, keys.env.name)
    trained = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
    return {"encoder": sum(parameter.numel() for parameter in made.encoder.parameters()), "dynamics": trained}
