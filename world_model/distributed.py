"""Several processes, started by torchrun: who they are, what they tell one another, how a model is spread over them.

In one process every function here hands back what it was given. With several, N processes do what one does: a batch is
parted by rows, statistics of a batch are taken over all of it, and gradients are averaged. The rule that makes the
gradients right: what crosses processes is differentiated as the linear map it is, so that a gradient is summed over all
processes that used the value. Then the average of the processes' gradients is the gradient of the average of their
losses, whatever each of them computes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from world_model.nn.layers import Block
from world_model.predictor import ActionPredictor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # slow to import

Parallel = Literal["ddp", "fsdp"]

# Only the last resort: torchrun ends all processes when one fails. The first one evaluates, and computes a feature
# cache, for as long as this at most, while the others wait.
TIMEOUT = timedelta(hours=2)
BUCKET_NUMBERS = 8 << 20  # gradients sent at once: enough to use the wire, little enough to copy beside the model


class DistributedError(RuntimeError):
    """Processes that cannot work together; the message says why."""


@dataclass(frozen=True)
class Launch:
    """What torchrun says of this process: its number among all, among those of its machine, and how many there are."""

    rank: int
    local_rank: int
    world: int


def read_launch() -> Launch:
    """This process's place among those of torchrun, by its environment."""
    needed = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise DistributedError(
            f"{missing[0]} is not set, which several processes need: start them with torchrun "
            "(docs/guides/clusters.md), or unset WORLD_SIZE for one"
        )
    return Launch(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


@contextmanager
def connect_processes(launch: Launch, device: torch.device) -> Iterator[None]:
    """Join the other processes: NCCL between GPUs, gloo between CPUs. DistributedError where another one has failed."""
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if launch.local_rank >= gpus:
            raise DistributedError(
                f"process {launch.local_rank} of this machine has no GPU of its own ({gpus} here): "
                f"torchrun --nproc-per-node {gpus}, or device=cpu"
            )
        torch.cuda.set_device(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=launch.rank, world_size=launch.world, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        # No farewell to processes that are gone: destroying the group could wait for them.
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise DistributedError(
                "another process has stopped; its own message says why, unless it was killed, and the same command "
                "goes on from the newest checkpoint"
            ) from error
        raise
    dist.destroy_process_group()


# -- who and how many --------------------------------------------------------------------------------------------


class WorldInfo(NamedTuple):
    """A process's number and how many there are."""

    rank: int
    world: int

    def split_rows(self, batch_size: int) -> slice:
        """This process's rows of a global batch. ValueError where it does not part evenly: a short part would weigh
        as much as the others in every average."""
        if batch_size % self.world:
            raise ValueError(
                f"trainer.batch_size={batch_size} does not part evenly among {self.world} processes: "
                f"give a multiple of {self.world}"
            )
        share = batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


SINGLE_PROCESS = WorldInfo(0, 1)


def world_info() -> WorldInfo:
    """This process's."""
    return WorldInfo(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else SINGLE_PROCESS


def is_main_process() -> bool:
    """Whether this is the process that writes, speaks and evaluates."""
    return world_info().rank == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """The first process does what is inside, then the others do: they find what it wrote."""
    if not is_main_process():
        dist.barrier()
    yield
    if is_main_process() and world_info().world > 1:
        dist.barrier()


# -- values over processes ---------------------------------------------------------------------------------------


class _Gathered(torch.autograd.Function):
    """[n, ...] of every process -> [world * n, ...], in order of rank; its transpose sums, and takes the own rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        out = x.new_empty(world_info().world * len(x), *x.shape[1:])
        dist.all_gather(list(out.chunk(world_info().world)), x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[world_info().rank * ctx.rows :][: ctx.rows]


class _Averaged(torch.autograd.Function):
    """Mean over processes: a symmetric map, so its own transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _mean(grads[0])


def _mean(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total / world_info().world


def gather_rows(x: Tensor) -> Tensor:
    """Rows [n, ...] of all processes, as many of each, [world * n, ...]; differentiable."""
    return x if world_info().world == 1 else _Gathered.apply(x)


def average(x: Tensor) -> Tensor:
    """Mean over processes of a tensor that has the same shape in each; differentiable."""
    return x if world_info().world == 1 else _Averaged.apply(x)


def average_metrics(loss: Tensor, terms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms, detached, as means over processes: one loss that is not finite shows in all of them."""
    if world_info().world == 1:
        return loss.detach(), {name: value.detach() for name, value in terms.items()}
    values = _mean(torch.stack([loss.detach(), *(value.detach() for value in terms.values())]).float())
    return values[0], dict(zip(terms, values[1:], strict=True))


def check_same(number: int, what: str) -> None:
    """Raise DistributedError unless all processes have the same number."""
    if world_info().world == 1:
        return
    found: list[Any] = [None] * world_info().world
    dist.all_gather_object(found, number)
    if len(set(found)) > 1:
        raise DistributedError(f"processes differ in {what} ({found}): all machines must see the same folder runs=")


# -- one model over processes ------------------------------------------------------------------------------------


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over processes; those of a sharded model are means already.

    Instead of DistributedDataParallel, which wants one forward, and either a use of every parameter or a search for
    those without: encoders here are called by several methods, and some objectives leave parameters unused. They are
    the same in all processes, so nothing has to be searched. What is lost is sending during the backward pass.
    """
    if world_info().world == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
    while grads:
        taken, count = 1, grads[0].numel()
        while taken < len(grads) and count + grads[taken].numel() <= BUCKET_NUMBERS:
            count += grads[taken].numel()
            taken += 1
        bucket, grads = grads[:taken], grads[taken:]
        mean = _mean(torch.cat([grad.flatten() for grad in bucket]))
        parts = mean.split([grad.numel() for grad in bucket])
        torch._foreach_copy_(bucket, [part.view_as(grad) for part, grad in zip(parts, bucket, strict=True)])


def distribute_model(model: nn.Module, parallel: Parallel, device: torch.device, bf16: bool) -> nn.Module:
    """The model to train in this process: `model` itself, equal in all processes (ddp), or a copy of which every
    process holds a part (fsdp); the first process then keeps `model` whole, to evaluate and to save.
    """
    if world_info().world == 1:
        return model
    for tensor in model.state_dict().values():  # equal seeds make equal weights, but for unlike machines
        dist.broadcast(tensor, 0)
    if parallel == "ddp":
        return model
    sharded = _shard_model(copy.deepcopy(model.cpu()), device, bf16)  # from the CPU: a GPU never holds it twice
    if is_main_process():
        model.to(device)
    return sharded


def _shard_model(model: nn.Module, device: torch.device, bf16: bool) -> nn.Module:
    """FSDP2, block by block: a block is gathered when called. An ActionPredictor's blocks are not called but taken
    apart, step by step (prefill, rollout): with all the rest they are gathered once a step, and only their gradients
    and the optimiser's state stay sharded."""
    # Imported here: these modules cost a second, which a single process should not pay.
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = dist.init_device_mesh(device.type, (world_info().world,))
    # Parameters are gathered in bf16: autocast's copies of whole ones would live until the step ends.
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32, cast_forward_inputs=False)
    taken_apart = {id(m) for part in model.modules() if isinstance(part, ActionPredictor) for m in part.modules()}
    for block in [m for m in model.modules() if isinstance(m, Block) and id(m) not in taken_apart]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if device.type == "cpu":
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)  # gloo knows no mean
    register_fsdp_forward_method(model, "loss")
    return model


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, of which every process holds a part."""
    return hasattr(tensor, "device_mesh")


def gather_full(tensor: Tensor) -> Tensor:
    """The tensor itself, or all parts of a sharded one, on the CPU; all processes have to ask."""
    return tensor.full_tensor().cpu() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor itself, or this process's part of it where `other`, of the same shape, is sharded."""
    if not is_sharded(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def copy_full_weights(trained: nn.Module, model: nn.Module) -> None:
    """Bring the first process's whole model up to what is trained; nothing where they are one."""
    if trained is model:
        return
    ours = model.state_dict()
    for name, value in trained.state_dict().items():
        full = gather_full(value)
        if is_main_process():
            ours[name].copy_(full)
