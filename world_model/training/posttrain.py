"""Stage 2, action-conditioned: recorded trajectories -> latent dynamics, encoder frozen.

Teacher forcing plus a multi-step rollout loss, as V-JEPA 2-AC (arXiv 2506.09985, eq. 2-4), on cached features. With
`pixels` (a head) the same predictor is trained through a light head to match the next frames' pixels instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from world_model.dynamics import LatentDynamics
from world_model.objectives.losses import regression


@dataclass(frozen=True)
class PosttrainConfig:
    """Losses of stage 2."""

    loss: Literal["l1", "l2"] = "l2"
    """distance between prediction and target: l1 or l2"""
    teacher_forcing: Annotated[float, Ge(0)] = 1.0
    """weight of the one-step loss from recorded frames (0 disables this)"""
    rollout: Annotated[float, Ge(0)] = 1.0
    """weight of the rollout loss (0 disables this)"""
    rollout_steps: Annotated[int, Ge(1)] = 6
    """length of a training rollout, in model steps (at most dynamics.horizon)"""
    rollout_history: Annotated[int, Ge(0)] = 0
    """frames before a training rollout (0: 1 to dynamics.history in turn; V-JEPA 2-AC: 1)"""


class PosttrainModel(nn.Module):
    """A LatentDynamics with its training losses.

    Batches hold raw `features` [B, T, N, F] and `action` [B, T-1, A]. Depending on the model, also `proprio` [B, T, Q];
    the raw `scene` [B, H, M, D] of the H frames of the history, at which paths start; and `pixels` [B, T, H, W, C].
    """

    def __init__(self, dynamics: LatentDynamics, config: PosttrainConfig) -> None:
        super().__init__()
        self.dynamics, self.config = dynamics, config

    @property
    def window(self) -> int:
        """Frames a training window needs: the longest history and the rollout after it."""
        return self.dynamics.config.history + self.config.rollout_steps

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of both losses and, if it is learned, that of proprioception; and these terms."""
        dynamics, config = self.dynamics, self.config
        features, states = self._read(batch)
        target = dynamics.output.make_target(dynamics.encoder, features, batch)
        terms = dynamics.states.compute_losses(states, batch["action"])
        if config.teacher_forcing:
            rows, scene = (
                dynamics.join_inputs(batch["action"], states[:, :-1]),
                dynamics.features.select_scene(batch, 0),
            )
            predicted = dynamics.predictor(features[:, :-1], rows, scene_BMD=scene)
            terms["teacher_forcing"] = config.teacher_forcing * self._error(predicted, target[:, 1:])
        if config.rollout:
            history = config.rollout_history or 1 + step % dynamics.config.history
            path = self.imagine(batch, features, states, history)
            terms["rollout"] = config.rollout * self._error(path, target[:, history : history + path.shape[1]])
        return torch.stack(list(terms.values())).sum(), terms

    def after_step(self, step: int) -> None:
        """No state changes but the weights."""

    def imagine(self, batch: dict[str, Tensor], features: Tensor, states: Tensor, history: int) -> Tensor:
        """Normalised features [B, rollout_steps, N, F] imagined from the first `history` frames with recorded actions.
        As in planning, states [B, T, Q] of the history and the scene of its last frame are used alone."""
        dynamics, actions, before = self.dynamics, batch["action"], history - 1
        past = dynamics.predictor.prefill(
            features[:, :before],
            dynamics.join_inputs(actions[:, :before], states[:, :before]),
            scene_BMD=dynamics.features.select_scene(batch, before),
        )
        chosen = actions[:, None, before : before + self.config.rollout_steps]
        return dynamics.rollout(past, features[:, before], states[:, before], chosen)[:, 0]

    def _read(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Normalised features and states of a batch."""
        features = self.dynamics.features.normalise(batch["features"].float())
        return features, self.dynamics.states.read(batch.get("proprio"), features)

    def _error(self, predicted: Tensor, target: Tensor) -> Tensor:
        return regression(self.dynamics.output.decode(predicted).float(), target, self.config.loss)

    def measure_error_by_horizon(self, batch: dict[str, Tensor]) -> dict[str, list[float]]:
        """Errors of `measure_squared_errors` at steps 1..K, means over samples and channels."""
        errors = self.measure_squared_errors(batch)
        return {name: values.mean([0, *range(2, values.ndim)]).tolist() for name, values in errors.items()}

    @torch.no_grad()
    def measure_squared_errors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Open-loop squared error [B, K, ...] at steps 1..K from a full history (`predicted`), and that of copying the
        last frame (`copy`), in the space of the target: normalised features or pixels."""
        self.eval()
        dynamics, steps = self.dynamics, self.config.rollout_steps
        history = dynamics.config.history
        features, states = self._read(batch)
        predicted = dynamics.output.decode(self.imagine(batch, features, states, history))
        target = dynamics.output.make_target(dynamics.encoder, features, batch)
        future = target[:, history : history + steps]
        copy = target[:, history - 1 : history].expand_as(future)
        return {"predicted": (predicted - future).square(), "copy": (copy - future).square()}
