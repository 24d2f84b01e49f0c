"""The training step of the official V-JEPA 2 code beside ours, at the same sizes, in one process.

`official=` is a clone of github.com/facebookresearch/vjepa2 (MIT); its modules are imported unchanged. The rate counts
trained tokens: context and target tokens that enter the loss. The official masks are sampled outside the measured step,
as its data loader does; ours inside. Activation checkpointing is off on both sides. The steps take turns, so that a
drift of the machine's speed favours neither. With trainer.compile the official step is measured twice: without and with
its own option compile_model.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from commands.shared.errors import UsageError
from world_model.encoder import EncoderConfig
from world_model.objectives.masked import MaskedConfig
from world_model.objectives.masking import BlockMask
from world_model.objectives.objective import TeacherConfig
from world_model.training.loop import TrainerConfig, autocast, list_parameters

MODULES = (
    "models.vision_transformer",
    "models.predictor",
    "masks.utils",
    "masks.multiseq_multiblock3d",
    "utils.wrappers",
)
T = TypeVar("T")
WARM_UP = 3  # first steps, not counted: a compiled step is compiled anew when shapes first change


class OfficialStep:
    """Encoder, predictor, EMA teacher, masks and optimiser of the clone at `folder`; call with a step's number."""

    def __init__(
        self,
        folder: Path,
        encoder: EncoderConfig,
        objective: MaskedConfig,
        trainer: TrainerConfig,
        clip_BCTHW: Tensor,
        compiled: bool = False,
    ) -> None:
        assert isinstance(objective.teacher, TeacherConfig), objective.teacher
        modules = import_official(folder)
        self.keep = objective.teacher.ema
        self.objective, self.trainer, self.clip = objective, trainer, clip_BCTHW
        self.name = "official, compiled" if compiled else "official"
        device = clip_BCTHW.device
        sizes = {"img_size": encoder.image_px, "patch_size": encoder.patch_px, "tubelet_size": encoder.tubelet}
        sizes |= {"num_frames": objective.frames, "use_rope": True, "use_sdpa": True}
        shape = {"depth": encoder.depth, "num_heads": encoder.heads, "mlp_ratio": encoder.mlp_ratio}
        transformer = modules["models.vision_transformer"].VisionTransformer
        wrap = modules["utils.wrappers"]

        def make_encoder() -> Any:
            return wrap.MultiSeqWrapper(transformer(embed_dim=encoder.width, **shape, **sizes)).to(device)

        self.encoder, self.teacher = make_encoder(), make_encoder().requires_grad_(False)
        predictor = modules["models.predictor"].VisionTransformerPredictor(
            embed_dim=encoder.width,
            predictor_embed_dim=objective.predictor.width,
            depth=objective.predictor.depth,
            num_heads=objective.predictor.heads,
            use_mask_tokens=True,
            num_mask_tokens=len(objective.masks),
            **sizes,
        )
        self.predictor = wrap.PredictorMultiSeqWrapper(predictor).to(device)
        self.gather = modules["masks.utils"].apply_masks
        self.collator = modules["masks.multiseq_multiblock3d"].MaskCollator(
            [
                {
                    "spatial_scale": mask.area,
                    "temporal_scale": (mask.time, mask.time),
                    "aspect_ratio": mask.aspect,
                    "num_blocks": mask.blocks,
                }
                for mask in objective.masks
                if isinstance(mask, BlockMask)
            ],
            [objective.frames],
            encoder.image_px,
            (encoder.patch_px,) * 2,
            encoder.tubelet,
        )
        trained = [*self.encoder.parameters(), *self.predictor.parameters()]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": trainer.weight_decay},
            {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
        ]
        if compiled:
            for part in (self.encoder, self.teacher, self.predictor):
                part.compile()
        self.optimizer = torch.optim.AdamW(groups, lr=trainer.lr, betas=trainer.betas)

    def sample_masks(self) -> tuple[list[Tensor], list[Tensor]]:
        """Context and target indices of every generator, cut to a rectangle as the official collator does."""
        generators = self.collator.mask_generators[self.objective.frames]
        pairs = [generator(len(self.clip)) for generator in generators]
        device = self.clip.device
        return [context.to(device) for context, _ in pairs], [target.to(device) for _, target in pairs]

    def __call__(self, masks: tuple[list[Tensor], list[Tensor]]) -> int:
        """One step; the number of tokens it trained."""
        context, target = masks
        with autocast(self.clip.device, self.trainer.precision, list_parameters(self.optimizer)):
            with torch.no_grad():
                targets = self.teacher([self.clip])[0]
                targets = F.layer_norm(targets, targets.shape[-1:])
            predictions = self.predictor(self.encoder([self.clip], [context]), [context], [target])[0]
            pairs = zip(predictions, self.gather(targets, target, concat=False), strict=True)
            loss = torch.stack([(p - h).abs().mean() for p, h in pairs]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            teacher, student = list(self.teacher.parameters()), list(self.encoder.parameters())
            torch._foreach_mul_(teacher, self.keep)
            torch._foreach_add_(teacher, student, alpha=1 - self.keep)
        loss.item()
        return len(self.clip) * sum(part.shape[1] for part in (*context, *target))


def import_official(folder: Path) -> dict[str, Any]:
    """The modules of the clone that a training step needs; UsageError where it is no clone of that code."""
    if not (folder / "src" / "models" / "vision_transformer.py").exists():
        raise UsageError(f"official={folder} is no clone of github.com/facebookresearch/vjepa2 (no src/models there)")
    sys.path.insert(0, str(folder))
    try:
        return {name: importlib.import_module(f"src.{name}") for name in MODULES}
    finally:
        sys.path.remove(str(folder))


def time_in_turns(
    train_once: Callable[[int], int], official: Sequence[OfficialStep], clips: int, budget_s: float
) -> dict[str, dict[str, float]]:
    """Median clips/s and trained tokens/s of `ours` and of each official step. All take turns, for `budget_s` seconds
    and WARM_UP + 5 rounds at least."""
    times: dict[str, list[tuple[float, int]]] = {"ours": [], **{step.name: [] for step in official}}
    began, number = time.perf_counter(), 0
    while number < WARM_UP + 5 or time.perf_counter() - began < budget_s:
        for step in official:
            times[step.name].append(time_call(partial(step, step.sample_masks())))
        times["ours"].append(time_call(partial(train_once, number)))
        number += 1
    rates = {}
    for name, calls in times.items():
        seconds, tokens = np.array(calls[WARM_UP:]).T
        rates[name] = {"clips_s": clips / float(np.median(seconds)), "tokens_s": float(np.median(tokens / seconds))}
    return rates


def time_call(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds of a call, and what it returned."""
    start = time.perf_counter()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result
