"""A tuned cell: its row is trained with several settings, each judged on `val`, and the best is evaluated.

The trials run with the first seed of the table. A trial is a whole training, whose model is evaluated if it is chosen;
or with a share of the steps, and then the chosen setting is trained in full. Further seeds train with the chosen
setting. Dynamics that stage 1 learned itself are judged beside the shared ones, and are evaluated with the setting that
is best for them. The results of finished trials are kept in a file beside the records, so that a command goes on with
the next trial after a kill, and on another machine. A file is found as a record is, by the configuration in it. A
command with another number of trials finds the same file, and goes on from a finished record with fewer.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.comparison.cells import Cell
from commands.comparison.phases import Phases
from commands.comparison.validation import (
    SPLIT,
    Result,
    check_val_episodes,
    find_best,
    make_trial_evaluation,
    summarise_result,
)
from commands.shared.console import Console
from commands.shared.runs import read_json, to_json_value, write_json

TRIALS = "trials"  # folder of the results of unfinished cells' trials, beside the records
SHORT = "short"  # stem of the folders of trials with a share of the training steps
VAL = "plan_val"  # folder of a trial's evaluation
TRAINED = "trained.json"  # in a trial's folder, after its training: what the record says of it


@dataclass(frozen=True)
class FinishedTrials:
    """The results of a cell's finished trials, in the file `path` beside the records."""

    path: Path
    cell: Cell
    records: Path

    def read(self) -> list[Result]:
        """The results in order: those of the file, else those of a finished record of the cell with fewer trials."""
        content: Any = read_json(self.path) if self.path.exists() else None
        return content["results"] if _has_trials(content, self.cell) else _read_record(self.records, self.cell)

    def add(self, result: Result) -> None:
        """Write the results with a further one."""
        content = {"config": self.cell.config, "tuning": _describe_trial(self.cell), "results": [*self.read(), result]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, content)

    def remove(self) -> None:
        """Remove the file, unless it has results of more trials than the cell."""
        assert self.cell.tuning is not None
        if len(self.read()) <= self.cell.tuning.trials:
            self.path.unlink(missing_ok=True)


def find_trials(records: Path, cell: Cell) -> FinishedTrials:
    """The finished trials of a cell, beside the records."""
    paths = sorted((records / TRIALS).glob(f"{cell.task}-{cell.objective}-*-seed{cell.seed}-*.json"))
    found = next((path for path in paths if _has_trials(read_json(path), cell)), None)
    return FinishedTrials(found or records / TRIALS / f"{cell.name}.json", cell, records)


def _has_trials(content: Any, cell: Cell) -> bool:
    """Whether a file holds trials of a cell, with the settings that the cell tries."""
    if not isinstance(content, Mapping) or content["tuning"] != _describe_trial(cell):  # of older versions: a list
        return False
    assert cell.tuning is not None
    settings = [to_json_value(setting) for setting, _ in cell.tuning.drawn]
    tried = [result["setting"] for result in content["results"]]
    return all(a == b for a, b in zip(settings, tried, strict=False)) and cell.has_config(content["config"])


def _read_record(records: Path, cell: Cell) -> list[Result]:
    """The results in a record that differs from the cell's in its fewer trials alone; none without one."""
    tuning = cell.tuning
    assert tuning is not None
    for trials in range(tuning.trials - 1, 1, -1):
        fewer = replace(cell, tuning=replace(tuning, trials=trials, drawn=tuning.drawn[:trials]))
        if (path := fewer.find_record(records)) is not None:
            results: list[Result] = read_json(path)["tuning"]["results"]
            return results
    return []


def _describe_trial(cell: Cell) -> dict[str, Any]:
    """What a trial depends on beside the configuration: all of the tuning but the number of trials."""
    assert cell.tuning is not None
    return {key: value for key, value in cell.tuning.spec.items() if key != "trials"}


def run_trials(
    cell: Cell, data: str, work: Path, shared: Path, finished: FinishedTrials, console: Console
) -> tuple[Cell, dict[str, Any], dict[str, Any] | None, dict[str, Any]]:
    """Tune and evaluate a cell in the folder `work`, resuming where it stopped.

    Returns the cell with the chosen setting, results of its evaluation, those of its own dynamics if it has them, and
    further parts of its record.
    """
    assert cell.tuning is not None
    results: list[Result] = []
    if (chosen := cell.tuning.chosen) is None:  # the first seed
        check_val_episodes(cell.keys.evaluation, cell.tuning.episodes, cell.keys.frame_skip, data)
        results = [
            run_trial(cell, number, data, work, shared, finished, console) for number in range(len(cell.tuning.drawn))
        ]
        best, best_own = choose(results, "val"), choose(results, "val_own")
        assert best is not None
    else:
        best, best_own = chosen["chosen"], chosen["chosen_own"]
    phases, parts = _train(_make_phases(cell, best, data, work, shared, console))
    plan, own = phases.plan(phases.keys.evaluation), None
    if best_own is not None:
        of_own = phases
        if best_own != best:
            of_own = _make_phases(cell, best_own, data, work, shared, console)
            if not (of_own.work / TRAINED).exists():
                of_own.train_encoder()
        own = of_own.plan_own(of_own.keys.evaluation)
    parts = {**parts, **phases.measure_model()}
    phases.remove_features()
    drawn = [to_json_value(setting) for setting, _ in cell.tuning.drawn]
    tuning = {
        **cell.tuning.spec,
        "split": SPLIT,
        "tried": len(drawn),
        "chosen": best,
        "setting": drawn[best],
        "chosen_own": best_own,
        "setting_own": None if best_own is None else drawn[best_own],
        "results": results,
    }
    return cell.make_trial(best), plan, own, {**parts, "tuning": tuning}


def run_trial(
    cell: Cell, number: int, data: str, work: Path, shared: Path, finished: FinishedTrials, console: Console
) -> Result:
    """Train with the setting of a trial and judge it on `val`; of several whole trainings, the models of the best alone
    are kept."""
    assert cell.tuning is not None
    results = finished.read()
    if number >= len(results):
        setting = cell.tuning.drawn[number][0]
        console.say(f"trial {number + 1} of {len(cell.tuning.drawn)}: {_format_setting(setting)}")
        phases, parts = _train(_make_phases(cell, number, data, work, shared, console, cell.tuning.share))
        judged = make_trial_evaluation(phases.keys.evaluation, cell.tuning.episodes)
        judge, views = judged.protocol.judge, phases.choose_view()
        result: Result = {
            "setting": setting,
            "val": views["results"][views["chosen"]] if views else summarise_result(phases.plan(judged, VAL), judge),
            **({"view": views["chosen"]} if views else {}),
            **{key: parts[key] for key in ("steps", "flops", "seconds", "stage1_of") if key in parts},
        }
        if (own := phases.plan_own(judged, "plan_own_val")) is not None:
            result["val_own"] = summarise_result(own, judge)
        phases.remove_features()
        results.append(result)
        finished.add(result)
    _remove_models(work, results[: number + 1])
    return results[number]


def choose(results: Sequence[Result], key: str) -> int | None:
    """Number of the best trial by its result `key` on `val` (`find_best`). None where no trial has such a result."""
    if not all(key in result for result in results):
        return None
    return find_best([result[key] for result in results])


def _make_phases(
    cell: Cell, number: int, data: str, work: Path, shared: Path, console: Console, share: float = 1.0
) -> Phases:
    """The phases of a trial, with a share of the training steps."""
    trial, folder, name = cell.make_trial(number), work / f"trial{number}", f"{cell.name}, trial {number}"
    if share < 1.0:
        trial, folder, name = trial.shorten(share), work / f"{SHORT}{number}", f"{name}, {share:.3g} of the steps"
    return Phases(trial, name, data, folder, shared, console)


def _train(phases: Phases) -> tuple[Phases, dict[str, Any]]:
    """A trial's phases after its training, and what the record says of that."""
    path = phases.work / TRAINED
    if not path.exists():
        write_json(path, phases.train())
    parts = read_json(path)
    phases.seconds = parts["seconds"]
    return phases, parts


def _remove_models(work: Path, results: Sequence[Result]) -> None:
    """Remove the folders of finished trials that are not the best so far, of shared or of own dynamics, and of those
    that were trained in part."""
    kept = {choose(results, key) for key in ("val", "val_own")}
    for number in range(len(results)):
        shutil.rmtree(work / f"{SHORT}{number}", ignore_errors=True)
        if number not in kept:
            shutil.rmtree(work / f"trial{number}", ignore_errors=True)


def _format_setting(setting: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in setting.items()) or "the published setting"
