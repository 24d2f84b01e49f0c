"""Tables of what planning costs: wall time and floating-point operations of each row, and why times differ."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from commands.evaluation.arithmetic import format_flops
from commands.tables.figures import average, read_episode_flops, read_plan_flops, read_plan_ms
from commands.tables.markdown import format_table, join_values, wrap
from commands.tables.rows import Record, Row

LONGER = 2.0  # times the fastest plan, from which the page says why a plan takes longer


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


def tabulate_time_gaps(rows: Sequence[Row]) -> list[str]:
    """Why plans take longer than the fastest one, as three factors; empty where none takes LONGER times as long."""
    measured = []
    for row in (row for row in rows if row.key.part == "plan"):
        milliseconds, flops = average(row, read_plan_ms), average(row, read_plan_flops)
        if milliseconds and flops:
            steps = fmean(map(read_sampling_steps, row.records))
            measured.append((row, (milliseconds, steps, flops / steps, milliseconds / flops)))
    measured.sort(key=lambda each: each[1][0])
    if not measured or measured[-1][1][0] < LONGER * measured[0][1][0]:
        return []
    fastest, least = measured[0]
    body = [
        [row.label, *(f"{value / base:.3g}" for value, base in zip(values, least, strict=True))]
        for row, values in measured
    ]
    note = (
        f"Times the plan of {fastest.label}, the fastest. The first number is the product of the others: sampling "
        "steps (Euler steps per imagined frame); operations of a plan per sampling step, that is sizes of models and "
        "numbers of candidates; and time per operation, that is software and how well it uses the machine."
    )
    head = ["method", "time of a plan", "sampling steps", "operations a sampling step", "time an operation"]
    return ["### Why plans take longer", "", wrap(note), "", *format_table(head, body), ""]


def read_sampling_steps(record: Record) -> int:
    """Euler steps per imagined frame; 1 for a model that draws no samples in steps."""
    config = record["config"]
    flow = config.get("dynamics", {}).get("flow") or {}
    own: int = flow.get("steps") or config["objective"].get("sampling_steps") or 1
    return config["planner"].get("flow_steps") or own
