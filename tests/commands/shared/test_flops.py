"""Operations of a call equal those counted by hand, whatever torch version, device and attention backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from commands.shared.flops import count_flops, list_attention_formulas
from tests.world_model.small import dynamics, frames
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.generative.latent_flow import FlowTransformerConfig
from world_model.nn.flow import TIMES, FlowConfig


def forward_and_backward(module: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Operations of a forward pass, and of the backward pass to the weights and to the input."""
    forward = count_flops(lambda: module(x))
    return forward, count_flops(lambda: module(x).sum().backward()) - forward


def test_a_matrix_product_has_two_operations_for_each_of_its_multiplications():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    assert count_flops(lambda: a @ b) == 2 * 5 * 7 * 3
    assert count_flops(lambda: a.expand(4, 5, 7) @ b.expand(4, 7, 3)) == 4 * 2 * 5 * 7 * 3
    assert count_flops(lambda: torch.einsum("bij,kj->bik", a.expand(4, 5, 7), b.T)) == 4 * 2 * 5 * 7 * 3
    assert count_flops(lambda: a + 1) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_has_one_product_forward_and_two_backward(bias):
    product = 2 * (4 * 6) * 7 * 3
    x = torch.randn(4, 6, 7, requires_grad=True)
    assert forward_and_backward(nn.Linear(7, 3, bias), x) == (product, 2 * product)
    assert forward_and_backward(nn.Linear(7, 3, bias), x.detach()) == (product, product)
    with torch.inference_mode():
        assert count_flops(lambda: F.linear(x, torch.randn(3, 7), torch.randn(3) if bias else None)) == product


def test_a_convolution_has_its_kernel_at_every_output_pixel():
    plane, volume = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 4, 8, 8, requires_grad=True)
    once = 2 * (2 * 4 * 4) * (3 * 3 * 3) * 5
    assert forward_and_backward(nn.Conv2d(3, 5, 3, stride=2, padding=1), plane) == (once, 2 * once)
    once = 2 * (2 * 2 * 2 * 2) * (3 * 2 * 4 * 4) * 5
    assert forward_and_backward(nn.Conv3d(3, 5, (2, 4, 4), stride=(2, 4, 4)), volume) == (once, 2 * once)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backends", [[SDPBackend.MATH], [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]])
def test_fused_and_explicit_attention_have_two_products_forward_and_four_backward(backends, dtype, masked):
    q = torch.randn(2, 3, 5, 8, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(2, 3, 11, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    mask = torch.ones(5, 11, dtype=torch.bool).tril() if masked else None
    product = 2 * (2 * 3) * 5 * 11 * 8

    def attend() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    with sdpa_kernel(backends):
        assert count_flops(attend) == 2 * product
        assert count_flops(lambda: attend().sum().backward()) == 2 * product + 4 * product
        with torch.inference_mode():
            assert count_flops(attend) == 2 * product


def test_every_fused_attention_of_this_torch_has_a_formula_that_reads_its_arguments():
    names = {name.partition(".")[0].removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names()}
    fused = {name for name in names if name.startswith("_scaled_dot_product_")} - {"_scaled_dot_product_attention_math"}
    formulas = list_attention_formulas()
    assert "_scaled_dot_product_flash_attention_for_cpu" in fused
    assert {getattr(torch.ops.aten, name) for name in fused} == set(formulas)
    for operation, formula in formulas.items():
        arguments = [argument.name.strip("_") for argument in operation.default._schema.arguments]
        shapes = {"query": (2, 3, 5, 8), "key": (2, 3, 11, 8), "value": (2, 3, 11, 6), "grad_out": (2, 3, 5, 6)}
        forward = 2 * (2 * 3) * 5 * 11 * (8 + 6)
        is_backward = "backward" in str(operation)
        inputs = [shapes[name] for name in arguments[: 3 + is_backward]]
        assert formula(*inputs, None, out_shape=None) == (2 * forward if is_backward else forward), operation


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_an_encoder_has_the_operations_of_its_sizes(backend):
    width, depth, patch, tubelet, clips = 24, 2, 16, 2, 3
    encoder = VideoEncoder(EncoderConfig(patch_px=patch, tubelet=tubelet, width=width, depth=depth, heads=2))
    clip = torch.randn(clips, 3, 4, 64, 64)
    tokens = (4 // tubelet) * (64 // patch) ** 2
    stem = 2 * tokens * (3 * tubelet * patch**2) * width
    block = 2 * tokens * width * (3 + 1 + 4 + 4) * width + 2 * 2 * tokens**2 * width
    with sdpa_kernel(backend):
        assert count_flops(lambda: encoder(clip)) == clips * (stem + depth * block)
        # The stem has no gradient of its input, every other product has two.
        assert count_flops(lambda: encoder(clip).sum().backward()) == clips * (2 * stem + 3 * depth * block)


def test_every_euler_step_of_a_flow_counts():
    """B environments, S candidates, K steps: a token has two products of X x W numbers and one of W x W, and a time one
    of TIMES x W."""
    width, tokens, (envs, samples, steps) = 16, 16, (2, 3, 4)
    model = dynamics("tokens", flow=FlowConfig(1, width))
    past, valid = torch.zeros(envs, 2, 2), torch.ones(envs, 3, dtype=torch.bool)
    context, plans = model.observe(frames(envs, 3), past, valid), torch.zeros(envs, samples, steps, 2)

    def count(euler_steps: int) -> float:
        model.flow.steps = euler_steps
        return count_flops(lambda: model.imagine(context, plans).view("tokens"))

    network = 2 * envs * samples * tokens * (2 * model.flow.token_dim * width + width**2)
    assert count(5) - count(2) == 3 * steps * (network + 2 * TIMES * width)


def test_every_euler_step_of_a_flow_transformer_counts_and_reads_no_frame_again():
    """A block has 14 products of W x W numbers for a token and 9 for a frame's condition, and attends to the tokens of
    its frame and of those before it. A time passes two maps."""
    width, depth, tokens, (envs, samples, steps), history = 24, 2, 16, (2, 3, 4), 3
    model = dynamics("tokens", flow=FlowTransformerConfig(1))
    past, valid = torch.zeros(envs, history - 1, 2), torch.ones(envs, history, dtype=torch.bool)
    context, plans = model.observe(frames(envs, history), past, valid), torch.zeros(envs, samples, steps, 2)

    def count(euler_steps: int) -> float:
        model.flow.steps = euler_steps
        return count_flops(lambda: model.imagine(context, plans).view("tokens"))

    seen = sum(tokens + (history + step) * tokens for step in range(steps))
    blocks = depth * (steps * (14 * tokens + 9) * width**2 + 2 * tokens * seen * width)
    ends = steps * (2 * tokens * model.flow.token_dim * width + 2 * width**2 + 2 * width)
    times = steps * (TIMES * width + width**2)
    assert count(5) - count(2) == 3 * 2 * (envs * samples * (blocks + ends) + times)
