"""LeWorldModel's released weights: names, every part beside an implementation of its own, and what is refused."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tests.world_model.small import RELEASED, make_released_lewm
from world_model.interop.lewm_weights import holds_lewm, holds_pickles, load_lewm, read_weights
from world_model.interop.pretrained import IMAGENET_MEAN, IMAGENET_STD
from world_model.training.checkpoint import CheckpointError

LOW, HIGH = (-1.0, -2.0), (1.0, 2.0)


@pytest.fixture(scope="module")
def released():
    return make_released_lewm()


@pytest.fixture
def folder(tmp_path, released):
    save_file(released, tmp_path / "weights.safetensors")
    return tmp_path


# --- the same networks, written from the description of the release


def encode(weights: dict[str, torch.Tensor], frames: torch.Tensor) -> torch.Tensor:
    """The class token of timm's vision transformer with Hugging Face's eps, then the projector."""
    vit = timm.models.VisionTransformer(
        img_size=28,
        patch_size=14,
        embed_dim=64,
        depth=2,
        num_heads=1,
        mlp_ratio=2,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-12),
    )
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inside = {"norm1": "layernorm_before", "attn.proj": "attention.output.dense", "norm2": "layernorm_after"}
    inside |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    state = {}
    for name in vit.state_dict():
        stem, _, kind = name.rpartition(".") if name.endswith(("weight", "bias")) else (name, "", "")
        end = f".{kind}" if kind else ""
        if match := re.fullmatch(r"blocks\.(\d)\.(.*)", stem):
            layer = f"encoder.encoder.layer.{match[1]}"
            qkv = [f"{layer}.attention.attention.{part}{end}" for part in ("query", "key", "value")]
            parts = qkv if match[2] == "attn.qkv" else [f"{layer}.{inside[match[2]]}{end}"]
        else:
            parts = [f"encoder.{names[stem]}{end}"]
        state[name] = torch.cat([weights[part] for part in parts])
    vit.load_state_dict(state)
    pixels = (frames.float() - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return project(weights, "projector", vit.eval().forward_features(pixels.permute(0, 3, 1, 2))[:, 0])


def project(weights: dict[str, torch.Tensor], part: str, x: torch.Tensor) -> torch.Tensor:
    w = {name.removeprefix(f"{part}.net."): value for name, value in weights.items() if name.startswith(part)}
    x = F.linear(x, w["0.weight"], w["0.bias"])
    x = (x - w["1.running_mean"]) / (w["1.running_var"] + 1e-5).sqrt() * w["1.weight"] + w["1.bias"]
    return F.linear(F.gelu(x), w["3.weight"], w["3.bias"])


def predict(weights: dict[str, torch.Tensor], embedded: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The next embedding [D] from T embeddings [T, D] and normalised action blocks [T, A] of one candidate."""
    w, size = weights, embedded.shape[-1]
    c = F.conv1d(actions.T, w["action_encoder.patch_embed.weight"], w["action_encoder.patch_embed.bias"]).T
    c = F.silu(F.linear(c, w["action_encoder.embed.0.weight"], w["action_encoder.embed.0.bias"]))
    c = F.linear(c, w["action_encoder.embed.2.weight"], w["action_encoder.embed.2.bias"])
    x = embedded + w["predictor.pos_embedding"][0, : len(embedded)]
    for layer in range(2):
        v = {name.split(f"layers.{layer}.")[-1]: value for name, value in w.items() if f"layers.{layer}." in name}
        shifts = F.linear(F.silu(c), v["adaLN_modulation.1.weight"], v["adaLN_modulation.1.bias"]).chunk(6, -1)
        y = F.layer_norm(x, (size,), eps=1e-6) * (1 + shifts[1]) + shifts[0]
        y = F.layer_norm(y, (size,), v["attn.norm.weight"], v["attn.norm.bias"], 1e-5)
        q, k, z = (part.unflatten(-1, (2, 64)).transpose(0, 1) for part in (y @ v["attn.to_qkv.weight"].T).chunk(3, -1))
        scores = q @ k.mT / 8 + torch.full((len(x), len(x)), float("-inf")).triu(1)
        y = (scores.softmax(-1) @ z).transpose(0, 1).flatten(1)
        x = x + shifts[2] * F.linear(y, v["attn.to_out.0.weight"], v["attn.to_out.0.bias"])
        y = F.layer_norm(x, (size,), eps=1e-6) * (1 + shifts[4]) + shifts[3]
        y = F.layer_norm(y, (size,), v["mlp.net.0.weight"], v["mlp.net.0.bias"], 1e-5)
        y = F.gelu(F.linear(y, v["mlp.net.1.weight"], v["mlp.net.1.bias"]))
        x = x + shifts[5] * F.linear(y, v["mlp.net.4.weight"], v["mlp.net.4.bias"])
    x = F.layer_norm(x, (size,), w["predictor.transformer.norm.weight"], w["predictor.transformer.norm.bias"], 1e-5)
    return project(w, "pred_proj", x[-1:])[0]


def test_a_folder_embeds_and_imagines_as_the_release_is_described(folder, released):
    model = load_lewm(folder, LOW, HIGH)
    mean, std = torch.tensor([0.1, -0.4]), torch.tensor([0.5, 1.2])
    model.set_action_statistics(mean, std)
    assert model.sizes == RELEASED and not model.training
    assert (model.spec.frame_skip, model.spec.frame_hw, model.spec.history) == (5, (28, 28), 1)
    draw = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 1, 28, 28, 3), dtype=torch.uint8, generator=draw)
    actions = torch.rand(2, 3, 5, 10, generator=draw)
    context = model.observe(frames, torch.zeros(2, 0, 10), torch.ones(2, 1, dtype=torch.bool))
    embedded = encode(released, frames[:, 0])
    torch.testing.assert_close(context.embedded_BD, embedded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_goal(frames[:, 0]).view("pooled"), embedded, atol=1e-5, rtol=1e-5)
    path = model.imagine(context, actions).view("pooled")
    assert path.shape == (2, 3, 5, 96)
    normal = (actions - mean.repeat(5)) / std.repeat(5)
    for environment, candidate in ((0, 0), (1, 2)):
        seen = [embedded[environment]]
        for step in range(5):  # a window of three, whose positions begin at 0
            first = max(0, step - 2)
            chosen = normal[environment, candidate, first : step + 1]
            seen.append(predict(released, torch.stack(seen[first:]), chosen))
        torch.testing.assert_close(path[environment, candidate], torch.stack(seen[1:]), atol=1e-4, rtol=1e-4)
    assert torch.equal(model.imagine(context, actions, keep="last").view("pooled"), path[:, :, -1:])
    alone = model.imagine(context.select(slice(1, 2)), actions[1:]).view("pooled")
    torch.testing.assert_close(alone, path[1:], atol=1e-5, rtol=1e-5)


def test_an_imagined_path_has_a_gradient_of_its_actions(folder):
    model, actions = load_lewm(folder, LOW, HIGH), torch.zeros(1, 2, 4, 10, requires_grad=True)
    frames = torch.zeros(1, 1, 28, 28, 3, dtype=torch.uint8)
    context = model.observe(frames, torch.zeros(1, 0, 10), torch.ones(1, 1, dtype=torch.bool))
    model.imagine(context, actions, keep="last").view("pooled").square().sum().backward()
    assert actions.grad is not None and actions.grad.abs().amin() > 0


def test_names_of_wrappers_of_later_versions_and_of_training_are_read(tmp_path, folder, released):
    later = {}
    for name, value in released.items():
        name = re.sub(
            r"encoder\.encoder\.layer\.(\d)\.attention\.attention\.(.)\w+", r"encoder.layers.\1.attention.\2_proj", name
        )
        name = re.sub(
            r"encoder\.encoder\.layer\.(\d)\.attention\.output\.dense", r"encoder.layers.\1.attention.o_proj", name
        )
        name = re.sub(r"encoder\.encoder\.layer\.(\d)\.intermediate\.dense", r"encoder.layers.\1.mlp.fc1", name)
        name = re.sub(r"encoder\.encoder\.layer\.(\d)\.output\.dense", r"encoder.layers.\1.mlp.fc2", name)
        later[f"model.{name.replace('encoder.encoder.layer.', 'encoder.layers.')}"] = value
    later["sigreg.t"] = torch.zeros(17)
    (tmp_path / "later").mkdir()
    torch.save({"state_dict": later, "epoch": 3}, tmp_path / "later" / "lewm_weights.ckpt")
    assert holds_lewm(folder) and not holds_lewm(tmp_path / "later") and holds_pickles(tmp_path / "later")
    first, second = (load_lewm(path, LOW, HIGH).state_dict() for path in (folder, tmp_path / "later"))
    assert all(torch.equal(first[name], second[name]) for name in first if "num_batches" not in name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"predictor.pos_embedding": None}, "has no predictor.pos_embedding, which LeWorldModel's weights have"),
        (
            {"predictor.pos_embedding": (1, 3, 64)},
            r"has predictor.pos_embedding of shape \(1, 3, 64\), where \(1, any, 96\)",
        ),
        (
            {"predictor.transformer.layers.1.attn.to_out.0.weight": None},
            "does not fit this model: missing predictor.transformer.layers.1.attn.to_out.0.weight",
        ),
        (
            {"encoder.encoder.layer.1.attention.attention.key.weight": (64, 32)},
            r"encoder.encoder.layer.1.attention.attention.key.weight is \(64, 32\), not \(64, 64\)",
        ),
        ({"pred_proj.net.1.running_var": (3,)}, r"pred_proj.net.1.running_var is \(3,\), not \(72,\)"),
        ({"decoder.weight": (3,)}, "unexpected decoder.weight"),
        ({"encoder.embeddings.position_embeddings": (1, 4, 64)}, "of 4 tokens: a class token and a square of patches"),
        (
            {"action_encoder.patch_embed.weight": (10, 9, 1)},
            "takes action blocks of 9 numbers, and the data has actions of",
        ),
        (
            {"predictor.transformer.layers.0.attn.to_qkv.weight": (300, 96)},
            "attention is 100 wide, which heads=1 of 64",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_tensor_and_shapes(tmp_path, released, change, said):
    weights = {name: value for name, value in released.items() if name not in change}
    weights |= {name: torch.zeros(shape) for name, shape in change.items() if shape is not None}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said) as caught:
        load_lewm(tmp_path, LOW, HIGH)
    assert "\n" not in str(caught.value)


class Pickled(nn.Module):
    """As `torch.save(model)` writes it."""


def test_a_weights_file_that_holds_objects_is_refused(tmp_path):
    torch.save(Pickled(), tmp_path / "lewm_object.ckpt")
    assert holds_pickles(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"lewm_object.ckpt needs code to be executed, which is refused: .*Pickled"
    ):
        read_weights(tmp_path)
    torch.save({"state_dict": {"encoder": 3}}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="weights.pt holds something other than tensors"):
        read_weights(tmp_path)


def test_heads_that_config_json_states_are_those_of_the_predictor(folder, released):
    (folder / "config.json").write_text(json.dumps({"predictor": {"heads": 4, "dim_head": 32, "depth": 2}}))
    assert load_lewm(folder, LOW, HIGH).sizes.predictor.heads == 4
    (folder / "config.json").write_text(json.dumps({"predictor": {"heads": 3, "dim_head": 32}}))
    with pytest.raises(CheckpointError, match="128 wide, which heads=3 of 32 channels do not make up"):
        load_lewm(folder, LOW, HIGH)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        load_lewm(folder, LOW, HIGH)


def test_a_file_cut_short_is_refused(folder):
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="weights.safetensors is missing or cut short"):
        load_lewm(folder, LOW, HIGH)
    assert not holds_lewm(folder)
