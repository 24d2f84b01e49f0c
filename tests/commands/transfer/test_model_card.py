"""Model cards, read back by huggingface_hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from commands.transfer.model_card import CardOptions, format_card
from commands.transfer.model_record import ModelRecord

ENCODER = {"image_px": [64, 48], "patch_px": 16, "width": 32, "depth": 2, "heads": 2, "pool": None}
DYNAMICS = {"space": "tokens", "history": 3, "horizon": 6, "predictor": {"width": 96, "depth": 2, "heads": 4}}
ABOUT = {
    "env": "reacher",
    "env_kwargs": {"variation": "seen"},
    "data": "f9a3c7a0105d36b2",
    "objective": {"family": "future"},
    "preprocessing": {"size_hw": [64, 48], "crop": "whole", "filter": "bilinear", "stored_hw": None},
}
RECORD = ModelRecord(
    Path("m"),
    "dynamics",
    {
        "encoder": ENCODER,
        "dynamics": DYNAMICS,
        "actions": {"low": [-1, -1], "high": [1, 1], "frame_skip": 2},
        "about": ABOUT,
    },
    ("jepa posttrain data=runs/collect/c",),
    {"seed": 3, "trainer.steps": 5},
    "246 frames in 6 episodes",
    "abc",
)
METHOD = {"episodes": 100, "any": {"0.2": 0.84, "0.1": 0.71}, "any_ci95": {"0.2": [0.7558, 0.899], "0.1": [0.61, 0.79]}}
RESULTS = {
    "task": "reacher",
    "unit": "rad",
    "methods": {"model": METHOD, "random": METHOD | {"any": {"0.2": 0.08, "0.1": 0.0}}},
    "protocol": {"judge": "any", "budget": 25, "goal_offset": 25, "split": "eval", "variation": "unseen"},
    "planner": {"name": "cem"},
}


def test_the_card_has_the_facts_and_success_rates_that_the_hub_reads():
    card = ModelCard(format_card(RECORD, CardOptions("me/reach", "jepa-lab", "mit", RESULTS)))
    assert (card.data.library_name, card.data.license) == ("jepa-lab", "mit")
    assert {"world-model", "planning", "reacher"} <= set(card.data.tags)
    first, second = card.data.eval_results
    assert (first.metric_type, first.metric_value, first.dataset_name) == ("success_rate", 0.84, "reacher")
    assert first.metric_name == "success rate within 0.2 rad (95 % interval 0.756 to 0.899)"
    assert second.metric_value == 0.71


def test_the_card_says_in_words_what_the_folder_knows():
    text = format_card(RECORD, CardOptions("me/reach", "jepa-lab", "mit", RESULTS))
    for line in (
        "# me/reach",
        'agent = Agent.from_pretrained("me/reach")',
        "| environment | reacher |",
        "| episodes | 246 frames in 6 episodes |",
        "| environment.variation | seen |",
        "| checksum of the data | f9a3c7a0105d36b2 |",
        "jepa posttrain data=runs/collect/c",
        "| trainer.steps | 5 |",
        "| encoder.image_px | 64 x 48 |",
        "| model | 84% (76% to 90%) | 71% (61% to 79%) | 100 |",
        "| random | 8% (76% to 90%) | 0% (61% to 79%) | 100 |",
        "| crop | whole |",
        "The weights have the licence `mit`.",
    ):
        assert line in text.splitlines(), line
    assert "scenes: unseen" in text


def test_what_is_not_known_is_left_out_or_said():
    text = format_card(RECORD, CardOptions("m", "jepa-lab"))
    assert "## Results" not in text and "No licence is stated." in text
    data = ModelCard(text).data
    assert data.license is None and data.eval_results is None
    other = format_card(ModelRecord(), CardOptions("me/v", "transformers"))
    assert "Not known: the weights were made elsewhere." in other
    assert 'VJEPA2Model.from_pretrained("me/v")' in other and ModelCard(other).data.library_name == "transformers"


@pytest.mark.parametrize(
    ("pretrained", "base"),
    [
        ("facebook/vjepa2-vitl-fpc64-256", "facebook/vjepa2-vitl-fpc64-256"),
        ("facebook/vjepa2@main", "facebook/vjepa2"),
        ("hf://facebook/vjepa2", "facebook/vjepa2"),
        ("vitl.pt", None),
        ("weights/vitl.pt", None),
    ],
)
def test_weights_of_the_hub_are_named_as_the_base_model(pretrained, base):
    config = {**RECORD.config, "about": {**ABOUT, "pretrained": pretrained}}
    card = ModelCard(format_card(ModelRecord(Path("m"), "dynamics", config), CardOptions("me/r", "jepa-lab")))
    assert getattr(card.data, "base_model", None) == base


@pytest.mark.parametrize(("pool", "kind"), [(None, "tokens"), ({"dim": 4}, "pooled")])
def test_an_encoder_is_loaded_with_the_features_it_has(pool, kind):
    record = ModelRecord(Path("m"), "encoder", {"encoder": {**ENCODER, "pool": pool}, "about": {}})
    assert f'extract_features(encoder, frames, "{kind}")' in format_card(record, CardOptions("me/e", "jepa-lab"))
