"""What test_distributed.py runs: trainings of small models, in one process when imported, in two as a program.

`python -m tests.world_model.two_processes FOLDER`, once a process with torchrun's environment, leaves what the first
one saw in FOLDER.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.world_model.small import FUTURE, LEWM, PLDM, SIZES, VJEPA2, dynamics, frames, shake
from world_model import distributed
from world_model.actions import ActionSpec
from world_model.distributed import (
    DistributedError,
    average,
    connect_processes,
    copy_full_weights,
    distribute_model,
    gather_rows,
    is_main_process,
    main_process_first,
    read_launch,
    world_info,
)
from world_model.encoder import VideoEncoder
from world_model.objectives.losses import FutureTerms, TokenTerms
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.loop import Checkpoints, Hooks, TrainerConfig, make_optimizer, train
from world_model.training.loss_watch import TrainingError
from world_model.training.posttrain import PosttrainConfig, PosttrainModel

CPU = torch.device("cpu")
CONFIG = TrainerConfig(
    steps=3, batch_size=4, lr=1e-3, warmup=1, schedule="constant", precision="fp32", checkpoint_every=2, log_every=1
)
LONG = replace(CONFIG, steps=4)
OBJECTIVES = {
    "vicreg": FUTURE,
    "sigreg": replace(FUTURE, terms=FutureTerms(sigreg=0.1, sigreg_directions=16)),
    "infonce": replace(FUTURE, terms=FutureTerms(infonce=1.0)),
    "lewm": replace(LEWM, predictor=replace(LEWM.predictor, dropout=0.0)),  # it draws apart in each process
    "pldm": PLDM,
    "masked": VJEPA2,
    "sigreg of tokens": replace(VJEPA2, terms=TokenTerms(features="tokens", sigreg=0.1, sigreg_directions=16)),
}
CASES = [(name, "ddp") for name in (*OBJECTIVES, "posttrain")]
CASES += [(name, "fsdp") for name in ("vicreg", "masked", "posttrain")]
RESUMED = "masked"  # with an EMA teacher: the most there is to restore


def model_of(name: str) -> nn.Module:
    """The same weights in every process."""
    torch.manual_seed(0)
    if name == "posttrain":
        return PosttrainModel(dynamics(), PosttrainConfig(rollout_steps=3))
    objective = OBJECTIVES[name]
    actions = ActionSpec((-1.0, 0.0), (1.0, 4.0)) if objective.reads_actions else None
    model = PretrainModel(VideoEncoder(objective.adapt_encoder(SIZES)), objective, steps=4, actions=actions)
    shake(model, 0.05)
    return model


def batch_of(name: str, step: int) -> dict[str, Tensor]:
    """This process's rows of the batch of a step."""
    generator = torch.Generator().manual_seed(step)
    count = 6 if name == "posttrain" else OBJECTIVES[name].frames
    batch = {"pixels": frames(CONFIG.batch_size, count, seed=step)}
    if name == "posttrain":
        batch = {"features": torch.randn(CONFIG.batch_size, count, 1, 12, generator=generator)}
    batch["action"] = torch.rand(CONFIG.batch_size, count - 1, 2, generator=generator)
    return {key: value[world_info().split_rows(CONFIG.batch_size)] for key, value in batch.items()}


def trained(
    name: str, parallel: Any = "ddp", config: TrainerConfig = CONFIG, folder: Path | None = None
) -> dict[str, Any]:
    """Lines of metrics and final weights."""
    model, lines = model_of(name), []
    mine = distribute_model(model, parallel, CPU, bf16=False)
    optimizer = make_optimizer(mine, config)
    for group in optimizer.param_groups:
        group["eps"] = 1e-4  # else AdamW makes whole steps of gradients that are nothing but rounding (biases of keys)
    checkpoints = None if folder is None else Checkpoints(folder)
    train(mine, lambda step: batch_of(name, step), optimizer, config, checkpoints, Hooks(log=lines.append), CPU)
    copy_full_weights(mine, model)
    return {"lines": lines, "weights": {key: value.clone() for key, value in model.state_dict().items()}}


def gradients() -> dict[str, Tensor]:
    """Of sum(rank weight * x_i^2) over the gathered rows, and of rank weight * mean^2, in this process's part."""
    own = torch.tensor([1.0, 2.0]) + 10 * world_info().rank
    x, y = own.clone().requires_grad_(), own.clone().requires_grad_()
    weight = 1.0 + world_info().rank
    (weight * gather_rows(x).square().sum()).backward()
    (weight * average(y).square().sum()).backward()
    assert x.grad is not None and y.grad is not None
    return {"rows": gather_rows(own), "gathered": gather_rows(x.grad), "averaged": gather_rows(y.grad)}


class Bad(nn.Module):
    """A loss that is what the batch says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        value = self.weight.sum() * batch["x"].mean()
        return value, {"term": value}

    def after_step(self, step: int) -> None:
        pass


def not_finite() -> str:
    """What is said of a loss that is not finite in the second process alone."""
    model, bad = Bad(), float("nan") if world_info().rank else 1.0
    batch = {"x": torch.tensor([bad]), "episode": torch.tensor([40 + world_info().rank])}
    try:
        train(model, lambda step: batch, make_optimizer(model, CONFIG), CONFIG, None, Hooks(), CPU)
    except TrainingError as error:
        return str(error)
    return "no error"


def in_turn(folder: Path) -> str:
    """What the second process finds of what the first one wrote."""
    with main_process_first():
        if is_main_process():
            (folder / "turn").write_text("first")
        return (folder / "turn").read_text()


def main(folder: Path) -> None:
    """All of it, in one of two processes."""
    torch.set_num_threads(1)
    distributed.BUCKET_SIZE = 1000  # gradients of these small models in many parts
    try:
        with connect_processes(read_launch(), CPU):
            found: dict[str, Any] = {case: trained(*case) for case in CASES}
            for parallel in ("ddp", "fsdp"):
                found[f"one to two, {parallel}"] = trained(RESUMED, parallel, LONG, folder / f"one-{parallel}")
                trained(RESUMED, parallel, replace(LONG, steps=2), folder / f"two-{parallel}")
            found |= {"gradients": gradients(), "not finite": not_finite(), "turn": in_turn(folder)}
            if not is_main_process():
                (folder / "second").write_text(found["not finite"])
                os._exit(3)  # as if it were killed
            torch.save(found, folder / "found.pt")
            average(torch.ones(1))
    except DistributedError as error:
        (folder / "left").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
