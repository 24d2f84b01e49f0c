"""Folders of goal-conditioned policies: written by `jepa clone`, read as proposals of a search, or for their value.

A folder holds model.json and model.safetensors of kind `policy`. A policy on frozen features holds no encoder: its
record has a hash of the features that it was trained on, and a model with other features is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic

from commands.shared.errors import UsageError
from commands.training.model_folders import build_described, build_encoder_config, build_loaded, find_model_folder
from data.checks import parse_fields
from planners.proposals import OWN
from planners.protocol import Dynamics
from world_model.actions import ActionSpec
from world_model.dynamics import LatentDynamics
from world_model.goal_value import GoalValue, ValueConfig
from world_model.interop.timm_encoder import make_encoder
from world_model.policy import GoalPolicy, PolicyConfig
from world_model.training.checkpoint import (
    CheckpointError,
    hash_tensors,
    load_model_folder,
    make_config_dict,
    read_model_kind,
    save_model,
)

KIND = "policy"
SOURCE = "planner.proposal.source"  # the key that usually names a folder


class PolicyDescription(pydantic.BaseModel):
    """`config` in the model.json of a policy."""

    policy: dict[str, Any]
    feature_dim: pydantic.PositiveInt
    actions: dict[str, Any]
    encoder: dict[str, Any] | None
    value: dict[str, Any] | None = None
    features: str | None
    about: dict[str, Any]


def hash_features(dynamics: LatentDynamics) -> str:
    """The identity of a model's pooled features: its encoder's weights, and the statistics that normalise them."""
    parts = {"encoder": dynamics.encoder, "features": dynamics.features}
    return hash_tensors(
        {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    )


def save_policy(
    folder: Path, policy: GoalPolicy, feature_dim: int, features: str | None, about: dict[str, Any]
) -> None:
    """Write a policy folder. features: `hash_features` of the model whose features it reads; None: it reads pixels."""
    config = {
        "policy": make_config_dict(policy.config),
        "feature_dim": feature_dim,
        "actions": make_config_dict(policy.actions),
        "encoder": None if policy.encoder is None else make_config_dict(policy.encoder.config),
        "value": None if policy.value is None else make_config_dict(policy.value.config),
        "features": features,
        "about": about,
    }
    save_model(folder, policy, KIND, config)


def check_policy(folder: str, key: str = SOURCE) -> None:
    """Raise UsageError unless this is a folder of a policy. key: that names it, for messages."""
    if folder == OWN:
        raise UsageError(
            f"{key}={OWN} is the policy that jepa demo and jepa compare train: give a run folder of jepa clone"
        )
    try:
        kind = read_model_kind(find_model_folder(folder))
    except CheckpointError as error:
        instead = "none or retrieval" if key == SOURCE else "null"
        raise UsageError(f"{key}={folder}: {error}; or choose {instead}") from error
    if kind != KIND:
        raise UsageError(
            f"{key}={folder} holds {'no model' if kind is None else f'a {kind!r} model'}, and a "
            f"policy is needed here: jepa clone model={folder if kind == 'dynamics' else '...'} data=... trains one"
        )


def load_policy(folder: str, dynamics: Dynamics, key: str = SOURCE) -> GoalPolicy:
    """The policy of a run folder of `jepa clone`, on the device of the model that it proposes to, with its value where
    it has one. key: that names the folder, for messages. UsageError where its features, actions or frames are not the
    model's."""
    path = find_model_folder(folder)
    config, tensors = load_model_folder(path, KIND)
    source = path / "model.json"
    described = parse_fields(PolicyDescription, config, f"{source} config")
    sizes: PolicyConfig = build_described(PolicyConfig, described.policy, source, "policy")
    actions: ActionSpec = build_described(ActionSpec, described.actions, source, "actions")
    encoder = None
    if described.encoder is not None:
        encoder = build_encoder_config(described.encoder, tensors, source, "encoder.")
    _check_model(f"{key}={folder}", described, actions, None if encoder is None else encoder.image_px, dynamics)
    value: ValueConfig | None = None
    if described.value is not None:
        value = build_described(ValueConfig, described.value, source, "value")

    def make() -> GoalPolicy:
        own = [None if encoder is None else make_encoder(encoder) for _ in range(2)]  # of the policy and the value
        size = described.feature_dim
        return GoalPolicy(
            sizes, size, actions, own[0], None if value is None else GoalValue(value, sizes.history, size, own[1])
        )

    policy = build_loaded(make, tensors, str(folder))
    return policy.to(dynamics.spec.device).eval().requires_grad_(False)


def _check_model(
    where: str, described: PolicyDescription, actions: ActionSpec, image_px: tuple[int, int] | None, dynamics: Dynamics
) -> None:
    """Raise UsageError unless the policy was trained with what this model has."""
    spec, again = dynamics.spec, "jepa clone with this model trains one that fits"
    for what, policys, models in (
        ("frame skip", actions.frame_skip, spec.frame_skip),
        ("bounds of an action block", (actions.block_low, actions.block_high), (spec.action_low, spec.action_high)),
        ("frame size", image_px or spec.frame_hw, spec.frame_hw),
    ):
        if policys != models:
            raise UsageError(f"{where} has the {what} {policys}, and the model has {models}: {again}")
    if described.features is None:
        return
    here = hash_features(dynamics) if isinstance(dynamics, LatentDynamics) else "none"
    if here != described.features:
        raise UsageError(
            f"{where} was trained on features of another encoder ({described.features}, and "
            f"this model's are {here}): {again}"
        )
