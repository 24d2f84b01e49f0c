"""Rotary positions and attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.world_model.small import SIZES
from world_model.encoder import VideoEncoder
from world_model.nn import rotary
from world_model.nn.layers import FUSED_TOKENS, Block, BlockConfig, attend, attend_shared_prefix
from world_model.nn.rotary import Rotary, make_grid_positions, make_rotary
from world_model.nn.stack import init_transformer


def test_rotary_keeps_norms_and_leaves_idle_channels_alone():
    x = torch.randn(1, 1, 12, 32)
    turned = make_rotary(make_grid_positions(3, 2, 2), 32).rotate(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[..., 30:], x[..., 30:])
    assert not torch.allclose(turned[0, 0, 1:, :30], x[0, 0, 1:, :30])


@pytest.mark.parametrize("kind", ["interleaved", "tiled"])
def test_pairs_turn_alike_as_complex_and_as_real_numbers(kind, monkeypatch):
    table = make_rotary(make_grid_positions(3, 2, 2), 32, kind)
    x = torch.randn(2, 4, 12, 32, requires_grad=True)
    found = table.rotate(x)
    monkeypatch.setattr(rotary, "COMPLEX_DEVICES", ())
    expected = table.rotate(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(each.square().sum() + each.sum(), x)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients)
    half = x.detach().bfloat16()
    assert table.rotate(half).dtype == torch.float32
    torch.testing.assert_close(table.select(3, 5).rotate(x[..., 3:5, :]), expected[..., 3:5, :])


def test_scores_depend_on_position_differences_alone():
    q, k = torch.randn(2, 1, 1, 1, 32)
    scores = []
    for shift in (torch.tensor([0, 0, 0]), torch.tensor([5, 2, 7])):
        at_q, at_k = (make_rotary((torch.tensor(place) + shift)[None], 32) for place in ([1, 3, 0], [4, 1, 2]))
        scores.append((at_q.rotate(q) * at_k.rotate(k)).sum())
    torch.testing.assert_close(scores[0], scores[1])


def test_each_axis_turns_its_own_channels():
    x = torch.ones(1, 1, 1, 32)
    for axis, channels in enumerate((slice(0, 10), slice(10, 20), slice(20, 30))):
        place = torch.zeros(1, 3, dtype=torch.long)
        place[0, axis] = 2
        changed = (make_rotary(place, 32).rotate(x) != x).flatten()
        assert changed[channels].all() and changed.sum() == 10, (axis, changed)


def test_positions_with_a_batch_axis_equal_each_row_alone():
    places = torch.stack((torch.tensor([[0, 1, 2], [3, 0, 1]]), torch.tensor([[2, 2, 2], [1, 0, 0]])))
    x = torch.randn(2, 4, 2, 16)
    both = make_rotary(places, 16).rotate(x)
    for row in range(2):
        torch.testing.assert_close(both[row], make_rotary(places[row], 16).rotate(x[row]))


@pytest.mark.parametrize(("S", "n"), [(1, 4), (3, 4), (3, FUSED_TOKENS), (1, FUSED_TOKENS)])
def test_attention_to_a_shared_prefix_equals_attention_to_copies_of_it(S, n):
    B, h, L, m, d = 2, 2, 5, 6, 8
    q, own_k, own_v = torch.randn(B, S, h, n, d), torch.randn(B, S, h, m, d), torch.randn(B, S, h, m, d)
    prefix_k, prefix_v = torch.randn(B, h, L, d), torch.randn(B, h, L, d)
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    found = attend_shared_prefix(q, (prefix_k, prefix_v), (own_k, own_v), valid)
    for b in range(B):
        for s in range(S):
            keys = torch.cat((prefix_k[b][:, valid[b]], own_k[b, s]), 1)
            values = torch.cat((prefix_v[b][:, valid[b]], own_v[b, s]), 1)
            torch.testing.assert_close(found[b, s], F.scaled_dot_product_attention(q[b, s], keys, values))
    alone = attend_shared_prefix(q, (prefix_k[:, :, :0], prefix_v[:, :, :0]), (own_k, own_v), None)
    torch.testing.assert_close(alone, F.scaled_dot_product_attention(q, own_k, own_v))


def test_a_masked_token_does_not_reach_another():
    block = Block(BlockConfig(16, 2))
    x = torch.randn(1, 3, 16)
    table = Rotary(torch.ones(3, 8), torch.zeros(3, 8))
    mask = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])[None, None]
    changed = x.clone()
    changed[:, 2] += 1
    before, after = block(x, table, mask), block(changed, table, mask)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_initial_weights_follow_the_table():
    torch.manual_seed(0)
    model = VideoEncoder(SIZES)
    init_transformer(model, model.blocks)
    for depth, block in enumerate(model.blocks, start=1):
        assert abs(block.attn.qkv.weight.std().item() - 0.02) < 0.002
        assert abs(block.mlp.fc2.weight.std().item() * (2 * depth) ** 0.5 - 0.02) < 0.002
        assert abs(block.attn.proj.weight.std().item() * (2 * depth) ** 0.5 - 0.02) < 0.002
        assert not block.attn.qkv.bias.any() and (block.norm1.weight == 1).all()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_that_trains_in_bf16_agrees_with_the_fused_call(masked: bool) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, 7, 8, requires_grad=True) for _ in range(3)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    mask = torch.ones(7, 7, dtype=torch.bool).tril() if masked else None
    fused = F.scaled_dot_product_attention(*exact, attn_mask=mask)
    written = attend(*rough, mask)
    assert written.dtype == torch.bfloat16
    fused.square().sum().backward()
    written.float().square().sum().backward()
    torch.testing.assert_close(written.float(), fused, atol=0.05, rtol=0.05)
    for x, y in zip(exact, rough, strict=True):
        assert x.grad is not None and y.grad is not None
        assert (y.grad.float() - x.grad).norm() < 0.02 * x.grad.norm()
    assert torch.equal(attend(*exact, mask), fused)


@pytest.mark.parametrize(("inner_norms", "places"), [(False, 2), (True, 3)])
def test_lewms_blocks_drop_attention_weights_and_hidden_units_beside_both_branches(inner_norms, places, monkeypatch):
    """At the rates that the fused attention and `F.dropout` are called with; none when not in training."""
    block = Block(BlockConfig(16, 2, condition_dim=4, dropout=0.3, inner_norms=inner_norms))
    attention, drop, rates = F.scaled_dot_product_attention, F.dropout, []

    def note_attention(*inputs, dropout_p=0.0, **keys):
        rates.append(("attention", dropout_p))
        return attention(*inputs, dropout_p=dropout_p, **keys)

    def note_dropout(x, p, training=True):
        rates.append((tuple(x.shape), p if training else 0.0))
        return drop(x, p, training)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note_attention)
    monkeypatch.setattr(F, "dropout", note_dropout)
    x, condition = torch.randn(1, 3, 16), torch.randn(1, 3, 4)
    block(x, condition=condition)
    assert rates[0] == ("attention", 0.3 if inner_norms else 0.0)
    assert len(rates) == 1 + places and {rate for _, rate in rates[1:]} == {0.3}
    assert ((1, 3, 64), 0.3) in rates or not inner_norms
    rates.clear()
    block.eval()(x, condition=condition)
    assert {rate for _, rate in rates} == {0.0}
