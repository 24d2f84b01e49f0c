"""Hugging Face's VJEPA2 directories: config.json, safetensors, and the names of parameters, both ways.

A directory stores each block's qkv as query, key and value, and the predictor's mask tokens as one tensor. All else
differs in names alone, so a round trip is exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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
PREPROCESSOR = "video_preprocessor_config.json"
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


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a VJEPA2 directory. Raises CheckpointError for another model's, or none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        cause = get_first_line(error)
        raise CheckpointError(f"{folder} is no Hugging Face directory: config.json: {cause}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CheckpointError(
            f"{folder} is no Hugging Face directory (config.json has no model_type); a run folder of jepa pretrain is "
            f"given as encoder={folder}"
        )
    if config["model_type"] != "vjepa2":
        raise CheckpointError(f"{folder} holds a {config['model_type']!r} model, a 'vjepa2' one is needed")
    if missing := [name for name in SIZE_KEYS if name not in config]:
        raise CheckpointError(f"{path} has no {', '.join(missing)}")
    return config


def read_pixel_statistics(folder: Path) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel in 0..255 from the preprocessor's file; None without one. Raises
    CheckpointError for a file without them."""
    path = folder / PREPROCESSOR
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        mean, std = ([float(value) * 255 for value in content[key]] for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no image_mean and image_std: {get_first_line(error)}") from error
    return mean, std


def read_weights(folder: Path) -> Weights:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is damaged: {get_first_line(error)}") from error
    out: Weights = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                out |= {key: file.get_tensor(key).float() for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / name} is missing or cut short: {get_first_line(error)}") from error
    return out


def from_huggingface(weights: Weights, source: Path) -> tuple[Weights, Weights]:
    """Our encoder's and predictor's state dicts from Hugging Face names; the predictor's may be empty."""
    bare = {name.removeprefix("vjepa2."): value for name, value in weights.items()}
    for name in [name for name in bare if name.startswith(("pooler.", "classifier."))]:
        del bare[name]  # a fine-tuned probe
    tokens = bare.pop(MASK_TOKENS, None)
    encoder, predictor = (_join_qkv(_rename(bare, names)) for names in (ENCODER_NAMES, PREDICTOR_NAMES))
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


def _join_qkv(weights: Weights) -> Weights:
    """Each block's query, key and value as one qkv, rows in thirds."""
    out: Weights = {}
    for name, value in weights.items():
        if ".attention.query." in name:
            parts = [weights[name.replace(".query.", f".{part}.")] for part in QKV]
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
