"""Stage 2, action-conditioned: recorded trajectories -> latent dynamics, encoder frozen.

Teacher forcing plus a multi-step rollout loss, as V-JEPA 2-AC (arXiv 2506.09985, eq. 2-4), on cached features. With
`pixels` (a head) the same predictor is trained through a light head to match the next frames' pixels instead. With
`flow` both losses are flow matching's (`world_model.nn.flow`), and a rollout goes on from a sample, without a gradient
through it: that gradient would favour samples that are easy to continue over samples of the data's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from planners.protocol import Noise, Rows
from world_model.distributed import SINGLE_PROCESS, WorldInfo, world_info
from world_model.draws import draw_rows, make_generator
from world_model.dynamics import LatentDynamics
from world_model.objectives.losses import regression
from world_model.predictor import Emit

TRAINING, ERRORS = 0, 1  # uses of a flow's noise


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


class StepNoise:
    """Random numbers of one training step: a function of the key, drawn for the rows of all processes, of which each
    takes its own (`planners.protocol.Noise`). key: seed, step and use."""

    def __init__(self, key: tuple[int, int, int], rows: int, device: torch.device, shard: WorldInfo) -> None:
        self.generator, self.rows, self.device, self.shard = make_generator(*key), rows, device, shard

    def normal(self, shape: Sequence[int], stream: int = 1) -> Tensor:
        """The next standard normal numbers [B, *shape]; one stream serves all."""
        return draw_rows((self.rows, *shape), self.shard, self.generator).to(self.device)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """The next numbers [B, *shape] in 0..1."""
        return draw_rows((self.rows, *shape), self.shard, self.generator, uniform=True).to(self.device)

    def select(self, rows: Rows) -> StepNoise:
        """A batch is never parted here."""
        raise NotImplementedError


class PosttrainModel(nn.Module):
    """A LatentDynamics with its training losses. seed: of the noise of a flow.

    Batches hold raw `features` [B, T, N, F] and `action` [B, T-1, A]. Depending on the model, also `proprio` [B, T, Q];
    the raw `scene` [B, H, M, D] of the H frames of the history, at which paths start; and `pixels` [B, T, H, W, C].
    """

    def __init__(self, dynamics: LatentDynamics, config: PosttrainConfig, seed: int = 0) -> None:
        super().__init__()
        self.dynamics, self.config, self.seed = dynamics, config, seed

    @property
    def window(self) -> int:
        """Frames a training window needs: the longest history and the rollout after it."""
        return self.dynamics.config.history + self.config.rollout_steps

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of both losses and, if it is learned, that of proprioception; and these terms."""
        dynamics, config = self.dynamics, self.config
        features, states = self._read(batch)
        target = dynamics.output.make_target(dynamics.encoder, features, batch)
        noise = StepNoise((self.seed, step, TRAINING), len(features), features.device, world_info())
        terms = dynamics.states.compute_losses(states, batch["action"])
        if config.teacher_forcing:
            rows, scene = (
                dynamics.join_inputs(batch["action"], states[:, :-1]),
                dynamics.features.select_scene(batch, 0),
            )
            predicted = dynamics.predictor(features[:, :-1], rows, scene_BMD=scene)
            error = self._error(predicted, features[:, :-1], target[:, 1:], noise)
            terms["teacher_forcing"] = config.teacher_forcing * error
        if config.rollout:
            history = config.rollout_history or 1 + step % dynamics.config.history
            terms["rollout"] = config.rollout * self._rollout_error(batch, features, states, target, history, noise)
        return torch.stack(list(terms.values())).sum(), terms

    def after_step(self, step: int) -> None:
        """No state changes but the weights."""

    def imagine(
        self,
        batch: dict[str, Tensor],
        features: Tensor,
        states: Tensor,
        history: int,
        noise: Noise | None = None,
        emit: Emit | None = None,
    ) -> Tensor:
        """Normalised features [B, rollout_steps, N, F] imagined from the first `history` frames with recorded actions.
        As in planning, states [B, T, Q] of the history and the scene of its last frame are used alone. noise, emit: of
        `LatentDynamics.rollout`."""
        dynamics, actions, before = self.dynamics, batch["action"], history - 1
        past = dynamics.remember(
            features[:, :history],
            dynamics.join_inputs(actions[:, :before], states[:, :before]),
            scene_BMD=dynamics.features.select_scene(batch, before),
        )
        chosen = actions[:, None, before : before + self.config.rollout_steps]
        return dynamics.rollout(past, features[:, before], states[:, before], chosen, noise, emit)[:, 0]

    def _read(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Normalised features and states of a batch."""
        features = self.dynamics.features.normalise(batch["features"].float())
        return features, self.dynamics.states.read(batch.get("proprio"), features)

    def _error(self, predicted: Any, before: Tensor, target: Tensor, noise: StepNoise) -> Tensor:
        """Error of outputs of the predictor for frames [B, T]; before: features [B, T, N, F] of the frames before the
        target's."""
        output, flow = self.dynamics.output, self.dynamics.flow
        if flow is None:
            return regression(output.decode(predicted).float(), target, self.config.loss)
        tokens = output.split_target(self.dynamics.encoder, target)
        time = noise.uniform(flow.shape_times(tokens.shape[1:]))
        return flow.compute_loss(predicted, before, tokens, time, noise.normal(tokens.shape[1:]))

    def _rollout_error(
        self,
        batch: dict[str, Tensor],
        features: Tensor,
        states: Tensor,
        target: Tensor,
        history: int,
        noise: StepNoise,
    ) -> Tensor:
        """Mean error of an imagined path."""
        if self.dynamics.flow is None:
            path = self.imagine(batch, features, states, history)
            return self._error(path, path, target[:, history : history + path.shape[1]], noise)
        errors: list[Tensor] = []
        steps = self.config.rollout_steps

        def emit(output: Any, before_BSNF: Tensor, step: int) -> tuple[Tensor, Tensor]:
            errors.append(self._error(output, before_BSNF, target[:, history + step, None], noise))
            if step == steps - 1:
                return before_BSNF, before_BSNF
            with torch.no_grad():
                return before_BSNF, self.dynamics.draw(noise, steps, output, before_BSNF, step)[1]

        self.imagine(batch, features, states, history, noise, emit)
        return torch.stack(errors).mean()

    def measure_error_by_horizon(self, batch: dict[str, Tensor]) -> dict[str, list[float]]:
        """Errors of `measure_squared_errors` at steps 1..K, means over samples and channels."""
        errors = self.measure_squared_errors(batch)
        return {name: values.mean([0, *range(2, values.ndim)]).tolist() for name, values in errors.items()}

    @torch.no_grad()
    def measure_squared_errors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Open-loop squared error [B, K, ...] at steps 1..K from a full history (`predicted`), and that of copying the
        last frame (`copy`), in the space of the target: normalised features or pixels. Of a flow it is the error of one
        sample a window, from noise that is the same at every call."""
        self.eval()
        dynamics, steps = self.dynamics, self.config.rollout_steps
        history = dynamics.config.history
        features, states = self._read(batch)
        noise = StepNoise((self.seed, 0, ERRORS), len(features), features.device, SINGLE_PROCESS)
        predicted = dynamics.output.decode(self.imagine(batch, features, states, history, noise))
        target = dynamics.output.make_target(dynamics.encoder, features, batch)
        future = target[:, history : history + steps]
        copy = target[:, history - 1 : history].expand_as(future)
        return {"predicted": (predicted - future).square(), "copy": (copy - future).square()}
