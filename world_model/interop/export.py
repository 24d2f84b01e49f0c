"""Our encoders and masked predictors in formats that others read: V-JEPA 2's `.pt` file, Hugging Face's directory.

What a format cannot hold is refused, since its readers would compute something else without a word. `pretrained.load`
reads both back: a round trip is exact, but for the official file of an encoder whose pixels were not normalised by
ImageNet's statistics. That file says nothing of pixels and its readers use ImageNet's, so they are worked into the
first layer: the same features, up to rounding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from world_model.encoder import VideoEncoder
from world_model.interop.huggingface import PREPROCESSOR, Weights, to_huggingface
from world_model.interop.pretrained import IMAGENET_MEAN, IMAGENET_STD, MODERN_PX, SIZES, encoder_levels
from world_model.interop.timm_encoder import TimmEncoder
from world_model.predictor import ActionPredictor, MaskedPredictor
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
    modern = bool(encoder.config.levels)
    _refuse("official V-JEPA 2", _list_modern_gaps(encoder) if modern else _list_gaps(encoder), predictor, modern)
    file: dict[str, Any] = {"target_encoder": _fold_statistics(encoder)}
    file["encoder"] = file["target_encoder"] if student is None else _fold_statistics(student)
    file[SIZES] = {"image_px": encoder.config.image_px[0], "heads": encoder.config.heads}
    if predictor is not None:
        file["predictor"] = _collect_weights(predictor)
        file[SIZES]["predictor_heads"] = predictor.heads
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: torch.save(file, temporary))


def export_huggingface(
    folder: Path, encoder: VideoEncoder, predictor: MaskedPredictor | None = None, frames_per_clip: int = 64
) -> None:
    """A directory (config.json, model.safetensors, how pixels are normalised) that
    `transformers.VJEPA2Model.from_pretrained` loads; without a predictor, that has random weights there.

    Raises ValueError for an encoder that this format cannot hold: one with true rotary positions, SwiGLU, several
    levels, an image path, or pictures that are not square.
    """
    _refuse("Hugging Face VJEPA2", _list_gaps(encoder), predictor, modern=False)
    sizes = encoder.config
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
    renamed = to_huggingface(_collect_weights(encoder), _collect_weights(predictor) if predictor is not None else {})
    tensors = {name: value.contiguous().clone() for name, value in renamed.items()}
    write_atomic(folder / "model.safetensors", lambda temporary: save_file(tensors, temporary, {"format": "pt"}))
    for name, content in (("config.json", config), (PREPROCESSOR, _describe_preprocessor(encoder))):
        text = json.dumps(content, indent=2) + "\n"
        write_atomic(folder / name, lambda temporary, text=text: temporary.write_text(text))


def _describe_preprocessor(encoder: VideoEncoder) -> dict[str, Any]:
    """How transformers' video processor makes of a video what this encoder was trained on."""
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


def _list_gaps(encoder: VideoEncoder) -> list[str]:
    """What of this encoder V-JEPA 2's network does not have."""
    sizes = encoder.config
    beyond = {
        "a timm model": isinstance(encoder, TimmEncoder),
        "rope=interleaved": sizes.rope != "tiled" and not isinstance(encoder, TimmEncoder),
        "feedforward=swiglu": sizes.feedforward != "gelu",
        "positions_px": sizes.positions_px is not None,
        "levels": bool(sizes.levels),
        "stem.images": sizes.stem.images,
        "causal": sizes.causal,
        "stem.kind=conv": sizes.stem.kind != "linear",
        "pictures that are not square": sizes.image_px[0] != sizes.image_px[1],
    }
    return [name for name, is_so in beyond.items() if is_so]


def _list_modern_gaps(encoder: VideoEncoder) -> list[str]:
    """What of this encoder, which has several levels, V-JEPA 2.1's network does not have, or has otherwise."""
    sizes = encoder.config
    beyond = {
        "rope=tiled": sizes.rope != "interleaved",
        "feedforward=swiglu": sizes.feedforward != "gelu",
        "positions of another size than 256": sizes.positions_px != MODERN_PX,
        f"levels={list(sizes.levels)}": sizes.levels != encoder_levels(sizes.depth, len(sizes.levels)),
        "no stem.images": not sizes.stem.images,
        "causal": sizes.causal,
        "stem.kind=conv": sizes.stem.kind != "linear",
        "pictures that are not square": sizes.image_px[0] != sizes.image_px[1],
    }
    return [name for name, is_so in beyond.items() if is_so]


def _refuse(what: str, gaps: list[str], predictor: MaskedPredictor | ActionPredictor | None, modern: bool) -> None:
    if predictor is not None and not modern and predictor.rope != "tiled":
        gaps = [*gaps, "a predictor with rope=interleaved"]
    if gaps:
        raise ValueError(
            f"the {what} format cannot hold this encoder: {', '.join(gaps)}; what recipe=vjepa2_vitl trains fits, "
            "or another encoder with encoder.rope=tiled"
        )


def _fold_statistics(encoder: VideoEncoder) -> Weights:
    """Weights for pixels in units of ImageNet's statistics; unchanged where the encoder's own are these."""
    weights = _collect_weights(encoder)
    mean, std = (x.detach().cpu() for x in (encoder.pixel_mean, encoder.pixel_std))
    theirs_mean, theirs_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if torch.equal(mean, theirs_mean) and torch.equal(std, theirs_std):
        return weights
    for name in [key.removesuffix(".weight") for key in weights if key.startswith("patch_embed") and "weight" in key]:
        kernel = weights[f"{name}.weight"].double()
        shift = ((theirs_mean - mean) / std).double()[None, :, None, None, None]
        weights[f"{name}.bias"] = (weights[f"{name}.bias"].double() + (kernel * shift).sum((1, 2, 3, 4))).float()
        weights[f"{name}.weight"] = (kernel * (theirs_std / std).double()[None, :, None, None, None]).float()
    return weights


def _collect_weights(module: torch.nn.Module) -> Weights:
    """State dict of what is trained: no buffers of ours, no pool head, on the CPU."""
    kept = {name: value.detach().cpu() for name, value in module.state_dict().items()}
    return {name: value for name, value in kept.items() if not name.startswith(("pixel_", "pool."))}
