"""`jepa plan`: reach goals given as images, zero-shot, beside every baseline of the protocol; on data without a
simulator, plan at recorded moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from commands.config.groups import make_planner
from commands.config.keys import Files
from commands.evaluation.cases import draw_starts
from commands.evaluation.evaluate import evaluate_model, format_headline, warn_of_time_limit
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import make_agent
from commands.evaluation.models import check_model, is_lewm_model, is_module_model
from commands.evaluation.photo_goals import list_goal_files, plan_to_photos
from commands.evaluation.proposals import check_proposals, make_proposals
from commands.evaluation.scenes import changes_scenes, check_scenes
from commands.evaluation.setup import load_setup
from commands.evaluation.values import bind_value, check_value
from commands.offline.evaluate import check_offline, evaluate_offline, format_offline_headline, plans_offline
from commands.report.recording import Viewer, check_viewer
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder
from commands.training.trajectory_files import open_reader


@dataclass(frozen=True, kw_only=True)
class Config(EvaluationKeys):
    """Keys of `jepa plan`."""

    model: str
    """run folder of jepa posttrain, owner/name on the Hugging Face hub, folder of LeWorldModel's released weights, or
    MODULE:CLASS (docs/guides/own_model.md)"""
    model_options: dict[str, Any] = field(default_factory=dict)
    """arguments of the class of model=MODULE:CLASS, as {weights: mine.pt}"""
    data: Files
    """trajectory file whose held-out episodes give starts and goals"""
    goal: str | list[str] | None = None
    """image file to reach instead of those goals, of any size; [A,B]: one after the other"""
    offline: bool | None = None
    """whether plans are made at recorded moments, without a simulator, and compared with the recorded actions; null:
    where the data have no environment here"""
    viewer: Viewer = "none"
    """none, or rerun: those rollouts as episodes.rrd, too, for the viewer of rerun.io (an extra)"""


def check(config: Config) -> None:
    """Refuse what cannot be planned before a folder is made."""
    if config.seed:
        raise UsageError(
            f"seed={config.seed} would change nothing: starts, goals and searches are drawn from protocol.seed; give "
            f"protocol.seed={config.seed}"
        )
    if config.compare_batches and config.goal is not None:
        raise UsageError(f"compare_batches=true plays episodes to recorded goals: leave out goal={config.goal}")
    check_model(config.model, config.model_options)
    make_planner(config.planner)
    check_proposals(config.planner)
    check_value(config.planner)
    if is_module_model(config.model) or is_lewm_model(config.model):
        what = "is a class" if is_module_model(config.model) else "holds LeWorldModel's weights"
        for key, value in (("offline", config.offline), ("goal", config.goal)):
            if value:
                raise UsageError(f"{key}={value} needs a model of jepa posttrain, and model={config.model} {what}")
    if plans_offline(config.offline, config.model):
        check_offline(config, config.goal, config.viewer)
        return
    if config.goal is not None:
        list_goal_files(config.goal, config.planner.mpc)
        if (nuisance := config.protocol.goal_nuisance) != "same":
            raise UsageError(f"goal={config.goal} is shown as it is: leave out protocol.goal_nuisance={nuisance}")
    if changes_scenes(config.protocol):
        info = open_reader(config.data, config.on_damaged).info
        check_scenes(config.protocol, info.env_id, info.env_kwargs)
    check_viewer(config.viewer, config.videos)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Evaluate the model in its run folder, at recorded moments where it is offline, or plan to the pictures `goal`."""
    if plans_offline(config.offline, config.model):
        results = evaluate_offline(config, config.data, config.model, folder.path, console)
        folder.finish(format_offline_headline(results))
        return
    if config.goal is None:
        results = evaluate_model(
            config, config.data, config.model, folder.path, console, (), config.viewer, config.model_options
        )
        folder.finish(format_headline(results))
        return
    setup = load_setup(config, config.data, config.model, draw_starts)
    warn_of_time_limit(setup, console)
    planner = bind_value(config.planner, setup.model)
    proposals = make_proposals(planner, setup, console)
    policy = make_agent(setup.model, planner, proposals)
    photos = list_goal_files(config.goal, planner.mpc)
    line = plan_to_photos(photos, policy, planner.cost.view, config.videos, setup, folder.path, console)
    console.say(f"{line}\nreport: {folder.path / 'report.html'}")
    folder.finish(line)
