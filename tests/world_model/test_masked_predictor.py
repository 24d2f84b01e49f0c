"""Predictions of hidden tokens depend on positions, not on order."""

from __future__ import annotations

import torch

from tests.world_model.small import PREDICTOR, shake
from world_model.masked_predictor import MaskedPredictor, MaskedSizes


def test_masked_predictions_depend_on_their_place_not_on_the_order_of_the_context():
    torch.manual_seed(0)
    model = MaskedPredictor(MaskedSizes(12, (4, 4)), PREDICTOR).eval()
    shake(model)
    context, target = torch.tensor([[0, 5, 9, 20]]), torch.tensor([[3, 30]])
    tokens = torch.randn(1, 4, 12)
    found, _ = model(tokens, context, target, steps=2)
    order = torch.tensor([2, 0, 3, 1])
    shuffled, _ = model(tokens[:, order], context[:, order], target, steps=2)
    torch.testing.assert_close(found, shuffled, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 1])
    assert not torch.allclose(found, model(tokens, context, target, steps=2, mask_token=1)[0])
