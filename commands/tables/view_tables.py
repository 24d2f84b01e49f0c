"""The table of views: how models that offer several plan on `val` in each, and which one was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from commands.shared.errors import join_names
from commands.tables.markdown import format_table, wrap
from commands.tables.rows import Row


def tabulate_views(rows: Sequence[Row]) -> list[str]:
    """Markdown lines; none where no row chose its view."""
    chosen = [row for row in rows if row.key.part == "plan" and all("views" in record for record in row.records)]
    if not chosen:
        return []
    found = {row.label: [record["views"] for record in row.records] for row in chosen}
    views = list(dict.fromkeys(view for each in found.values() for one in each for view in one["results"]))
    body = []
    for label, each in found.items():
        rates = [[one["results"][view]["success"] for one in each if view in one["results"]] for view in views]
        counts = Counter(one["chosen"] for one in each)
        names = join_names(f"{view} ({count})" if len(counts) > 1 else view for view, count in counts.items())
        body.append([label, *(f"{fmean(rate):.0%}" if rate else "–" for rate in rates), names])
    episodes = sorted({one["episodes"] for each in found.values() for one in each})
    note = (
        "A world model of one stage can compare with the goal image in several views. Each is judged on "
        f"{join_names(map(str, episodes))} starts and goals of val, and the best one plans. Success on val, mean over "
        "seeds; in brackets seeds that chose a view."
    )
    return ["### Views", "", wrap(note), "", *format_table(["method", *views, "chosen"], body), ""]
