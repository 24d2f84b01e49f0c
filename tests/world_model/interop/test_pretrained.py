"""Weights made elsewhere: official files and Hugging Face directories, in and out."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.world_model.small import shake
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.export import export_huggingface, export_official
from world_model.interop.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_pretrained
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.nn.stem import ConvStemConfig, LinearStemConfig
from world_model.predictor import ActionPredictor, PredictorConfig
from world_model.training.checkpoint import CheckpointError

SIZES = EncoderConfig((32, 32), 8, 2, 48, 3, 3, pool=None, rope="tiled")
PREDICTOR = PredictorConfig(36, 2, 3, rope="tiled")
HEADS = {"image_px": 32, "heads": 3, "predictor_heads": 3}


@pytest.fixture
def models():
    torch.manual_seed(0)
    encoder, predictor = VideoEncoder(SIZES).eval(), MaskedPredictor(MaskedSizes(48, (4, 4)), PREDICTOR).eval()
    shake(encoder)
    shake(predictor)
    encoder.set_pixel_statistics(torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return encoder, predictor


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    """Equal weights, pixel statistics aside."""
    a, b = ({k: v for k, v in m.state_dict().items() if not k.startswith("pixel_")} for m in (ours, theirs))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def official_file(path, encoder, predictor, prefix="module.backbone.", also=None):
    """A checkpoint as the official training writes it; `also` are further weights of the predictor."""
    weights = {f"{prefix}{k}": v for k, v in encoder.state_dict().items() if not k.startswith("pixel_")}
    moved = {k: v + 1 for k, v in weights.items()}
    predicting = {f"{prefix}{k}": v for k, v in (predictor.state_dict() | (also or {})).items()}
    file = {"encoder": moved, "predictor": predicting, "target_encoder": weights, "epoch": 3, "opt": {"state": {}}}
    torch.save(file, path)


def test_an_official_file_gives_the_teacher_unless_told_otherwise(tmp_path, models):
    official_file(tmp_path / "v.pt", *models)
    found = load_pretrained(tmp_path / "v.pt", **HEADS)
    assert found.encoder.config == SIZES and same(found.encoder, models[0]) and same(found.predictor, models[1])
    assert "took target_encoder (it also has encoder)" in found.summary
    torch.testing.assert_close(found.encoder.pixel_mean, torch.tensor(IMAGENET_MEAN))
    student = load_pretrained(tmp_path / "v.pt", key="encoder", **HEADS)
    torch.testing.assert_close(student.encoder.norm.bias, models[0].norm.bias + 1)


def test_an_official_action_conditioned_file_loads_with_its_unused_map(tmp_path, models):
    torch.manual_seed(1)
    made = ActionPredictor(48, (4, 4), 7, PREDICTOR, outputs="features", state_dim=7).eval()
    shake(made)
    unused = {"extrinsics_encoder.weight": torch.zeros(36, 6), "extrinsics_encoder.bias": torch.zeros(36)}
    official_file(tmp_path / "ac.pt", models[0], made, prefix="module.", also=unused)
    found = load_pretrained(tmp_path / "ac.pt", **HEADS)
    assert isinstance(found.predictor, ActionPredictor) and same(found.predictor, made)
    assert found.predictor.outputs == "features" and found.predictor.input_sizes == {"action": 7, "state": 7}


def test_a_stray_position_embedding_is_left_out_and_said(tmp_path, models):
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    torch.save({"target_encoder": {**weights, "pos_embed": torch.zeros(1, 64, 48)}}, tmp_path / "v.pt")
    assert "left out pos_embed" in load_pretrained(tmp_path / "v.pt", **HEADS).summary


def test_round_trips_through_both_namings_are_exact(tmp_path, models):
    export_official(tmp_path / "ours.pt", *models)
    again = load_pretrained(tmp_path / "ours.pt", **HEADS)
    assert same(again.encoder, models[0]) and same(again.predictor, models[1])
    export_huggingface(tmp_path / "hf", *models, frames_per_clip=8)
    found = load_pretrained(tmp_path / "hf")
    assert found.encoder.config == SIZES
    assert same(found.encoder, models[0]) and same(found.predictor, models[1])


def test_an_exported_directory_gives_transformers_model_the_same_outputs(tmp_path, models):
    transformers = pytest.importorskip("transformers", reason="the optional extra [hf] is not installed")
    encoder, predictor = models
    export_huggingface(tmp_path, encoder, predictor, frames_per_clip=8)
    theirs = transformers.VJEPA2Model.from_pretrained(tmp_path).eval()
    clip = torch.randn(2, 8, 3, 32, 32)
    with torch.no_grad():
        seen = theirs(pixel_values_videos=clip, skip_predictor=True).last_hidden_state
        torch.testing.assert_close(encoder(clip.transpose(1, 2)), seen, atol=1e-4, rtol=1e-4)
        context, target = torch.arange(20).expand(2, -1), torch.arange(30, 50).expand(2, -1)
        full = theirs(pixel_values_videos=clip, context_mask=[context], target_mask=[target])
        # Their forward lets the context see everything and always takes mask token 1.
        ours = predictor(encoder(clip.transpose(1, 2))[:, :20], context, target, steps=4, mask_token=1)[0]
        torch.testing.assert_close(ours, full.predictor_output.last_hidden_state, atol=1e-4, rtol=1e-4)


def test_what_the_format_cannot_hold_is_not_exported(tmp_path, models):
    encoder = VideoEncoder(EncoderConfig((32, 32), 8, 2, 48, 3, 3, pool=None))
    with pytest.raises(ValueError, match="rope=interleaved"):
        export_huggingface(tmp_path / "hf", encoder, models[1])
    assert not (tmp_path / "hf").exists()
    conv = VideoEncoder(replace(models[0].config, stem=ConvStemConfig()))
    with pytest.raises(ValueError, match="cannot hold this encoder: stem.kind=conv"):
        export_official(tmp_path / "conv.pt", conv, None)


def test_sizes_and_levels_of_a_newer_file_are_read_from_its_shapes(tmp_path):
    config = EncoderConfig(
        (32, 32),
        8,
        2,
        48,
        4,
        3,
        pool=None,
        levels=(0, 1, 2, 3),
        stem=LinearStemConfig(images=True),
        positions_px=(256, 256),
    )
    torch.manual_seed(0)
    encoder = VideoEncoder(config)
    weights = {f"module.{k}": v for k, v in encoder.state_dict().items() if not k.startswith("pixel_")}
    torch.save({"ema_encoder": weights}, tmp_path / "new.pt")
    found = load_pretrained(tmp_path / "new.pt", **HEADS)
    assert found.encoder.config == config and same(found.encoder, encoder) and "took ema_encoder" in found.summary


class Code:
    """Something that is not a tensor."""


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path, models: None, "there is no file"),
        (lambda path, models: path.write_bytes(b"<html>not found</html>"), "no complete file of torch.save"),
        (lambda path, models: torch.save({"encoder": Code()}, path), "needs code to be executed"),
        (lambda path, models: torch.save([1], path), "holds a list"),
        (lambda path, models: torch.save({"classifiers": []}, path), "holds probes"),
        (lambda path, models: torch.save({"opt": {}}, path), "has no target_encoder, ema_encoder, encoder, only opt"),
        (
            lambda path, models: torch.save(
                {"encoder": {"cls_token": torch.zeros(1), "patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}}, path
            ),
            "holds an image model, not a video encoder",
        ),
        (
            lambda path, models: torch.save(
                {"encoder": {k: v for k, v in models[0].state_dict().items() if k != "norm.bias" and "pixel" not in k}},
                path,
            ),
            "missing norm.bias",
        ),
        (
            lambda path, models: torch.save(
                {
                    "encoder": {
                        k: v[:40] if k == "norm.bias" else v
                        for k, v in models[0].state_dict().items()
                        if "pixel" not in k
                    }
                },
                path,
            ),
            r"norm.bias is \(40,\), not \(48,\)",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, models, write, said):
    path = tmp_path / "file.pt"
    write(path, models)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pretrained(path, **HEADS)
    assert "\n" not in str(caught.value)


def test_a_half_downloaded_file_is_refused(tmp_path, models):
    export_official(tmp_path / "whole.pt", *models)
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="no complete file of torch.save"):
        load_pretrained(tmp_path / "half.pt", **HEADS)


def test_a_file_of_the_old_format_and_a_bare_state_dict_are_read(tmp_path, models):
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    torch.save({"encoder": weights}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(weights, tmp_path / "bare.pt")
    for name in ("old.pt", "bare.pt"):
        assert same(load_pretrained(tmp_path / name, **HEADS).encoder, models[0]), name


def test_a_width_that_no_release_has_asks_for_heads(tmp_path, models):
    official_file(tmp_path / "odd.pt", *models)
    with pytest.raises(CheckpointError, match="48 wide.*give heads="):
        load_pretrained(tmp_path / "odd.pt", image_px=32)
    found = load_pretrained(tmp_path / "odd.pt", image_px=32, heads=3)
    assert found.predictor is None and "left out its predictor" in found.summary


def test_a_directory_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    with pytest.raises(CheckpointError, match="'videomae'"):
        load_pretrained(tmp_path)


def test_the_predictor_of_a_newer_file_has_its_levels_heads_and_modalities(tmp_path):
    sizes = EncoderConfig((32, 32), 8, 2, 48, 4, 3, pool=None, levels=(0, 1, 2, 3), stem=LinearStemConfig(images=True))
    whole = MaskedSizes(48, (4, 4), 8, 192, 4, 192, modalities=True, familiar_grid=(32, 32))
    predictor = MaskedPredictor(whole, PredictorConfig(36, 2, 3)).eval()
    encoder = VideoEncoder(sizes).eval()
    shake(encoder)
    shake(predictor)
    official_file(tmp_path / "new.pt", encoder, predictor)
    found = load_pretrained(tmp_path / "new.pt", **HEADS).predictor
    assert same(found, predictor)  # whose positions are those of 256 px, as the encoder's
    tokens, visible, hidden = torch.randn(1, 6, 192), torch.arange(6)[None], torch.arange(6, 8)[None]
    image = found(tokens, visible, hidden, 1, image=True)[0]
    video = found(tokens, visible, hidden, 1)[0]
    assert image.shape == (1, 2, 192) and not torch.allclose(image, video)
    torch.testing.assert_close(image, predictor(tokens, visible, hidden, 1, image=True)[0])


def shard(folder, models):
    """A Hugging Face directory whose tensors are in two files, as transformers writes large ones."""
    export_huggingface(folder, *models)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{1 + (k % 2):05d}-of-00002.safetensors" for k, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_a_directory_of_several_shards_is_read_whole(tmp_path, models):
    shard(tmp_path / "hf", models)
    found = load_pretrained(tmp_path / "hf")
    assert same(found.encoder, models[0]) and same(found.predictor, models[1])


@pytest.mark.parametrize("place", ["../outside.safetensors", "{}/outside.safetensors", "link.safetensors", "pipe"])
def test_a_shard_outside_the_directory_is_not_read(tmp_path, models, place):
    weight_map = shard(tmp_path / "hf", models)
    os.mkfifo(tmp_path / "hf/pipe")
    (tmp_path / "hf" / next(iter(weight_map.values()))).rename(tmp_path / "outside.safetensors")
    (tmp_path / "hf/link.safetensors").symlink_to("../outside.safetensors")
    name = place.format(tmp_path)
    index = {"weight_map": dict.fromkeys(weight_map, name)}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json names .* leads out of|pipe is a pipe"):
        load_pretrained(tmp_path / "hf")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 10_000_000}, "config.json .* has num_hidden_layers=10000000, .* of num_hidden_layers=3"),
        ({"hidden_size": 96}, "does not fit this model: it has hidden_size=96, .* of hidden_size=48"),
        ({"patch_size": 4}, "has patch_size=4, .* of patch_size=8"),
        ({"mlp_ratio": 1e12}, "has mlp_ratio=1000000000000.0"),
        ({"num_hidden_layers": 0}, "config.json has num_hidden_layers=0: it must be greater than or equal to 1"),
        ({"num_hidden_layers": "many"}, "config.json has num_hidden_layers=many: it must be a valid integer"),
        ({"crop_size": 10**9}, "config.json has crop_size=1000000000"),
        ({"crop_size": [32, 32]}, "config.json has crop_size=\\[32, 32\\]"),
        ({"crop_size": 33}, "config.json: patch_px=8 does not divide"),
        ({"num_attention_heads": 7}, "config.json: heads=7 does not divide width=48"),
        ({"pred_num_attention_heads": 7}, "a predictor of width 36 has no 7 heads"),
        ({"pred_num_attention_heads": None}, "has no pred_num_attention_heads"),
        ({"mlp_ratio": float("nan")}, "config.json has mlp_ratio=nan"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_a_model_is_built(tmp_path, models, changes, says):
    export_huggingface(tmp_path, *models)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=says):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content", [[1], {"image_mean": 3}, {"image_mean": [0.1] * 3, "image_std": [0, 1, 1]}, {"image_mean": [0.1] * 2}]
)
def test_odd_pixel_statistics_are_refused_by_field(tmp_path, models, content):
    export_huggingface(tmp_path, *models)
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="video_preprocessor_config.json (is|has)"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "model.", "net.", "_fsdp_wrapped_module.", "module._orig_mod.", "model.net.module.", "vjepa2."],
)
def test_wrappers_are_stripped_from_the_names_of_a_directory(tmp_path, models, prefix):
    export_huggingface(tmp_path, *models)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({f"{prefix}{name}": value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    assert same(load_pretrained(tmp_path).encoder, models[0])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "net.", "_fsdp_wrapped_module.", "model._orig_mod."])
@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_and_containers_of_other_programs_are_stripped_and_that_is_said(tmp_path, models, prefix, container):
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    inside = {name.replace("blocks.", "blocks._checkpoint_wrapped_module."): value for name, value in weights.items()}
    state = {f"{prefix}{name}": value for name, value in inside.items()}
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "v.pt")
    found = load_pretrained(tmp_path / "v.pt", image_px=32, heads=3)
    assert same(found.encoder, models[0])
    for name in (*prefix.rstrip(".").split("."), "_checkpoint_wrapped_module"):
        assert f"{name}." in found.summary.partition("stripped ")[2], found.summary


def test_names_that_are_one_without_their_wrappers_are_refused(tmp_path, models):
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    torch.save({"encoder": {**weights, "module.norm.bias": weights["norm.bias"]}}, tmp_path / "v.pt")
    with pytest.raises(CheckpointError, match="holds norm.bias twice, once as module.norm.bias"):
        load_pretrained(tmp_path / "v.pt", **HEADS)


@pytest.mark.parametrize("sizes", [{"image_px": "wide"}, {"heads": 0}, {"image_px": 10**9}, [1]])
def test_odd_sizes_in_a_file_are_refused_by_field(tmp_path, models, sizes):
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    torch.save({"encoder": weights, "sizes": sizes}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match="v.pt sizes (has|is)"):
        load_pretrained(tmp_path / "v.pt")


def test_a_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "v.pt")
    with pytest.raises(ValueError, match="v.pt is a pipe"):
        load_pretrained(tmp_path / "v.pt")


def test_complex_weights_are_refused_by_name(tmp_path, models):
    export_huggingface(tmp_path / "hf", *models)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["encoder.layernorm.bias"] = tensors["encoder.layernorm.bias"].to(torch.complex64)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    weights = {k: v for k, v in models[0].state_dict().items() if not k.startswith("pixel_")}
    torch.save({"encoder": weights | {"norm.bias": weights["norm.bias"].to(torch.complex64)}}, tmp_path / "v.pt")
    for path, name in ((tmp_path / "hf", "encoder.layernorm.bias"), (tmp_path / "v.pt", "norm.bias")):
        with pytest.raises(CheckpointError, match=f"has {name} of type torch.complex64"):
            load_pretrained(path)


def test_an_archive_whose_last_records_are_damaged_is_one_sentence(tmp_path, monkeypatch):
    def fail(path):
        raise zipfile.BadZipFile("zipfiles that span multiple disks are not supported")

    path = tmp_path / "weights.pt"
    torch.save({"encoder": {}}, path)
    monkeypatch.setattr(zipfile, "is_zipfile", fail)
    with pytest.raises(CheckpointError, match="weights.pt is no complete file of torch.save"):
        load_pretrained(path)
