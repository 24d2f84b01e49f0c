"""Policies of a small random model, trained on a file of noise in a moment."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from commands.config.compose import load_config
from commands.shared.console import Console
from commands.training.cloning import train_policy
from commands.training.model_folders import save_dynamics
from tests.commands.noise_file import write_noise
from tests.world_model.small import dynamics
from world_model.dynamics import LatentDynamics

MODEL, DATA = "model", "a.h5"  # in the folder of `write_model_and_data`
POLICY = ("trainer=debug", "device=cpu", "policy.width=16", "policy.depth=1", "policy.blocks=4")
GCIVL = (*POLICY, "method=gcivl", "method.width=16", "method.depth=1")


def write_model_and_data(folder: Path) -> LatentDynamics:
    """A random model, saved beside a file of noise."""
    torch.manual_seed(0)
    made = dynamics(frame_skip=2)
    save_dynamics(folder / MODEL, made, {"env": "none", "env_kwargs": {}})
    write_noise(folder / DATA)
    return made


def train_small(folder: Path, model: Path, data: Path, *words: str) -> str:
    """Train a policy into a folder; its result in one line."""
    keys = load_config("clone", [f"model={model}", f"data={data}", *words])
    folder.mkdir(exist_ok=True)
    return train_policy(keys, str(data), str(model), folder, Console(io.StringIO()))
