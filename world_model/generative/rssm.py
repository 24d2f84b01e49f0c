"""The recurrent state-space model of DreamerV3 (Hafner et al., arXiv 2301.04104), its world model alone.

A state has a deterministic part h, which a block-diagonal GRU updates, and a stochastic part z of categorical latents:

    sequence model   h[t] = f(h[t-1], z[t-1], a[t-1])
    encoder          z[t] ~ q(z[t] | h[t], x[t])
    dynamics         z^[t] ~ p(z^[t] | h[t])
    decoder          x^[t] = g(h[t], z[t])

    loss = mean over t of  sum (x^[t] - x[t] / 255)^2
           + 1.0 max(1, KL(sg(q) || p)) + 0.1 max(1, KL(q || sg(p)))        (equations 4 and 5)
           + goal head (ours): sum (h~[t] - sg(h[t]))^2 + KL(sg(q) || q~(. | sg(e(x[t]))))

Reward and continuation heads, actor and critic are left out: goals are images here. Sizes, norms and gates are those of
the authors' code at github.com/danijar/dreamerv3 (MIT licence). A goal image has no state, so a plan compares one of

    pixels   decoded frames with the goal image
    pooled   class probabilities of imagined states with those of the goal image, held still for `goal_steps` steps
    state    imagined states (h and class probabilities) with the one that the goal head predicts from the image
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from planners.protocol import Keep, Lazy, Noise, Rows, Views
from world_model.actions import ActionSpec
from world_model.draws import make_generator
from world_model.generative.rssm_layers import make_layer, make_linear
from world_model.generative.rssm_networks import MULTIPLES, Core, GoalHead, ImageDecoder, ImageEncoder, RssmSizes
from world_model.generative.world_model import Batch, WorldModel, WorldModelConfig

HALVINGS = len(MULTIPLES)
LEAST_SIDE, MOST_SIDE = 3, 16  # of the smallest maps
IMAGE_STREAM = 1  # of a planner's draws
LEAST = 1e-30  # probability under a logarithm: without a share of the uniform distribution, classes reach 0


@dataclass(frozen=True)
class RssmConfig(RssmSizes, WorldModelConfig):
    """Sizes of the published preset `size1m`, for two cores; `objective=dreamerv3_12m` has those of `size12m`."""

    family: Literal["rssm"] = "rssm"
    """DreamerV3's recurrent state-space model: pixels and actions -> categorical latents -> pixels"""
    frames: Annotated[int, Ge(2)] = 16
    """frames of a clip (> context_frames); the longest plan is frames - context_frames model steps"""
    frame_gap: Annotated[int, Ge(0)] = 0
    """environment steps between the frames of a clip; 0: the task's model step"""
    context_frames: Annotated[int, Ge(1)] = 3
    """frames that a plan has seen"""
    uniform: Annotated[float, Interval(ge=0, lt=1)] = 0.01
    """share of the uniform distribution in every categorical"""
    free_nats: Annotated[float, Ge(0)] = 1.0
    """divergence below which neither KL term has a gradient, nats"""
    dynamics_kl: Annotated[float, Gt(0)] = 1.0
    """weight of the KL term that trains the dynamics"""
    representation_kl: Annotated[float, Ge(0)] = 0.1
    """weight of the KL term that trains the encoder"""
    goal_steps: Annotated[int, Ge(1)] = 4
    """steps of no action that the goal image is held still for, to find its latents"""
    draws: Annotated[int, Ge(0)] = 4
    """imagined paths per candidate, over which the cost is averaged; 0: one, of the likeliest classes"""

    def __post_init__(self) -> None:
        if self.frames <= self.context_frames:
            raise ValueError(
                f"objective.frames={self.frames} leaves nothing to predict after "
                f"objective.context_frames={self.context_frames}"
            )
        super().__post_init__()

    def make_world_model(self, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> Rssm:
        """The model for frames of this size."""
        return Rssm(self, image_px, actions, seed)


@dataclass
class RssmContext:
    """State of B environments after their past: deter [B, h], stoch [B, stoch * classes]."""

    deter: Tensor
    stoch: Tensor

    def select(self, rows: Rows) -> RssmContext:
        """The context of those environments only."""
        return RssmContext(self.deter[rows], self.stoch[rows])


class Rssm(WorldModel):
    """DreamerV3's world model."""

    config: RssmConfig

    def __init__(self, config: RssmConfig, image_px: tuple[int, int], actions: ActionSpec, seed: int = 0) -> None:
        super().__init__(config, image_px, actions)
        sides = [side // 2**HALVINGS for side in image_px]
        if any(side % 2**HALVINGS for side in image_px) or not all(LEAST_SIDE <= s <= MOST_SIDE for s in sides):
            raise ValueError(
                f"encoder.image_px={list(image_px)}: the RSSM halves frames {HALVINGS} times to {LEAST_SIDE} to "
                f"{MOST_SIDE} pixels a side; give multiples of {2**HALVINGS} from {LEAST_SIDE * 2**HALVINGS} to "
                f"{MOST_SIDE * 2**HALVINGS}"
            )
        self.seed, hidden, size = seed, config.hidden, config.stoch * config.classes
        last = sides[0] * sides[1] * config.depth * MULTIPLES[-1]
        if config.depth * MULTIPLES[-1] % config.blocks:
            raise ValueError(
                f"objective.depth={config.depth}: the decoder's {config.depth * MULTIPLES[-1]} channels do not divide "
                f"into objective.blocks={config.blocks}"
            )
        self.encoder = ImageEncoder(config.depth)
        self.decoder = ImageDecoder(config, (sides[0], sides[1]))
        self.core = Core(config, actions.block_dim)
        widths = (config.deter, *[hidden] * config.prior_layers)
        layers = [make_layer(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.prior = nn.Sequential(*layers, make_linear(hidden, size))
        self.posterior = nn.Sequential(make_layer(config.deter + last, hidden), make_linear(hidden, size))
        self.goal_head = GoalHead(config, last) if config.goal_hidden else None
        self.views = ("pixels", "pooled", *(["state"] if config.goal_hidden else []))

    # -- states --------------------------------------------------------------------------------------------------

    def start(self, rows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The empty state."""
        size, device = self.config.stoch * self.config.classes, self.action_mid.device
        return torch.zeros(*rows, self.config.deter, device=device), torch.zeros(*rows, size, device=device)

    def get_probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities [..., stoch, classes] of logits [..., stoch * classes], mixed with the uniform."""
        share, classes = self.config.uniform, self.config.classes
        softmax = logits.float().unflatten(-1, (-1, classes)).softmax(-1)
        return (1 - share) * softmax + share / classes

    def draw(self, probabilities: Tensor, noise: Tensor | None) -> Tensor:
        """One-hot latents [..., stoch * classes] with straight-through gradient. noise: Gumbel noise of the same shape
        as the probabilities; None: the likeliest classes."""
        scores = probabilities.log() if noise is None else probabilities.log() + noise
        chosen = F.one_hot(scores.argmax(-1), self.config.classes).to(probabilities)
        return (chosen + probabilities - probabilities.detach()).flatten(-2)

    def watch(
        self, features_BTF: Tensor, actions_BTA: Tensor, valid_BT: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States [B, T, ...] of frames that are seen: h, z and the encoder's logits. actions_BTA: the one before each
        frame. valid_BT: frames before which an episode begins leave the empty state; None: all are valid. noise: Gumbel
        noise [B, T, stoch, classes]; None: the likeliest classes."""
        deter, stoch = self.start((len(features_BTF),))
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(features_BTF.shape[1]):
            deter = self.core(deter, stoch, actions_BTA[:, t])
            logits = self.posterior(torch.cat((deter, features_BTF[:, t]), -1))
            stoch = self.draw(self.get_probabilities(logits), None if noise is None else noise[:, t])
            if valid_BT is not None:
                deter, stoch = deter * valid_BT[:, t, None], stoch * valid_BT[:, t, None]
            steps.append((deter, stoch, logits))
        deters, stochs, all_logits = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        return deters, stochs, all_logits

    def encode(self, frames_BTHWC: Tensor) -> Tensor:
        """Image features [B, T, F]."""
        return self.encoder(frames_BTHWC.flatten(0, 1)).unflatten(0, frames_BTHWC.shape[:2])

    # -- training ------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Equations 4 and 5; divergences are sums over latents, errors sums over a frame, both means over frames. The
        goal head learns from them without a gradient into the rest."""
        frames, config = batch["pixels"], self.config
        actions = F.pad(self.normalise_actions(batch["action"]), (0, 0, 1, 0))  # none before the first frame
        waits = torch.empty(*frames.shape[:2], config.stoch, config.classes)
        waits.exponential_(generator=make_generator(self.seed, step))  # on the CPU: the same for every device
        gumbel = -waits.clamp_min(1e-30).log().to(frames.device)
        features = self.encode(frames)
        deter, stoch, logits = self.watch(features, actions, None, gumbel)
        painted = self.decoder(deter.flatten(0, 1), stoch.flatten(0, 1)).unflatten(0, frames.shape[:2])
        error = (painted.float() - frames.float() / 255).square().sum((-3, -2, -1)).mean()
        posterior, prior = self.get_probabilities(logits), self.get_probabilities(self.prior(deter))
        dynamics = measure_kl(posterior.detach(), prior).clamp_min(config.free_nats).mean()
        representation = measure_kl(posterior, prior.detach()).clamp_min(config.free_nats).mean()
        terms = {
            "prediction": error,
            "dynamics_kl": config.dynamics_kl * dynamics,
            "representation_kl": config.representation_kl * representation,
        }
        if self.goal_head is not None:
            terms["goal_state"] = self.measure_goal_error(features.detach(), deter.detach(), posterior.detach())
        return torch.stack(list(terms.values())).sum(), terms

    def measure_goal_error(self, features_BTF: Tensor, deter_BTD: Tensor, posterior: Tensor) -> Tensor:
        """Error of the goal head: the squared error of h, summed, and the KL of the posterior's class probabilities
        [B, T, stoch, classes] from the predicted ones; mean over the frames after the context, which plans imagine."""
        assert self.goal_head is not None
        deter, logits = self.goal_head(features_BTF)
        error = (deter.float() - deter_BTD).square().sum(-1) + measure_kl(posterior, self.get_probabilities(logits))
        return error[:, self.config.context_frames :].mean()

    # -- planners.protocol.Dynamics ------------------------------------------------------------------------------

    def measure_step_bytes(self) -> int:
        """The decoder's largest maps, of each draw."""
        height, width = self.image_px
        floats = 2 * self.config.depth * MULTIPLES[0] * height * width + 8 * self.config.deter
        return 4 * max(1, self.config.draws) * floats

    def observe(
        self, frames_BTHWC: Tensor, past_actions_BtA: Tensor, valid_BT: Tensor, proprio: Tensor | None = None
    ) -> RssmContext:
        """The state after the past, of the likeliest classes."""
        actions = F.pad(self.normalise_actions(past_actions_BtA), (0, 0, 1, 0))
        deter, stoch, _ = self.watch(self.encode(frames_BTHWC), actions, valid_BT, None)
        return RssmContext(deter[:, -1], stoch[:, -1])

    def encode_goal(self, frames_BHWC: Tensor, proprio: Tensor | None = None) -> Views:
        """Goal images, the probabilities of their latents, and their predicted states."""
        views: dict[str, Lazy] = {"pixels": frames_BHWC, "pooled": lambda: self.find_latents(frames_BHWC)}
        if self.goal_head is not None:
            views["state"] = lambda: self.predict_state(frames_BHWC)
        return Views(views)

    def predict_state(self, frames_BHWC: Tensor) -> Tensor:
        """States [B, deter + stoch * classes] in which the goal head expects these frames to be seen."""
        assert self.goal_head is not None
        deter, logits = self.goal_head(self.encoder(frames_BHWC))
        return torch.cat((deter.float(), self.get_probabilities(logits).flatten(-2)), -1)

    def find_latents(self, frames_BHWC: Tensor) -> Tensor:
        """Probabilities [B, stoch * classes] of the latents of frames that are held still."""
        steps = self.config.goal_steps
        features = self.encode(frames_BHWC[:, None]).expand(-1, steps, -1)
        still = self.normalise_actions(torch.zeros_like(self.action_mid)).expand(len(frames_BHWC), steps, -1)
        _, _, logits = self.watch(features, still, None, None)
        return self.get_probabilities(logits[:, -1]).flatten(-2)

    def imagine(
        self, context: RssmContext, actions_BSKA: Tensor, generator: Noise | None = None, keep: Keep = "path"
    ) -> Views:
        """Futures [E, B, S, K, ...] of all candidates, E draws, which all candidates of an environment share; without a
        generator, or with draws=0, one of the likeliest classes."""
        batch, candidates, steps, _ = actions_BSKA.shape
        assert steps <= self.config.horizon, (steps, self.config.horizon)
        draws = self.config.draws if generator is not None else 0
        noise = self._draw_noise(generator, draws, steps) if generator is not None and draws else None
        rows = (max(1, draws), batch, candidates)
        deter, stoch = (x[None, :, None].expand(*rows, -1) for x in (context.deter, context.stoch))
        actions = self.normalise_actions(actions_BSKA)
        path: list[tuple[Tensor, Tensor, Tensor]] = []
        for k in range(steps):
            deter = self.core(deter, stoch, actions[:, :, k].expand(*rows, -1))
            probabilities = self.get_probabilities(self.prior(deter))
            stoch = self.draw(probabilities, None if noise is None else noise[:, :, None, k])
            path.append((deter, stoch, probabilities.flatten(-2)))
        path = path[-1:] if keep == "last" else path
        deters, stochs, latents = (torch.stack(part, 3) for part in zip(*path, strict=True))

        def paint() -> Tensor:
            frames = self.decoder(deters.flatten(0, 3), stochs.flatten(0, 3))
            return 255 * frames.unflatten(0, deters.shape[:4])

        views: dict[str, Lazy] = {"pixels": paint, "pooled": latents}
        if self.goal_head is not None:
            views["state"] = lambda: torch.cat((deters.float(), latents), -1)
        return Views(views, keep)

    def _draw_noise(self, generator: Noise, draws: int, steps: int) -> Tensor:
        """Gumbel noise [E, B, K, stoch, classes] from a planner's normal draws."""
        normal = generator.normal((draws, steps, self.config.stoch, self.config.classes), IMAGE_STREAM)
        uniform = torch.special.ndtr(normal.double()).clamp(1e-12, 1 - 1e-12)
        return -(-uniform.log()).log().float().transpose(0, 1)


def measure_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of class probabilities [..., stoch, classes], nats, summed over the latents: [...]."""
    return (first * (first.clamp_min(LEAST).log() - second.clamp_min(LEAST).log())).sum((-2, -1))
