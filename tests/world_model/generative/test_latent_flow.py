"""The latent flow transformer against its equations: blocks, Euler steps, losses, and what it learns to draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.world_model.small import shake
from world_model.generative.latent_flow import FlowBlock, FlowContext, FlowTransformer, FrameCondition, attend_past
from world_model.nn.flow import FlowConfig, FlowHead
from world_model.nn.rotary import Rotary
from world_model.predictor import PredictorConfig

SIZES = PredictorConfig(width=16, depth=2, heads=2, conditioning="adaln")
FEATURES, ACTIONS, GRID = 4, 2, (2, 2)
TOKENS = 4


def make_model(of_change: bool = True, shaken: bool = True, steps: int = 4) -> tuple[FlowContext, FlowTransformer]:
    """Networks of frames of four tokens of four numbers, shaken so that every weight matters."""
    torch.manual_seed(0)
    context = FlowContext(FEATURES, GRID, SIZES)
    flow = FlowTransformer(FEATURES, ACTIONS, GRID, SIZES, steps=steps, of_change=of_change, frames=6)
    if shaken:
        shake(context)
        shake(flow)
    return context.eval(), flow.eval()


def make_frames(batch: int, frames: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features [B, T, N, F] and inputs [B, T, A]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames)
    features = torch.randn(*shape, TOKENS, FEATURES, generator=generator)
    return features, torch.randn(*shape, ACTIONS, generator=generator)


# -- Euler steps and losses by hand ----------------------------------------------------------------------------------


def fix_end(flow: FlowTransformer, end: Callable[[Tensor, Tensor], Tensor], monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """Let the expected end be this function of x_t and t; every call's x_t and t are kept."""
    calls: list[tuple[Tensor, Tensor]] = []

    def predict_end(x: Tensor, time: Tensor, condition: FrameCondition) -> Tensor:
        calls.append((x, time))
        return end(x, time)

    monkeypatch.setattr(flow, "predict_end", predict_end)
    return calls


@pytest.mark.parametrize(("steps", "drawn"), [(1, 2.0), (2, 2.5), (4, 93 / 32)])
def test_a_sample_takes_euler_steps_worked_out_by_hand(steps, drawn, monkeypatch):
    """e(x) = 2 + x / 2 from x = 0.

    One step: v = 2, x = 2. Two: v = 2, x = 1; e = 5/2, v = (5/2 - 1) / (1/2) = 3, x = 1 + 3/2. Four: x = 1/2; e = 9/4,
    v = 7/3, x = 13/12; e = 61/24, v = 35/12, x = 29/16; e = 93/32, v = 35/8, x = 93/32.
    """
    _, flow = make_model(steps=steps)
    fix_end(flow, lambda x, time: 2 + x / 2, monkeypatch)
    before = torch.full((1, 1, TOKENS, FEATURES), 10.0)
    sample = flow.sample(None, before, torch.zeros(1, 1, TOKENS, FEATURES))  # type: ignore[arg-type]
    torch.testing.assert_close(sample, torch.full_like(before, 10 + drawn))


def test_the_loss_asks_for_the_velocity_from_noise_to_the_change(monkeypatch):
    """before 1, target 3: x_1 = 2. Noise -2 and t = 1/4: x_t = 3/4 (-2) + 1/4 (2) = -1. An end of 0 has the velocity
    (0 + 1) / (3/4) = 4/3, wanted is x_1 - x_0 = 4, and (3/4)^2 (4/3 - 4)^2 = 4."""
    _, flow = make_model()
    calls = fix_end(flow, lambda x, time: torch.zeros_like(x), monkeypatch)
    shape = (1, 1, TOKENS, FEATURES)
    before, target, noise = (torch.full(shape, value) for value in (1.0, 3.0, -2.0))
    loss = flow.compute_loss(None, before, target, torch.full((1, 1, 1, 1), 0.25), noise)  # type: ignore[arg-type]
    torch.testing.assert_close(calls[0][0], torch.full(shape, -1.0))
    assert loss.item() == pytest.approx((3 / 4) ** 2 * (4 / 3 - 4) ** 2) == 4.0


def test_all_tokens_of_a_frame_share_a_time_in_training_where_a_head_has_one_of_each_token():
    head = FlowHead(5, FEATURES, FlowConfig(4, 8), True)
    assert make_model()[1].shape_times((3, TOKENS, FEATURES)) == (3, 1, 1)
    assert head.shape_times((3, TOKENS, FEATURES)) == (3, TOKENS, 1)


def test_a_new_model_copies_the_frame_before():
    context, flow = make_model(shaken=False)
    features, inputs = make_frames(2, 3)
    noise = torch.randn(2, 1, TOKENS, FEATURES)
    torch.testing.assert_close(flow.sample(context(features, inputs), features, noise), features)


# -- a block against its equations -----------------------------------------------------------------------------------


def normalise(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head: queries [n, d], keys and values [L, d]."""
    scores = torch.stack([torch.stack([(one * key).sum() for key in k]) for one in q]) / math.sqrt(q.shape[-1])
    return torch.stack([(row.exp() / row.exp().sum()) @ v for row in scores])


def test_a_block_is_its_three_modulated_branches():
    torch.manual_seed(0)
    block = FlowBlock(SIZES).eval()
    shake(block)
    width, size, past = 16, 8, 3
    x, c = torch.randn(TOKENS, width), torch.randn(width)
    keys, values = torch.randn(2, past, size), torch.randn(2, past, size)
    shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = block.modulation(c).split(width)
    y = (1 + scale1) * normalise(x) + shift1
    q, k, v = (part.view(TOKENS, 2, size) for part in block.attn.qkv(y).split(width, -1))
    heads = [attend_by_hand(q[:, head], k[:, head], v[:, head]) for head in range(2)]
    wanted = x + gate1 * block.attn.proj(torch.cat(heads, -1))
    q = block.query((1 + scale2) * normalise(wanted) + shift2).view(TOKENS, 2, size)
    seen = torch.cat([attend_by_hand(q[:, head], keys[head], values[head]) for head in range(2)], -1)
    wanted = wanted + gate2 * block.proj(seen)
    wanted = wanted + gate3 * block.mlp((1 + scale3) * normalise(wanted) + shift3)
    still = Rotary(torch.ones(TOKENS, size), torch.zeros(TOKENS, size))
    found = block(x[None, None], c[None, None], still, still, (keys[None], values[None]), None, None)
    torch.testing.assert_close(found[0, 0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("candidates", [1, 3])
def test_shared_and_own_keys_are_one_softmax_and_hidden_ones_have_no_weight(candidates):
    torch.manual_seed(0)
    q = torch.randn(2, candidates, 1, TOKENS, 6)
    shared = torch.randn(2, 1, 5, 6), torch.randn(2, 1, 5, 6)
    own = torch.randn(2, candidates, 1, 3, 6), torch.randn(2, candidates, 1, 3, 6)
    visible = torch.tensor([[False, False, True, True, True], [True] * 5])[:, None]
    with_own, alone = attend_past(q, shared, own, visible), attend_past(q, shared, None, visible)
    for row in range(2):
        sees = visible[row, 0]
        for candidate in range(candidates):
            keys, values = (part[row, 0, sees] for part in shared)
            wanted = attend_by_hand(q[row, candidate, 0], keys, values)
            torch.testing.assert_close(alone[row, candidate, 0], wanted, atol=1e-5, rtol=1e-5)
            keys, values = (
                torch.cat((part, mine[row, candidate, 0])) for part, mine in zip((keys, values), own, strict=True)
            )
            wanted = attend_by_hand(q[row, candidate, 0], keys, values)
            torch.testing.assert_close(with_own[row, candidate, 0], wanted, atol=1e-5, rtol=1e-5)


# -- what depends on what --------------------------------------------------------------------------------------------


def test_keys_and_values_depend_on_neither_action_nor_noise_nor_time():
    context, flow = make_model()
    features, inputs = make_frames(2, 3)
    one, other = context(features, inputs), context(features, inputs + 1)
    kept = [part.clone() for pair in one.shared for part in pair]
    for time in (0.1, 0.9):
        noise = torch.randn(2, 3, TOKENS, FEATURES)
        flow.compute_loss(one, features, features + 1, torch.full((2, 3, 1, 1), time), noise)
    for found in (one, other):
        assert all(torch.equal(a, b) for a, b in zip(kept, (x for pair in found.shared for x in pair), strict=True))
    prefilled = context.prefill(features)
    for layer, (keys, values) in enumerate(one.shared):
        assert torch.equal(prefilled.keys[layer], keys) and torch.equal(prefilled.values[layer], values)


def test_a_frame_depends_on_its_action_its_time_all_its_noise_and_the_frames_before_it_alone():
    context, flow = make_model()
    features, inputs = make_frames(1, 3)
    noise, time = torch.randn(1, 3, TOKENS, FEATURES), torch.full((1, 3, 1, 1), 0.5)

    def predict(features=features, inputs=inputs, noise=noise, time=time) -> Tensor:
        return flow.predict_end(noise, time, context(features, inputs))[0]

    def changed(found: Tensor) -> list[bool]:
        return [(found[k] - plain[k]).abs().min().item() > 1e-6 for k in range(3)]

    plain = predict()
    middle = torch.zeros(1, 3, 1, 1)
    middle[:, 1] = 1
    assert changed(predict(inputs=inputs + middle[..., 0])) == [False, True, False]
    assert changed(predict(time=time + 0.2 * middle)) == [False, True, False]
    one_token = middle * torch.tensor([1.0, 0, 0, 0])[:, None]
    assert changed(predict(noise=noise + one_token)) == [False, True, False], "tokens of a frame see one another"
    assert changed(predict(features=features + middle * torch.randn(FEATURES))) == [False, True, True]


def test_frames_that_are_padding_are_not_seen():
    context, flow = make_model()
    features, inputs = make_frames(1, 3)
    valid = torch.tensor([[False, True, True]])
    other = features.clone()
    other[:, 0] += 5
    noise, time = torch.randn(1, 3, TOKENS, FEATURES), torch.zeros(1, 3, 1, 1)
    found = [flow.predict_end(noise, time, context(each, inputs, valid))[:, 1:] for each in (features, other)]
    assert torch.equal(*found)


def test_a_rollout_reads_each_frame_once_whatever_the_euler_steps(monkeypatch):
    counts = []
    for steps in (1, 8):
        context, flow = make_model(steps=steps)
        features, inputs = make_frames(2, 3)
        read: list[tuple[int, ...]] = []
        project = context.project
        monkeypatch.setattr(context, "project", lambda x, at, do=project, to=read: to.append(x.shape) or do(x, at))
        past = context.prefill(features)

        def emit(condition: FrameCondition, before: Tensor, step: int, flow=flow) -> tuple[Tensor, Tensor]:
            drawn = flow.sample(condition, before, torch.zeros(1, 1, TOKENS, FEATURES))
            return drawn, drawn

        context.rollout(past, features[:, -1], inputs[:, None].expand(2, 5, 3, ACTIONS), emit=emit)
        counts.append(read)
    assert counts[0] == counts[1] == [(2, 3 * TOKENS, FEATURES), *[(2, 5, TOKENS, FEATURES)] * 2]


def test_checkpointing_changes_no_gradient():
    features, inputs = make_frames(2, 3)
    found = []
    for checkpointing in ("none", "selective", "full"):
        context, flow = make_model()
        flow.blocks.checkpointing = checkpointing
        time, noise = torch.full((2, 3, 1, 1), 0.3), torch.ones(2, 3, TOKENS, FEATURES)
        flow.compute_loss(context(features, inputs), features, features + 1, time, noise).backward()
        found.append([parameter.grad for model in (context, flow) for parameter in model.parameters()])
    assert all(grad is not None for grad in found[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


# -- what it learns --------------------------------------------------------------------------------------------------


def train(context: FlowContext, flow: FlowTransformer, batches: Callable[[], tuple[Tensor, ...]], steps: int) -> list:
    """Losses of so many steps of AdamW on batches of features, inputs and targets of the next frames."""
    optimizer = torch.optim.AdamW([*context.parameters(), *flow.parameters()], lr=5e-3, weight_decay=0.0)
    generator, losses = torch.Generator().manual_seed(3), []
    for _ in range(steps):
        features, inputs, target = batches()
        time = torch.rand(*features.shape[:2], 1, 1, generator=generator)
        noise = torch.randn(target.shape, generator=generator)
        loss = flow.compute_loss(context(features, inputs), features, target, time, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_learns_a_few_frames_by_heart_and_draws_them_in_four_steps():
    context, flow = make_model(shaken=False)
    features, inputs = make_frames(8, 1)
    target = features.roll(1, 0)
    losses = train(context, flow, lambda: (features, inputs, target), 400)
    with torch.no_grad():
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(9))
        error = F.mse_loss(flow.sample(context(features, inputs), features, noise), target)
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10]), (losses[:10], losses[-10:])
    assert error < 0.25 * F.mse_loss(features, target), "beside copying the frame before"


@pytest.mark.slow
def test_tokens_that_go_together_are_drawn_together():
    """All tokens move by +1 or all by -1, as likely: a whole frame agrees on one, where tokens that are drawn one by
    one would agree in one frame of eight."""
    context, flow = make_model(shaken=False, steps=8)
    generator = torch.Generator().manual_seed(1)

    def make_batch() -> tuple[Tensor, ...]:
        features, inputs = torch.zeros(64, 1, TOKENS, FEATURES), torch.zeros(64, 1, ACTIONS)
        sign = 2.0 * torch.randint(0, 2, (64, 1, 1, 1), generator=generator) - 1
        return features, inputs, features + sign

    train(context, flow, make_batch, 250)
    with torch.no_grad():
        features, inputs, _ = make_batch()
        noise = torch.randn(features.shape, generator=generator)
        sign = flow.sample(context(features, inputs), features, noise).mean(-1)[:, 0].sign()
    agree = (sign == sign[:, :1]).all(-1).float().mean()
    assert agree > 0.8 and 0.2 < (sign > 0).float().mean() < 0.8, (agree, sign.mean())


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_parameters_at_the_sizes_of_the_smallest_published_model():
    """CDiT-S has 12 blocks of width 384. Its blocks have 27 width^2 weights: 4 and 4 of attention, 8 of the MLP, 11 of
    the modulation, two of which modulate the context. Without those, 25."""
    sizes = replace(SIZES, width=384, depth=12, heads=6)
    with torch.device("meta"):
        context = FlowContext(16, (14, 14), sizes)
        flow = FlowTransformer(16, 3, (14, 14), sizes, steps=4, of_change=True, frames=5)
    weights = sum(p.numel() for model in (context, flow) for p in model.parameters() if p.ndim == 2)
    blocks = 12 * 25 * 384**2
    embeddings = 2 * 16 * 384 + 3 * 384 + 16 * 384 + 384**2 + 2 * 384**2 + 16 * 384
    assert weights == blocks + embeddings
    assert weights == pytest.approx(12 * 27 * 384**2 * 25 / 27, rel=0.02)
