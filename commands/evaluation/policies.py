"""Policies of other people under the project's protocol: `jepa.evaluate(policy, data, folder)`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands.config.compose import load_config
from commands.config.modules import require_members
from commands.evaluation.episodes import Policy
from commands.evaluation.evaluate import collect_results, play_methods, write_evaluation
from commands.evaluation.methods import make_policies
from commands.evaluation.setup import load_baseline_setup
from commands.shared.console import Console
from data.pictures import Preprocessing

POLICY_METHOD = "policy"
MEMBERS = ("reset", "act")  # of `commands.evaluation.episodes.Policy`


def evaluate(
    policy: Policy,
    data: str | Sequence[str],
    folder: str | Path,
    overrides: tuple[str, ...] = (),
    size_hw: tuple[int, int] | None = None,
    proprio: bool = False,
) -> dict[str, Any]:
    """Evaluate a policy as `jepa plan` evaluates a model: the same starts, goals and judges, next to random actions, no
    action and the oracle.

    policy: has reset(goal_frames [B, H, W, 3], seeds), and act(frames [B, H, W, 3], proprio [B, Q] or None) -> actions
    [B, A] in environment units, once an environment step for all B episodes. data: trajectory file, or run folder of
    jepa collect, whose held-out episodes give starts and goals. folder: gets results.json, episodes.jsonl, videos and
    report.html. overrides: keys of `jepa plan`, as ("protocol.episodes=20",); those of planner are the oracle's.
    size_hw: size of the frames that the policy sees; None: the environment's. proprio: whether it gets proprioception.

    Returns what results.json holds; its methods["policy"] is the policy. Raises UsageError for a policy that lacks a
    method, an unknown key and an offset beyond the episodes, and ValueError for a file that serves too few goals.
    """
    require_members("policy", policy, MEMBERS, "policy")
    files = data if isinstance(data, str) else list(data)
    keys = load_config("plan", ["model=-", "data=-", *overrides])
    console = Console(sys.stdout)
    preprocessing = None if size_hw is None else Preprocessing(size_hw)
    setup = load_baseline_setup(keys, None, files)
    setup = replace(setup, preprocessing=preprocessing, proprio="observed" if proprio else "none")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    policies = {POLICY_METHOD: policy, **make_policies(keys, setup)}
    played = play_methods(policies, keys, setup, console, path / "videos")
    results = collect_results(played, setup, keys)
    write_evaluation(results, played, setup, path, console)
    return results
