"""Stacks of blocks: what is read of the last one, and blocks that are compiled."""

from __future__ import annotations

import shutil

import pytest
import torch

from world_model.nn.layers import BlockConfig
from world_model.nn.rotary import make_grid_positions, make_rotary
from world_model.nn.stack import Blocks
from world_model.training.compilation import compile_blocks


def blocks_and_tokens() -> tuple[Blocks, torch.Tensor]:
    torch.manual_seed(0)
    return Blocks(2, BlockConfig(width=16, heads=2)), torch.randn(3, 8, 16)


def gradients(blocks: Blocks, tokens: torch.Tensor, read_from: int = 0) -> list[torch.Tensor]:
    positions = make_rotary(make_grid_positions(2, 2, 2), 8)
    out = blocks(tokens, positions, read_from=read_from) if read_from else blocks(tokens, positions)
    out[:, -5:].square().sum().backward()
    found = [out[:, -5:].detach(), *(p.grad.clone() for p in blocks.parameters())]
    blocks.zero_grad()
    return found


def test_reading_the_last_tokens_alone_gives_the_same_outputs_and_gradients():
    blocks, tokens = blocks_and_tokens()
    assert blocks(tokens, read_from=3).shape == (3, 5, 16)
    torch.testing.assert_close(gradients(blocks, tokens, read_from=3), gradients(blocks, tokens))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_blocks_give_the_same_outputs_and_gradients():
    blocks, tokens = blocks_and_tokens()
    plain = gradients(blocks, tokens)
    blocks.checkpointing = "selective"
    compile_blocks(blocks)
    torch.testing.assert_close(gradients(blocks, tokens), plain)


def test_compiling_for_a_cpu_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler on a CPU and no-such-compiler is not installed"):
        compile_blocks(blocks_and_tokens()[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compile_cache_that_cannot_be_written_to_is_named_with_its_variable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        with pytest.raises(ValueError, match=f"kept in TORCHINDUCTOR_CACHE_DIR={folder}, which cannot be"):
            compile_blocks(blocks_and_tokens()[0])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "new"))
    compile_blocks(blocks_and_tokens()[0])
