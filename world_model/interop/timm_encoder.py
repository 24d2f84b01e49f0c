"""Vision transformers of timm as frozen encoders of single frames; timm is imported with the first one (slow)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from data.checks import check_regular
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.training.checkpoint import CheckpointError, get_first_line


@dataclass(frozen=True)
class TimmSizes(EncoderConfig):
    """Sizes of a timm model. timm: its name."""

    timm: str = ""


def make_encoder(config: EncoderConfig) -> VideoEncoder:
    """Our encoder, or a timm model, of these sizes with random weights."""
    if isinstance(config, TimmSizes):
        return TimmEncoder(config, _create_timm_model(config.timm, config.image_px))
    return VideoEncoder(config)


class TimmEncoder(VideoEncoder):
    """A timm vision transformer as a frozen encoder of single frames (the setting of DINO-WM and jepa-wms).

    Tokens are those of patches after the last norm, without class and register tokens. It takes no clips.
    """

    config: TimmSizes

    def __init__(self, config: TimmSizes, model: Any) -> None:
        torch.nn.Module.__init__(self)
        self.config, self.pool = config, None
        self.model = model
        mean, std = (torch.tensor(self.model.pretrained_cfg[key]) * 255 for key in ("mean", "std"))
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_std", std)

    def encode_frames(self, frames_BTHWC: Tensor) -> Tensor:
        """Tokens [B, T, N, D] of frames in 0..255, each encoded alone."""
        clip = self._normalise_pictures(frames_BTHWC)
        tokens = self.model.forward_features(clip)[:, self.model.num_prefix_tokens :]
        return rearrange(tokens, "(b t) n d -> b t n d", t=frames_BTHWC.shape[1])

    def encode_levels(
        self, clip_BCTHW: Tensor, indices_BM: Tensor | None = None, blocks: Sequence[int] = ()
    ) -> list[Tensor]:
        """ValueError: it takes no clips."""
        raise ValueError(f"{self.config.timm} encodes single frames, not clips: it cannot be pretrained here")


def make_timm_encoder(name: str, weights: str, image_px: tuple[int, int]) -> TimmEncoder:
    """A timm model by name, for pictures of that size.

    weights: `hub` (downloaded by timm), `random`, or a local safetensors file or state dict with timm's names. Raises
    CheckpointError for a name that is no vision transformer of timm, or weights that cannot be read.
    """
    model = _create_timm_model(name, image_px, weights)
    config = TimmSizes(
        image_px=image_px,
        patch_px=model.patch_embed.patch_size[0],
        tubelet=1,
        width=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[0].attn.num_heads,
        pool=None,
        timm=name,
    )
    return TimmEncoder(config, model)


def _create_timm_model(name: str, image_px: tuple[int, int], weights: str = "random") -> Any:
    import timm

    try:
        model = timm.create_model(name, num_classes=0, img_size=image_px)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise CheckpointError(
            f"timm has no vision transformer {name} for {image_px}: {get_first_line(error)}"
        ) from error
    if not all(hasattr(model, part) for part in ("patch_embed", "blocks", "num_prefix_tokens", "embed_dim")):
        raise CheckpointError(f"{name} is no vision transformer: give one of timm's vit_... models")
    if weights == "random":
        return model
    if weights != "hub":
        check_regular(Path(weights))
    overlay = {} if weights == "hub" else {"file": weights}
    try:
        return timm.create_model(
            name, pretrained=True, num_classes=0, img_size=image_px, pretrained_cfg_overlay=overlay
        )
    except Exception as error:
        raise CheckpointError(f"no weights of {name} from {weights}: {get_first_line(error)}") from error
