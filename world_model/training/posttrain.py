"""Stage 2, action-conditioned: recorded trajectories -> latent dynamics, encoder frozen.

Teacher forcing plus a multi-step rollout loss, as V-JEPA 2-AC (arXiv 2506.09985, eq. 2-4), on cached features. With
`target=pixels` the same predictor is trained through a light head to match the next frames' pixels instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from world_model.dynamics import LatentDynamics
from world_model.objectives.losses import regression


@dataclass(frozen=True)
class PosttrainConfig:
    """Losses of stage 2. rollout_steps: imagined steps trained; at most dynamics.horizon. rollout_history: frames seen
    before them; 0: by turns 1 to dynamics.history (V-JEPA 2-AC: 1)."""

    loss: Literal["l1", "l2"] = "l2"
    """how predictions are judged: l1 or l2"""
    teacher_forcing: float = 1.0
    """weight of the one-step loss from true frames"""
    rollout: float = 1.0
    """weight of the loss of imagined paths"""
    rollout_steps: int = 6
    """length of these paths, model steps; at most horizon"""
    rollout_history: int = 0
    """frames seen before these paths; 0: 1 to dynamics.history in turn (V-JEPA 2-AC: 1)"""

    def __post_init__(self) -> None:
        if self.rollout_steps < 1:
            raise ValueError(f"posttrain.rollout_steps must be at least 1, not {self.rollout_steps}")


class PosttrainModel(nn.Module):
    """A LatentDynamics with its training losses. Batches hold raw `features` [B, T, N, F] and `action` [B, T-1, A],
    `proprio` [B, T, Q] for a model that knows the robot's state, and for one that sees the scene, the raw `scene`
    [B, H, M, D] of the history's H frames: no path starts at a later one."""

    def __init__(self, dynamics: LatentDynamics, config: PosttrainConfig) -> None:
        super().__init__()
        self.dynamics, self.config = dynamics, config

    @property
    def window(self) -> int:
        """Frames a training window needs: the longest history and the rollout after it."""
        return self.dynamics.config.history + self.config.rollout_steps

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the two losses."""
        dynamics = self.dynamics
        features = dynamics.normalise_features(batch["features"].float())
        actions, states, scene = batch["action"], self._states(batch), self._scene(batch)
        target = self._target(features, batch)
        terms: dict[str, Tensor] = {}
        if states is not None and dynamics.states is not None:
            learned = dynamics.states.loss(states, actions)
            terms |= {} if learned is None else {"state": learned}
        if self.config.teacher_forcing:
            known = None if states is None else states[:, :-1]
            first = None if scene is None else scene[:, 0]
            predicted = dynamics.predictor(features[:, :-1], dynamics.rows(actions, known), scene_BMD=first)
            terms["teacher_forcing"] = self.config.teacher_forcing * self._error(predicted, target[:, 1:])
        if self.config.rollout:
            history = self.config.rollout_history or 1 + step % dynamics.config.history
            path = self.imagine(features, actions, states, history, scene)
            terms["rollout"] = self.config.rollout * self._error(path, target[:, history : history + path.shape[1]])
        return torch.stack(list(terms.values())).sum(), terms

    def after_step(self, step: int) -> None:
        """Nothing moves but the predictor."""

    def imagine(
        self, features: Tensor, actions: Tensor, states: Tensor | None, history: int, scene: Tensor | None = None
    ) -> Tensor:
        """Normalised features [B, rollout_steps, N, F] imagined from the first `history` frames with the recorded
        actions; of the robot's states [B, T, Q] those of the history alone are used, and of the scenes [B, H, M, D]
        that of its last frame, as in planning."""
        before, last = history - 1, None
        known = None
        if states is not None:
            known, last = states[:, :before], states[:, before]
        past = self.dynamics.predictor.prefill(
            features[:, :before],
            self.dynamics.rows(actions[:, :before], known),
            scene_BMD=None if scene is None else scene[:, before],
        )
        chosen = actions[:, None, before : before + self.config.rollout_steps]
        return self.dynamics.rollout(past, features[:, before], last, chosen)[:, 0]

    def _states(self, batch: dict[str, Tensor]) -> Tensor | None:
        states = self.dynamics.states
        return None if states is None else states.normalise(batch["proprio"].float())

    def _scene(self, batch: dict[str, Tensor]) -> Tensor | None:
        return self.dynamics.normalise_scene(batch["scene"].float()) if self.dynamics.config.scene else None

    def _target(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        if self.dynamics.pixel_head is None:
            return features
        return self.dynamics.encoder.normalise(batch["pixels"]).movedim(1, -1)

    def _error(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.dynamics.pixel_head is not None:
            predicted = self.dynamics.pixel_head(predicted)
        return regression(predicted.float(), target, self.config.loss)

    @torch.no_grad()
    def error_by_horizon(self, batch: dict[str, Tensor]) -> dict[str, list[float]]:
        """Open-loop squared error at steps 1..K from a full history, beside that of copying the last seen frame.

        In the space of the target (normalised features or pixels), mean over samples and channels.
        """
        self.eval()
        dynamics = self.dynamics
        features = dynamics.normalise_features(batch["features"].float())
        history, steps = dynamics.config.history, self.config.rollout_steps
        path = self.imagine(features, batch["action"], self._states(batch), history, self._scene(batch))
        target = self._target(features, batch)
        made = path if dynamics.pixel_head is None else dynamics.pixel_head(path)
        future = target[:, history : history + steps]
        copy = target[:, history - 1 : history].expand_as(future)
        axes = [0, *range(2, future.ndim)]
        return {
            "predicted": (made - future).square().mean(axes).tolist(),
            "copy": (copy - future).square().mean(axes).tolist(),
        }
