"""Released weights, read without executing code from a file.

Official V-JEPA 2, 2-AC and 2.1 checkpoints (`.pt`: one dictionary of state dicts) and Hugging Face VJEPA2 directories
become models with our names of parameters, which are the official ones without prefixes. Sizes come from shapes; heads
and picture size from the published table, from config.json, or from the caller. `export` is the inverse.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
import torch

from data.checks import check_regular, parse_fields
from world_model.encoder import EncoderConfig, Pixels, VideoEncoder, space_levels
from world_model.interop.huggingface import (
    CONFIG,
    SIZE_KEYS,
    Config,
    Weights,
    check_real,
    from_huggingface,
    read_config,
    read_pixel_statistics,
    read_weights,
    strip_wrappers,
)
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.nn.stem import LinearStemConfig
from world_model.predictor import ActionPredictor, PredictorConfig
from world_model.training.checkpoint import CheckpointError, get_first_line, list_some, load_weights

# ImageNet's channel statistics in 0..255, which all released V-JEPA weights were trained with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# V-JEPA 2.1: the frame size that positions of every size are scaled to; and the levels of ViT-G, not quite quarters.
MODERN_PX = (256, 256)
GIGANTIC_LEVELS = (11, 23, 37, 47)
# Width of a released transformer -> its heads.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
PREDICTOR_HEADS = {384: 12, 1024: 16}
# Entry of our `.pt` files with what shapes do not contain: image_px, heads, predictor_heads. Other readers ignore it.
SIZES = "sizes"
PICKLE = b"\x80"  # first byte of a pickle
HIDDEN, PREDICTOR_HIDDEN = "blocks.0.mlp.fc1.weight", "predictor_blocks.0.mlp.fc1.weight"
ENCODER_KEYS = ("target_encoder", "ema_encoder", "encoder")
CONTAINERS = ("state_dict", "model_state_dict", "model")  # entries that other programs keep a whole model's weights in
MLP_TOLERANCE = 1e-3  # of mlp_ratio, which config.json rounds


class FileSizes(pydantic.BaseModel):
    """The entry SIZES of a file."""

    image_px: Pixels | None = None
    heads: Annotated[int, pydantic.Field(ge=1)] | None = None
    predictor_heads: Annotated[int, pydantic.Field(ge=1)] | None = None


@dataclass(frozen=True)
class Pretrained:
    """The encoder of a file or folder, its predictor if there is one, and a line for the log."""

    encoder: VideoEncoder
    predictor: MaskedPredictor | ActionPredictor | None
    summary: str


def load_pretrained(
    path: Path,
    key: str | None = None,
    image_px: int | None = None,
    heads: int | None = None,
    predictor_heads: int | None = None,
) -> Pretrained:
    """An encoder, with its predictor if the file has one, from a `.pt` file or a Hugging Face directory.

    key: which encoder of a `.pt` file; None: the EMA teacher's (`target_encoder`, else `ema_encoder`, else `encoder`),
    as V-JEPA 2's evaluations do. image_px: side of the training pictures, unless the file has it (default 256). heads:
    for a width that is not published, unless the file has them. Raises CheckpointError with one sentence for a file
    that is missing, cut short, of another kind, or that contains code.
    """
    if path.is_dir():
        return _load_huggingface(path)
    file = _read_state_dicts(path)
    keys = [name for name in ENCODER_KEYS if name in file]
    if key is not None and key not in file or not keys:
        raise CheckpointError(f"{path} has no {key or ', '.join(ENCODER_KEYS)}, only {list_some(file)}")
    key = key or keys[0]
    weights, ignored, stripped = _read_encoder_weights(file[key], path)
    sizes = parse_fields(FileSizes, file.get(SIZES) or {}, f"{path} {SIZES}")
    image_px, heads = image_px or sizes.image_px, heads or sizes.heads
    encoder = VideoEncoder(make_encoder_config(weights, path, image_px, heads))
    _load_encoder_weights(encoder, weights, f"{path} ({key})")
    summary = f"{path}: took {key}" + (f" (it also has {', '.join(n for n in keys if n != key)})" if keys[1:] else "")
    summary += "".join(f"; left out {name}" for name in ignored)
    summary += f"; stripped {' '.join(stripped)} from names" if stripped else ""
    predictor = None
    if "predictor" in file:
        predictor_heads = predictor_heads or sizes.predictor_heads
        predictor_weights, _ = read_state_dict(file["predictor"], path)
        predictor = make_predictor(predictor_weights, encoder.config, path, predictor_heads)
        kind = "action-conditioned" if isinstance(predictor, ActionPredictor) else "masked"
        unknown = "; left out its predictor (its width is not published, so its heads are unknown)"
        summary += unknown if predictor is None else f"; with its {kind} predictor"
    return Pretrained(encoder.eval(), predictor, summary)


def _read_state_dicts(path: Path) -> dict[str, Any]:
    """The dictionary of state dicts in a file; a video encoder's state dict alone counts as `encoder`."""
    file = read_torch_file(path)
    if not isinstance(file, dict):
        raise CheckpointError(f"{path} holds a {type(file).__name__}, not a dictionary of state dicts")
    if "classifiers" in file:
        raise CheckpointError(f"{path} holds probes of a frozen encoder, not an encoder; give the encoder's own file")
    file = _unwrap(file)
    if not set(ENCODER_KEYS) & file.keys() and any(isinstance(value, torch.Tensor) for value in file.values()):
        return {"encoder": {name: value for name, value in file.items() if isinstance(value, torch.Tensor)}}
    return file


def _unwrap(state: dict[str, Any]) -> dict[str, Any]:
    """What lies in the innermost of CONTAINERS."""
    inner = next((state[name] for name in CONTAINERS if isinstance(state.get(name), dict)), None)
    return state if inner is None or set(ENCODER_KEYS) & state.keys() else _unwrap(inner)


def find_damaged_record(path: Path) -> str | None:
    """The first record of an archive of torch.save whose bytes differ from its checksum, which torch never compares."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile as error:
        return str(error)


def read_torch_file(path: Path) -> Any:
    """Content of a file of torch.save: tensors and plain containers alone."""
    check_regular(path)
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path} is a safetensors file: give the directory that holds it and its config.json, as Hugging Face does"
        )
    try:
        is_archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # damaged records at its end
        is_archive = False
    with open(path, "rb") as file:
        is_pickle = file.read(1) == PICKLE  # written before torch 1.6; it cannot be mapped into memory
    if not is_archive and not is_pickle:
        raise CheckpointError(f"{path} is no complete file of torch.save (a web page, or a download cut short?)")
    try:
        if is_archive and (damaged := find_damaged_record(path)):
            raise ValueError(f"{damaged} differs from its checksum")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"it holds {named[1]}" if named else get_first_line(error)
        raise CheckpointError(
            f"{path} needs code to be executed, which is refused: ask its authors for a file of plain tensors ({holds})"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no complete file of torch.save (a download cut short?): {get_first_line(error)}"
        ) from error


def read_state_dict(state: Any, source: Path) -> tuple[Weights, list[str]]:
    """State dict in fp32, with names without the prefixes of wrappers, and these prefixes."""
    state = _unwrap(state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{source} holds something other than tensors where a state dict should be")
    weights, stripped = strip_wrappers(state, source)
    check_real(weights, source)
    return {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}, stripped


def _read_encoder_weights(state: Any, path: Path) -> tuple[Weights, list[str], list[str]]:
    """State dict of an encoder, the names left out, which no rotary model needs, and the prefixes stripped."""
    weights, stripped = read_state_dict(state, path)
    first = weights.get("patch_embed.proj.weight")
    if first is None or first.dim() != 5:
        kind = "an image model" if first is not None or "cls_token" in weights else "another kind of model"
        raise CheckpointError(
            f"{path} holds {kind}, not a video encoder (its first names: {list_some(weights)}); image models of "
            "timm are read with encoder=timm timm.weights=FILE"
        )
    return weights, [name for name in ("pos_embed",) if weights.pop(name, None) is not None], stripped


def make_encoder_config(
    weights: Weights, source: Path, image_px: int | None = None, heads: int | None = None
) -> EncoderConfig:
    """Sizes of an encoder from the shapes of its weights; norms of several levels mark V-JEPA 2.1."""
    _require(weights, source, {"patch_embed.proj.weight": 5, HIDDEN: 2})
    width, _, tubelet, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = _count_layers(weights, "blocks")
    modern = any(name.startswith("norms_block.") for name in weights)
    if heads is None and width not in ENCODER_HEADS:
        raise CheckpointError(
            f"{source}: no released encoder is {width} wide, so its heads are unknown: give heads= (pretrained.heads)"
        )
    try:
        return EncoderConfig(
            image_px=(image_px or 256,) * 2,
            patch_px=patch,
            tubelet=tubelet,
            width=width,
            depth=depth,
            heads=heads or ENCODER_HEADS[width],
            mlp_ratio=weights[HIDDEN].shape[0] / width,
            stem=LinearStemConfig(images="patch_embed_img.proj.weight" in weights),
            pool=None,
            rope="interleaved" if modern else "tiled",
            levels=space_released_levels(depth, _count_layers(weights, "norms_block")),
            positions_px=MODERN_PX if modern else None,
        )
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def space_released_levels(depth: int, count: int) -> tuple[int, ...]:
    """Blocks whose outputs a released encoder of this depth reads through `count` norms."""
    return GIGANTIC_LEVELS if (depth, count) == (48, 4) else space_levels(depth, count) if count else ()


def make_predictor(
    weights: Weights, encoder: EncoderConfig, source: Path, heads: int | None = None
) -> MaskedPredictor | ActionPredictor | None:
    """The masked or action-conditioned predictor of a state dict; None if its heads are neither given nor published
    for its width."""
    needed = {"predictor_norm.weight": 1, PREDICTOR_HIDDEN: 2, "predictor_proj.weight": 2}
    _require(weights, source, needed | {name: 2 for name in ("action_encoder.weight",) if name in weights})
    width = weights["predictor_norm.weight"].shape[0]
    if heads is None and width not in PREDICTOR_HEADS:
        return None
    if heads is not None and (width % heads or width // heads % 2):
        raise CheckpointError(
            f"{source}: a predictor of width {width} has no {heads} heads of an even number of channels"
        )
    sizes = PredictorConfig(
        width,
        _count_layers(weights, "predictor_blocks"),
        heads or PREDICTOR_HEADS[width],
        weights[PREDICTOR_HIDDEN].shape[0] / width,
        rope=encoder.rope,
    )
    predictor: MaskedPredictor | ActionPredictor
    if "action_encoder.weight" in weights:
        # Released files contain a map of the extrinsics that was not used in training.
        weights = {name: value for name, value in weights.items() if not name.startswith("extrinsics_encoder.")}
        action_dim = weights["action_encoder.weight"].shape[1]
        state_dim = weights["state_encoder.weight"].shape[1] if "state_encoder.weight" in weights else 0
        predictor = ActionPredictor(encoder.width, encoder.grid, action_dim, sizes, "features", state_dim)
    else:
        shape = MaskedSizes(
            encoder.width,
            encoder.grid,
            _count_layers(weights, "mask_tokens"),
            len(weights["predictor_proj.weight"]),
            levels=max(1, len(encoder.levels)) if "predictor_embed.0.weight" in weights else 1,  # the rest: V-JEPA 2.1
            context_dim=len(weights.get("predictor_proj_context.weight", ())),
            modalities="img_mod_embed" in weights,
            familiar_grid=encoder.familiar_grid,
        )
        predictor = MaskedPredictor(shape, sizes)
    load_weights(predictor, weights, f"{source} (predictor)")
    return predictor.eval()


def _load_encoder_weights(
    encoder: VideoEncoder,
    weights: Weights,
    source: str,
    pixels: tuple[Sequence[float], Sequence[float]] = (IMAGENET_MEAN, IMAGENET_STD),
) -> None:
    """Load strictly. pixels: mean and standard deviation of each channel in 0..255."""
    statistics = {"pixel_mean": torch.tensor(pixels[0]), "pixel_std": torch.tensor(pixels[1])}
    load_weights(encoder, {**weights, **statistics}, source)


def _require(weights: Weights, source: Path, dims: dict[str, int]) -> None:
    """Raise CheckpointError for a state dict without one of these names, or with one of other dimensions or none."""
    for name, count in dims.items():
        if name not in weights:
            raise CheckpointError(f"{source} has no {name}: it holds another kind of network ({list_some(weights)})")
        if weights[name].dim() != count or not weights[name].numel():
            shape = list(weights[name].shape)
            raise CheckpointError(f"{source} has {name} of shape {shape}, where {count} dimensions are needed")


def _load_huggingface(folder: Path) -> Pretrained:
    config = read_config(folder)
    encoder_weights, predictor_weights = from_huggingface(read_weights(folder), folder)
    _check_sizes(config, encoder_weights, folder)
    values = {name: getattr(config, key) for key, name in SIZE_KEYS.items()}
    encoder = VideoEncoder(EncoderConfig(**values | {"image_px": (config.crop_size,) * 2}, pool=None, rope="tiled"))
    statistics = read_pixel_statistics(folder) or (IMAGENET_MEAN, IMAGENET_STD)
    _load_encoder_weights(encoder, encoder_weights, str(folder), statistics)
    predictor = None
    if predictor_weights:
        if config.pred_num_attention_heads is None:
            raise CheckpointError(f"{folder / CONFIG} has no pred_num_attention_heads, and the weights a predictor")
        predictor = make_predictor(predictor_weights, encoder.config, folder, config.pred_num_attention_heads)
    return Pretrained(encoder.eval(), predictor, f"{folder}: a Hugging Face VJEPA2 directory")


def _check_sizes(config: Config, weights: Weights, folder: Path) -> None:
    """Raise CheckpointError unless the weights have the sizes of config.json: before a model of these is built."""
    found = make_encoder_config(weights, folder / CONFIG, config.crop_size, config.num_attention_heads)
    for key, name in SIZE_KEYS.items():
        said, there = getattr(config, key), getattr(found, name)
        if name != "image_px" and abs(said - there) > (MLP_TOLERANCE if name == "mlp_ratio" else 0):
            raise CheckpointError(
                f"{folder / CONFIG} does not fit this model: it has {key}={said}, and the weights are of {key}={there}"
            )


def _count_layers(weights: Weights, stem: str) -> int:
    """Different numbers that follow `stem.` in the names."""
    return len({name.split(".")[1] for name in weights if name.startswith(f"{stem}.")})
