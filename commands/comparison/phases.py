"""The phases of a cell: both stages of training, each evaluation, and trainings that several cells share.

Two cells whose objectives differ in the metric alone have the same training of stage 1, since the metric is fitted
after it. The second one takes its last checkpoint and fits its own metric. Two arms that differ in what the planner
compares alone have the same model. A record counts the seconds of a shared training as its own, and names the cell that
trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands.comparison.budgets import drop_metric
from commands.comparison.cells import Cell
from commands.comparison.one_stage import BEST_VIEW
from commands.comparison.table_keys import drop_oracle_cost
from commands.comparison.validation import SPLIT, find_best, make_trial_evaluation, summarise_result
from commands.config.groups import DirectKeys
from commands.evaluation.evaluate import evaluate_model
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.models import set_flow_steps
from commands.offline.imagined_paths import write_imagined
from commands.offline.rank_reach import measure_planned_reach
from commands.pipeline import PipelineKeys
from commands.shared.console import METRICS, Console, format_duration, read_evaluations, read_metrics
from commands.shared.devices import resolve_device
from commands.shared.errors import join_names
from commands.shared.runs import get_identity, read_json, replace_atomically, write_json
from commands.tables.sharing import FREE
from commands.training.cloning import train_policy
from commands.training.feature_cache import make_cache_key
from commands.training.model_folders import MODEL, load_encoder, load_planned, read_model_kind
from commands.training.posttraining import posttrain
from commands.training.pretraining import pretrain
from commands.training.stage import CHECKPOINTS, OPEN_LOOP
from commands.training.trajectory_files import derive_preprocessing, open_reader
from data.features import FeatureCache
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from planners.costs import RETURN
from world_model.training.loop import Checkpoints

SHARED = "stage1"  # folder of shared trainings, in the run folder
SHARED_MODELS = "stage2"  # the same of models that arms share
CLONE = "clone"  # folder of a policy, in the folder of its cell or trial
IMAGINED = "imagined.npz"  # frames that a model imagines, in the folder of its cell or trial
SHARED_RECORD = "trained.json"  # in the folder of each, written last
SECONDS = "seconds.json"  # in the folder of a cell or trial: of each phase
VIEWS = "views.json"  # in the folder of a cell or trial: how its model plans on val in each of its views


class Phases:
    """Trains and evaluates one pipeline in the folder `work`, each phase resuming where it stopped.

    name: of the cell or trial, for the record of a shared training. data: trajectory file. shared: folder of shared
    trainings. Attributes: spent, seconds of each phase over all starts of the command; seconds, the same with those of
    shared trainings.
    """

    def __init__(self, cell: Cell, name: str, data: str, work: Path, shared: Path, console: Console) -> None:
        self.keys, self.flops, self.name, self.draws = cell.keys, cell.flops, name, cell.keeps_files
        self.data, self.work, self.console, self.val_episodes = data, work, console, cell.val_episodes
        self.shared = shared / name_shared_training(cell)
        self.shared_model = shared.parent / SHARED_MODELS / name_shared_model(cell) if cell.is_arm else None
        self.spent: dict[str, float] = read_json(work / SECONDS) if (work / SECONDS).exists() else {}
        self.seconds: dict[str, float] = {}

    def train(self) -> dict[str, Any]:
        """All stages; what the record says of them."""
        trained_by, keys = self.train_encoder(), self.keys
        assert self.flops is not None
        record = {
            "steps": keys.pretrain.steps,
            "flops_per_step": self.flops.step,
            "flops": self.flops.to_record(),
            "pretrain": read_evaluations(self.work / "pretrain" / METRICS)[-1],
            "seconds": self.seconds,
            **({} if trained_by == self.name else {"stage1_of": trained_by}),
        }
        if keys.has_stage2:
            record["space"] = keys.dynamics.space
            record["posttrain"] = read_evaluations(self.train_dynamics() / METRICS)[-1]
        if keys.clone is not None:
            record["clone"] = read_evaluations(self.train_policy() / METRICS)[-1]
        return record

    def train_encoder(self) -> str:
        """Stage 1, or what follows a training that another cell shares; the name of the cell that trained."""
        folder = self._make_folder("pretrain")
        found = take_shared_training(self.shared, folder)
        self._time("pretrain", lambda: pretrain(self.keys.stage1, self.data, folder, self.console, draws=self.draws))
        if found is None:
            found = {"cell": self.name, "seconds": self.seconds["pretrain"]}
            share_training(folder, self.shared, found)
        else:
            self.seconds["pretrain"] = round(self.seconds["pretrain"] + found["seconds"], 1)
            self.console.say(f"pretrain: trained by {found['cell']} [{format_duration(found['seconds'])}]")
        return found["cell"]

    def train_dynamics(self) -> Path:
        """Stage 2, or a copy of what another arm trained; the folder of the model."""
        folder, encoder = self._make_folder("posttrain"), str(self._make_folder("pretrain"))
        shared = self.shared_model
        if shared is not None and (shared / SHARED_RECORD).exists():
            found = read_json(shared / SHARED_RECORD)
            shutil.copytree(shared, folder, ignore=shutil.ignore_patterns(SHARED_RECORD), dirs_exist_ok=True)
            self.seconds["posttrain"] = found["seconds"]
            self.console.say(f"posttrain: trained by {found['cell']} [{format_duration(found['seconds'])}]")
            return folder
        self._time(
            "posttrain",
            lambda: posttrain(self.keys.stage2, self.data, encoder, folder, self.console, self.draws),
        )
        if shared is not None:
            shutil.rmtree(shared, ignore_errors=True)
            shutil.copytree(folder, shared, ignore=shutil.ignore_patterns(CHECKPOINTS))
            write_json(shared / SHARED_RECORD, {"cell": self.name, "seconds": self.seconds["posttrain"]})
        return folder

    def train_policy(self) -> Path:
        """The policy on the model of stage 2; its folder."""
        folder, model = self._make_folder(CLONE), str(self._make_folder("posttrain"))
        self._time(CLONE, lambda: train_policy(self.keys.stage3, self.data, model, folder, self.console))
        return folder

    def choose_view(self) -> dict[str, Any] | None:
        """How the model's views plan on `val`, and the best of them, for the record; None where the keys name a view.
        Judged once: the results are kept in the folder of the pipeline."""
        if self.keys.planner.cost.view != BEST_VIEW:
            return None
        if not (path := self.work / VIEWS).exists():
            judged = make_trial_evaluation(self.keys.evaluation, self.val_episodes)
            views = load_planned(str(self.work / self.keys.last_stage))[0].spec.views
            played = [
                self._evaluate(set_view(judged, view), self.keys.last_stage, f"plan_val_{view}") for view in views
            ]
            results = [summarise_result(each, judged.protocol.judge) for each in played]
            chosen = views[find_best(results)]
            self.console.say(f"view {chosen}: the best of {join_names(views)} on {SPLIT}")
            about = {"split": SPLIT, "episodes": self.val_episodes, "chosen": chosen}
            write_json(path, {**about, "results": dict(zip(views, results, strict=True))})
        return dict(read_json(path))

    def plan(self, keys: EvaluationKeys, name: str = "plan") -> dict[str, Any]:
        """The evaluation of the model of the last stage, in the folder `name` and in the view that is best on `val`
        where none is given; the content of results.json."""
        views = self.choose_view()
        return self._evaluate(keys if views is None else set_view(keys, views["chosen"]), self.keys.last_stage, name)

    def plan_own(self, keys: EvaluationKeys, name: str = "plan_own") -> dict[str, Any] | None:
        """The evaluation of the dynamics that stage 1 learned, as of `plan`; None where it learned none, or with a
        policy, which belongs to the shared dynamics."""
        if self.keys.clone is not None or read_model_kind(self.work / "pretrain" / MODEL) != "dynamics":
            return None
        keys = replace(keys, protocol=drop_oracle_cost(keys.protocol))  # measured with the shared dynamics
        return self._evaluate(keys, "pretrain", name)

    def measure_model(self) -> dict[str, Any]:
        """What the record says of the model itself: open-loop errors by model step, and how far ahead the planner's
        cost ranks, both on `val`. A model that shows pixels also leaves frames that it imagines (IMAGINED). Nothing
        where no model is planned with; no ranks of a cost that is more than one distance in a view: a learned value,
        the return of a path, or a share of the tokens."""
        if isinstance(self.keys.planner, DirectKeys):
            return {}
        folder, keys, views = self.work / self.keys.last_stage, self.keys, self.choose_view()
        dynamics, _ = load_planned(str(folder), resolve_device(keys.device))
        set_flow_steps(keys.planner, dynamics)
        reader, preprocessing = self._open_data(dynamics.spec.frame_hw)
        cost = keys.planner.cost if views is None else replace(keys.planner.cost, view=views["chosen"])
        reach = None
        if keys.planner.value is None and cost.reduce != RETURN and cost.token_keep == 1:
            reach = self._time(
                "rank_reach", lambda: measure_planned_reach(dynamics, reader, "val", cost, preprocessing, keys.seed)
            )
        write_imagined(dynamics, reader, keys.protocol.split, keys.seed, self.work / IMAGINED)
        measured = {"open_loop": read_json(folder / OPEN_LOOP), "rank_reach": reach}
        return measured if views is None else {**measured, "views": views}

    def remove_features(self) -> None:
        """Remove the cached features of the encoder, which lie beside the data; a world model of one stage has none."""
        if not self.keys.has_stage2:
            return
        trained = load_encoder(self.work / "pretrain")[0]
        reader, _ = self._open_data(trained.config.image_px)
        path = FeatureCache(reader).build_path(make_cache_key(trained, reader), self.keys.dynamics.space)
        path.unlink(missing_ok=True)  # of two trials with the same weights the first removes them

    def _evaluate(self, keys: EvaluationKeys, model: str, name: str) -> dict[str, Any]:
        folder, trained, keys = self._make_folder(name), str(self.work / model), keys.use_policy(str(self.work / CLONE))
        extra = () if self.draws else None
        return self._time(name, lambda: evaluate_model(keys, self.data, trained, folder, self.console, extra))

    def _open_data(self, image_px: tuple[int, int]) -> tuple[Any, Preprocessing]:
        reader = open_reader(self.data, self.keys.on_damaged)
        preprocessing = derive_preprocessing(reader.info, image_px)
        return prepare_reader(reader, preprocessing), preprocessing

    def _make_folder(self, name: str) -> Path:
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _time(self, name: str, call: Callable[[], Any]) -> Any:
        """The result of a phase. Its seconds are added to those of earlier starts that were stopped in it."""
        began, before = time.perf_counter(), self.spent.get(name, 0.0)
        try:
            result = call()
        finally:
            self.seconds[name] = self.spent[name] = round(before + time.perf_counter() - began, 1)
            self.work.mkdir(parents=True, exist_ok=True)
            write_json(self.work / SECONDS, self.spent)
        self.console.say(f"{name} [{format_duration(self.seconds[name])}]")
        return result


def set_view(keys: EvaluationKeys, view: str) -> EvaluationKeys:
    """The evaluation with plans in this view."""
    cost = replace(keys.planner.cost, view=view)
    return replace(keys, planner=replace(keys.planner, cost=cost))


def name_shared_training(cell: Cell) -> str:
    """Folder of a training of stage 1: the row's method and seed, and a hash of what the training depends on, which is
    all of stage 1 and the data, but not the metric."""
    return _name_shared(cell, {"objective": drop_metric(cell.keys.objective)})


def name_shared_model(cell: Cell) -> str:
    """Folder of a model: the same, with the metric and all of stage 2."""
    keys = cell.keys
    return _name_shared(cell, {key: getattr(keys, key) for key in ("objective", "dynamics", "posttrain")})


def _name_shared(cell: Cell, further: dict[str, Any]) -> str:
    keys: PipelineKeys = cell.keys
    parts: dict[str, Any] = {key: getattr(keys, key) for key in ("env", "data", "pretrain", "seed", "on_damaged")}
    parts |= {"encoder": keys.stage1.adapted_encoder, **further}
    text = json.dumps(get_identity(parts, FREE), sort_keys=True, separators=(",", ":"))
    return f"{cell.method}-seed{cell.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def share_training(folder: Path, shared: Path, record: dict[str, Any]) -> None:
    """Keep the last checkpoint of a finished training, and its losses, for other cells."""
    checkpoints = Checkpoints(folder / CHECKPOINTS).list_paths()
    if not checkpoints:
        return  # an encoder that is never trained
    losses = [line for line in read_metrics(folder / METRICS) if line["kind"] == "train"]  # evaluations have the metric
    shutil.rmtree(shared, ignore_errors=True)
    (shared / CHECKPOINTS).mkdir(parents=True)
    shutil.copy2(checkpoints[-1], shared / CHECKPOINTS)
    (shared / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in losses), encoding="utf-8")
    write_json(shared / SHARED_RECORD, record)


def take_shared_training(shared: Path, folder: Path) -> dict[str, Any] | None:
    """Begin the stage 1 of `folder` at the end of a shared training; the record of that, None where there is none."""
    if not (shared / SHARED_RECORD).exists():
        return None
    (checkpoint,) = (shared / CHECKPOINTS).iterdir()
    target = folder / CHECKPOINTS / checkpoint.name
    if not target.exists():
        shutil.copy2(shared / METRICS, folder / METRICS)
        target.parent.mkdir(exist_ok=True)
        with replace_atomically(target) as temporary:
            shutil.copy2(checkpoint, temporary)
    return read_json(shared / SHARED_RECORD)


def remove_shared_trainings(folder: Path, needed: Iterable[Cell]) -> None:
    """Remove the shared trainings of a run folder that no cell of these may need."""
    stems = {f"{cell.method}-seed{cell.seed}-" for cell in needed}
    for kept in (folder / SHARED, folder / SHARED_MODELS):
        for shared in kept.glob("*"):
            if not shared.name.startswith(tuple(stems)):
                shutil.rmtree(shared, ignore_errors=True)
        if kept.is_dir() and not any(kept.iterdir()):
            kept.rmdir()
