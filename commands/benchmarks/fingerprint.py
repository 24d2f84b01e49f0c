"""`jepa doctor fingerprint=FILE`: does this machine compute what another one does?

Results depend on the processor, torch, MuJoCo and the renderer in their last digits, and rarely in more. This compares
a frame and some physics of every task, random numbers, an encoded frame, three training steps and a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs
from commands.shared.console import Console, format_table
from commands.shared.errors import RunError, join_names
from commands.shared.runs import list_versions, write_json
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from world_model.actions import ActionSpec
from world_model.dynamics import DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.objectives.future import FutureConfig
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import TrainerConfig, make_optimizer, train_step

TOLERANCE = 1e-3  # largest difference in the last digits, as a share of the largest number
STEPS = 20  # environment steps of the physics
SAMPLES = 64  # numbers of an output that the file holds, evenly spaced
Arrays = dict[str, np.ndarray]


def print_fingerprint(file: str | None, device: str, console: Console) -> int:
    """Print a hash of every reference output. file: written if it does not exist, otherwise compared with.

    Returns 1 if an output differs from the file's by more than the last digits. Raises RunError for a file that is no
    fingerprint.
    """
    outputs = compute_outputs(torch.device(device))
    found = {name: {"hash": _hash(values), "numbers": _sample(values)} for name, values in outputs.items()}
    there = _read(Path(file)) if file is not None and Path(file).exists() else None
    verdicts = {} if there is None else {name: _compare(own, there.get(name)) for name, own in found.items()}
    rows = [[name, own["hash"], verdicts[name][0] if verdicts else ""] for name, own in found.items()]
    whole = hashlib.sha256("".join(map(_hash, outputs.values())).encode()).hexdigest()[:12]
    console.say(format_table(rows, ["output", "hash", "" if there is None else f"beside {file}"]))
    console.say(f"\nfingerprint {whole} on {device}")
    if there is None and file is not None:
        write_json(file, {"versions": list_versions(), "device": device, "fingerprint": whole, "outputs": found})
        console.say(f"wrote {file}; on another machine: jepa doctor fingerprint={file}")
    differ = [name for name, (_, alike) in verdicts.items() if not alike]
    if differ:
        console.warn(f"jepa doctor: differs from {file}: {join_names(differ)}")
    return int(bool(differ))


def compute_outputs(device: torch.device) -> Arrays:
    """The reference outputs by name."""
    outputs: Arrays = {}
    for task in envs.OWN_TASKS:
        outputs |= _simulate(task)
    parts: dict[str, Callable[[], np.ndarray]] = {
        "random numbers": _draw_numbers,
        "encoded frame": lambda: _encode(device),
        "three training steps": lambda: _train(device),
        "plan": lambda: _plan(device),
    }
    return outputs | {name: compute() for name, compute in parts.items()}


def _simulate(task: str) -> Arrays:
    """The first frame of a task, and its true state after random actions."""
    with closing(envs.make(task)) as env:
        observation, _ = env.reset(seed=0)
        frame, rng = observation["pixels"], np.random.default_rng(0)
        for _ in range(STEPS):
            env.step(rng.uniform(env.task.action_low, env.task.action_high).astype(np.float32))
        return {f"frame of {task}": frame, f"physics of {task}": env.get_truth(env.get_state())}


def _draw_numbers() -> np.ndarray:
    numbers = torch.randn(256, generator=torch.Generator().manual_seed(0)).numpy()
    return np.concatenate([numbers, np.random.default_rng(0).standard_normal(256).astype(np.float32)])


def _make_frames(count: int) -> torch.Tensor:
    """Frames [count, 64, 64, 3] of noise, the same on every machine."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 64, 64, 3), np.uint8))


def _make_encoder() -> VideoEncoder:
    torch.manual_seed(0)
    return VideoEncoder(EncoderConfig())


@torch.no_grad()
def _encode(device: torch.device) -> np.ndarray:
    encoder = _make_encoder().to(device).eval()
    return encoder.embed_frames(_make_frames(4)[None].to(device)).float().cpu().numpy()


def _train(device: torch.device) -> np.ndarray:
    """Losses of three steps of stage 1, fp32."""
    trainer = TrainerConfig(steps=3, batch_size=4, warmup=1, precision="fp32")
    model = PretrainModel(_make_encoder(), FutureConfig(metric=None), trainer.steps).to(device)
    optimizer, batch = make_optimizer(model, trainer), {"pixels": _make_frames(20).unflatten(0, (4, 5)).to(device)}
    return np.array([train_step(model, batch, optimizer, trainer, step)[0].item() for step in range(trainer.steps)])


@torch.no_grad()
def _plan(device: torch.device) -> np.ndarray:
    """Actions that CEM plans with untrained dynamics from noise to noise."""
    encoder = _make_encoder()
    dynamics = LatentDynamics(DynamicsConfig(), encoder, ActionSpec((-1.0,) * 2, (1.0,) * 2, 2)).to(device).eval()
    spec, frames = dynamics.spec, _make_frames(8).unflatten(0, (2, 4)).to(device)
    past = torch.zeros(2, spec.history - 1, spec.block_dim, device=device)
    valid = torch.ones(2, spec.history, dtype=torch.bool, device=device)
    context = dynamics.observe(frames[:, : spec.history], past, valid, None)
    plan = CEM(CEMConfig()).plan(dynamics, context, dynamics.encode_goal(frames[:, -1]), GoalCost(), seeds=range(2))
    return plan.actions_BKA.float().cpu().numpy()


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:8]


def _sample(values: np.ndarray) -> list[float]:
    flat = values.astype(float).ravel()
    return flat[np.linspace(0, len(flat) - 1, min(SAMPLES, len(flat))).astype(int)].tolist()


def _read(file: Path) -> dict[str, Any]:
    try:
        outputs = json.loads(file.read_text(encoding="utf-8"))["outputs"]
        return {
            name: {"hash": str(one["hash"]), "numbers": list(map(float, one["numbers"]))}
            for name, one in outputs.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file} is no fingerprint of jepa doctor: give another file, which is then written") from error


def _compare(own: dict[str, Any], other: dict[str, Any] | None) -> tuple[str, bool]:
    """How an output compares with the file's, in words, and whether they are equal but for the last digits."""
    if other is None or len(other["numbers"]) != len(own["numbers"]):
        return "not in the file", False
    if own["hash"] == other["hash"]:
        return "equal", True
    difference = np.abs(np.subtract(own["numbers"], other["numbers"])).max()
    largest = np.abs(other["numbers"]).max()
    return f"differs by up to {difference:.1e} of {largest:.3g}", bool(difference <= TOLERANCE * largest)
