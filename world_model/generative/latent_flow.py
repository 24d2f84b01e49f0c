"""Latent flow transformer: the whole next frame is drawn from noise, given past frames and an action.

The layout is that of the conditional diffusion transformer, CDiT (Navigation World Models, Bar et al., arXiv
2412.03572, section 3.2). In each block, noisy tokens x of the next frame attend to one another, then to tokens of past
frames, and pass an MLP. With n a layer norm without weights, every branch has a shift b, a scale s and a gate g that
are linear in a condition c (AdaLN-Zero, arXiv 2212.09748, section 3.2):

    x <- x + g1 SelfAttention((1 + s1) n(x) + b1)
    x <- x + g2 CrossAttention((1 + s2) n(x) + b2; K, V)
    x <- x + g3 MLP((1 + s3) n(x) + b3),                    c = silu(embed(flow time) + embed(action))

Here c modulates x alone, and K and V are linear in a frame's tokens. So they are computed once a plan for observed
frames, once a candidate for a drawn frame, and never again in an Euler step. In the published CDiT, c also modulates
the tokens of past frames, so that K and V differ with action and noise level.

Losses and samples are those of flow matching, with e the expected end of a line (`world_model.nn.flow`). Published CDiT
is a diffusion model with a prediction of the noise. Rotary positions in time and space replace learned ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from einops import rearrange
from torch import Tensor, nn

from world_model.nn.cache import PastCache
from world_model.nn.flow import MOST_STEPS, TIMES, Flow, TimeFeatures
from world_model.nn.layers import MLP, NORM_EPS, Attention, SwiGLU, attend, attend_shared_prefix, init_xavier
from world_model.nn.rotary import Rotary, make_grid_positions, make_rotary
from world_model.nn.stack import BlockStack, KeysValues
from world_model.predictor import Emit, PredictorConfig

EMBEDDING_STD = 0.02  # of the initial weights of the embedded time and action (released CDiT)


@dataclass(frozen=True)
class FlowTransformerConfig:
    """Euler steps of a latent flow transformer, whose sizes are those of dynamics.predictor."""

    steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] = 4
    """Euler steps per sample, in training and planning (planner.flow_steps: other ones in planning)"""
    kind: Literal["transformer"] = "transformer"
    """transformer: all tokens of the next frame together; head: each by itself, given the predictor's output for it"""


@dataclass(frozen=True)
class FrameCondition:
    """What the drawing of B x S next frames depends on.

    inputs_BSA: action, and robot state where there is one. Keys and values of past frames, of every layer: shared
    [B, heads, L, d], and each candidate's own [B, S, heads, l, d]; None: there are none. visible_BSL: bool, whether a
    frame sees a shared token, with 1 in place of B or S where all are alike; None: it sees all. place: rotary table of
    the drawn frames, [N, d] or [S, 1, N, d]. within: that of a frame's tokens among one another, [N, d].
    """

    inputs_BSA: Tensor
    shared: list[KeysValues]
    own: list[KeysValues] | None
    visible_BSL: Tensor | None
    place: Rotary
    within: Rotary


class FlowContext(nn.Module):
    """Frames [..., N, F] -> keys and values in every layer, of each frame by itself.

    It has the place of an `ActionPredictor` in `LatentDynamics`, and its output for a next frame is a `FrameCondition`.
    """

    def __init__(self, feature_dim: int, grid: tuple[int, int], config: PredictorConfig) -> None:
        super().__init__()
        self.config, self.grid, self.heads, self.head_dim = config, grid, config.heads, config.channels_per_head
        self.embed = nn.Linear(feature_dim, config.width)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS, elementwise_affine=False)
        size = 2 * config.heads * self.head_dim
        self.layers = nn.ModuleList(nn.Linear(config.width, size) for _ in range(config.depth))
        init_xavier(self)  # as DiT and CDiT

    @property
    def block_tokens(self) -> int:
        """Tokens of a frame."""
        return self.grid[0] * self.grid[1]

    def make_rotary(self, frames: int, device: torch.device) -> Rotary:
        """Rotary table of the tokens of so many frames, from the first of the window on."""
        return make_rotary(make_grid_positions(frames, *self.grid, device), self.head_dim, self.config.rope)

    def project(self, features: Tensor, places: Rotary) -> list[KeysValues]:
        """Keys and values [..., heads, L, d] in every layer, of features [..., L, F] at L places."""
        x = self.norm(self.embed(features))
        found = []
        for layer in self.layers:
            keys, values = rearrange(layer(x), "... l (two h d) -> two ... h l d", two=2, h=self.heads)
            found.append((places.rotate(keys).to(values.dtype), values))
        return found

    def forward(
        self,
        features_BTNF: Tensor,
        inputs_BTA: Tensor,
        valid_BT: Tensor | None = None,
        scene_BMD: Tensor | None = None,
    ) -> FrameCondition:
        """Teacher forcing: what the drawing of frames 1..T depends on, each with the true frames before it alone."""
        assert scene_BMD is None, "patch tokens need no scene"
        frames, tokens = features_BTNF.shape[1:3]
        table = self.make_rotary(frames + 1, features_BTNF.device)
        shared = self.project(features_BTNF.flatten(1, 2), table.select(0, frames * tokens))
        number = torch.arange(frames, device=features_BTNF.device)
        visible = (number[:, None] >= number.repeat_interleave(tokens))[None]
        if valid_BT is not None:
            visible = visible & valid_BT.repeat_interleave(tokens, 1)[:, None]
        later = table.select(tokens, (frames + 1) * tokens)
        place = later.unflatten((frames, 1, tokens))
        return FrameCondition(inputs_BTA, shared, None, visible, place, table.select(0, tokens))

    def prefill(self, features_BTNF: Tensor, valid_BT: Tensor | None = None) -> PastCache:
        """Keys and values of the T frames of the past, once a replan. valid_BT: False for padding; None: none is."""
        frames, tokens = features_BTNF.shape[1:3]
        table = self.make_rotary(frames, features_BTNF.device)
        keys, values = zip(*self.project(features_BTNF.flatten(1, 2), table), strict=True)
        valid = None if valid_BT is None else valid_BT.repeat_interleave(tokens, 1)
        return PastCache(list(keys), list(values), valid, frames)

    def rollout(self, past: PastCache, last_BNF: Tensor, inputs_BSKA: Tensor, *, emit: Emit | None) -> Tensor:
        """K steps of S candidates, each drawn by `emit` and fed back as keys and values: its values [B, S, K, ...].

        Candidates share the keys and values of the past (`prefill`, the last frame included), and cache their own.
        """
        assert emit is not None, "a condition is no frame: what draws one is needed"
        _, candidates, steps, _ = inputs_BSKA.shape
        tokens, shared = self.block_tokens, list(zip(past.keys, past.values, strict=True))
        visible = None if past.valid_BL is None else past.valid_BL[:, None]
        table = self.make_rotary(past.frames + steps, last_BNF.device)
        within = table.select(0, tokens)
        features, own, path = last_BNF[:, None].expand(-1, candidates, -1, -1), None, []
        for k in range(steps):
            place = table.select((past.frames + k) * tokens, (past.frames + k + 1) * tokens)
            condition = FrameCondition(inputs_BSKA[:, :, k], shared, own, visible, place, within)
            values, features = emit(condition, features, k)
            path.append(values)
            if k < steps - 1:
                own = _append(own, self.project(features, place))
        return torch.stack(path, 2)


def _append(before: list[KeysValues] | None, new: list[KeysValues]) -> list[KeysValues]:
    """Candidates' keys and values with those of one more frame."""
    if before is None:
        return new
    return [
        (torch.cat((old[0], key), 3), torch.cat((old[1], value), 3))
        for old, (key, value) in zip(before, new, strict=True)
    ]


class FlowBlock(nn.Module):
    """A CDiT block: self-attention, cross-attention and MLP, each modulated; at first the identity."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        width, heads, head_dim = config.width, config.heads, config.channels_per_head
        self.heads, self.dropout = heads, config.dropout
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = Attention(width, heads, head_dim)
        self.query = nn.Linear(width, heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, width)
        self.mlp = (MLP if config.feedforward == "gelu" else SwiGLU)(width, round(width * config.mlp_ratio))
        self.modulation = nn.Linear(width, 9 * width)

    def forward(
        self,
        x_BSND: Tensor,
        c_BSD: Tensor,
        within: Rotary,
        place: Rotary,
        shared: KeysValues,
        own: KeysValues | None,
        visible_BSL: Tensor | None,
    ) -> Tensor:
        """Noisy tokens after the block. within: rotary table of a frame's tokens [N, d]; place, shared, own and visible
        as of `FrameCondition`, of this layer."""
        shift1, scale1, gate1, shift2, scale2, gate2, shift3, scale3, gate3 = (
            self.modulation(c_BSD).unsqueeze(-2).chunk(9, -1)
        )
        x = x_BSND
        q, k, v = self.attn.project(self._modulate(x, shift1, scale1).flatten(0, 1), within)
        x = x + gate1 * self._drop(self.attn.merge(attend(q, k, v))).unflatten(0, x.shape[:2])
        query = rearrange(self.query(self._modulate(x, shift2, scale2)), "b s n (h d) -> b s h n d", h=self.heads)
        seen = attend_past(place.rotate(query).to(query.dtype), shared, own, visible_BSL)
        x = x + gate2 * self._drop(self.proj(rearrange(seen, "b s h n d -> b s n (h d)")))
        return x + gate3 * self._drop(self.mlp(self._modulate(x, shift3, scale3)))

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x) * (1 + scale) + shift

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def attend_past(q: Tensor, shared: KeysValues, own: KeysValues | None, visible_BSL: Tensor | None) -> Tensor:
    """Attention [B, S, heads, N, d] of drawn frames' queries to past frames, as of `FrameCondition`. Without own keys
    all queries of an environment go to the shared ones in one call, which copies none."""
    if own is not None:  # of a rollout, where all candidates see the same
        return attend_shared_prefix(q, shared, own, None if visible_BSL is None else visible_BSL[:, 0])
    candidates, tokens = q.shape[1], q.shape[3]
    mask = visible_BSL
    if mask is not None:
        mask = (mask.repeat_interleave(tokens, 1) if mask.shape[1] > 1 else mask)[:, None]
    attended = attend(rearrange(q, "b s h n d -> b h (s n) d"), *shared, mask)
    return rearrange(attended, "b h (s n) d -> b s h n d", s=candidates)


class FlowTransformer(Flow):
    """A flow of all tokens [B, S, N, X] of a frame together, given a `FrameCondition`.

    A new model of a change copies the frame before. frames: of the longest window.
    """

    def __init__(
        self,
        token_dim: int,
        input_dim: int,
        grid: tuple[int, int],
        config: PredictorConfig,
        *,
        steps: int,
        of_change: bool,
        frames: int,
    ) -> None:
        super().__init__(token_dim, steps, of_change)
        self.config, self.frames, width = config, frames, config.width
        self.read_noisy = nn.Linear(token_dim, width)
        self.describe_time = TimeFeatures()
        self.embed_time = nn.Sequential(nn.Linear(TIMES, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_inputs = nn.Linear(input_dim, width)
        self.blocks = BlockStack((FlowBlock(config) for _ in range(config.depth)), config.checkpointing)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, token_dim)
        init_xavier(self)
        for name, weight in self.named_parameters():
            if name in ("embed_time.0.weight", "embed_time.2.weight", "embed_inputs.weight"):
                nn.init.normal_(weight, std=EMBEDDING_STD)
            if name == "out.weight" or name.endswith("modulation.weight"):
                nn.init.zeros_(weight)

    def shape_times(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a frame share their time."""
        return (*shape[:-2], 1, 1)

    def predict_end(self, x_t: Tensor, time: Tensor, *prepared: FrameCondition) -> Tensor:
        """e(x_t, t, condition) at x_t [B, S, N, X], or what broadcasts to it, and times [..., 1, 1]."""
        (condition,) = prepared
        embedded = self.embed_time(self.describe_time(time.squeeze(-1)))
        c_BSD = F.silu(embedded + self.embed_inputs(condition.inputs_BSA))
        x, own = self.read_noisy(x_t.expand(*condition.inputs_BSA.shape[:2], -1, -1)), condition.own
        for layer, block in enumerate(self.blocks):
            past = condition.shared[layer], None if own is None else own[layer], condition.visible_BSL
            x = self.blocks.step(block, x, c_BSD, condition.within, condition.place, *past)
        shift, scale = self.modulation(c_BSD).unsqueeze(-2).chunk(2, -1)
        return self.out(self.norm(x) * (1 + scale) + shift)

    def step_bytes(self, tokens: int) -> int:
        """A block's hidden layer and streams, and its scores."""
        sizes = self.config
        hidden = (sizes.mlp_ratio + 9) * sizes.width + sizes.heads * self.frames * tokens
        return 4 * tokens * round(hidden + 4 * self.token_dim)
