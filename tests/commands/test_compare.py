"""What the cells of `jepa compare` are; that it runs them is in tests/test_end_to_end.py."""

from __future__ import annotations

import pytest

from commands.compare import cell_config
from commands.config import compose


@pytest.mark.parametrize(("pool", "context"), [("learned", "masked"), ("keypoints", "future")])
def test_the_untrained_row_is_what_its_pool_embeds_before_the_first_step(pool, context):
    config = compose("compare", [f"encoder.pool={pool}", "small.future=['objective.frames=9']"]).config
    cell = cell_config(config, "untrained", 3)
    assert (cell["objective"]["context"], cell["pretrain"]["steps"], cell["seed"]) == (context, 0, 3)
    assert cell["objective"]["metric"]["kind"] == "biharmonic"
    trained = cell_config(config, "future", 3)
    assert trained["pretrain"]["steps"] > 0 and trained["objective"]["frames"] == 9
    assert (trained["objective"] == cell["objective"]) == (pool == "keypoints")
