"""The predictor of the next frame from past frames and actions, and the sizes that all predictors share.

`ActionPredictor` has V-JEPA 2-AC's layout: per frame an action token and the frame's tokens, attention block-causal
over frames (arXiv 2506.09985, section 3). A frame has one token (a pooled embedding) or many; without actions
(action_dim = 0) it is the future predictor of stage 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from world_model.nn.cache import PastCache
from world_model.nn.layers import NORM_EPS, ActionMLP, BlockConfig, Checkpointing, Feedforward
from world_model.nn.rotary import Rope, Rotary, make_grid_positions, make_rotary
from world_model.nn.stack import Blocks, KeysValues, init_transformer

Outputs = Literal["change", "features", "normed", "hidden"]
# (output of a step for B x S frames, features before it, number of the step) -> values of the path, features fed back
Emit = Callable[[Any, Tensor, int], tuple[Tensor, Tensor]]

SCENE_STD = 0.02  # of the learned embeddings of a scene's positions, at the start


@dataclass(frozen=True)
class PredictorConfig:
    """Sizes and variants of a predictor's transformer (`world_model.nn.layers`)."""

    width: Annotated[int, Ge(2)] = 96
    """width of a token"""
    depth: Annotated[int, Ge(1)] = 2
    """transformer blocks"""
    heads: Annotated[int, Ge(1)] = 4
    """attention heads per block"""
    mlp_ratio: Annotated[float, Gt(0)] = 4.0
    """width of a block's hidden layer, as a multiple of width"""
    rope: Rope = "interleaved"
    """rotary position layout: interleaved (a true rotation) or tiled (released V-JEPA 2 weights)"""
    feedforward: Feedforward = "gelu"
    """hidden layer of a block: gelu or swiglu"""
    checkpointing: Checkpointing = "none"
    """activations kept for the backward pass: none (all), selective (products) or full (inputs alone)"""
    conditioning: Literal["tokens", "adaln", "adaln_lewm"] = "tokens"
    """input of actions and states: tokens of their frame (V-JEPA 2-AC), adaln (modulation of every block), or
    adaln_lewm (the same with LeWorldModel's action encoder, and its norms inside attention and MLP)"""
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """dropout of a block's branches in training (LeWM: 0.1); with adaln_lewm also inside attention and MLP"""
    head_dim: Annotated[int, Ge(2)] | None = None
    """channels of an attention head, an even number (LeWM: 64); null: width / heads"""

    def __post_init__(self) -> None:
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"predictor: head_dim={self.head_dim} is odd: give an even number of channels per head")
        if self.head_dim is None and (self.width % self.heads or self.width // self.heads % 2):
            raise ValueError(
                f"predictor: heads={self.heads} does not divide width={self.width} into an even number of channels per "
                "head: give another number, or head_dim="
            )

    @property
    def channels_per_head(self) -> int:
        """Channels of an attention head."""
        return self.head_dim or self.width // self.heads

    def make_blocks(self, condition_dim: int = 0) -> Blocks:
        """The transformer of these sizes."""
        sizes = self.width, self.heads, self.mlp_ratio, self.feedforward, condition_dim, self.checkpointing
        inner_norms = self.conditioning == "adaln_lewm" and condition_dim > 0
        block = BlockConfig(*sizes, dropout=self.dropout, head_dim=self.channels_per_head, inner_norms=inner_norms)
        return Blocks(self.depth, block)


class ActionPredictor(nn.Module):
    """Features and inputs of frames 0..t -> features of frames 1..t+1, block-causal over frames.

    Inputs of a frame: the action that leaves it, then, if the model has them, the robot's state and the camera's
    extrinsics [..., action_dim + state_dim + extrinsics_dim]. Each has a linear map of its own (or an `ActionMLP`), and
    enters as a token of its frame, in this order, or all together as the condition that modulates the frame's tokens.
    outputs: the change of the features, the next features themselves, or these layer-normed, without parameters, before
    they enter a loss or are fed back (V-JEPA 2-AC); or hidden, the normed residual stream, for a head outside.
    scene: size and grid of the tokens of one frame that all frames attend to, first in the sequence; None: none. They
    hold walls and obstacles, which one embedding per frame does not.
    """

    def __init__(
        self,
        feature_dim: int,
        grid: tuple[int, int],
        action_dim: int,
        config: PredictorConfig,
        outputs: Outputs = "change",
        state_dim: int = 0,
        extrinsics_dim: int = 0,
        scene: tuple[int, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.grid, self.heads, self.width, self.outputs = grid, config.heads, config.width, outputs
        self.rope, self.action_dim, self.head_dim = config.rope, action_dim, config.channels_per_head
        sizes = {"action": action_dim, "state": state_dim, "extrinsics": extrinsics_dim}
        self.input_sizes = {name: size for name, size in sizes.items() if size}
        adaln = config.conditioning != "tokens" and bool(self.input_sizes)
        self.num_conditions = 0 if adaln else len(self.input_sizes)
        self.predictor_embed = nn.Linear(feature_dim, config.width)
        for name, size in self.input_sizes.items():
            encoder = ActionMLP if config.conditioning == "adaln_lewm" else nn.Linear
            self.add_module(f"{name}_encoder", encoder(size, config.width))
        self.predictor_blocks = config.make_blocks(config.width if adaln else 0)
        self.predictor_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        if outputs != "hidden":
            self.predictor_proj = nn.Linear(config.width, feature_dim)
        self.scene_grid = (0, 0) if scene is None else scene[1]
        if scene is not None:
            self.scene_encoder = nn.Linear(scene[0], config.width)
        init_transformer(self, self.predictor_blocks)
        if scene is not None:  # a frame's single token needs them to distinguish positions
            self.scene_place = nn.Parameter(SCENE_STD * torch.randn(self.scene_tokens, config.width))

    @property
    def scene_tokens(self) -> int:
        """Patch tokens before the first frame."""
        return self.scene_grid[0] * self.scene_grid[1]

    @property
    def frame_tokens(self) -> int:
        """Feature tokens of one frame."""
        return self.grid[0] * self.grid[1]

    @property
    def block_tokens(self) -> int:
        """Tokens of one frame in the sequence: those of its conditions, and its feature tokens."""
        return self.num_conditions + self.frame_tokens

    def make_rotary(self, frames: int, device: torch.device, scene_at: int = 0) -> Rotary:
        """Rotary table of the scene, at the time of frame `scene_at`, and of `frames` frames. A conditioning token has
        a position in time alone, as in V-JEPA 2-AC."""
        positions = make_grid_positions(frames, *self.grid, device).reshape(frames, self.frame_tokens, 3)
        if self.num_conditions:
            times = positions[:, :1] * torch.tensor([1, 0, 0], device=device)
            positions = torch.cat((times.expand(-1, self.num_conditions, -1), positions), 1)
        scene = make_grid_positions(1, *self.scene_grid, device) + torch.tensor([scene_at, 0, 0], device=device)
        return make_rotary(torch.cat((scene, positions.flatten(0, 1))), self.head_dim, self.rope)

    def embed(self, features: Tensor, inputs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Features [..., T, N, F] and inputs [..., T, A] -> sequence [..., T * block_tokens, width], and the condition
        of every token, if inputs modulate."""
        x = self.predictor_embed(features)
        if not self.input_sizes:
            return x.flatten(-3, -2), None
        sizes = list(self.input_sizes.values())
        assert inputs is not None and inputs.shape[-1] == sum(sizes), (self.input_sizes, inputs)
        parts = zip(self.input_sizes, inputs.split(sizes, -1), strict=True)
        embedded = [self.get_submodule(f"{name}_encoder")(part) for name, part in parts]
        if self.num_conditions:
            return torch.cat((torch.stack(embedded, -2), x), -2).flatten(-3, -2), None
        condition = torch.stack(embedded).sum(0).repeat_interleave(self.frame_tokens, -2)
        return x.flatten(-3, -2), condition

    def embed_with_scene(
        self, features_BTNF: Tensor, inputs_BTA: Tensor | None, scene_BMD: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """`embed`, with the scene's tokens [B, M, D] first in the sequence."""
        x, condition = self.embed(features_BTNF, inputs_BTA)
        assert (scene_BMD is not None) == bool(self.scene_tokens), "only a predictor with a scene takes one"
        if scene_BMD is None:
            return x, condition
        x = torch.cat(((self.scene_encoder(scene_BMD) + self.scene_place).to(x.dtype), x), 1)
        return x, None if condition is None else F.pad(condition, (0, 0, self.scene_tokens, 0))

    def decode(self, x: Tensor, features: Tensor) -> Tensor:
        """Sequence [..., T * block_tokens, width] -> next frames' features [..., T, N, F]."""
        hidden = self.predictor_norm(x.unflatten(-2, (-1, self.block_tokens))[..., self.num_conditions :, :])
        if self.outputs == "hidden":
            return hidden
        output = self.predictor_proj(hidden)
        if self.outputs == "change":
            return features + output
        return F.layer_norm(output, output.shape[-1:]) if self.outputs == "normed" else output

    def make_causal_mask(self, frames: int, valid_BT: Tensor | None, device: torch.device) -> Tensor:
        """Boolean [B or 1, 1, L, L]: a token attends to the scene and to valid tokens of its and earlier frames; the
        scene attends to itself."""
        frame = torch.arange(frames, device=device).repeat_interleave(self.block_tokens)
        frame = F.pad(frame, (self.scene_tokens, 0), value=-1)
        mask = (frame[:, None] >= frame[None, :])[None, None]
        if valid_BT is None:
            return mask
        valid = self._expand_valid(valid_BT)[:, None, None, :]
        same_frame = (frame[:, None] == frame[None, :])[None, None]  # padding attends to itself: no row is empty
        return mask & (valid | same_frame)

    def _expand_valid(self, valid_BT: Tensor) -> Tensor:
        """Valid frames -> valid tokens [B, L]; those of the scene always are."""
        return F.pad(valid_BT.repeat_interleave(self.block_tokens, 1), (self.scene_tokens, 0), value=True)

    def forward(
        self,
        features_BTNF: Tensor,
        inputs_BTA: Tensor | None = None,
        valid_BT: Tensor | None = None,
        scene_BMD: Tensor | None = None,
    ) -> Tensor:
        """Teacher forcing: predictions [B, T, N, F] of frames 1..T, each from the true frames before it and from the
        scene of frame 0."""
        x, condition = self.embed_with_scene(features_BTNF, inputs_BTA, scene_BMD)
        frames = features_BTNF.shape[1]
        mask = self.make_causal_mask(frames, valid_BT, x.device) if frames > 1 or self.scene_tokens else None
        x = self.predictor_blocks(x, self.make_rotary(frames, x.device), mask, condition)
        return self.decode(x[:, self.scene_tokens :], features_BTNF)

    def prefill(
        self,
        features_BTNF: Tensor,
        inputs_BTA: Tensor | None,
        valid_BT: Tensor | None = None,
        scene_BMD: Tensor | None = None,
    ) -> PastCache:
        """Keys and values of T >= 0 past frames and of the scene of the frame after them, once per replan.

        valid_BT: False for frames that are padding; None: none is.
        """
        frames = features_BTNF.shape[1]
        cache = PastCache([], [], None if valid_BT is None else self._expand_valid(valid_BT), frames)
        x, condition = self.embed_with_scene(features_BTNF, inputs_BTA, scene_BMD)
        rotary, mask = self.make_rotary(frames, x.device, frames), self.make_causal_mask(frames, valid_BT, x.device)
        for block in self.predictor_blocks:
            modulation = block.modulate(condition)
            q, k, v = block.project(x, rotary, modulation)
            cache.keys.append(k)
            cache.values.append(v)
            x = block.add(x, block.attend(q, k, v, mask), modulation)
        return cache

    def rollout(
        self,
        past: PastCache,
        last_BNF: Tensor,
        inputs_BSKA: Tensor | None,
        steps: int = 0,
        emit: Emit | None = None,
    ) -> Tensor:
        """Imagine K steps for S candidates: features [B, S, K, N, F], each step fed back as the next input; with `emit`
        its values and features.

        Candidates share the keys and values of the past, and cache their own. A new frame attends to every cached
        token, so no mask is needed. The first block holds the last observed frame and the candidate's first action,
        since within a block the frame's tokens attend to the action.
        """
        num_candidates = inputs_BSKA.shape[1] if inputs_BSKA is not None else 1
        steps = inputs_BSKA.shape[2] if inputs_BSKA is not None else steps
        features = last_BNF[:, None].expand(-1, num_candidates, -1, -1)
        table = self.make_rotary(past.frames + steps, last_BNF.device)
        nothing = last_BNF.new_empty(len(last_BNF), num_candidates, self.heads, 0, self.head_dim)
        own: list[KeysValues] = [(nothing, nothing)] * len(self.predictor_blocks)
        path = []
        for k in range(steps):
            start = self.scene_tokens + (past.frames + k) * self.block_tokens
            inputs = inputs_BSKA[:, :, k : k + 1] if inputs_BSKA is not None else None
            x, condition = self.embed(features.unsqueeze(2), inputs)
            x = self._step(x, condition, table.select(start, start + self.block_tokens), past, own)
            output = self.decode(x, features.unsqueeze(2)).squeeze(2)
            values, features = (output, output) if emit is None else emit(output, features, k)
            path.append(values)
        return torch.stack(path, 2)

    def _step(
        self, x_BSnD: Tensor, condition_BSnD: Tensor | None, rotary: Rotary, past: PastCache, own: list[KeysValues]
    ) -> Tensor:
        """One frame block of every candidate through all layers, appending its keys and values to `own`."""
        x, condition = x_BSnD.flatten(0, 1), None if condition_BSnD is None else condition_BSnD.flatten(0, 1)
        for layer, block in enumerate(self.predictor_blocks):
            shared = past.keys[layer], past.values[layer]
            x, own[layer] = self.predictor_blocks.advance(
                block, x, condition, rotary, shared, own[layer], past.valid_BL
            )
        return x.unflatten(0, x_BSnD.shape[:2])
