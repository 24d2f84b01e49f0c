"""Hugging Face's VJEPA2 directories: config.json, safetensors, and their names for our parameters, both ways.

They part each block's qkv into query, key and value, and stack the predictor's mask tokens; nothing else differs but
names, so a round trip is exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from world_model.training.checkpoint import CheckpointError, get_first_line, list_some

Weights = dict[str, Tensor]

_HF_ENCODER = (
    (r"encoder\.embeddings\.patch_embeddings\.proj\.", "patch_embed.proj."),
    (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"encoder\.layernorm\.", "norm."),
)
_HF_PREDICTOR = (
    (r"predictor\.embeddings\.predictor_embeddings\.", "predictor_embed."),
    (r"predictor\.layer\.(\d+)\.", r"predictor_blocks.\1."),
    (r"predictor\.layernorm\.", "predictor_norm."),
    (r"predictor\.proj\.", "predictor_proj."),
)
_HF_MASK_TOKENS = "predictor.embeddings.mask_tokens"
PREPROCESSOR = "video_preprocessor_config.json"
SIZE_KEYS = (
    "crop_size",
    "patch_size",
    "tubelet_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
)
_THIRDS = ("query", "key", "value")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a VJEPA2 directory. Raises CheckpointError for another model's, or none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no Hugging Face directory: config.json: {get_first_line(error)}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise CheckpointError(
            f"{folder} is no Hugging Face directory (config.json has no model_type); a run folder of jepa pretrain is "
            f"given as encoder={folder}"
        )
    if config["model_type"] != "vjepa2":
        raise CheckpointError(f"{folder} holds a {config['model_type']!r} model, a 'vjepa2' one is needed")
    missing = [name for name in SIZE_KEYS if name not in config]
    if missing:
        raise CheckpointError(f"{path} does not say {', '.join(missing)}")
    return config


def read_pixel_statistics(folder: Path) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of each channel in 0..255 by which pixels are normalised; None where the directory does not
    say. Raises CheckpointError for a file of them that cannot be read."""
    path = folder / PREPROCESSOR
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_text())
        mean, std = ([float(value) * 255 for value in said[key]] for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not say image_mean and image_std: {get_first_line(error)}") from error
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
        del bare[name]  # a fine-tuned probe on top
    tokens = bare.pop(_HF_MASK_TOKENS, None)
    encoder = _joined(_renamed(bare, _HF_ENCODER))
    predictor = _joined(_renamed(bare, _HF_PREDICTOR))
    if tokens is not None:
        predictor |= {f"mask_tokens.{k}": token for k, token in enumerate(tokens.unbind(0))}
    left = [name for name in bare if not name.startswith(("encoder.", "predictor."))]
    if not encoder or left:
        raise CheckpointError(
            f"{source} does not hold a VJEPA2 model (names not known here: {list_some(left or bare)})"
        )
    return encoder, predictor


def to_huggingface(encoder: Weights, predictor: Weights) -> Weights:
    """The inverse of `from_huggingface`, exactly."""
    tokens = [predictor[name] for name in _list_numbered(predictor, "mask_tokens")]
    plain = {name: value for name, value in predictor.items() if not name.startswith("mask_tokens.")}
    out = _named(_parted(encoder), _HF_ENCODER) | _named(_parted(plain), _HF_PREDICTOR)
    return out | ({_HF_MASK_TOKENS: torch.stack(tokens)} if tokens else {})


def _renamed(weights: Weights, rules: Iterable[tuple[str, str]]) -> Weights:
    out = {}
    for name, value in weights.items():
        for pattern, ours in rules:
            if re.match(pattern, name):
                out[re.sub(pattern, ours, name).replace(".attention.", ".attn.")] = value
    return out


def _named(weights: Weights, rules: Iterable[tuple[str, str]]) -> Weights:
    """Hugging Face's names for ours: each rule read backwards."""
    out = {}
    for name, value in weights.items():
        for theirs, ours in rules:
            pattern = re.escape(ours).replace(re.escape(r"\1"), r"(\d+)")
            if re.match(pattern, name):
                written = theirs.replace(r"\.", ".").replace(r"(\d+)", r"\1")
                out[re.sub(pattern, written, name).replace(".attn.", ".attention.")] = value
    return out


def _joined(weights: Weights) -> Weights:
    """Queries, keys and values of each block as one qkv, rows in thirds."""
    out = {name: value for name, value in weights.items() if not re.search(r"\.attn\.(query|key|value)\.", name)}
    for name in weights:
        if ".attn.query." in name:
            parts = [weights[name.replace(".query.", f".{third}.")] for third in _THIRDS]
            out[name.replace(".query.", ".qkv.")] = torch.cat(parts)
    return out


def _parted(weights: Weights) -> Weights:
    """The inverse of `_joined`."""
    out = {}
    for name, value in weights.items():
        if ".attn.qkv." not in name:
            out[name] = value
            continue
        for third, part in zip(_THIRDS, value.chunk(3), strict=True):
            out[name.replace(".qkv.", f".{third}.")] = part
    return out


def _list_numbered(weights: Weights, stem: str) -> list[str]:
    """Names `stem.0`, `stem.1`, ... that are there themselves."""
    count = 0
    while f"{stem}.{count}" in weights:
        count += 1
    return [f"{stem}.{k}" for k in range(count)]
