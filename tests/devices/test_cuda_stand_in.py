"""The stand-in refuses what CUDA refuses, and nothing else; torch's own stand-in without values is the reference."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.devices.cuda_stand_in import cuda_stand_in

# Values of x [3] and y [3] on the device, and of n [3], a number c and indices i on the CPU.
ALLOWED = """
x + y
x + c
x * 2
torch.lerp(x, y, c)
torch.where(x > 0, x, c)
x[i]
x.to("cpu") + n
x.cpu() + n
n.to(x.device) + x
n.to(x) + x
n.cuda() + x
n.copy_(x) + n
x.copy_(n) + x
x.new_zeros(3) + x
torch.zeros_like(x) + x
torch.zeros(3, device="cuda") + x
torch.arange(3, device=x.device) + x
torch.zeros_like(x, device="cpu") + n
torch.cat((x, y))
torch.stack([x, y]).sum(0) + x
x.max(0).values + x.topk(2).values[0]
torch.nn.functional.layer_norm(x, (3,), y, y)
x.clone().add_(c)
x.double() + y
""".strip().splitlines()
REFUSED = """
x + n
n + x
n + x[0]
n.clone().add_(x)
c.clone().add_(x[0])
torch.where(n > 0, x, y)
torch.lerp(x, y, n)
torch.cat((x, n))
torch.stack([x, n])
torch.nn.functional.layer_norm(x, (3,), n, n)
torch.nn.functional.linear(x[None], n[None])
x.new_zeros(3) + n
torch.zeros_like(x) + n
torch.zeros(3) + x
x.cpu() + x
n.to("cuda") + n
torch.minimum(x, n)
x @ n
x.clamp(n, n)
x.index_select(0, x.long().cpu())
""".strip().splitlines()


def evaluate(expression: str) -> Tensor:
    """The expression's value, of tensors that are new every time."""
    x, y = torch.ones(3, device="cuda"), torch.full((3,), 2.0, device="cuda")
    names = {"torch": torch, "x": x, "y": y, "n": torch.ones(3), "c": torch.tensor(3.0), "i": torch.tensor([2, 0])}
    return eval(expression, names)


def device_or_refusal(expression: str) -> str:
    """Where the value is, or `refused`."""
    try:
        return evaluate(expression).device.type
    except RuntimeError:
        return "refused"


@pytest.mark.parametrize("expression", ALLOWED + REFUSED)
def test_tensors_meet_as_in_fake_tensor_mode(expression):
    with cuda_stand_in():
        found = device_or_refusal(expression)
    assert (found == "refused") == (expression in REFUSED)
    if torch.backends.cuda.is_built():
        with FakeTensorMode():
            assert found == device_or_refusal(expression)


def test_what_fake_tensor_mode_has_no_values_for_is_refused_as_on_a_gpu(cuda):
    x, n, generator = torch.ones(3, device=cuda), torch.ones(3), torch.Generator()
    for refused, error in (
        (lambda: x.numpy(), TypeError),
        (lambda: np.asarray(x), TypeError),
        (lambda: n[x.long()], RuntimeError),
        (lambda: n.__setitem__(x > 0, 0), RuntimeError),
        (lambda: torch.stack([x[0], n[0]]), RuntimeError),
        (lambda: torch.randn(3, generator=generator, device=cuda), RuntimeError),
        (lambda: x.normal_(generator=generator), RuntimeError),
        (lambda: x.pin_memory(), RuntimeError),
    ):
        with pytest.raises(error):
            refused()
    assert x[x > 0.5].cpu().numpy().sum() == x.sum().item() == 3
    assert n.pin_memory().device.type == torch.empty(3, pin_memory=True).device.type == "cpu"


def test_a_module_that_is_moved_trains_there_and_its_copy_is_there_too(cuda):
    layer = nn.Linear(3, 2).to(cuda)
    teacher = copy.deepcopy(layer)
    assert {value.device for value in (*layer.parameters(), *teacher.parameters())} == {cuda}
    with pytest.raises(RuntimeError, match="same device"):
        layer(torch.ones(1, 3))
    before = layer.weight.detach().clone()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, foreach=True)
    layer(torch.ones(1, 3, device=cuda)).sum().backward()
    optimizer.step()
    assert layer.weight.grad.device == cuda and (layer.weight != before).all()
    assert torch.equal(teacher.weight, before)
    assert layer.to("cpu").weight.device.type == "cpu" and type(layer.weight) is nn.Parameter
