"""Whether plans depend on the batch: the model's episodes, played again in other batches and chunks.

Draws are keyed by the episode's seed (`planners.noise`), so they are the same in every batch. Sums of floating-point
numbers are not: kernels split a product by its number of rows. Such a difference of the last digit may exchange two
candidates, and over an episode it grows as any perturbation does. So three things are counted: first plans, which have
the same inputs in every batch; episodes with another action anywhere; outcomes that flip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from commands.evaluation.judging import detect_success, select_judged_steps
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import make_agent, play_policy
from commands.evaluation.setup import EvaluationSetup
from commands.shared.console import Console, format_table, make_silent_console
from planners.proposals import Proposals
from planners.settings import PlannerConfig

BATCHES = (1, 4)  # environments planned together, beside all of them
HEAD = ("environments", "candidate steps", "first plans differ", "largest", "episodes differ", "largest", "flipped")


def compare_batches(
    setup: EvaluationSetup,
    keys: EvaluationKeys,
    reference: Rollouts,
    console: Console,
    proposals: Proposals | None = None,
) -> list[dict[str, Any]]:
    """Play the cases in other batches and chunks, and compare each with `reference`, in which all were planned together
    in the chunks of `keys`. One row, as of `compare_rollouts`, for each. proposals: first candidates of searches."""
    planner: Any = keys.planner
    rows, quiet = [], make_silent_console()
    for batch, chunk in list_batches(setup, keys):
        agent = make_agent(setup.model, replace(planner, chunk_elements=chunk) if chunk else planner, proposals)
        name, parts = f"batches of {batch}, chunks of {chunk}", []
        with console.progress(name, len(setup.cases.seeds), "episodes") as progress:
            for cases in split_cases(setup.cases, batch):
                parts.append(play_policy(agent, name, setup, quiet, cases=cases))
                progress.advance(len(cases.seeds))
        rows.append({"batch": batch, "chunk_elements": chunk, **compare_rollouts(reference, parts, setup, keys)})
    console.say(f"the same episodes in other batches and chunks:\n{format_batches(rows)}")
    return rows


def list_batches(setup: EvaluationSetup, keys: EvaluationKeys) -> list[tuple[int, int]]:
    """Environments planned together and candidate steps imagined at once: batches of BATCHES and all, in chunks as in
    `keys` and of half of an environment's candidates, without the evaluation itself."""
    planner, count = keys.planner, len(setup.cases.seeds)
    chunks = [0]
    if isinstance(planner, PlannerConfig):  # a planner of the user's has no chunks
        chunks = [planner.chunk_elements, max(1, planner.samples // 2) * planner.horizon]
    batches = dict.fromkeys(min(batch, count) for batch in (*BATCHES, count))
    variants = [(batch, chunk) for chunk in dict.fromkeys(chunks) for batch in batches]
    return [variant for variant in variants if variant != (count, chunks[0])]


def split_cases(cases: Cases, size: int) -> Iterator[Cases]:
    """Parts of at most `size` cases."""
    for begin in range(0, len(cases.seeds), size):
        yield cases.select(slice(begin, begin + size))


def compare_rollouts(
    reference: Rollouts, parts: list[Rollouts], setup: EvaluationSetup, keys: EvaluationKeys
) -> dict[str, Any]:
    """Numbers of `episodes` whose first plan, or any action, differs, with the largest difference of an action (in
    environment units), and whose outcome flips by the protocol's judge and threshold."""
    count, steps = len(reference.actions), keys.planner.mpc.receding_steps * setup.frame_skip
    actions = np.concatenate([part.actions for part in parts])
    differences = np.abs(actions - reference.actions).max(2)  # [n, budget]
    first = differences[:, :steps].max(1)

    def judge(runs: list[Rollouts]) -> Any:
        distances = np.concatenate([run.played_distances for run in runs])
        watched, held = select_judged_steps(distances, setup.task, steps)[setup.protocol.judge]
        return detect_success(watched, setup.task.thresholds[0], held)

    return {
        "episodes": count,
        "first_plans_differ": int((first > 0).sum()),
        "first_plan_difference": float(first.max()),
        "episodes_differ": int((differences.max(1) > 0).sum()),
        "action_difference": float(differences.max()),
        "flipped": int((judge(parts) != judge([reference])).sum()),
    }


def format_batches(rows: list[dict[str, Any]]) -> str:
    """A table with a row for each batch and chunk; 0 candidate steps: as many as memory allows."""
    cells = [
        [
            row["batch"],
            row["chunk_elements"],
            f"{row['first_plans_differ']} of {row['episodes']}",
            f"{row['first_plan_difference']:.1e}",
            f"{row['episodes_differ']} of {row['episodes']}",
            f"{row['action_difference']:.1e}",
            f"{row['flipped']} of {row['episodes']}",
        ]
        for row in rows
    ]
    return format_table(cells, list(HEAD))
