"""Latent dynamics: what a planner talks to.

`LatentDynamics` puts a frozen encoder and a predictor (`ActionPredictor`, or the context of a latent flow transformer)
behind observe / encode_goal / imagine. It takes raw frames and raw actions and normalises them by buffers. Its parts
(`world_model.nn.features`, `states`, `reachability`) decide what it predicts; a planner gets named views.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from planners.protocol import DynamicsSpec, Lazy, Noise, Views
from world_model.actions import ActionModule, ActionSpec
from world_model.encoder import VideoEncoder
from world_model.generative.latent_flow import FlowContext, FlowTransformer, FlowTransformerConfig
from world_model.nn.cache import PastCache
from world_model.nn.decoder import DecoderConfig, PixelHeadConfig
from world_model.nn.features import Features, Output, Space
from world_model.nn.flow import FlowConfig, FlowHead
from world_model.nn.reachability import ReachConfig, ReachHead
from world_model.nn.states import ProprioModel, make_states
from world_model.predictor import ActionPredictor, Emit, PredictorConfig


@dataclass(frozen=True)
class DynamicsConfig:
    """Parts and sizes of a LatentDynamics. History and horizon together fit the training window."""

    space: Space = "pooled"
    """predicted features: pooled (one token per frame) or tokens (all patches)"""
    history: Annotated[int, Ge(1)] = 3
    """frames before planning, in model steps"""
    horizon: Annotated[int, Ge(1)] = 6
    """longest imagined path, in model steps"""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """sizes of the predictor"""
    proprio_model: ProprioModel = "none"
    """proprioception as an input: none (images alone), integrate (7-D pose actions) or predicted (learned)"""
    proprio_dim: int = 0
    """size of the proprioception (0 for none)"""
    reach: ReachConfig | None = None
    """embedding whose distances count model steps, learned from time differences (planner.cost.view=reach);
    null: none"""
    scene: bool = False
    """attention of imagined frames to patches or keypoints of the path's first frame (walls, obstacles, contacts)"""
    pixels: PixelHeadConfig | None = None
    """head that predicts the next frames' pixels (the pixel baseline); null: features are predicted"""
    outputs: Literal["change", "normed"] = "change"
    """outputs of the predictor: change (of a frame's features), or normed (the next features themselves, layer-normed;
    V-JEPA 2-AC)"""
    inputs: Literal["scaled", "raw"] = "scaled"
    """units of actions and states in the predictor: scaled (actions by their bounds, states by their deviation), or raw
    (the robot's; V-JEPA 2-AC)"""
    decoder: DecoderConfig | None = None
    """decoder of features into pixels, fitted after training, to look at imagined frames and for the view pixels; null:
    none"""
    flow: FlowConfig | FlowTransformerConfig | None = None
    """flow matching that draws the tokens of the next frame, or the pixels of their patches with
    dynamics.pixels={channels: null}; null: one prediction by regression"""

    def __post_init__(self) -> None:
        if self.outputs == "normed" and (self.space != "tokens" or self.pixels is not None):
            raise ValueError(
                "dynamics.outputs=normed is for patch tokens: it needs dynamics.space=tokens without pixels"
            )
        if self.pixels is not None and self.decoder is not None:
            raise ValueError("dynamics.decoder is for models without pixels, and dynamics.pixels has a head: drop one")
        if self.pixels is not None and self.pixels.channels is None and self.space != "tokens":
            raise ValueError("dynamics.pixels.channels=null paints each token by itself: it needs space=tokens")
        if self.flow is not None:
            self._check_flow()
        if self.scene and self.space != "pooled":
            raise ValueError("dynamics.scene=true adds the scene to one token a frame: it needs dynamics.space=pooled")
        if (self.proprio_model == "none") != (self.proprio_dim == 0):
            raise ValueError(
                f"dynamics.proprio_model={self.proprio_model} and dynamics.proprio_dim={self.proprio_dim}: a state "
                "needs both, and none neither"
            )

    def _check_flow(self) -> None:
        if self.space != "tokens":
            raise ValueError(f"dynamics.flow draws patch tokens, and dynamics.space={self.space} has none: give tokens")
        if self.outputs != "change":
            raise ValueError(f"dynamics.flow has an output of its own: leave out dynamics.outputs={self.outputs}")
        if self.pixels is not None and self.pixels.channels is not None:
            raise ValueError(
                f"dynamics.flow draws the pixels of a patch themselves, and dynamics.pixels.channels="
                f"{self.pixels.channels} would stand between: give null"
            )
        if isinstance(self.flow, FlowTransformerConfig) and self.predictor.conditioning != "adaln":
            raise ValueError(
                f"dynamics.predictor.conditioning={self.predictor.conditioning}: actions modulate the transformer of "
                "dynamics.flow.kind=transformer, give dynamics.predictor.conditioning=adaln"
            )


@dataclass
class LatentContext:
    """The past: cached keys and values of frames (`LatentDynamics.remember`), and the last frame's features [B, N, F]
    and normalised proprioception [B, Q] (Q = 0 for a model of images alone)."""

    past: PastCache
    last_BNF: Tensor
    state_BQ: Tensor

    def select(self, rows: slice | Tensor) -> LatentContext:
        """Those environments only."""
        return LatentContext(self.past.select(rows), self.last_BNF[rows], self.state_BQ[rows])


class LatentDynamics(ActionModule):
    """A frozen encoder with an action-conditioned predictor of its features (`planners.protocol.Dynamics`).

    Parts: `features` (predicted), `output` (their target and views), `flow` (what draws them, or None), `states`
    (path of the proprioception) and `reach` (embedding whose distances count model steps, or None).
    """

    def __init__(self, config: DynamicsConfig, encoder: VideoEncoder, actions: ActionSpec) -> None:
        super().__init__()
        self.config, self.actions, self.encoder = config, actions, encoder
        mid, half = actions.block_mid_half()
        if config.inputs == "raw":  # normalised actions are then as they are
            mid, half = torch.zeros_like(mid), torch.ones_like(half)
        self.features = Features(config.space, config.scene, encoder, standardised=config.outputs == "change")
        self.predictor = self._make_predictor(len(mid))
        self.output = Output(config.pixels, config.decoder, self.features, encoder, config.flow is not None)
        self.flow = self._make_flow(len(mid))
        if self.output.decoder is not None:
            freeze(self.output.decoder)  # trained separately
        self.reach: ReachHead | None = None
        if config.reach is not None:
            self.reach = ReachHead(encoder.pooled_dim, config.reach.dim, config.reach.hidden)
            freeze(self.reach)  # trained separately
        self.states = make_states(config.proprio_model, config.proprio_dim, len(actions.low), mid, half)
        self.register_bounds(mid, half)
        freeze(self.encoder)

    def _make_predictor(self, action_dim: int) -> ActionPredictor | FlowContext:
        """The network that reads frames."""
        config, features = self.config, self.features
        if isinstance(config.flow, FlowTransformerConfig):
            return FlowContext(features.dim, features.grid, config.predictor)
        return ActionPredictor(
            features.dim,
            features.grid,
            action_dim,
            config.predictor,
            config.outputs if config.flow is None else "hidden",
            state_dim=config.proprio_dim,
            scene=features.scene_shape,
        )

    def _make_flow(self, action_dim: int) -> FlowHead | FlowTransformer | None:
        """What draws the next frame, given the predictor's output, if anything does."""
        config, flow, token_dim = self.config, self.config.flow, self.output.token_dim
        change = config.pixels is None  # a change of pixels would need the frame before, which a context does not keep
        if isinstance(flow, FlowTransformerConfig):
            sizes = token_dim, action_dim + config.proprio_dim, self.features.grid, config.predictor
            return FlowTransformer(*sizes, steps=flow.steps, of_change=change, frames=config.history + config.horizon)
        return None if flow is None else FlowHead(config.predictor.width, token_dim, flow, change)

    def train(self, mode: bool = True) -> LatentDynamics:
        """Training mode for all but the encoder, which stays frozen and in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    # -- what the predictor takes --------------------------------------------------------------------------------

    def read(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """Inputs of the predictor from frames in 0..255: raw `features` [B, T, N, F], and the raw `scene` [B, T, M, D]
        if there is one."""
        return self.features.read(self.encoder, frames_BTHWC)

    def join_inputs(self, actions_TA: Tensor, states_TQ: Tensor) -> Tensor:
        """Inputs of the predictor: actions [..., T, A] in environment units, normalised, beside normalised states
        [..., T, Q]."""
        return torch.cat((self.normalise_actions(actions_TA), states_TQ), -1)

    def remember(
        self,
        features_BTNF: Tensor,
        inputs_BtA: Tensor,
        valid_BT: Tensor | None = None,
        scene_BMD: Tensor | None = None,
    ) -> PastCache:
        """What the T frames of the past give to a rollout, computed once a plan: keys and values of all frames where
        these do not depend on actions (`FlowContext`), else of all but the last, which shares a block with a
        candidate's first action. inputs_BtA: of `join_inputs`, t = T - 1. valid_BT: False for padding."""
        if isinstance(self.predictor, FlowContext):
            return self.predictor.prefill(features_BTNF, valid_BT)
        valid = None if valid_BT is None else valid_BT[:, :-1]
        return self.predictor.prefill(features_BTNF[:, :-1], inputs_BtA, valid, scene_BMD)

    def rollout(
        self,
        past: PastCache,
        last_BNF: Tensor,
        state_BQ: Tensor,
        actions_BSKA: Tensor,
        noise: Noise | None = None,
        emit: Emit | None = None,
    ) -> Tensor:
        """Normalised features [B, S, K, N, F] after candidates' action blocks in environment units; normalised patches
        of a flow that draws pixels. noise: of a flow; None: the same for all environments. emit: in place of `draw`."""
        inputs = self.join_inputs(actions_BSKA, self.states(state_BQ, actions_BSKA))
        if self.flow is not None:
            emit = emit or partial(self.draw, noise, actions_BSKA.shape[2])
        return self.predictor.rollout(past, last_BNF, inputs, emit=emit)

    def draw(
        self, noise: Noise | None, steps: int, output: Any, before_BSNF: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """A sample [B, S, N, X] of step `step` of `steps` of a path, given the predictor's output, and its features,
        from which the path goes on.

        Candidates of an environment share the noise, which differs from step to step. The last sample is not encoded.
        """
        assert self.flow is not None
        shape = (self.features.num_tokens, self.flow.token_dim)
        if noise is None:
            start = torch.randn(shape, generator=torch.Generator().manual_seed(step))[None].to(before_BSNF.device)
        else:
            start = noise.normal(shape, stream=1 + step)
        drawn = self.flow.sample(output, before_BSNF, start[:, None])
        if step == steps - 1:
            return drawn, before_BSNF
        return drawn, self.output.read_features(self.encoder, self.features, drawn)

    def pool_features(self, features: Tensor) -> Tensor:
        """One embedding [..., D] of normalised features [..., N, F]."""
        return self.features.pool(self.encoder, features)

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    @property
    def spec(self) -> DynamicsSpec:
        """The facts a planner needs."""
        size = self.config.predictor
        per_token = 4 * (4 * size.width + 2 * size.depth * size.heads * size.channels_per_head)
        return DynamicsSpec(
            action_low=self.actions.block_low,
            action_high=self.actions.block_high,
            frame_hw=self.encoder.config.image_px,
            frame_skip=self.actions.frame_skip,
            history=self.config.history,
            max_horizon=self.config.horizon,
            views=(*self.output.view_names, *(["reach"] if self.reach is not None else [])),
            device=self.action_mid.device,
            step_bytes=self.predictor.block_tokens * per_token + self._output_bytes(),
            proprio=self.config.proprio_model,
            proprio_dim=self.config.proprio_dim,
        )

    def _output_bytes(self) -> int:
        """Memory of one imagined step of one candidate behind the predictor, bytes."""
        of_flow = 0 if self.flow is None else self.flow.step_bytes(self.features.num_tokens)
        if self.flow is not None and self.output.head is not None:  # drawn pixels are encoded
            of_flow += 64 * self.features.num_tokens * self.features.dim
        return of_flow + self.output.step_bytes(self.encoder)

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> LatentContext:
        """Encode the past and fill the caches of all frames but the last, once per replan."""
        want = (frames_BTHWC.shape[0], frames_BTHWC.shape[1] - 1)
        assert past_actions_BtA.shape[:2] == want, (past_actions_BtA.shape, frames_BTHWC.shape)
        inputs = self.read(frames_BTHWC)
        features = self.features.normalise(inputs["features"])
        states = self.states.read(proprio, frames_BTHWC)
        rows, scene = self.join_inputs(past_actions_BtA, states[:, :-1]), self.features.select_scene(inputs, -1)
        past = self.remember(features, rows, valid_BT, scene)
        return LatentContext(past, features[:, -1], states[:, -1])

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """Views of goal frames [B, H, W, C], once per episode."""
        return self._add_reach(self.output.make_goal_views(self.encoder, self.features, frames_BHWC))

    def view_features(self, raw_BNF: Tensor) -> Views:
        """Views of frames whose raw features (`read`) are known, as `encode_goal` gives them, but for pixels."""
        return self._add_reach(self.output.make_feature_views(self.encoder, self.features, raw_BNF))

    def imagine(
        self,
        context: LatentContext,
        actions_BSKA: Tensor,
        generator: Noise | None = None,
        keep: Literal["path", "last"] = "path",
    ) -> Views:
        """Futures of all candidates: with a flow one sample each, from noise that they share; else the generator is not
        used."""
        assert actions_BSKA.shape[2] <= self.config.horizon, (actions_BSKA.shape, self.config.horizon)
        path = self.rollout(context.past, context.last_BNF, context.state_BQ, actions_BSKA, generator)
        path = path[:, :, -1:] if keep == "last" else path
        return self._add_reach(self.output.make_views(self.encoder, self.features, path), keep)

    def _add_reach(self, views: dict[str, Lazy], keep: Literal["path", "last"] = "path") -> Views:
        """These views, with the reachability embedding of the pooled one."""
        if (head := self.reach) is not None:
            views = {**views, "reach": lambda: head(result.view("pooled"))}
        result = Views(views, keep)
        return result


def freeze(module: nn.Module) -> None:
    """Disable gradients and set eval mode; the owner must keep eval mode under .train()."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
