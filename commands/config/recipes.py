"""Recipes: files of configs/recipe, groups and keys at once. Each is a published run of `jepa pretrain` or `posttrain`,
or what was chosen for a task, for `jepa demo` and `compare`; a command leaves out what a recipe says to the other."""

from __future__ import annotations

from functools import cache

from commands.config.compose import Composed, hydra_loader, with_choices

RECIPE, NONE = "recipe", "none"


def baseline(composed: Composed, standard: Composed) -> Composed:
    """Return what a run's own words are compared with: the standard configuration, or that of its recipe.

    The recipe itself counts as a word: a run of a recipe is named by it, not by each group it sets.
    """
    recipe = composed.choices.get(RECIPE, NONE)
    return standard if recipe == NONE else _of_recipe(composed.command, recipe)


@cache
def _of_recipe(command: str, recipe: str) -> Composed:
    with hydra_loader():
        seen = with_choices(command, [f"{RECIPE}={recipe}"])
    return Composed(command, seen.config, {**seen.choices, RECIPE: NONE})
