"""Latent dynamics: what a planner talks to.

`LatentDynamics` joins a frozen encoder and an `ActionPredictor` behind observe / encode_goal / imagine. Raw frames and
raw actions outside, normalised inside by buffers. What it predicts is data: pooled embeddings or patch tokens
(`space`), trained to match features or, through a light head, pixels (`target`); the planner sees named views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from world_model.encoder import VideoEncoder
from world_model.nn.cache import PastCache
from world_model.nn.decoder import PixelHead, PixelHeadConfig
from world_model.nn.pools import layer_normed
from world_model.nn.reachability import ReachConfig, ReachHead
from world_model.nn.states import PoseIntegration, ProprioModel, StatePath, StatePredictor
from world_model.nn.views import FrameViews
from world_model.predictor import ActionPredictor, PredictorConfig

Space = Literal["pooled", "tokens"]


@dataclass(frozen=True)
class DynamicsConfig:
    """Shape of a LatentDynamics.

    history: frames seen before planning; horizon: longest imagined path; together no longer than the training window.
    proprio_model: whether the robot's state is an input beside the action, and how it goes on in an imagined path
    (`world_model.nn.states`); proprio_dim: numbers of that state. reach: an embedding whose distances count model steps
    (`world_model.nn.reachability`), a view of its own. scene: whether every imagined frame sees more of the frame
    that the path starts at than its pooled embedding (space=pooled): its patch tokens, or its keypoints.
    """

    space: Space = "pooled"
    """what is predicted: pooled (one token a frame) or tokens (all patches)"""
    target: Literal["features", "pixels"] = "features"
    """what predictions are trained to match: features or pixels"""
    history: int = 3
    """frames seen before planning, model steps"""
    horizon: int = 6
    """longest imagined path, model steps"""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    proprio_model: ProprioModel = "none"
    """robot state as an input: none, integrate (7-D pose actions) or predicted (learned); images alone is none"""
    proprio_dim: int = 0
    reach: ReachConfig = field(default_factory=ReachConfig)
    """an embedding, learned from time differences alone, whose distances count model steps
    (planner.cost.view=reach)"""
    scene: bool = False
    """whether imagined frames see the patches (or keypoints) of the frame that the path starts at, too: walls,
    obstacles, contacts"""

    def __post_init__(self) -> None:
        if self.scene and self.space != "pooled":
            raise ValueError("dynamics.scene=true adds the scene to one token a frame: it needs dynamics.space=pooled")
        if (self.proprio_model == "none") != (self.proprio_dim == 0):
            raise ValueError(
                f"dynamics.proprio_model={self.proprio_model} and dynamics.proprio_dim={self.proprio_dim}: a state "
                "needs both, and none neither"
            )


@dataclass(frozen=True)
class ActionSpec:
    """Actions of the environment as a model needs them: bounds in environment units and how many make a model step."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    frame_skip: int = 1

    @property
    def block_low(self) -> tuple[float, ...]:
        return self.low * self.frame_skip

    @property
    def block_high(self) -> tuple[float, ...]:
        return self.high * self.frame_skip

    def block_mid_half(self) -> tuple[Tensor, Tensor]:
        """Middle and half range of every number of an action block, by which models normalise."""
        low, high = torch.tensor(self.block_low), torch.tensor(self.block_high)
        return (high + low) / 2, (high - low) / 2


@dataclass(frozen=True)
class ModelSpec:
    """What `planners.protocol.DynamicsSpec` asks for; see there."""

    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    frame_hw: tuple[int, int]
    frame_skip: int
    history: int
    max_horizon: int
    views: tuple[str, ...]
    device: torch.device
    step_bytes: int
    proprio: ProprioModel = "none"

    @property
    def action_dim(self) -> int:
        return len(self.action_low) // self.frame_skip

    @property
    def block_dim(self) -> int:
        return len(self.action_low)


@dataclass
class LatentContext:
    """The past: cached keys and values of all frames but the last, the last frame's features [B, N, F], and the
    robot's normalised state [B, Q] there, of a model that knows it."""

    past: PastCache
    last_BNF: Tensor
    state_BQ: Tensor | None = None

    def select(self, rows: slice | Tensor) -> LatentContext:
        """Those environments only."""
        state = None if self.state_BQ is None else self.state_BQ[rows]
        return LatentContext(self.past.select(rows), self.last_BNF[rows], state)


class LatentDynamics(nn.Module):
    """A frozen encoder with an action-conditioned predictor of its features (`planners.protocol.Dynamics`)."""

    action_mid: Tensor
    action_half: Tensor
    feature_mean: Tensor
    feature_scale: Tensor
    scene_mean: Tensor
    scene_scale: Tensor

    def __init__(self, config: DynamicsConfig, encoder: VideoEncoder, actions: ActionSpec) -> None:
        super().__init__()
        self.config, self.actions, self.encoder = config, actions, encoder
        pooled = config.space == "pooled"
        if pooled and encoder.pool is None:
            raise ValueError(
                "dynamics.space=pooled needs an encoder with a pool head; pretrain with objective=future "
                "or set dynamics.space=tokens"
            )
        self.grid = (1, 1) if pooled else encoder.config.grid
        feature_dim = encoder.config.pooled_dim if pooled else encoder.config.width
        block_dim = len(actions.low) * actions.frame_skip
        scene = encoder.scene_shape if config.scene else None
        self.predictor = ActionPredictor(
            feature_dim, self.grid, block_dim, config.predictor, state_dim=config.proprio_dim, scene=scene
        )
        self.pixel_head: PixelHead | None = None
        if config.target == "pixels":
            head = PixelHeadConfig(encoder.config.pool_channels, encoder.config.pool_hidden)
            self.pixel_head = PixelHead(feature_dim, encoder.config, pooled, head)
        self.reach: ReachHead | None = None
        if config.reach.dim:
            pooled_dim = encoder.config.pooled_dim or encoder.config.width
            self.reach = ReachHead(pooled_dim, config.reach.dim, config.reach.hidden)
            freeze(self.reach)  # it has a training of its own
        mid, half = actions.block_mid_half()
        self.states: StatePath | None = None
        if config.proprio_model == "integrate":
            self.states = PoseIntegration(config.proprio_dim, len(actions.low))
        elif config.proprio_model == "predicted":
            self.states = StatePredictor(config.proprio_dim, mid, half)
        self.register_buffer("action_mid", mid)
        self.register_buffer("action_half", half)
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(()))
        if scene is not None and encoder.scene_space == "points":
            self.register_buffer("scene_mean", torch.zeros(scene[0]))
            self.register_buffer("scene_scale", torch.ones(scene[0]))
        freeze(self.encoder)

    def train(self, mode: bool = True) -> LatentDynamics:
        """Training mode for all but the encoder, which stays frozen and in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    # -- features ------------------------------------------------------------------------------------------------

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """Raw features [B, T, N, F] of frames in 0..255: the pooled embedding (N = 1), or layer-normed tokens."""
        return self.inputs(frames_BTHWC)["features"]

    def inputs(self, frames_BTHWC: Tensor) -> dict[str, Tensor]:
        """All that the predictor takes of frames in 0..255: raw `features` as of `encode`, and where it sees the scene
        [B, T, M, D] the frames' layer-normed patch tokens, or raw keypoints as one token."""
        encoder = self.encoder
        if self.config.space == "tokens":
            return {"features": layer_normed(encoder.encode_frames(frames_BTHWC))}
        if not self.config.scene:
            return {"features": encoder.embed_frames(frames_BTHWC).unsqueeze(2)}
        if encoder.scene_space == "points":
            assert encoder.pool is not None
            points = encoder.pool_inputs(frames_BTHWC)
            return {"features": encoder.pool.out(points).unsqueeze(2), "scene": points.unsqueeze(2)}
        tokens = encoder.encode_frames(frames_BTHWC)
        embedded = encoder.embed_frames(frames_BTHWC, tokens)
        return {"features": embedded.unsqueeze(2), "scene": layer_normed(tokens)}

    def normalise_features(self, features: Tensor) -> Tensor:
        """Raw features -> the predictor's scale: centred, one common scale, so that distances keep their order."""
        return (features - self.feature_mean) / self.feature_scale

    def normalise_scene(self, scene: Tensor) -> Tensor:
        """What `inputs` gives of the scene -> the predictor's scale: every keypoint number its own; tokens have one."""
        return scene if self.encoder.scene_space == "tokens" else (scene - self.scene_mean) / self.scene_scale

    def normalise_actions(self, actions: Tensor) -> Tensor:
        """Actions in environment units -> [-1, 1] at the bounds."""
        return (actions - self.action_mid) / self.action_half

    def rows(self, actions_TA: Tensor, states_TQ: Tensor | None) -> Tensor:
        """What happens in each frame, as the predictor takes it: normalised actions [..., T, A] from those in
        environment units, beside normalised states [..., T, Q] where the model knows them."""
        actions = self.normalise_actions(actions_TA)
        return actions if states_TQ is None else torch.cat((actions, states_TQ), -1)

    def rollout(self, past: PastCache, last_BNF: Tensor, state_BQ: Tensor | None, actions_BSKA: Tensor) -> Tensor:
        """Normalised features [B, S, K, N, F] after candidates' action blocks in environment units."""
        path = None
        if self.states is not None:
            assert state_BQ is not None, "this model needs the robot's state"
            path = self.states(state_BQ, actions_BSKA)
        return self.predictor.rollout(past, last_BNF, self.rows(actions_BSKA, path))

    def set_feature_statistics(self, features_FNF: Tensor) -> None:
        """Mean and common standard deviation of raw features [frames, N, F] of the train split."""
        flat = features_FNF.flatten(0, 1)
        self.feature_mean.copy_(flat.mean(0))
        self.feature_scale.copy_((flat - flat.mean(0)).square().mean().sqrt().clamp_min(1e-6))

    def set_scene_statistics(self, points_FMD: Tensor) -> None:
        """Mean and standard deviation of every number of keypoints [frames, M, D] of the train split."""
        flat = points_FMD.flatten(0, 1)
        self.scene_mean.copy_(flat.mean(0))
        self.scene_scale.copy_(flat.std(0).clamp_min(1e-6))

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    @property
    def spec(self) -> ModelSpec:
        """The facts a planner needs."""
        views = (
            ("pixels", "pooled")
            if self.pixel_head is not None
            else (("pooled",) if self.config.space == "pooled" else ("tokens", "pooled"))
        )
        views = views if self.reach is None else (*views, "reach")
        tokens = self.predictor.block_tokens
        per_step = 4 * tokens * self.config.predictor.width * (4 + 2 * self.config.predictor.depth)
        if self.pixel_head is not None:
            per_step += 16 * 3 * math.prod(self.encoder.config.image_px)
        return ModelSpec(
            self.actions.block_low,
            self.actions.block_high,
            self.encoder.config.frame_hw,
            self.actions.frame_skip,
            self.config.history,
            self.config.horizon,
            views,
            self.action_mid.device,
            per_step,
            self.config.proprio_model,
        )

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> LatentContext:
        """Encode the past once a replan and fill the caches of all frames but the last."""
        assert past_actions_BtA.shape[1] == frames_BTHWC.shape[1] - 1, (
            past_actions_BtA.shape,
            frames_BTHWC.shape,
        )
        seen = self.inputs(frames_BTHWC)
        features = self.normalise_features(seen["features"])
        states = self._states(proprio)
        before = None if states is None else states[:, :-1]
        scene = self.normalise_scene(seen["scene"][:, -1]) if self.config.scene else None
        past = self.predictor.prefill(features[:, :-1], self.rows(past_actions_BtA, before), valid_BT[:, :-1], scene)
        return LatentContext(past, features[:, -1], None if states is None else states[:, -1])

    def _states(self, proprio: Tensor | None) -> Tensor | None:
        if self.states is None:
            return None
        if proprio is None:
            raise ValueError(
                f"this model was trained with the robot's state (proprio_model={self.config.proprio_model}): give it "
                "beside the frames"
            )
        return self.states.normalise(proprio)

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> FrameViews:
        """Views of goal images [B, H, W, C], once an episode."""
        if self.pixel_head is not None:
            return self._pixel_views(frames_BHWC.float())
        features = self.normalise_features(self.encode(frames_BHWC[:, None]))[:, 0]
        return FrameViews(self._feature_views(features))

    def as_goal(self, imagined: FrameViews, step: int) -> FrameViews:
        """Step `step` of an imagined path of one candidate, as a goal."""
        return FrameViews({name: imagined.view(name)[:, 0, step] for name in imagined.views})

    def imagine(
        self,
        context: LatentContext,
        actions_BSKA: Tensor,
        generator: Any = None,
        keep: Literal["path", "last"] = "path",
    ) -> FrameViews:
        """Futures of all candidates. Deterministic: the generator is not used."""
        assert actions_BSKA.shape[2] <= self.config.horizon, (actions_BSKA.shape, self.config.horizon)
        path = self.rollout(context.past, context.last_BNF, context.state_BQ, actions_BSKA)
        if keep == "last":
            path = path[:, :, -1:]
        if self.pixel_head is not None:
            return self._pixel_views(self._to_bytes(self.pixel_head(path)), keep)
        return FrameViews(self._feature_views(path), keep)

    def _feature_views(self, features: Tensor) -> dict[str, Tensor | Callable[[], Tensor]]:
        """Views of normalised features [..., N, F]."""
        views = self._pooled_views(partial(self.pooled_view, features))
        return views if self.config.space == "pooled" else {"tokens": features, **views}

    def _pooled_views(self, pooled: Callable[[], Tensor]) -> dict[str, Tensor | Callable[[], Tensor]]:
        """The view of one embedding a frame, and what is made of it."""
        head = self.reach
        return {"pooled": pooled} if head is None else {"pooled": pooled, "reach": lambda: head(pooled())}

    def pooled_view(self, features: Tensor) -> Tensor:
        """One embedding [..., D] of normalised features [..., N, F]: themselves, or the encoder's of patch tokens."""
        if self.config.space == "pooled":
            return features.squeeze(-2)
        tokens = features * self.feature_scale + self.feature_mean
        return self.encoder.pooled(tokens.flatten(0, -3).unsqueeze(0))[0].unflatten(0, tokens.shape[:-2])

    def _pixel_views(self, frames: Tensor, keep: Literal["path", "last"] = "path") -> FrameViews:
        """Views of (predicted) frames in 0..255: themselves, and the frozen encoder's embedding of them."""
        return FrameViews({"pixels": frames, **self._pooled_views(partial(self._embed_frames, frames))}, keep)

    def _to_bytes(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [..., H, W, C] -> 0..255, clamped."""
        return (pixels * self.encoder.pixel_std + self.encoder.pixel_mean).clamp(0, 255)

    def _embed_frames(self, frames: Tensor) -> Tensor:
        """Frozen encoder's pooled embedding [..., D] of frames [..., H, W, C] in 0..255."""
        flat = frames.flatten(0, -4).unsqueeze(0)
        return self.encoder.embed_frames(flat)[0].unflatten(0, frames.shape[:-3])


def freeze(module: nn.Module) -> None:
    """No gradients and eval mode. The owner keeps it so under .train()."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
