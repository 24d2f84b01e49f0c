"""Model folders and tensors on disk."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.world_model.small import encoder
from world_model.training.checkpoint import (
    CheckpointError,
    hash_tensors,
    load_model_folder,
    load_tensors,
    load_weights,
    save_model,
    save_tensors,
)


def test_a_model_folder_comes_back_as_it_was(tmp_path):
    model = encoder()
    save_model(tmp_path / "m", model, "encoder", {"size": [1, 2]})
    config, tensors = load_model_folder(tmp_path / "m", "encoder")
    assert config == {"size": [1, 2]}
    other = encoder(seed=9)
    load_weights(other, tensors, "m")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert not list((tmp_path / "m").glob("*.partial"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {"step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("world_model.training.checkpoint.save_file", full)
    with pytest.raises(CheckpointError, match="x.safetensors cannot be written: .*No space"):
        save_tensors(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, metadata = load_tensors(path)
    assert metadata == {"step": 1} and torch.equal(tensors["a"], torch.ones(3))


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(3), "b": torch.empty(0)}, {"step": 1})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="a differs from its checksum"):
        load_tensors(path)
    assert load_tensors(path, "b")[0][""].numel() == 0, "only what is read is checked"


def test_files_without_checksums_are_read(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "old.safetensors", {"json": '{"step": 1}'})
    tensors, metadata = load_tensors(tmp_path / "old.safetensors")
    assert metadata == {"step": 1} and torch.equal(tensors["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": 99}, "schema 99"), ({"kind": "dynamics"}, "'encoder' model is needed")],
)
def test_another_schema_or_kind_is_refused(tmp_path, change, message):
    save_model(tmp_path, encoder(), "encoder", {})
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(description | change))
    with pytest.raises(CheckpointError, match=message):
        load_model_folder(tmp_path, "encoder")


def test_weights_that_do_not_fit_are_listed():
    model = encoder()
    tensors = dict(model.state_dict())
    tensors["extra"] = tensors.pop("norm.weight")
    tensors["norm.bias"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r"missing norm.weight; unexpected extra; norm.bias is \(3,\), not \(24,\)"
    ):
        load_weights(model, tensors, "file")


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not a model folder"):
        load_model_folder(tmp_path, "encoder")


def test_the_hash_sees_every_weight_and_no_order():
    tensors = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert hash_tensors(tensors) == hash_tensors(dict(reversed(tensors.items())))
    assert hash_tensors(tensors) != hash_tensors({"a": torch.ones(2), "b": torch.tensor([0.0, 1e-7])})
