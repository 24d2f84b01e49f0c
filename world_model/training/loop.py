"""The training loop of both stages: batch, loss, backward, step, log; at intervals evaluate and save.

Batches, masks and schedules are pure functions of the step, so a run resumes from restored tensors and the next step,
bit for bit on a CPU.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from world_model.distributed import (
    GradientAverager,
    Parallel,
    average_metrics,
    check_same,
    gather_full,
    is_main_process,
    shard_like,
)
from world_model.training.checkpoint import CheckpointError, load_tensors, load_weights, save_tensors
from world_model.training.laprop import LaProp, clip_adaptively
from world_model.training.loss_watch import LossWatch

BF16_PARAMETERS = 5_000_000  # least size of a model that `precision=auto` trains in bf16 on a CPU

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TrainerConfig:
    """Optimisation of a stage. The warm-up is linear."""

    steps: Annotated[int, Ge(0)] = 400
    """optimiser steps (a larger number continues in the same folder)"""
    batch_size: Annotated[int, Ge(1)] = 48
    """windows per step, summed over processes"""
    lr: Annotated[float, Gt(0)] = 0.002
    """peak learning rate"""
    lr_start: Annotated[float, Ge(0)] = 0.0
    """learning rate at the start of the warm-up"""
    lr_end: Annotated[float, Ge(0)] = 1e-05
    """learning rate at the end"""
    warmup: Annotated[int, Ge(0)] = 30
    """optimiser steps of the warm-up"""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "wsd"
    """learning rate after the warm-up: constant, or to lr_end by cosine, linear or wsd (constant, then linear)"""
    decay_share: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """share of the steps in which wsd decays"""
    weight_decay: Annotated[float, Ge(0)] = 0.04
    """weight decay of weight matrices"""
    weight_decay_end: Annotated[float, Ge(0)] | None = None
    """weight decay at the last step, by a cosine (null: constant)"""
    optimizer: Literal["adamw", "laprop"] = "adamw"
    """optimiser: adamw, or laprop (momentum of scaled gradients, of DreamerV3)"""
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.999)
    """decay rates of the gradient's first and second moment"""
    clip_norm: Annotated[float, Ge(0)] = 1.0
    """largest norm of the gradient (0: no limit)"""
    adaptive_clip: Annotated[float, Ge(0)] = 0.0
    """largest norm of each tensor's gradient, as a share of the tensor's norm (0: no limit)"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """number format: auto (bf16 on devices with fast bf16), fp32 or bf16"""
    parallel: Parallel = "ddp"
    """model per process under torchrun: ddp (full) or fsdp (a shard)"""
    compile: bool = False
    """whether transformer blocks are compiled (faster after a minute, last digits differ)"""
    evaluate_every: Annotated[int, Ge(1)] = 200
    """optimiser steps between evaluations"""
    checkpoint_every: Annotated[int, Ge(1)] = 200
    """optimiser steps between checkpoints"""
    log_every: Annotated[int, Ge(1)] = 10
    """optimiser steps between lines of metrics.jsonl"""
    seed: int = field(default=0, repr=False)


def learning_rate(config: TrainerConfig, step: int) -> float:
    """Learning rate of 0-based `step`; pure."""
    if step < config.warmup:
        return config.lr_start + (config.lr - config.lr_start) * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    if config.schedule == "cosine":
        return _cosine(config.lr, config.lr_end, done)
    if config.schedule == "linear":
        return config.lr + (config.lr_end - config.lr) * done
    decay_steps = max(1, round(config.steps * config.decay_share))
    left = min(1.0, (config.steps - step) / decay_steps)
    return config.lr_end + (config.lr - config.lr_end) * left


def weight_decay(config: TrainerConfig, step: int) -> float:
    """Weight decay of 0-based `step`; pure. V-JEPA takes it from 0.04 to 0.4 by a cosine."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return _cosine(config.weight_decay, config.weight_decay_end, min(1.0, step / max(1, config.steps)))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def autocast(device: torch.device, precision: str, trained: Iterable[Tensor]) -> Any:
    """The autocast context of a precision for a step that trains these parameters."""
    in_bf16 = resolve_precision(device, precision, trained) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16) if in_bf16 else nullcontext()


def resolve_precision(device: torch.device, precision: str, trained: Iterable[Tensor]) -> str:
    """fp32 or bf16. `auto` is bf16 on CUDA, and on CPUs with bf16 instructions for models of BF16_PARAMETERS or more:
    smaller ones gain little and may learn later (experiment 15)."""
    if precision == "auto":
        return "bf16" if _gains_by_bf16(device, trained) else "fp32"
    return precision


def _gains_by_bf16(device: torch.device, trained: Iterable[Tensor]) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type == "cpu":  # AVX2 machines emulate bf16 products about ten times slower than fp32
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        return bool(supported()) and sum(p.numel() for p in trained) >= BF16_PARAMETERS
    return False


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel after every step (Linux alone).

    Page faults would cost up to 80 % of a CPU step.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 << 20)):
            libc.mallopt(option, value)
    except (OSError, AttributeError):
        return


def make_optimizer(model: nn.Module, config: TrainerConfig) -> torch.optim.Optimizer:
    """The optimiser of what requires a gradient; biases and other 1-D parameters are not decayed (V-JEPA 2)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "laprop":
        return LaProp(groups, lr=config.lr, betas=config.betas)
    on_gpu = trained[0].device.type == "cuda" if trained else False
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, foreach=not on_gpu, fused=on_gpu)


def list_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Trained parameters in the order of the optimiser's state."""
    return [p for group in optimizer.param_groups for p in group["params"]]


class Checkpoints:
    """The newest two checkpoints of a run, step-N.safetensors.

    begin: folder of another run's checkpoints, whose newest is the start of a run without its own (a cooldown).
    """

    def __init__(self, folder: Path, begin: Path | None = None) -> None:
        self.folder, self.begin = folder, begin

    def list_paths(self) -> list[Path]:
        """Paths of checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def find_newest_step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        paths = self.list_paths()
        return int(paths[-1].stem.removeprefix("step-")) if paths else 0

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Write model, optimiser and step atomically, and remove older checkpoints but one. The main process writes
        full tensors of sharded models, so that any number of processes can resume."""
        tensors = {f"model/{name}": gather_full(value) for name, value in model.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{index}/{name}": gather_full(torch.as_tensor(value)) for name, value in state.items()
            }
        if not is_main_process():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self.folder / f"step-{step:08d}.safetensors", tensors, {"step": step})
        for old in self.list_paths()[:-2]:
            old.unlink()

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest checkpoint and return its step; 0 without one, and for that of `begin`. CheckpointError if it
        is damaged, or of another model."""
        paths = self.list_paths()
        if not paths:
            if self.begin is not None:
                Checkpoints(self.begin).restore(model, optimizer)
            return 0
        tensors, metadata = load_tensors(paths[-1])
        weights = {name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")}
        expected = model.state_dict()
        weights = {name: shard_like(v, expected[name]) if name in expected else v for name, v in weights.items()}
        load_weights(model, weights, str(paths[-1]))
        trained = list_parameters(optimizer)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = shard_like(value, trained[int(index)])
        if "step" not in metadata:
            raise CheckpointError(f"{paths[-1]} has no step; delete it")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(metadata["step"])


@dataclass
class Hooks:
    """Callbacks of the loop: log(metrics), evaluate(step) -> metrics, progress(steps done, metrics)."""

    log: Callable[[dict[str, Any]], None] = lambda metrics: None
    evaluate: Callable[[int], dict[str, float]] | None = None
    progress: Callable[[int, dict[str, float]], None] = lambda step, metrics: None


def train(
    model: Any,
    batch_at: Callable[[int], Batch],
    optimizer: torch.optim.Optimizer,
    config: TrainerConfig,
    checkpoints: Checkpoints | None,
    hooks: Hooks,
    device: torch.device,
) -> int:
    """Train from the newest checkpoint to config.steps; returns the first step.

    model: a module with `loss(batch, step)`, which returns a scalar and its named terms, and `after_step(step)`, called
    after the optimiser's step. batch_at(step): the batch of a step.
    """
    start = checkpoints.restore(model, optimizer) if checkpoints else 0
    check_same(start, "the step of the newest checkpoint")
    began, watch = time.perf_counter(), LossWatch(checkpoints, device.type == "cpu")
    with closing(GradientAverager(list_parameters(optimizer))) as averager:
        for step in range(start, config.steps):
            if hooks.evaluate and step % config.evaluate_every == 0:
                watch.check()
                hooks.log({"step": step, "kind": "val", **hooks.evaluate(step)})
            batch = {k: v.to(device, non_blocking=True) for k, v in batch_at(step).items()}
            loss, terms = train_step(model, batch, optimizer, config, step, watch, averager)
            is_logged = (step + 1) % config.log_every == 0 or step == 0
            is_saved = checkpoints and ((step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps)
            if is_logged or is_saved:
                watch.check()
            if is_logged:
                metrics = {"loss": loss.item(), **{name: value.item() for name, value in terms.items()}}
                seconds = round(time.perf_counter() - began, 3)
                line = {"step": step + 1, "kind": "train", **metrics}
                hooks.log({**line, "lr": learning_rate(config, step), "seconds": seconds})
                hooks.progress(step + 1, metrics)
            if checkpoints and is_saved:
                checkpoints.save(step + 1, model, optimizer)
    if hooks.evaluate:
        hooks.log({"step": config.steps, "kind": "val", **hooks.evaluate(config.steps)})
    return start


def train_step(
    model: Any,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    config: TrainerConfig,
    step: int,
    watch: LossWatch | None = None,
    averager: GradientAverager | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One optimiser step; returns the loss and its terms, detached, as means over processes.

    `watch` raises TrainingError for a loss or gradient that is not finite: at once, before weights change, or when it
    is asked, so that no step waits for the device. It does so in all processes, so that none waits for another.
    averager: of the optimiser's parameters, where several processes train.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.param_groups[0]["weight_decay"] = weight_decay(config, step)  # the group that is decayed
    model.train()
    device = next(iter(batch.values())).device
    trained = list_parameters(optimizer)
    with autocast(device, config.precision, trained):
        loss, terms = model.loss(batch, step)
    mean_loss, terms = average_metrics(loss, terms)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if averager is not None:
        averager.finish()
    if config.adaptive_clip:
        clip_adaptively(trained, config.adaptive_clip)
    norm = nn.utils.clip_grad_norm_(trained, config.clip_norm if config.clip_norm else math.inf, foreach=True)
    norm = gather_full(norm.detach())
    (watch or LossWatch()).add(step, mean_loss, norm, terms, batch)
    optimizer.step()
    model.after_step(step)
    return mean_loss, terms | {"grad_norm": norm}
