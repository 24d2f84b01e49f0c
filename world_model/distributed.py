"""Several processes, started by torchrun: their ranks, collective operations on tensors, and the distributed model.

In one process every function here returns its input. N processes compute what one would: a batch is split by rows,
statistics of a batch cover all of it, and gradients are averaged. Collectives are differentiated as linear maps: a
gradient is summed over the processes that used the value. So the average of all gradients is the gradient of the
average loss.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from world_model.nn.layers import Block
from world_model.predictor import ActionPredictor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor  # slow to import

Parallel = Literal["ddp", "fsdp"]

# Longest evaluation or feature cache of the main process, while others wait; torchrun ends all when one fails.
TIMEOUT = timedelta(hours=2)
BUCKET_SIZE = 8 << 20  # gradient elements averaged at once: a compromise of bandwidth and memory


class DistributedError(RuntimeError):
    """Processes that cannot work together; the message gives the reason."""


@dataclass(frozen=True)
class Launch:
    """Environment of torchrun: rank among all processes and on this machine, and the number of processes."""

    rank: int
    local_rank: int
    world: int


def read_launch() -> Launch:
    """The environment of torchrun. Raises DistributedError for a missing variable."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise DistributedError(
                f"{name} is not set, which several processes need: start them with torchrun "
                "(docs/guides/clusters.md), or unset WORLD_SIZE for one"
            )
    return Launch(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


@contextmanager
def connect_processes(launch: Launch, device: torch.device) -> Iterator[None]:
    """Connect to the other processes: NCCL between GPUs, gloo between CPUs. DistributedError if another one fails."""
    if device.type == "cuda":
        gpus = torch.cuda.device_count()
        if launch.local_rank >= gpus:
            raise DistributedError(
                f"process {launch.local_rank} of this machine has no GPU of its own ({gpus} GPUs here): use "
                f"torchrun --nproc-per-node {gpus}, or device=cpu"
            )
        torch.cuda.set_device(launch.local_rank)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=launch.rank, world_size=launch.world, timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        # The group is not destroyed: that could wait for processes that are gone.
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise DistributedError(
                "another process has stopped (killed, or see its own message); the same command resumes from the "
                "newest checkpoint"
            ) from error
        raise
    dist.destroy_process_group()


class WorldInfo(NamedTuple):
    """Rank of a process, and the number of processes."""

    rank: int
    world: int

    def split_rows(self, batch_size: int) -> slice:
        """This process's rows of a global batch. ValueError if processes do not divide it: all shares must weigh the
        same in every average."""
        if batch_size % self.world:
            raise ValueError(
                f"trainer.batch_size={batch_size} does not part evenly among {self.world} processes: "
                f"give a multiple of {self.world}"
            )
        share = batch_size // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


SINGLE_PROCESS = WorldInfo(0, 1)


def world_info() -> WorldInfo:
    """Rank of this process, and the number of processes."""
    return WorldInfo(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else SINGLE_PROCESS


def is_main_process() -> bool:
    """Whether this process writes, prints and evaluates."""
    return world_info().rank == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the body first, then the others, which find its files."""
    if not is_main_process():
        dist.barrier()
    yield
    if is_main_process() and world_info().world > 1:
        dist.barrier()


class _GatherRows(torch.autograd.Function):
    """[n, ...] of every process -> [world * n, ...] by rank; backward sums gradients and returns the own rows."""

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


def _mean(x: Tensor) -> Tensor:
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total / world_info().world


def gather_rows(x: Tensor) -> Tensor:
    """Rows [n, ...] of all processes (equal n) -> [world * n, ...]; differentiable."""
    return x if world_info().world == 1 else _GatherRows.apply(x)


def average(x: Tensor) -> Tensor:
    """Mean over processes of tensors of one shape; differentiable."""
    return x if world_info().world == 1 else gather_rows(x[None]).mean(0)


def average_metrics(loss: Tensor, terms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms, detached, as means over processes, so that a non-finite loss shows in all of them."""
    if world_info().world == 1:
        return loss.detach(), {name: value.detach() for name, value in terms.items()}
    values = _mean(torch.stack([loss.detach(), *(value.detach() for value in terms.values())]).float())
    return values[0], dict(zip(terms, values[1:], strict=True))


def check_same(number: int, name: str) -> None:
    """Raise DistributedError unless all processes have the same number."""
    if world_info().world == 1:
        return
    numbers: list[Any] = [None] * world_info().world
    dist.all_gather_object(numbers, number)
    if len(set(numbers)) > 1:
        raise DistributedError(f"processes differ in {name} ({numbers}): all machines must see the same folder runs=")


class GradientAverager:
    """Replaces gradients by their means over processes, a bucket at a time and while the backward pass goes on: a
    bucket is sent once all its gradients are there. Gradients of a sharded model are means already.

    DistributedDataParallel would need one `forward`, and a use of every parameter or a search for unused ones. Encoders
    here are called by several methods, and unused parameters are the same in all processes.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        """parameters: in the order of the forward pass, as far as there is one: the last gradients come first."""
        self._buckets: list[list[Tensor]] = []
        self._sent: dict[int, tuple[Tensor, Any]] = {}
        self._missing: list[int] = []
        self._hooks: list[Any] = []
        if world_info().world == 1:
            return
        size = BUCKET_SIZE
        for parameter in reversed([p for p in parameters if not is_sharded(p)]):
            if size + parameter.numel() > BUCKET_SIZE:
                self._buckets.append([])
                size = 0
            self._buckets[-1].append(parameter)
            size += parameter.numel()
            count = partial(self._count, len(self._buckets) - 1)
            self._hooks.append(parameter.register_post_accumulate_grad_hook(count))
        self._missing = [len(bucket) for bucket in self._buckets]

    def _count(self, number: int, parameter: Tensor) -> None:
        """Send bucket `number` if this was its last gradient."""
        self._missing[number] -= 1
        if self._missing[number] == 0:
            self._send(number)

    def _send(self, number: int) -> None:
        grads = [p.grad.flatten() for p in self._buckets[number] if p.grad is not None]
        if grads:
            total = torch.cat(grads)
            self._sent[number] = total, dist.all_reduce(total, async_op=True)

    def finish(self) -> None:
        """Wait for all means and put them in the gradients' places; after every backward pass."""
        for number in range(len(self._buckets)):
            if number not in self._sent:  # some of its parameters are unused
                self._send(number)
        for number, (total, work) in self._sent.items():
            work.wait()
            grads = [p.grad for p in self._buckets[number] if p.grad is not None]
            parts = (total / world_info().world).split([grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
        self._sent = {}
        self._missing = [len(bucket) for bucket in self._buckets]

    def close(self) -> None:
        """Leave later backward passes alone."""
        for hook in self._hooks:
            hook.remove()


def distribute_model(model: nn.Module, parallel: Parallel, device: torch.device, bf16: bool) -> nn.Module:
    """The model to train in this process: `model` itself, equal in all processes (ddp), or a sharded copy (fsdp); the
    main process then keeps the full `model`, to evaluate and to save.
    """
    if world_info().world == 1:
        return model
    for tensor in model.state_dict().values():  # unlike machines may draw different weights
        dist.broadcast(tensor, 0)
    if parallel == "ddp":
        return model
    sharded = _shard_model(copy.deepcopy(model.cpu()), device, bf16)  # from the CPU: a GPU never holds two
    if is_main_process():
        model.to(device)
    return sharded


def _shard_model(model: nn.Module, device: torch.device, bf16: bool) -> nn.Module:
    """FSDP2, block by block: a block is gathered when called. Blocks of an ActionPredictor are not called as modules
    (prefill, rollout): they are gathered with the rest once a step, and only gradients and optimiser state are sharded.
    """
    # Imported here: these modules take a second to import.
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = dist.init_device_mesh(device.type, (world_info().world,))
    # Parameters are gathered in bf16: autocast's copies of full ones would live until the step ends.
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32, cast_forward_inputs=False)
    not_called = {id(m) for part in model.modules() if isinstance(part, ActionPredictor) for m in part.modules()}
    for block in [m for m in model.modules() if isinstance(m, Block) and id(m) not in not_called]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if device.type == "cpu":
        for part in model.modules():
            if isinstance(part, FSDPModule):
                part.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    register_fsdp_forward_method(model, "loss")
    return model


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, of which every process holds a shard."""
    return hasattr(tensor, "device_mesh")


def gather_full(tensor: Tensor) -> Tensor:
    """The tensor itself, or a sharded one in full, on the CPU; all processes have to call this."""
    return tensor.full_tensor().cpu() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor itself, or this process's shard of it if `other`, of the same shape, is sharded."""
    if not is_sharded(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def copy_full_weights(trained: nn.Module, model: nn.Module) -> None:
    """Copy the weights of a sharded model to the main process's full model."""
    if trained is model:
        return
    weights = model.state_dict()
    for name, value in trained.state_dict().items():
        full = gather_full(value)
        if is_main_process():
            weights[name].copy_(full)
