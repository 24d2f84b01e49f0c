"""LeWorldModel's released weights: names, sizes from shapes, and a folder of theirs as a `LeWorldModel`.

The release is one state dict: `encoder` (Hugging Face's ViT), `projector`, `action_encoder`, `predictor`, `pred_proj`
(lucas-maes/le-wm, quentinll/lewm-* on the Hugging Face hub). It is read from safetensors files, or from a file of
torch.save that holds tensors alone; pickled models are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.checks import parse_fields, read_json
from world_model.actions import ActionSpec
from world_model.dynamics import freeze
from world_model.interop.huggingface import CONFIG, Weights, read_safetensors, strip_wrappers
from world_model.interop.lewm import LeWMSizes, LeWorldModel
from world_model.interop.pretrained import (
    ENCODER_HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    read_state_dict,
    read_torch_file,
)
from world_model.nn.layers import BlockConfig
from world_model.training.checkpoint import CheckpointError, check_weights_of, get_first_line, list_some

VIT_EPS = 1e-12  # of the norms of Hugging Face's ViT
HEAD_DIM = 64  # of the released encoder and predictor
MARK = "action_encoder.patch_embed.weight"  # a name that no other model has
RELEASED_FILE = "weights.pt"
PICKLES = ("*.pt", "*.pth", "*.ckpt")
# Parts of names that are no weights of the model, or none that it uses.
UNUSED = re.compile(r"^sigreg\.|^encoder\.pooler\.|mask_token$|num_batches_tracked$")
# Buffers of `LeWorldModel` that the release does not have, or that change nothing.
STATISTICS = re.compile(r"^(action|pixel)_(mean|std)$|num_batches_tracked$")

# Beginnings of names here -> there; and inside a block of the encoder and of the predictor.
NAMES = {
    "encoder.cls_token": "encoder.embeddings.cls_token",
    "encoder.positions": "encoder.embeddings.position_embeddings",
    "encoder.patch_embed": "encoder.embeddings.patch_embeddings.projection",
    "encoder.norm": "encoder.layernorm",
    "projector": "projector.net",
    "pred_proj": "pred_proj.net",
    "action_encoder.mix": "action_encoder.patch_embed",
    "action_encoder.fc1": "action_encoder.embed.0",
    "action_encoder.fc2": "action_encoder.embed.2",
    "predictor.positions": "predictor.pos_embedding",
    "predictor.norm": "predictor.transformer.norm",
}
BLOCK_STEMS = {"encoder": "encoder.encoder.layer", "predictor": "predictor.transformer.layers"}
BLOCK_NAMES = {
    "encoder": {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    "predictor": {
        "attn_norm": "attn.norm",
        "attn.qkv": "attn.to_qkv",
        "attn.proj": "attn.to_out.0",
        "mlp_norm": "mlp.net.0",
        "mlp.fc1": "mlp.net.1",
        "mlp.fc2": "mlp.net.4",
        "modulation": "adaLN_modulation.1",
    },
}
QKV = ("query", "key", "value")
# Names of later versions of Hugging Face's ViT -> those of the release.
LATER_NAMES = (
    (r"^encoder\.layers\.", "encoder.encoder.layer."),
    (r"^(encoder\.encoder\.layer\.\d+\.)attention\.q_proj\.", r"\1attention.attention.query."),
    (r"^(encoder\.encoder\.layer\.\d+\.)attention\.k_proj\.", r"\1attention.attention.key."),
    (r"^(encoder\.encoder\.layer\.\d+\.)attention\.v_proj\.", r"\1attention.attention.value."),
    (r"^(encoder\.encoder\.layer\.\d+\.)attention\.o_proj\.", r"\1attention.output.dense."),
    (r"^(encoder\.encoder\.layer\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"^(encoder\.encoder\.layer\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
)

Count = Annotated[int, pydantic.Field(ge=1, strict=True)]


class PredictorHeads(pydantic.BaseModel):
    """`predictor` in config.json."""

    heads: Count | None = None
    dim_head: Count | None = None


class ReleasedConfig(pydantic.BaseModel):
    """config.json, of which only what shapes do not contain is read."""

    predictor: PredictorHeads = pydantic.Field(default_factory=PredictorHeads)


def holds_lewm(folder: Path) -> bool:
    """Whether a folder holds safetensors files with LeWorldModel's names."""
    return folder.is_dir() and any(map(_names_lewm, _list_safetensors(folder)))


def holds_pickles(folder: Path) -> bool:
    """Whether a folder holds files of torch.save and neither safetensors files nor a model of this project: the form of
    the release, some of whose files are pickled models."""
    if not folder.is_dir() or (folder / "model").exists() or any(folder.glob("*.safetensors")):
        return False
    return bool(_list_pickles(folder))


def _names_lewm(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as opened:
            return any(name.endswith(MARK) for name in opened.keys())
    except (SafetensorError, OSError):
        return False


def _list_safetensors(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def _list_pickles(folder: Path) -> list[Path]:
    return sorted(path for pattern in PICKLES for path in folder.glob(pattern) if path.is_file())


def load_lewm(folder: Path, low: tuple[float, ...], high: tuple[float, ...]) -> LeWorldModel:
    """The frozen model of a folder, for environment actions with these bounds; how many make a block follows from the
    weights. Raises CheckpointError as of `read_released`, and for actions of a size that does not divide a block."""
    sizes, weights = read_released(folder)
    if sizes.block_dim % len(low):
        raise CheckpointError(
            f"{folder} takes action blocks of {sizes.block_dim} numbers, and the data has actions of size {len(low)}: "
            "give data of the environment that the model was trained in"
        )
    model = LeWorldModel(sizes, ActionSpec(low, high, sizes.block_dim // len(low)))
    model.load_state_dict({**model.state_dict(), **from_released(weights, model.state_dict())})
    model.pixel_mean.copy_(torch.tensor(IMAGENET_MEAN))
    model.pixel_std.copy_(torch.tensor(IMAGENET_STD))
    freeze(model)
    return model


def read_released(folder: Path) -> tuple[LeWMSizes, Weights]:
    """Sizes and weights of a folder, which fit together.

    Raises CheckpointError with one sentence for a file that is missing, cut short, of another kind, or that contains
    code, and for a tensor that is missing or of another shape.
    """
    weights = read_weights(folder)
    sizes = read_sizes(weights, folder)
    block = ActionSpec((-1.0,) * sizes.block_dim, (1.0,) * sizes.block_dim)
    with torch.device("meta"):  # sizes may be absurd
        expected = to_released(LeWorldModel(sizes, block).state_dict())
    check_weights_of(expected, weights, str(folder))
    return sizes, weights


def read_weights(folder: Path) -> Weights:
    """The state dict of a folder under the names of the release."""
    if files := _list_safetensors(folder):
        weights, _ = strip_wrappers(read_safetensors(files, folder), folder)
    else:
        pickles = _list_pickles(folder)
        if not pickles:
            raise CheckpointError(f"{folder} holds no weights (*.safetensors)")
        path = next((path for path in pickles if path.name == RELEASED_FILE), pickles[0])
        weights, _ = read_state_dict(read_torch_file(path), path)
    named = {}
    for name, value in weights.items():
        for pattern, replacement in LATER_NAMES:
            name = re.sub(pattern, replacement, name)
        if not UNUSED.search(name):
            named[name] = value
    return named


def read_sizes(weights: Weights, folder: Path) -> LeWMSizes:
    """Sizes from the shapes of tensors, heads from config.json or as published."""
    shape = partial(_read_shape, weights, folder)
    first = {part: f"{stem}.0" for part, stem in BLOCK_STEMS.items()}
    width, _, patch, _ = shape("encoder.embeddings.patch_embeddings.projection.weight", None, 3, None, None)
    tokens = shape("encoder.embeddings.position_embeddings", 1, None, width)[1]
    side = math.isqrt(tokens - 1)
    if side**2 != tokens - 1 or not side:
        raise CheckpointError(
            f"{folder} has encoder.embeddings.position_embeddings of {tokens} tokens: a class token and a square of "
            "patches are needed"
        )
    hidden = shape(f"{first['encoder']}.intermediate.dense.weight", None, width)[0]
    projector_hidden = shape("projector.net.0.weight", None, width)[0]
    embed_dim = shape("projector.net.3.weight", None, projector_hidden)[0]
    window = shape("predictor.pos_embedding", 1, None, embed_dim)[1]
    inner = shape(f"{first['predictor']}.attn.to_qkv.weight", None, embed_dim)[0] // 3
    predictor_hidden = shape(f"{first['predictor']}.mlp.net.1.weight", None, embed_dim)[0]
    mixed, block_dim, _ = shape(MARK, None, None, 1)
    heads, head_dim = _read_heads(folder, inner)
    return LeWMSizes(
        image_px=side * patch,
        patch_px=patch,
        encoder=BlockConfig(width, _find_encoder_heads(width, folder), hidden / width, eps=VIT_EPS),
        encoder_depth=_count_blocks(weights, "encoder"),
        projector_hidden=projector_hidden,
        embed_dim=embed_dim,
        block_dim=block_dim,
        mixed=mixed,
        action_hidden=shape("action_encoder.embed.0.weight", None, mixed)[0],
        window=window,
        predictor=BlockConfig(
            embed_dim,
            heads,
            predictor_hidden / embed_dim,
            condition_dim=embed_dim,
            head_dim=head_dim,
            inner_norms=True,
        ),
        predictor_depth=_count_blocks(weights, "predictor"),
        pred_proj_hidden=shape("pred_proj.net.0.weight", None, embed_dim)[0],
    )


def _read_shape(weights: Weights, folder: Path, name: str, *known: int | None) -> tuple[int, ...]:
    """Shape of a tensor with so many axes; None: an axis of any length."""
    if name not in weights:
        raise CheckpointError(f"{folder} has no {name}, which LeWorldModel's weights have ({list_some(weights)})")
    found = tuple(weights[name].shape)
    if len(found) != len(known) or not all(b in (None, a) and a for a, b in zip(found, known, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in known)
        raise CheckpointError(f"{folder} has {name} of shape {found}, where ({wanted}) is needed")
    return found


def _count_blocks(weights: Weights, part: str) -> int:
    stem = f"{BLOCK_STEMS[part]}."
    return len({name.removeprefix(stem).partition(".")[0] for name in weights if name.startswith(stem)})


def _find_encoder_heads(width: int, folder: Path) -> int:
    if width not in ENCODER_HEADS and width % HEAD_DIM:
        raise CheckpointError(
            f"{folder} has an encoder of width {width}: heads of {HEAD_DIM} channels, as published, do not divide it"
        )
    return ENCODER_HEADS.get(width, width // HEAD_DIM)


def _read_heads(folder: Path, inner: int) -> tuple[int, int]:
    """Heads of the predictor and their channels, which together are `inner`."""
    path, said = folder / CONFIG, PredictorHeads()
    if path.exists():
        try:
            said = parse_fields(ReleasedConfig, read_json(path), path).predictor
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {get_first_line(error)}") from error
    head_dim = said.dim_head or (inner // said.heads if said.heads else HEAD_DIM)
    heads = said.heads or inner // head_dim
    if heads * head_dim != inner or head_dim % 2:
        raise CheckpointError(
            f"{folder} has a predictor whose attention is {inner} wide, which heads={heads} of {head_dim} channels do "
            "not make up"
        )
    return heads, head_dim


def list_released_names(own: str) -> list[str]:
    """Names there of one of our tensors: three for queries, keys and values of the encoder, else one."""
    match = re.fullmatch(r"(encoder|predictor)\.blocks\.(\d+)\.(.+)\.(weight|bias)", own)
    if match is None:
        stem = next(stem for stem in NAMES if own == stem or own.startswith(f"{stem}."))
        return [NAMES[stem] + own.removeprefix(stem)]
    part, number, inside, kind = match.groups()
    block = f"{BLOCK_STEMS[part]}.{number}"
    if part == "encoder" and inside == "attn.qkv":
        return [f"{block}.attention.attention.{name}.{kind}" for name in QKV]
    return [f"{block}.{BLOCK_NAMES[part][inside]}.{kind}"]


def to_released(own: Mapping[str, Tensor]) -> Weights:
    """A state dict of `LeWorldModel` under the names of the release, without statistics of pixels and actions."""
    out: Weights = {}
    for name, value in own.items():
        if STATISTICS.search(name):
            continue
        names = list_released_names(name)
        value = value.unsqueeze(-1) if names == [MARK] else value
        out |= dict(zip(names, value.chunk(len(names)), strict=True))
    return out


def from_released(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Weights:
    """The inverse of `to_released`, exactly; own: a state dict of `LeWorldModel` with the names that are wanted."""
    out: Weights = {}
    for name in own:
        if STATISTICS.search(name):
            continue
        value = torch.cat([weights[there] for there in list_released_names(name)])
        out[name] = value.squeeze(-1) if list_released_names(name) == [MARK] else value
    return out
