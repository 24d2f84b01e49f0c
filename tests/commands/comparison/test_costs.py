"""FLOPs of stage 2 are those of the layers, counted by hand, and records without them are counted anew."""

from __future__ import annotations

import pytest

from commands.comparison.costs import count_stage2_flops, read_costs
from commands.config.compose import load_config
from tests.commands.comparison.made_records import make_record


def count(words):
    config = load_config("compare", words)
    encoder = config.objective.adapt_encoder(config.encoder)
    return count_stage2_flops(encoder, config.dynamics, config.posttrain, config.env.name)


def test_a_step_grows_with_the_batch_and_with_nothing_that_stage_2_does_not_read():
    words = ["encoder=tiny", "posttrain.batch_size=4"]
    step, frame = count(words)
    assert step > 0 and frame > 0
    assert count([*words[:1], "posttrain.batch_size=8"]) == (2 * step, frame)
    deeper, frame_of_deeper = count([*words, "encoder.depth=4"])
    assert deeper == step, "features are cached: the encoder is not run in a step"
    assert frame_of_deeper > frame


def test_the_step_is_the_mean_over_the_histories_that_take_turns():
    words = ["encoder=tiny", "posttrain.batch_size=4", "dynamics.history=2"]
    by_history = [count([*words, f"dynamics.losses.rollout_history={number}"])[0] for number in (1, 2)]
    assert by_history == sorted(set(by_history)), "a longer history has more frames to read"
    assert count(words)[0] == pytest.approx(sum(by_history) / 2)


@pytest.mark.parametrize("words", [("dynamics.scene=true",), ("dynamics.space=tokens",)])
def test_every_kind_of_dynamics_is_counted(words):
    assert count(["encoder=tiny", "posttrain.batch_size=2", *words])[0] > 0


def test_a_record_of_an_earlier_version_is_counted_from_its_configuration():
    record = make_record("future", words=("encoder=tiny", "posttrain.batch_size=4"))
    older = {key: value for key, value in record.items() if not key.startswith(("posttrain_", "features_"))}
    step, frame = count(["encoder=tiny", "posttrain.batch_size=4"])
    costs, data = read_costs(older), record["config"]["data"]
    assert costs.stage2 == record["config"]["posttrain"]["steps"] * step
    assert costs.features == data["episodes"] * data["frames"] * frame
    assert costs.training == 400 * 1e10 + costs.stage2
    assert read_costs(make_record("oracle")).training == 0.0
    assert read_costs(record).stage2 == record["config"]["posttrain"]["steps"] * 2e10
