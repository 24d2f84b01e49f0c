"""The name of a run's folder: `name=`, or what its overrides choose and a hash of its whole configuration.

A recipe (a file of configs/recipe: groups and keys at once, a published run or what was chosen for a task) stands in
the name for all that it sets.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache

from commands.config.choices import open_loader
from commands.config.compose import Composed, compose_choices
from commands.shared.errors import UsageError
from commands.shared.runs import get_identity

RECIPE, NONE = "recipe", "none"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+=,-]*$")


def compose_reference(composed: Composed, standard: Composed) -> Composed:
    """Return what a run's overrides are compared with: the standard configuration, or that of its recipe.

    The recipe itself counts as an override: a run of a recipe is named by it, not by each group it sets.
    """
    recipe = composed.choices.get(RECIPE, NONE)
    return standard if recipe == NONE else _of_recipe(composed.command, recipe)


@cache
def _of_recipe(command: str, recipe: str) -> Composed:
    with open_loader():
        composed = compose_choices(command, [f"{RECIPE}={recipe}"])
    return Composed(command, composed.config, {**composed.choices, RECIPE: NONE})


def make_run_name(composed: Composed, standard: Composed, apart: Sequence[str] = ()) -> str:
    """Return `name=`, or choices and top-level values that differ from the standard ones plus a hash.

    `standard` is the same command without any words. Example: "two_rooms-seed1-3fa9c2d1". A recipe stands for all that
    it sets.
    """
    standard = compose_reference(composed, standard)
    given = composed.config.get("name")
    if given is not None:
        if not NAME.match(str(given)):
            raise UsageError(f"name={given}: a name is one folder, of letters, digits and . _ - + = ,")
        return str(given)
    parts = [
        choice.replace("/", "-") for group, choice in composed.choices.items() if standard.choices.get(group) != choice
    ]
    for key, value in get_identity(composed.config, apart).items():
        short = f"{key}{value}"
        if "." not in key and standard.config.get(key) != value and NAME.match(short) and len(short) <= 24:
            parts.append(short)
    text = json.dumps(get_identity(composed.config, apart), sort_keys=True, separators=(",", ":"))
    return "-".join([*(parts[:5] or ["default"]), hashlib.sha256(text.encode()).hexdigest()[:8]])
