"""Training of world models that learn from pixels and actions at once, and its evaluation on `val`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from data.loader import Loader
from planners.protocol import view_first_draw
from world_model.generative.world_model import WorldModel

CURVES = {
    "prediction loss on val": ("prediction",),
    "open-loop error over copying the last frame": ("open_loop_1", "open_loop_last"),
}
CLIPS = 32  # of val that are imagined


class WorldModelMonitor:
    """Call with a step: its losses on a batch of val, and the error of what it imagines, in its `open_loop_view`, over
    that of copying the last seen frame, at the first step and at the last."""

    curves: Mapping[str, tuple[str, ...]] = CURVES

    def __init__(self, model: WorldModel, batches: Loader, device: torch.device) -> None:
        self.model, self.batches, self.device = model, batches, device

    @torch.no_grad()
    def __call__(self, step: int) -> dict[str, float]:
        """The numbers by name."""
        self.model.eval()
        batch = {name: value.to(self.device) for name, value in self.batches.read_batch(0).items()}
        _, terms = self.model.loss(batch, step)
        errors = self._measure_errors(batch)
        ratios = [guess / max(copy, 1e-9) for guess, copy in zip(errors["predicted"], errors["copy"], strict=True)]
        losses = {name: value.item() for name, value in terms.items()}
        return losses | {"open_loop_1": ratios[0], "open_loop_last": ratios[-1]}

    @torch.no_grad()
    def compute_errors(self) -> dict[str, list[float]]:
        """`predicted` and `copy`: squared error in the model's `open_loop_view` (pixels: 0 to 255) after each model
        step of an imagined path."""
        self.model.eval()
        return self._measure_errors({name: value.to(self.device) for name, value in self.batches.read_batch(0).items()})

    def _measure_errors(self, batch: dict[str, torch.Tensor]) -> dict[str, list[float]]:
        frames, actions = batch["pixels"][:CLIPS], batch["action"][:CLIPS]
        seen = self.model.config.context_frames
        valid = torch.ones(len(frames), seen, dtype=torch.bool, device=self.device)
        context = self.model.observe(frames[:, :seen], actions[:, : seen - 1], valid)
        imagined = view_first_draw(self.model.imagine(context, actions[:, None, seen - 1 :]), self.model.open_loop_view)
        recorded = self.model.read_open_loop(frames)
        guesses, future = {"predicted": imagined[:, 0], "copy": recorded[:, :1]}, recorded[:, 1:]
        errors = {name: (guess - future).square().transpose(0, 1).flatten(1) for name, guess in guesses.items()}
        return {name: error.mean(1).tolist() for name, error in errors.items()}

    def find_warning(self, evaluations: list[dict[str, float]]) -> str | None:
        """None: these numbers have no limits to warn of yet."""
        return None

    def summarise(self, last: dict[str, float]) -> str:
        """The last numbers in one line."""
        steps, view = self.model.config.horizon, self.model.open_loop_view
        return (
            f"prediction loss on val {last['prediction']:.3g}, open-loop error of {view} over copying the last frame: "
            f"{last['open_loop_1']:.3f} one step, {last['open_loop_last']:.3f} {steps} steps ahead"
        )
