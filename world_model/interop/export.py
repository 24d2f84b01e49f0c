"""Our encoders and masked predictors in formats of others: V-JEPA 2's `.pt` file, Hugging Face's directory.

What a format cannot hold is refused, since its readers would compute something else. `pretrained.load_pretrained` reads
both back exactly, except for the official file of an encoder whose pixel statistics are not ImageNet's: readers of
that file assume ImageNet's, so the difference is folded into the first layer (the same features, up to rounding).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from world_model.encoder import VideoEncoder
from world_model.interop.huggingface import PREPROCESSOR, SIZE_KEYS, Weights, to_huggingface
from world_model.interop.pretrained import IMAGENET_MEAN, IMAGENET_STD, MODERN_PX, SIZES, space_released_levels
from world_model.interop.timm_encoder import TimmEncoder
from world_model.masked_predictor import MaskedPredictor
from world_model.predictor import ActionPredictor
from world_model.training.checkpoint import write_atomic


def export_official(
    path: Path,
    encoder: VideoEncoder,
    predictor: MaskedPredictor | ActionPredictor | None = None,
    student: VideoEncoder | None = None,
) -> None:
    """One `.pt` file of plain tensors under the official names: the encoder as `target_encoder`, and its student, or
    itself, as `encoder`.

    Raises ValueError for what is neither V-JEPA 2's network (tiled positions, one level) nor V-JEPA 2.1's encoder.
    """
    _check_format("official V-JEPA 2", encoder, predictor, modern=bool(encoder.config.levels))
    target = _fold_statistics(encoder)
    sizes = {"image_px": encoder.config.image_px[0], "heads": encoder.config.heads}
    file: dict[str, Any] = {"target_encoder": target, SIZES: sizes}
    file["encoder"] = target if student is None else _fold_statistics(student)
    if predictor is not None:
        file["predictor"] = _collect_weights(predictor)
        sizes["predictor_heads"] = predictor.heads
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: torch.save(file, temporary))


def export_huggingface(
    folder: Path, encoder: VideoEncoder, predictor: MaskedPredictor | None = None, frames_per_clip: int = 64
) -> None:
    """A directory (config.json, model.safetensors, preprocessor) for `transformers.VJEPA2Model.from_pretrained`, which
    gives random weights to a predictor that is not there.

    Raises ValueError for an encoder that this format cannot hold.
    """
    _check_format("Hugging Face VJEPA2", encoder, predictor, modern=False)
    sizes = {key: getattr(encoder.config, name) for key, name in SIZE_KEYS.items()}
    config = {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2Model"],
        **sizes,
        "crop_size": encoder.config.image_px[0],
        "frames_per_clip": frames_per_clip,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
    }
    if predictor is not None:
        hidden = predictor.state_dict()["predictor_blocks.0.mlp.fc1.bias"].shape[0]
        config |= {
            "pred_hidden_size": predictor.width,
            "pred_num_hidden_layers": len(predictor.predictor_blocks),
            "pred_num_attention_heads": predictor.heads,
            "pred_num_mask_tokens": len(predictor.mask_tokens),
            "pred_mlp_ratio": hidden / predictor.width,
        }
    folder.mkdir(parents=True, exist_ok=True)
    weights = to_huggingface(_collect_weights(encoder), {} if predictor is None else _collect_weights(predictor))
    tensors = {name: value.contiguous().clone() for name, value in weights.items()}
    write_atomic(folder / "model.safetensors", lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    for name, content in (("config.json", config), (PREPROCESSOR, _describe_preprocessor(encoder))):
        text = json.dumps(content, indent=2) + "\n"
        write_atomic(folder / name, lambda temporary, text=text: temporary.write_text(text))


def _describe_preprocessor(encoder: VideoEncoder) -> dict[str, Any]:
    """Settings of transformers' video processor that prepare pixels as this encoder was trained."""
    side = encoder.config.image_px[0]
    return {
        "video_processor_type": "VJEPA2VideoProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in encoder.pixel_mean.tolist()],
        "image_std": [value / 255 for value in encoder.pixel_std.tolist()],
    }


def _check_format(
    name: str, encoder: VideoEncoder, predictor: MaskedPredictor | ActionPredictor | None, modern: bool
) -> None:
    """Raise ValueError that lists what V-JEPA 2's network (modern: V-JEPA 2.1's) does not have."""
    sizes, timm = encoder.config, isinstance(encoder, TimmEncoder)
    if modern:
        gaps = {
            "rope=tiled": sizes.rope != "interleaved",
            "positions of another size than 256": sizes.positions_px != MODERN_PX,
            f"levels={list(sizes.levels)}": sizes.levels != space_released_levels(sizes.depth, len(sizes.levels)),
            "no stem.images": not sizes.stem.images,
        }
    else:
        gaps = {
            "a timm model": timm,
            "rope=interleaved": sizes.rope != "tiled" and not timm,
            "positions_px": sizes.positions_px is not None,
            "levels": bool(sizes.levels),
            "stem.images": sizes.stem.images,
            "a predictor with rope=interleaved": predictor is not None and predictor.rope != "tiled",
            "a predictor with head_dim": predictor is not None
            and predictor.heads * predictor.head_dim != predictor.width,
        }
    gaps |= {
        "feedforward=swiglu": sizes.feedforward != "gelu",
        "causal": sizes.causal,
        "stem.kind=conv": sizes.stem.kind != "linear",
        "pictures that are not square": sizes.image_px[0] != sizes.image_px[1],
    }
    if any(gaps.values()):
        raise ValueError(
            f"the {name} format cannot hold this encoder: {', '.join(gap for gap in gaps if gaps[gap])}; "
            "what recipe=vjepa2_vitl trains fits, or another encoder with encoder.rope=tiled"
        )


def _fold_statistics(encoder: VideoEncoder) -> Weights:
    """Weights for pixels in units of ImageNet's statistics; unchanged if the encoder's own are these."""
    weights = _collect_weights(encoder)
    mean, std = (x.detach().cpu() for x in (encoder.pixel_mean, encoder.pixel_std))
    new_mean, new_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if torch.equal(mean, new_mean) and torch.equal(std, new_std):
        return weights
    for name in [key.removesuffix(".weight") for key in weights if key.startswith("patch_embed") and "weight" in key]:
        kernel = weights[f"{name}.weight"].double()
        shift = ((new_mean - mean) / std).double()[None, :, None, None, None]
        weights[f"{name}.bias"] = (weights[f"{name}.bias"].double() + (kernel * shift).sum((1, 2, 3, 4))).float()
        weights[f"{name}.weight"] = (kernel * (new_std / std).double()[None, :, None, None, None]).float()
    return weights


def _collect_weights(module: torch.nn.Module) -> Weights:
    """State dict on the CPU, without pixel statistics and pool head."""
    weights = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    return {name: value for name, value in weights.items() if not name.startswith(("pixel_", "pool."))}
