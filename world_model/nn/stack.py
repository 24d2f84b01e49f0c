"""A stack of blocks: activation checkpointing, compilation, initialisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from world_model.nn.layers import Block, BlockConfig, Checkpointing, attend_shared_prefix
from world_model.nn.rotary import Rotary

KeysValues = tuple[Tensor, Tensor]
MOST_VARIANTS = 64  # of one compiled function

# Operations whose results selective checkpointing keeps: slow to compute, small to store.
_SAVED = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "addmm",
        "mm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)


def _keep_products(context: object, operation: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _SAVED else CheckpointPolicy.PREFER_RECOMPUTE


def _run_block(block: nn.Module, checkpointing: Checkpointing, inputs: tuple[Any, ...]) -> Tensor:
    """Output of a block for the inputs of its `forward`, with a choice of activations kept for the backward pass."""
    if checkpointing == "none" or not torch.is_grad_enabled():
        return block(*inputs)
    if checkpointing == "full":
        return checkpoint(block, *inputs, use_reentrant=False)
    keep = partial(create_selective_checkpoint_contexts, _keep_products)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=keep)


def _advance_block(
    block: Block,
    x_MnD: Tensor,
    condition_MnD: Tensor | None,
    rotary: Rotary,
    past: KeysValues,
    own: KeysValues,
    valid_BL: Tensor | None,
) -> tuple[Tensor, KeysValues]:
    """One frame block of all M = B * S candidates through one layer: the residual stream, and the candidates' keys and
    values [B, S, heads, tokens so far, d] with the new ones. past: those of the past, which candidates share."""
    modulation = block.modulate(condition_MnD)
    q, k, v = (y.unflatten(0, own[0].shape[:2]) for y in block.project(x_MnD, rotary, modulation))
    own = torch.cat((own[0].to(k.dtype), k), 3), torch.cat((own[1].to(v.dtype), v), 3)
    attended = attend_shared_prefix(q, past, own, valid_BL)
    return block.add(x_MnD, attended.flatten(0, 1), modulation), own


@cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """One compiled function for all blocks of all models; the number of tokens differs from call to call.

    Sizes 0 and 1 are compiled apart, and so are one and many environments, candidates and tokens: more variants than
    torch allows by default, beyond which it would run uncompiled.
    """
    import torch._dynamo  # slow to import

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    return torch.compile(function, dynamic=True)


class BlockStack(nn.ModuleList):
    """A stack of modules that are called one after another, checkpointed by choice, and compiled if `compiled` is set
    (torch.compile: the first steps take a minute)."""

    def __init__(self, blocks: Iterable[nn.Module], checkpointing: Checkpointing) -> None:
        super().__init__(blocks)
        self.checkpointing = checkpointing
        self.compiled = False

    def step(self, block: nn.Module, *inputs: Any) -> Tensor:
        """The output of one of the blocks, from the inputs of its `forward`."""
        run = _compile(_run_block) if self.compiled else _run_block
        return run(block, self.checkpointing, inputs)


class Blocks(BlockStack):
    """A stack of `Block`."""

    def __init__(self, depth: int, config: BlockConfig) -> None:
        super().__init__((Block(config) for _ in range(depth)), config.checkpointing)

    def __iter__(self) -> Iterator[Block]:
        for block in super().__iter__():
            assert isinstance(block, Block)
            yield block

    def advance(self, block: Block, *inputs: Any) -> tuple[Tensor, KeysValues]:
        """`step` of a rollout, with the candidates' keys and values, from the inputs of `_advance_block`."""
        run = _compile(_advance_block) if self.compiled else _advance_block
        return run(block, *inputs)

    def forward(
        self,
        x_BND: Tensor,
        positions: Rotary | None = None,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
        read_from: int = 0,
    ) -> Tensor:
        """The residual stream [B, N - read_from, D] after the last block, of the tokens that are read."""
        *first, last = self
        for block in first:
            x_BND = self.step(block, x_BND, positions, mask, condition)
        return self.step(last, x_BND, positions, mask, condition, read_from)


def init_transformer(model: nn.Module, blocks: Blocks) -> None:
    """Initialise as V-JEPA 2 does.

    =====================================  ===========================================
    linear and convolution weights         normal, std 0.02; biases 0
    LayerNorm                              weight 1, bias 0
    block l (from 1): attn.proj, the       weights divided by sqrt(2 l)
    last layer of the MLP
    modulation (AdaLN-Zero)                0
    =====================================  ===========================================
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=1):
            for weight in (block.attn.proj.weight, block.mlp.out.weight):
                weight.div_(math.sqrt(2 * depth))
            if block.modulation is not None:
                block.modulation.weight.zero_()
