"""Judging on `val`, by which a table chooses: the setting of a tuned row, and the view in which a model plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from commands.comparison.table_keys import drop_oracle_cost
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import MODEL_METHOD
from commands.evaluation.setup import load_baseline_setup

SPLIT = "val"  # of the episodes that choices are judged on
JUDGED = ("episodes", "any", "held", "final_distance")  # results of a choice that a record has
Result = dict[str, Any]


def make_trial_evaluation(keys: EvaluationKeys, episodes: int) -> EvaluationKeys:
    """The evaluation of a choice: other episodes, and no oracle."""
    protocol = replace(drop_oracle_cost(keys.protocol), split=SPLIT, episodes=episodes, oracle=False)
    return replace(keys, protocol=protocol)


def check_val_episodes(keys: EvaluationKeys, episodes: int, frame_skip: int | None, data: str) -> None:
    """Raise ValueError where `val` has too few starts and goals, before anything is trained."""
    load_baseline_setup(make_trial_evaluation(keys, episodes), frame_skip, data)


def summarise_result(results: Mapping[str, Any], judge: str) -> Result:
    """What is kept of the results of an evaluation; success: by the protocol's judge at the headline threshold."""
    model = results["methods"][MODEL_METHOD]
    return {"success": model[judge][str(results["thresholds"][0])], **{key: model[key] for key in JUDGED}}


def find_best(results: Sequence[Result]) -> int:
    """Number of the result with the highest success; of equal ones the one with the smallest mean final distance, then
    the first."""
    return min(range(len(results)), key=lambda n: (-results[n]["success"], results[n]["final_distance"]))
