"""Hugging Face's VJEPA2 directories: config.json, safetensors, and the names of parameters, both ways.

A directory stores each block's qkv as query, key and value, and the predictor's mask tokens as one tensor. All else
differs in names alone, so a round trip is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pydantic
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data.checks import check_memory, parse_fields, read_json, resolve_inside
from world_model.training.checkpoint import CheckpointError, get_first_line, list_some

Weights = dict[str, Tensor]

# Hugging Face's beginning of a name -> ours; read backwards for export.
ENCODER_NAMES = {
    "encoder.embeddings.patch_embeddings.proj.": "patch_embed.proj.",
    "encoder.layer.": "blocks.",
    "encoder.layernorm.": "norm.",
}
PREDICTOR_NAMES = {
    "predictor.embeddings.predictor_embeddings.": "predictor_embed.",
    "predictor.layer.": "predictor_blocks.",
    "predictor.layernorm.": "predictor_norm.",
    "predictor.proj.": "predictor_proj.",
}
MASK_TOKENS = "predictor.embeddings.mask_tokens"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSOR = "video_preprocessor_config.json"
# What compiling, checkpointing and distributing a model, or holding it in another, put into names: anywhere, or in
# front alone.
WRAPPERS = ("module", "backbone", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
OUTER_WRAPPERS = ("model", "net")
# Key of config.json -> field of EncoderConfig.
SIZE_KEYS = {
    "crop_size": "image_px",
    "patch_size": "patch_px",
    "tubelet_size": "tubelet",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "mlp_ratio": "mlp_ratio",
}
QKV = ("query", "key", "value")


Size = Annotated[int, pydantic.Field(ge=1, strict=True)]


class Config(pydantic.BaseModel):
    """The sizes in config.json."""

    crop_size: Annotated[int, pydantic.Field(ge=1, le=8192, strict=True)]
    patch_size: Size
    tubelet_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    mlp_ratio: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    pred_num_attention_heads: Size | None = None


Channels = Annotated[list[pydantic.FiniteFloat], pydantic.Field(min_length=3, max_length=3)]
Spread = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


class Preprocessor(pydantic.BaseModel):
    """The statistics of each channel, for pixels in 0..1."""

    image_mean: Channels
    image_std: Annotated[list[Spread], pydantic.Field(min_length=3, max_length=3)]


class ShardIndex(pydantic.BaseModel):
    """model.safetensors.index.json: the file of each tensor."""

    weight_map: dict[str, str]


def holds_weights(folder: Path) -> bool:
    """Whether a folder is laid out as a Hugging Face directory, with weights in one file or several."""
    return (folder / CONFIG).exists() and any((folder / name).exists() for name in (WEIGHTS, INDEX))


def read_config(folder: Path) -> Config:
    """config.json of a VJEPA2 directory. Raises CheckpointError for another model's, or none."""
    path = resolve_inside(folder, CONFIG, folder)
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        cause = get_first_line(error)
        raise CheckpointError(f"{folder} is no Hugging Face directory: config.json: {cause}") from error
    if "model_type" not in content:
        raise CheckpointError(
            f"{folder} is no Hugging Face directory (config.json has no model_type); a run folder of jepa pretrain is "
            f"given as encoder={folder}"
        )
    if content["model_type"] != "vjepa2":
        raise CheckpointError(f"{folder} holds a {content['model_type']!r} model, a 'vjepa2' one is needed")
    return parse_fields(Config, content, path)


def read_pixel_statistics(folder: Path) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel in 0..255 from the preprocessor's file; None without one."""
    path = resolve_inside(folder, PREPROCESSOR, folder)
    if not path.exists():
        return None
    statistics = parse_fields(Preprocessor, read_json(path), path)
    mean, std = ([value * 255 for value in values] for values in (statistics.image_mean, statistics.image_std))
    return mean, std


def read_weights(folder: Path) -> Weights:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = resolve_inside(folder, INDEX, folder)
    names = [WEIGHTS]
    if index.exists():
        names = sorted(set(parse_fields(ShardIndex, read_json(index), index).weight_map.values()))
    return read_safetensors(
        [resolve_inside(folder, name, index if index.exists() else folder) for name in names], folder
    )


def read_safetensors(files: Sequence[Path], folder: Path) -> Weights:
    """All tensors of safetensors files of a folder, in fp32."""
    size = sum(file.stat().st_size for file in files if file.exists())
    check_memory(f"{folder}", size, "give a smaller model, or a machine with more")
    out: Weights = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is missing or cut short: {get_first_line(error)}") from error
        check_real(tensors, file)
        out |= {key: value.float() for key, value in tensors.items()}
    return out


def check_real(weights: Mapping[str, Tensor], source: Path) -> None:
    """Raise CheckpointError for a complex tensor, whose imaginary part would be dropped."""
    for name, value in weights.items():
        if value.is_complex():
            raise CheckpointError(f"{source} has {name} of type {value.dtype}: real numbers are needed")


def strip_wrappers(weights: Mapping[str, Tensor], source: Path) -> tuple[Weights, list[str]]:
    """The weights with names without the prefixes of wrappers, and these prefixes."""
    out: Weights = {}
    stripped: dict[str, None] = {}
    for name, value in weights.items():
        parts = str(name).split(".")
        outer = next((count for count, part in enumerate(parts) if part not in (*WRAPPERS, *OUTER_WRAPPERS)), 0)
        bare = [part for count, part in enumerate(parts) if count >= outer and part not in WRAPPERS]
        stripped |= dict.fromkeys(f"{part}." for part in parts if part not in bare)
        if ".".join(bare) in out:
            raise CheckpointError(f"{source} holds {'.'.join(bare)} twice, once as {name}")
        out[".".join(bare)] = value
    return out, list(stripped)


def from_huggingface(weights: Weights, source: Path) -> tuple[Weights, Weights]:
    """Our encoder's and predictor's state dicts from Hugging Face names; the predictor's may be empty."""
    weights, _ = strip_wrappers(weights, source)
    bare = {name.removeprefix("vjepa2."): value for name, value in weights.items()}
    for name in [name for name in bare if name.startswith(("pooler.", "classifier."))]:
        del bare[name]  # a fine-tuned probe
    tokens = bare.pop(MASK_TOKENS, None)
    encoder, predictor = (_join_qkv(_rename(bare, names), source) for names in (ENCODER_NAMES, PREDICTOR_NAMES))
    if tokens is not None:
        predictor |= {f"mask_tokens.{k}": token for k, token in enumerate(tokens.unbind(0))}
    unknown = [name for name in bare if not name.startswith(("encoder.", "predictor."))]
    if not encoder or unknown:
        raise CheckpointError(f"{source} holds no VJEPA2 model (unknown names: {list_some(unknown or bare)})")
    return encoder, predictor


def to_huggingface(encoder: Weights, predictor: Weights) -> Weights:
    """The inverse of `from_huggingface`, exactly."""
    out: Weights = {}
    for weights, names in ((encoder, ENCODER_NAMES), (predictor, PREDICTOR_NAMES)):
        out |= _split_qkv(_rename(weights, {own: external for external, own in names.items()}))
    count = sum(name.startswith("mask_tokens.") for name in predictor)
    tokens = [predictor[f"mask_tokens.{k}"] for k in range(count)]
    return out | ({MASK_TOKENS: torch.stack(tokens)} if tokens else {})


def _rename(weights: Weights, names: Mapping[str, str]) -> Weights:
    """The weights whose names begin as in a table, with the beginnings replaced; others are left out."""
    return {
        new + name.removeprefix(old): value
        for name, value in weights.items()
        for old, new in names.items()
        if name.startswith(old)
    }


def _join_qkv(weights: Weights, source: Path) -> Weights:
    """Each block's query, key and value as one qkv, rows in thirds."""
    out: Weights = {}
    for name, value in weights.items():
        if ".attention.query." in name:
            parts = [weights[other] for part in QKV if (other := name.replace(".query.", f".{part}.")) in weights]
            if [part.shape for part in parts] != [value.shape] * len(QKV):
                raise CheckpointError(f"{source} has {name} without a key and a value of the same shape")
            out[name.replace(".attention.query.", ".attn.qkv.")] = torch.cat(parts)
        elif not any(f".attention.{part}." in name for part in QKV):
            out[name.replace(".attention.", ".attn.")] = value
    return out


def _split_qkv(weights: Weights) -> Weights:
    """The inverse of `_join_qkv`."""
    out: Weights = {}
    for name, value in weights.items():
        name = name.replace(".attn.", ".attention.")
        parts = zip(QKV, value.chunk(3), strict=True) if ".qkv." in name else [("qkv", value)]
        out |= {name.replace(".qkv.", f".{part}."): third for part, third in parts}
    return out
