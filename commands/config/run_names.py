"""The name of a run's folder: `name=`, or what its overrides choose and a hash of its whole configuration.

A recipe (a file of configs/recipe: groups and keys at once, a published run or what was chosen for a task) stands in
the name for all that it sets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from commands.config.compose import Composed, compose_choices
from commands.shared.errors import UsageError
from commands.shared.runs import NAME, get_identity

RECIPE, NONE = "recipe", "none"


def compose_reference(composed: Composed, defaults: Composed) -> Composed:
    """Return the configuration that a run's name is compared with: the defaults, or those with its recipe.

    The recipe itself counts as an override: a run of a recipe is named by it, not by each group it sets.
    """
    recipe = composed.choices.get(RECIPE, NONE)
    if recipe == NONE:
        return defaults
    reference = compose_choices(composed.command, [f"{RECIPE}={recipe}"])
    return replace(reference, choices={**reference.choices, RECIPE: NONE})


def make_run_name(composed: Composed, defaults: Composed, apart: Sequence[str] = ()) -> str:
    """Return `name=`, or the choices and top-level values that differ from the reference, and a hash of all keys.

    Example: "two_rooms-seed1-3fa9c2d1". apart: keys that are not part of a run's identity.
    """
    name = composed.config.get("name")
    if name is not None:
        if not NAME.match(str(name)):
            raise UsageError(f"name={name}: a name is one folder, of letters, digits and . _ - + = ,")
        return str(name)
    reference, identity = compose_reference(composed, defaults), get_identity(composed.config, apart)
    choices = composed.choices.items()
    parts = [choice.replace("/", "-") for group, choice in choices if reference.choices.get(group) != choice]
    for key, value in identity.items():
        short = f"{key}{value}"
        if "." not in key and reference.config.get(key) != value and NAME.match(short) and len(short) <= 24:
            parts.append(short)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return "-".join([*(parts[:5] or ["default"]), hashlib.sha256(text.encode()).hexdigest()[:8]])
