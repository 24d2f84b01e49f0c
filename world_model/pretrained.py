"""Encoders and weights made elsewhere, read and written without executing anything from a file.

Official V-JEPA 2, 2-AC and 2.1 checkpoints (`.pt`: one dictionary of state dicts) and Hugging Face VJEPA2 directories
become state dicts under our names, which are the official ones without their prefixes, and back. Sizes are read from
shapes; what shapes do not tell (heads, picture size) comes from the published table, from config.json, or from the
caller. `TimmEncoder` is any vision transformer of timm (imported when one is made), frame by frame.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from world_model.checkpoint import CheckpointError, load_weights, write_atomic
from world_model.encoder import EncoderConfig, VideoEncoder, even_levels
from world_model.predictor import ActionPredictor, MaskedPredictor, PredictorConfig

Weights = dict[str, Tensor]

# ImageNet's channel statistics in 0..255, which all released V-JEPA weights were trained with.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
# Width of a released transformer -> its heads. The 1408-wide ViT-g was released with 22; 2.1's 1664-wide one with 26.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 22, 1664: 26}
PREDICTOR_HEADS = {384: 12, 1024: 16}
ENCODER_KEYS = ("target_encoder", "ema_encoder", "encoder")


@dataclass(frozen=True)
class Pretrained:
    """What a file or folder held: the encoder, a predictor if there is one, and a line that says what was taken."""

    encoder: VideoEncoder
    predictor: MaskedPredictor | ActionPredictor | None
    said: str


def load(
    path: Path,
    key: str | None = None,
    image_px: int | None = None,
    heads: int | None = None,
    predictor_heads: int | None = None,
) -> Pretrained:
    """An encoder, with its predictor if the file has one, from a `.pt` file or a Hugging Face directory.

    key: which encoder of a `.pt` file; None takes the EMA teacher's (`target_encoder`, else `ema_encoder`, else
    `encoder`), as V-JEPA 2's evaluations do. image_px: side of the pictures it was trained on, where the file does not
    say (default 256). heads: where the width is none of the released ones. Raises CheckpointError with one sentence
    for a file that is missing, cut short, of another kind, or that would have to execute code.
    """
    if path.is_dir():
        return _from_huggingface(path)
    file = read_torch_file(path)
    if not isinstance(file, dict):
        raise CheckpointError(f"{path} holds a {type(file).__name__}, not a dictionary of state dicts")
    if "classifiers" in file:
        raise CheckpointError(f"{path} holds probes of a frozen encoder, not an encoder; give the encoder's own file")
    found = [name for name in ENCODER_KEYS if name in file]
    if key is not None and key not in file or not found:
        looked = key or ", ".join(ENCODER_KEYS)
        raise CheckpointError(f"{path} has no {looked}, only {', '.join(map(str, list(file)[:8]))}")
    key = key or found[0]
    weights, dropped = _encoder_weights(file[key], path)
    encoder = VideoEncoder(encoder_config(weights, path, image_px, heads))
    _fill(encoder, weights, f"{path} ({key})")
    said = f"{path}: took {key}" + (f" (it also has {', '.join(n for n in found if n != key)})" if found[1:] else "")
    said += "".join(f"; left out {name}" for name in dropped)
    made = None
    if isinstance(file.get("predictor"), dict):
        made = predictor_of(strip(file["predictor"]), encoder.config, path, predictor_heads)
        said += f"; with its {'action-conditioned' if isinstance(made, ActionPredictor) else 'masked'} predictor"
    return Pretrained(encoder.eval(), made, said)


def read_torch_file(path: Path) -> Any:
    """What a file of torch.save holds, tensors and plain containers alone."""
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} needs code to be executed to be read, which is refused: ask its makers for a file of plain "
            f"tensors ({_first_line(error)})"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no complete file of torch.save (a download cut short?): {_first_line(error)}"
        ) from error


def strip(state: Any) -> Weights:
    """Names without what wrappers put before them (`module.`, `backbone.`), tensors as fp32."""
    out = {}
    for name, value in state.items():
        parts = [part for part in str(name).split(".") if part not in ("module", "backbone")]
        out[".".join(parts)] = value.float() if value.is_floating_point() else value
    return out


def _encoder_weights(state: Any, path: Path) -> tuple[Weights, list[str]]:
    """State dict of an encoder, and the names that were left out since no rotary model needs them."""
    weights = strip(state)
    first = weights.get("patch_embed.proj.weight")
    if first is None or first.dim() != 5:
        kind = "an image model" if first is not None or "cls_token" in weights else "another kind of model"
        raise CheckpointError(f"{path} holds {kind}, not a video encoder (its first names: {_some(weights)})")
    dropped = [name for name in ("pos_embed",) if weights.pop(name, None) is not None]
    return weights, dropped


def encoder_config(
    weights: Weights, source: Path, image_px: int | None = None, heads: int | None = None
) -> EncoderConfig:
    """Sizes of an encoder from the shapes of its weights. V-JEPA 2.1 is known by its norms of several levels."""
    width, _, tubelet, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = _depth(weights, "blocks")
    modern = any(name.startswith("norms_block.") for name in weights)
    if heads is None and width not in ENCODER_HEADS:
        raise CheckpointError(f"{source}: no released encoder is {width} wide, so its heads are not known: give heads=")
    return EncoderConfig(
        image_px=(image_px or 256,) * 2,
        patch_px=patch,
        tubelet=tubelet,
        width=width,
        depth=depth,
        heads=heads or ENCODER_HEADS[width],
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
        pooled_dim=0,
        rope="interleaved" if modern else "tiled",
        interpolate=modern,
        levels=even_levels(depth, _depth(weights, "norms_block")) if modern else (),
        image_path="patch_embed_img.proj.weight" in weights,
    )


def predictor_of(
    weights: Weights, encoder: EncoderConfig, source: Path, heads: int | None = None
) -> MaskedPredictor | ActionPredictor:
    """The masked or the action-conditioned predictor that a state dict belongs to, with its weights."""
    width = weights["predictor_norm.weight"].shape[0]
    if heads is None and width not in PREDICTOR_HEADS:
        raise CheckpointError(f"{source}: no released predictor is {width} wide: give predictor_heads=")
    sizes = PredictorConfig(
        width,
        _depth(weights, "predictor_blocks"),
        heads or PREDICTOR_HEADS[width],
        weights["predictor_blocks.0.mlp.fc1.weight"].shape[0] / width,
        rope=encoder.rope,
    )
    made: MaskedPredictor | ActionPredictor
    if "action_encoder.weight" in weights:
        # The released files always hold the map of the extrinsics, and were trained without them.
        weights = {name: value for name, value in weights.items() if not name.startswith("extrinsics_encoder.")}
        action_dim = weights["action_encoder.weight"].shape[1]
        state_dim = weights["state_encoder.weight"].shape[1] if "state_encoder.weight" in weights else 0
        made = ActionPredictor(encoder.width, encoder.grid, action_dim, sizes, residual=False, state_dim=state_dim)
    else:
        made = MaskedPredictor(encoder.width, encoder.grid, sizes, _depth(weights, "mask_tokens"))
    load_weights(made, weights, f"{source} (predictor)")
    return made.eval()


def _fill(encoder: VideoEncoder, weights: Weights, source: str) -> None:
    """Load strictly; pixel statistics are ImageNet's."""
    statistics = {"pixel_mean": torch.tensor(IMAGENET_MEAN), "pixel_std": torch.tensor(IMAGENET_STD)}
    load_weights(encoder, {**weights, **statistics}, source)


def make_encoder(config: EncoderConfig) -> VideoEncoder:
    """Our encoder, or a timm model, of these sizes and with random weights."""
    return TimmEncoder(config) if config.timm else VideoEncoder(config)


# -- timm ----------------------------------------------------------------------------------------------------------


class TimmEncoder(VideoEncoder):
    """A timm vision transformer as a frozen encoder of single frames (the setting of DINO-WM and jepa-wms).

    Its tokens are those of its patches after its last norm; class and register tokens are left out. Its pixel
    statistics are its own. It has no clips: stage 1 does not train it.
    """

    def __init__(self, config: EncoderConfig, model: Any = None) -> None:
        torch.nn.Module.__init__(self)
        self.config, self.pool = config, None
        self.model = _timm_model(config.timm, config.image_px) if model is None else model
        mean, std = (torch.tensor(self.model.pretrained_cfg[key]) * 255 for key in ("mean", "std"))
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_std", std)

    def encode_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """Tokens [B, T, N, D] of frames in 0..255, each encoded alone."""
        clip = rearrange(self.normalise(frames_BTHWC), "b c t h w -> (b t) c h w")
        tokens = self.model.forward_features(clip)[:, self.model.num_prefix_tokens :]
        return rearrange(tokens, "(b t) n d -> b t n d", t=frames_BTHWC.shape[1])

    def outputs(self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None, blocks: Sequence[int] = ()) -> list[Tensor]:
        """It has no clips."""
        raise ValueError(f"{self.config.timm} encodes single frames, not clips: it cannot be pretrained here")


def timm_encoder(name: str, weights: str, image_px: tuple[int, int]) -> TimmEncoder:
    """A timm model by name, for pictures of that size.

    weights: `hub` (downloaded by timm), `random`, or a local safetensors file or state dict of timm's names. Raises
    CheckpointError for a name that is no vision transformer of timm, or weights that cannot be had.
    """
    model = _timm_model(name, image_px, weights)
    config = EncoderConfig(
        image_px=image_px,
        patch_px=model.patch_embed.patch_size[0],
        tubelet=1,
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[0].attn.num_heads,
        pooled_dim=0,
        timm=name,
    )
    return TimmEncoder(config, model)


def _timm_model(name: str, image_px: tuple[int, int], weights: str = "random") -> Any:
    import timm

    try:
        model = timm.create_model(name, num_classes=0, img_size=image_px)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise CheckpointError(f"timm has no vision transformer {name} for {image_px}: {_first_line(error)}") from error
    if not all(hasattr(model, part) for part in ("patch_embed", "blocks", "num_prefix_tokens", "embed_dim")):
        raise CheckpointError(f"{name} is no vision transformer: give one of timm's vit_... models")
    if weights == "random":
        return model
    overlay = {} if weights == "hub" else {"file": weights}
    try:
        return timm.create_model(
            name, pretrained=True, num_classes=0, img_size=image_px, pretrained_cfg_overlay=overlay
        )
    except Exception as error:
        raise CheckpointError(f"no weights of {name} from {weights}: {_first_line(error)}") from error


# -- Hugging Face ------------------------------------------------------------------------------------------------

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
_THIRDS = ("query", "key", "value")


def _from_huggingface(folder: Path) -> Pretrained:
    config = _huggingface_config(folder)
    encoder_weights, predictor_weights = from_huggingface(_read_safetensors(folder), folder)
    encoder = VideoEncoder(
        EncoderConfig(
            image_px=(config["crop_size"],) * 2,
            patch_px=config["patch_size"],
            tubelet=config["tubelet_size"],
            width=config["hidden_size"],
            depth=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            mlp_ratio=config["mlp_ratio"],
            pooled_dim=0,
            rope="tiled",
        )
    )
    _fill(encoder, encoder_weights, str(folder))
    made = None
    if predictor_weights:
        made = predictor_of(predictor_weights, encoder.config, folder, config["pred_num_attention_heads"])
    return Pretrained(encoder.eval(), made, f"{folder}: a Hugging Face VJEPA2 directory")


def _huggingface_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is no Hugging Face directory: config.json: {_first_line(error)}") from error
    if config.get("model_type") != "vjepa2":
        raise CheckpointError(f"{folder} holds a {config.get('model_type')!r} model, a 'vjepa2' one is needed")
    return config


def _read_safetensors(folder: Path) -> Weights:
    """All tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    out: Weights = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                out |= {key: file.get_tensor(key).float() for key in file.keys()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / name} is missing or cut short: {_first_line(error)}") from error
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
        raise CheckpointError(f"{source} does not hold a VJEPA2 model (names not known here: {_some(left or bare)})")
    return encoder, predictor


def to_huggingface(encoder: Weights, predictor: Weights) -> Weights:
    """The inverse of `from_huggingface`, exactly."""
    tokens = [predictor[name] for name in _numbered(predictor, "mask_tokens")]
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


# -- export ------------------------------------------------------------------------------------------------------


def export_official(path: Path, encoder: VideoEncoder, predictor: MaskedPredictor | ActionPredictor | None) -> None:
    """One `.pt` file of plain tensors under the official names, the encoder as `encoder` and as `target_encoder`."""
    weights = _own(encoder)
    file: dict[str, Any] = {"encoder": weights, "target_encoder": weights}
    if predictor is not None:
        file["predictor"] = _own(predictor)
    write_atomic(path, lambda temporary: torch.save(file, temporary))


def export_huggingface(
    folder: Path, encoder: VideoEncoder, predictor: MaskedPredictor, frames_per_clip: int = 64
) -> None:
    """A directory (config.json, model.safetensors) that `transformers.VJEPA2Model.from_pretrained` loads.

    Raises ValueError for an encoder that this format cannot hold: one with true rotary positions, SwiGLU, several
    levels, an image path, or pictures that are not square.
    """
    sizes = encoder.config
    beyond = {
        "rope=interleaved": sizes.rope != "tiled",
        "feedforward=swiglu": sizes.feedforward != "gelu",
        "levels": bool(sizes.levels),
        "image_path": sizes.image_path,
        "pictures that are not square": sizes.image_px[0] != sizes.image_px[1],
    }
    if any(beyond.values()):
        raise ValueError(
            "the Hugging Face VJEPA2 format cannot hold this encoder: " + ", ".join(k for k, v in beyond.items() if v)
        )
    config = {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2Model"],
        "crop_size": sizes.image_px[0],
        "patch_size": sizes.patch_px,
        "tubelet_size": sizes.tubelet,
        "frames_per_clip": frames_per_clip,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "mlp_ratio": sizes.mlp_ratio,
        "pred_hidden_size": predictor.width,
        "pred_num_hidden_layers": len(predictor.predictor_blocks),
        "pred_num_attention_heads": predictor.heads,
        "pred_num_mask_tokens": len(predictor.mask_tokens),
        "pred_mlp_ratio": predictor.state_dict()["predictor_blocks.0.mlp.fc1.bias"].shape[0] / predictor.width,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.contiguous().clone() for name, value in to_huggingface(_own(encoder), _own(predictor)).items()
    }
    write_atomic(folder / "model.safetensors", lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    write_atomic(folder / "config.json", lambda temporary: temporary.write_text(text))


def _own(module: torch.nn.Module) -> Weights:
    """State dict of what is trained: no buffers of ours, no pool head, on the CPU."""
    kept = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    return {name: value for name, value in kept.items() if not name.startswith(("pixel_", "pool."))}


# -- shapes and names --------------------------------------------------------------------------------------------


def _numbered(weights: Weights, stem: str) -> list[str]:
    """Names `stem.0`, `stem.1`, ... that are there themselves."""
    count = 0
    while f"{stem}.{count}" in weights:
        count += 1
    return [f"{stem}.{k}" for k in range(count)]


def _depth(weights: Weights, stem: str) -> int:
    """How many numbers follow `stem.` in the names."""
    return len({name.split(".")[1] for name in weights if name.startswith(f"{stem}.")})


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(map(str, names))[:4]) or "none"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
