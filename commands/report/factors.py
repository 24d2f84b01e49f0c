"""The factors of variation of a task, and what each preset of scenes holds of them, as tables on the console."""

from __future__ import annotations

from dataclasses import asdict

import envs
from commands.shared.console import Console, format_table
from envs.distraction import Distraction
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
        ("distracting", "defaults, distractors", "defaults, distractors, held-out videos"),
        ("color_easy", "defaults, other colours", "defaults, other colours"),
        ("color_hard", "defaults, other colours", "defaults, other colours"),
        ("video_easy", "defaults, video as sky", "defaults, held-out video as sky"),
        ("video_hard", "defaults, video as sky and floor", "defaults, held-out video as sky and floor"),
    ]
    console.say("\n" + format_table(presets, ["env.variation", "splits train and val", "split eval"]))
    console.say(
        f"\nseen, unseen and moving vary {', '.join(APPEARANCE)}, or what env.factors names: groups, factors, or all.\n"
        f"env.factors without a preset means seen. Keys of env.distraction: {', '.join(asdict(Distraction()))}.\n"
        f"jepa collect env={task} env.variation=distracting env.distraction.intensity=0.1\n"
        f"jepa collect env={task} env.variation=seen env.factors=[colour,light]"
    )
