"""The page of one task by `jepa compare`: finished cells -> Markdown, the seeds of a method joined in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean

from commands.evaluation.scenes import name_scenes
from commands.tables.effort_tables import tabulate_planning, tabulate_time_gaps
from commands.tables.markdown import (
    BUDGET_TITLES,
    UNMATCHED,
    format_bin,
    format_comparison,
    format_difference,
    format_estimate,
    format_mean,
    format_normalised,
    format_number,
    format_short,
    format_table,
    format_tflop,
    join_values,
    wrap,
)
from commands.tables.rows import (
    ALL,
    CANDIDATES,
    FLOPS,
    KINDS,
    TIME,
    Record,
    Row,
    find_main_row,
    get_effort,
    get_headline,
    get_judge,
    make_rows,
    select_records,
)
from commands.tables.sharing import check_equal, describe_sharing
from commands.tables.statistics import (
    TIMED,
    compare_rows,
    estimate_by_distance,
    estimate_on_shared_goals,
    estimate_steps_to_success,
    estimate_success,
)
from commands.tables.view_tables import tabulate_views

MEASURES = ("probe", "near_pair_correlation")  # of an encoder, on val
EFFORT_TITLES = {
    CANDIDATES: "",
    FLOPS: ", equal operations of a plan",
    TIME: ", equal wall time of a plan",
}
KIND_TITLES = {
    "any": "at any time",
    "held": "for consecutive steps",
    "final": "at the last step",
    "replan": "where it plans anew",
}


def format_task_page(
    records: Sequence[Record], budgets: Sequence[str], main: str | None = None, mixed: bool = False
) -> str:
    """Markdown: for every budget, tables whose rows are methods, the most successful first.

    main: objective that every row is compared with, beside the best of the others. mixed: whether cells may differ in
    task, data or protocol; otherwise UsageError names the keys.
    """
    lines = [f"# Objectives on {records[0]['task']}", "", wrap(_describe_page(records)), ""]
    efforts = [effort for effort in EFFORT_TITLES if any(get_effort(each) in (effort, ALL) for each in records)]
    for budget, effort in product(budgets, efforts):
        rows = make_rows(select_records(records, budget, effort))
        if not rows or effort != CANDIDATES and all(get_effort(each) == ALL for row in rows for each in row.records):
            continue
        if not mixed:
            check_equal(rows)
        ordered = order_rows(rows, get_judge(records[0]))
        lines += [f"## {BUDGET_TITLES[budget]}{EFFORT_TITLES[effort]}", "", *_format_budget(ordered, main, mixed)]
    return "\n".join(lines)


def _describe_page(records: Sequence[Record]) -> str:
    first = records[0]
    known = (record["pretrain"] for record in records if "pretrain" in record)
    stage1 = next((measures for measures in known if f"{MEASURES[0]}_pixels" in measures), None)
    spaces = sorted({record["space"] for record in records if "space" in record})
    episodes = sorted({record["random"]["episodes"] for record in records})
    planned = f", planned in {' and '.join(spaces)} features" if spaces else ""
    pixels = ["–" if stage1 is None else format_number(stage1[f"{key}_pixels"]) for key in MEASURES]
    return (
        f"Made by `jepa compare`; {' or '.join(map(str, episodes))} episodes a seed"
        f"{name_scenes(first['config']['protocol'])}{planned}. `untrained` is an encoder before it learns, "
        "embedding by principal components of its tokens, or by its keypoints; `oracle` plans in the true simulator "
        "with the true distance; `random` takes random actions. Brackets hold 95 % intervals. Where a row has several "
        "training seeds, each with data and goals of its own, they are over seeds; else over the goals of one trained "
        f"model, and say nothing of other seeds. Raw pixels: probe {pixels[0]}, near-pair rank correlation {pixels[1]}."
    )


def order_rows(rows: Sequence[Row], kind: str) -> list[Row]:
    """The most successful first."""
    threshold = get_headline(rows[0].records[0])
    return sorted(rows, key=lambda row: -estimate_success(row, kind, threshold).mean)


def _format_budget(rows: Sequence[Row], main: str | None, mixed: bool) -> list[str]:
    """The tables of one budget."""
    sentence, lines = describe_sharing(rows)
    shared = [wrap(f"{sentence}{':' if lines else '.'}"), ""]
    shared += [*(wrap(f"- {line}", "  ") for line in lines), ""] if lines else []
    parts = [shared, _tabulate_success(rows), _tabulate_thresholds(rows), _tabulate_differences(rows, main, mixed)]
    parts += [_tabulate_oracle_costs(rows), _tabulate_steps(rows), _tabulate_distances(rows), _tabulate_models(rows)]
    parts += [tabulate_views(rows), tabulate_planning(rows), tabulate_time_gaps(rows)]
    return [line for part in parts for line in part]


def _tabulate_success(rows: Sequence[Row]) -> list[str]:
    """Success within the headline threshold, and what it cost."""
    first = rows[0].records[0]
    limit, judge, records = get_headline(first), get_judge(first), [each for row in rows for each in row.records]
    kinds = list(dict.fromkeys((*TIMED, judge)))
    head = [
        "method",
        "seeds",
        "episodes",
        "training TFLOP",
        "trials",
        f"within {limit} {first['unit']}",
        *(kind if kind in TIMED else KIND_TITLES[kind] for kind in kinds[1:]),
        "normalised",
    ]
    body = [
        [
            row.label,
            join_values(row.seeds),
            str(sum(result["episodes"] for result in row.results)),
            format_tflop(_sum_training(row)),
            _count_trials(row),
            *(format_estimate(estimate_success(row, kind, limit)) for kind in kinds),
            format_normalised(row, records),
        ]
        for row in rows
    ]
    trained = "both stages of the model that is evaluated" + (", and its policy" if _count_policy(rows) else "")
    note = (
        f"Training TFLOP: {trained}; of a method's own dynamics stage 1 alone. Trials: "
        f"settings that were tried on val{_describe_shares(rows)}. Normalised: (success - random) / (oracle - random), "
        f"{KIND_TITLES[judge]}; its interval is that of success alone."
    )
    return [*format_table(head, body), "", wrap(note), ""]


def _tabulate_thresholds(rows: Sequence[Row]) -> list[str]:
    """Success at every threshold, of every kind."""
    first = rows[0].records[0]
    limits = [str(limit) for limit in first["thresholds"]]
    head = ["method", *(f"{limit} {first['unit']}, {kind}" for limit in limits for kind in KINDS)]
    body = [[row.label, *(format_short(row, kind, t) for t in limits for kind in KINDS)] for row in rows]
    kinds = ", ".join(f"*{kind}*: {KIND_TITLES[kind]}" for kind in KINDS)
    return ["### All thresholds", "", wrap(f"Success in percent, {kinds}."), "", *format_table(head, body), ""]


def _tabulate_differences(rows: Sequence[Row], main: str | None, mixed: bool) -> list[str]:
    """Success of every row less that of the best of the others, and less that of the main row."""
    limit = get_headline(rows[0].records[0])
    methods = [row for row in rows if not row.is_baseline]
    ours = find_main_row(methods, main)
    if len(methods) < 2:
        return []
    body = []
    for row in methods:
        for kind in dict.fromkeys((*TIMED, get_judge(rows[0].records[0]))):
            best = next(other for other in order_rows(methods, kind) if other is not row)
            cells = [f"less {best.label}", *format_comparison(row, best, kind, limit, strict=not mixed)]
            if ours is not None:
                own = ("", "") if ours is row else format_comparison(row, ours, kind, limit, strict=not mixed)
                cells += own
            body.append([row.label, kind, *cells])
    against = [] if ours is None else [f"less {ours.label}", "verdict"]
    note = (
        "Percentage points, on the seeds and goals that both rows have. A row is called better or worse only where the "
        "interval excludes zero. The best of the others is chosen by the same episodes, so differences to it lean "
        "against the row. With one seed in common, an interval holds for these two trained models alone. No interval "
        "is corrected for the number of rows."
    )
    if any(UNMATCHED in cell for line in body for cell in line):
        note += f" {UNMATCHED}: cells of an earlier version, whose goals are not matched one by one."
    table = format_table(["method", "success", "best of the others", "difference", "verdict", *against], body)
    return ["### Differences", "", wrap(note), "", *table, ""]


def _tabulate_oracle_costs(rows: Sequence[Row]) -> list[str]:
    """The true simulator with the cost of a method, beside that method on the same goals."""
    judge, limit = get_judge(rows[0].records[0]), get_headline(rows[0].records[0])
    plans = {row.key: row for row in rows if row.key.part == "plan"}
    body, searches = [], []
    for row in (row for row in rows if row.key.part == "oracle_cost"):
        method = plans[replace(row.key, part="plan")].select_seeds(row.seeds)
        pair = (estimate_success(row, judge, limit), estimate_on_shared_goals(method, row, judge, limit))
        difference = format_difference(compare_rows(row, method, judge, limit, shared=True))
        body.append([row.label, str(sum(each["episodes"] for each in row.results)), *map(format_estimate, pair)])
        body[-1] += difference
        searches.append(row.records[0]["config"]["protocol"]["oracle_cost"])
    if not body:
        return []
    sizes = sorted({f"{each['samples']} candidates, {each['iterations']} iterations" for each in searches})
    note = (
        f"Planned in the true simulator with a method's own cost, by a smaller search ({' or '.join(sizes)}), on the "
        f"first goals alone. Success {KIND_TITLES[judge]} within {limit} {rows[0].records[0]['unit']}. Where the true "
        "simulator is no better, the cost fails; where it is better, the dynamics of the method fail."
    )
    head = ["row", "episodes", "success", "the method, same goals", "true simulator less method", "verdict"]
    return ["### Cost and dynamics apart", "", wrap(note), "", *format_table(head, body), ""]


def _tabulate_steps(rows: Sequence[Row]) -> list[str]:
    """Environment steps to success."""
    limit = get_headline(rows[0].records[0])
    body = []
    for row in rows:
        found = [estimate_steps_to_success(row, kind, limit) for kind in TIMED]
        known = [each for each in found if each is not None]
        if known:
            pairs = [("–" if median is None else f"{median:g}", format_mean(mean)) for median, mean in known]
            body.append([row.label, *(text for pair in pairs for text in pair)])
    if not body:
        return []
    budgets = {record["outcomes"]["budget"] for row in rows for record in row.records if "outcomes" in record}
    missing = [row.label for row in rows if estimate_steps_to_success(row, "any", limit) is None]
    note = (
        f"Environment steps until success within {limit} {rows[0].records[0]['unit']}: the median of the successes, "
        "and the mean over all episodes, in which a failure counts as the whole budget "
        f"({join_values(sorted(budgets))} steps)."
    )
    if missing:
        note += f" Cells of an earlier version have none: {', '.join(missing)}."
    head = ["method", "any: median", "any: mean", "held: median", "held: mean"]
    return ["### Steps to success", "", wrap(note), "", *format_table(head, body), ""]


def _tabulate_distances(rows: Sequence[Row]) -> list[str]:
    """Success by start distance."""
    first = rows[0].records[0]
    found = {row.label: estimate_by_distance(row) for row in rows}
    bins = sorted({bounds for row in found.values() for bounds in row})
    if not bins:
        return []
    head = ["method", *(f"{low:g} to {high:g}" for low, high in bins)]
    body = [[label, *(format_bin(*row[each]) if each in row else "" for each in bins)] for label, row in found.items()]
    judge = KIND_TITLES[first["config"]["protocol"].get("judge", "any")]
    note = (
        f"Success in percent within {first['thresholds'][0]} {first['unit']} {judge}, of so many episodes, by start "
        f"distance, {first['unit']}."
    )
    return ["### By start distance", "", wrap(note), "", *format_table(head, body), ""]


def _tabulate_models(rows: Sequence[Row]) -> list[str]:
    """What the models are like: training, features, open-loop errors."""
    trained = [row for row in rows if row.key.part == "plan" and "steps" in row.records[0]]
    if not trained:
        return []
    parts = {"pretrain": "TFLOP of stage 1", "metric": "of the metric's fit", "posttrain": "of stage 2"}
    if _count_policy(trained):
        parts["clone"] = "of the policy"
    body = []
    for row in trained:
        costs = row.records[0]["flops"]
        has_stage2 = "posttrain" in row.records[0]
        stage, stem = ("posttrain", "over_copy") if has_stage2 else ("pretrain", "open_loop")  # of one stage: pixels
        errors = ", ".join(_mean(row, stage, f"{stem}_{key}") for key in ("1", "last"))
        flops = [format_tflop(costs.get(part, 0.0)) for part in parts]
        measures = [_mean(row, "pretrain", key) for key in MEASURES]
        body.append([row.label, str(row.records[0]["steps"]), *flops, *measures, errors])
    head = ["method", "steps of stage 1", *parts.values()]
    head += ["probe R2", "near-pair rank correlation", "error over copying: 1 step, last"]
    note = "Stage 2 includes one pass of the encoder over all frames. Probe, correlation and errors are of val."
    return ["### Models", "", wrap(note), "", *format_table(head, body), ""]


def _sum_training(row: Row) -> float:
    """FLOPs that trained what a row plans with, of one seed."""
    if row.is_baseline:
        return 0.0
    costs = row.records[0]["flops"]
    return costs["pretrain"] if row.key.part == "plan_own" else costs["total"]


def _count_policy(rows: Sequence[Row]) -> float:
    """FLOPs that trained policies."""
    return sum(row.records[0].get("flops", {}).get("clone", 0.0) for row in rows)


def _count_trials(row: Row) -> str:
    """Settings that were tried; none of a baseline."""
    return "" if row.is_baseline else str(row.records[0].get("tuning", {"tried": 1})["tried"])


def _describe_shares(rows: Sequence[Row]) -> str:
    """The share of the training steps that trials took, where it was not all of them."""
    tuned = [row.records[0]["tuning"] for row in rows if "tuning" in row.records[0]]
    shares = sorted({tuning["share"] for tuning in tuned} - {1.0})
    return f", each with {join_values(f'{share:.3g}' for share in shares)} of the training steps" if shares else ""


def _mean(row: Row, stage: str, key: str) -> str:
    values = [record.get(stage, {}).get(key) for record in row.records]
    return "–" if None in values else format_number(fmean(values))
