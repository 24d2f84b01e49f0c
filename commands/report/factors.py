"""The factors of variation of a task, and what each preset of scenes holds of them, as tables on the console."""

from __future__ import annotations

import envs
from commands.shared.console import Console, format_table
from envs.presets import APPEARANCE, MOTION


def print_factors(task: str, console: Console) -> None:
    """One line for each factor of variation that the task offers, and what each preset holds of them."""
    env = envs.make(task)
    try:
        offered, ranges = env.list_factors(), env.task_factors
    finally:
        env.close()
    if not offered:
        console.say(f"{task} has no factors of variation: its model is not ours to change")
        return
    still, moving = ([f for f in offered if (f.group == MOTION) is motion] for motion in (False, True))
    rows = [(f.group, f.name, f.unit, f"{f.default:g}", f.range_text, f.unseen_text) for f in still]
    for name, (unit, low, high) in ranges.items():
        rows.append(("own", name, unit, "differs always", f"{low:g} to {high:g}", ""))
    console.say(format_table(rows, ["group", "factor", "unit", "default", "seen", "unseen"]))
    if moving:
        moves = [(f.group, f.name, f.unit, f"{f.default:g}", f.range_text) for f in moving]
        console.say("\n" + format_table(moves, ["group", "factor", "unit", "default", "moving"]))
    presets = [
        ("none", "defaults", "defaults"),
        ("seen", "column seen", "column seen"),
        ("unseen", "column seen", "column unseen"),
        ("moving", "columns seen and moving", "columns seen and moving"),
    ]
    console.say("\n" + format_table(presets, ["env.variation", "splits train and val", "split eval"]))
    console.say(
        f"\nA preset varies {', '.join(APPEARANCE)}, or what env.factors names: groups, factors, or all.\n"
        "env.factors without a preset means seen.\n"
        f"jepa collect env={task} env.variation=seen env.factors=[colour,light]"
    )
