"""Our networks and losses against numbers that the reference modules gave (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from world_model.interop.golden import TOLERANCE, compare_golden
from world_model.training.checkpoint import CheckpointError

GOLDEN = Path(__file__).parents[2] / "golden"
# Inputs of LeWorldModel's and PLDM's files, whose names begin as outputs of others do.
INPUTS = {"z_TBD", "predicted_TBD", "sigreg.z_BTD", "sigreg.directions_DP", "action_encoder.actions_BTA"}
INPUTS |= {"predictor.embeddings_BTD", "predictor.actions_BTD"}
CPU = torch.device("cpu")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.safetensors")), ids=lambda path: path.stem)
def test_every_output_matches_the_reference(path):
    found = compare_golden(path, CPU)
    with safe_open(path, framework="pt") as file:
        inputs = {"clip", "context", "target", "tokens", "teacher", "actions", "states", "extrinsics", "poses"}
        outputs = {key for key in file.keys() if not key.startswith("weights.") and key.split("_")[0] not in inputs}
    assert outputs - INPUTS <= {item.name for item in found}, "an output in the file is not compared"
    for item in found:
        assert item.difference <= item.tolerance <= TOLERANCE and item.largest > 100 * item.tolerance, item


def test_a_changed_weight_is_noticed(tmp_path):
    with safe_open(GOLDEN / "encoder.safetensors", framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    tensors["weights.blocks.1.attn.qkv.weight"][3, 3] += 0.1
    save_file(tensors, tmp_path / "off.safetensors", metadata)
    assert max(item.difference for item in compare_golden(tmp_path / "off.safetensors", CPU)) > TOLERANCE


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no tensors", "cannot be read as golden vectors"), (None, "its metadata has no entry 'config'")],
)
def test_a_file_that_holds_no_golden_vectors_is_refused(tmp_path, content, said):
    path = tmp_path / "other.safetensors"
    if content is None:
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        compare_golden(path, CPU)
