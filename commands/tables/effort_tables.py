"""Tables of what planning costs: wall time and floating-point operations of each row."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from commands.evaluation.arithmetic import format_flops
from commands.tables.figures import read_episode_flops, read_plan_flops, read_plan_ms
from commands.tables.markdown import format_table, join_values, wrap
from commands.tables.rows import Row


def tabulate_planning(rows: Sequence[Row]) -> list[str]:
    """Wall time and FLOPs of planning; empty where no cell has measured them."""
    body, devices, together = [], set(), set()
    for row in rows:
        if row.key.part != "plan" or any("planning" not in record for record in row.records):
            continue
        found = [record["planning"] for record in row.records]
        devices |= {f"{each['device']}, {each['precision']}" for each in found}
        together |= {each["environments"] for each in found}
        times = [ms for record in row.records if (ms := read_plan_ms(record)) is not None]
        samples = sorted({str(record["config"]["planner"].get("samples", "–")) for record in row.records})
        flops = [
            [value for record in row.records if (value := read(record)) is not None]
            for read in (read_plan_flops, read_episode_flops)
        ]
        costs = [format_flops(fmean(values)) if values else "–" for values in flops]
        body.append([row.label, join_values(samples), f"{fmean(times):.3g}" if times else "–", *costs])
    if not body:
        return []
    note = (
        f"Wall time: the median plan of {join_values(sorted(together))} episodes at once, over their number, on "
        f"{' and '.join(sorted(devices))}; it depends on the machine and its load. Operations are counted for one "
        "episode, with the encoding of its frames and of the goal."
    )
    head = ["method", "candidates", "ms a plan and episode", "a plan", "an episode"]
    return ["### Planning effort", "", wrap(note), "", *format_table(head, body), ""]
