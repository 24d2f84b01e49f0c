"""Stage 1, action-free: clips -> prediction of what is hidden, in features or in pixels.

The V-JEPA 2 objective (masked context, EMA teacher, layer-normed targets, L1) is one choice; predicting the future of
a pooled, regularised embedding is another; pixels as target make the generative twin. No action is ever read, unless an
objective asks for it to learn encoder and dynamics end to end (LeWM, PLDM).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from world_model.distributed import ALONE, Place, place
from world_model.dynamics import ActionSpec, DynamicsConfig, LatentDynamics
from world_model.encoder import EncoderConfig, VideoEncoder, even_levels
from world_model.nn.decoder import PixelHead
from world_model.nn.layers import gather_tokens
from world_model.nn.pools import PrincipalPool
from world_model.objectives import masking
from world_model.objectives.losses import (
    ObjectiveConfig,
    anti_collapse,
    averaged_target,
    between_clips,
    constant_predictor_loss,
    context_weights,
    infonce,
    level_targets,
    normalised_patches,
    normalised_target,
    over_time,
    ramp,
    regression,
    regularised_pooled,
)
from world_model.objectives.masking import Masks
from world_model.objectives.metric import Metric, MetricConfig, Of, metric_map, slow_modes
from world_model.objectives.teacher import make_teacher, momentum, update_teacher
from world_model.predictor import ActionPredictor, MaskedPredictor, MaskedSizes
from world_model.training.augment import CropConfig, random_crops

INVERSE_HIDDEN = 512  # width of the network that reads an action from two embeddings (PLDM's released configuration)
SUMMARY_FRAMES = 1024  # frames that principal components of tokens are fitted on
FRAMES_PER_CHUNK = 64  # activations of more frames at once leave a CPU's caches


@dataclass
class Prediction:
    """What an objective compares: predictions and their targets, and the features the anti-collapse terms look at.

    terms: further weighted losses. unused: share of tokens that masks dropped to make the batch rectangular.
    """

    predicted: list[Tensor]
    targets: list[Tensor]
    regularised: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    unused: float = 0.0


def fitted(encoder: EncoderConfig, objective: ObjectiveConfig) -> EncoderConfig:
    """The encoder's sizes with what the objective asks of it: levels at the ends of equal parts (where none are
    given), causal attention, and a pooled embedding that is fitted where tokens are predicted."""
    levels = encoder.levels
    if objective.levels > 1 and not levels:
        if encoder.depth < objective.levels:
            raise ValueError(f"objective.levels={objective.levels} needs an encoder of at least as many blocks")
        levels = even_levels(encoder.depth, objective.levels)
    pool = "principal" if objective.space == "tokens" else encoder.pool
    return replace(encoder, levels=levels, causal=encoder.causal or objective.context == "causal", pool=pool)


def check_stem(encoder: EncoderConfig, objective: ObjectiveConfig) -> None:
    """ValueError where hidden patches would be seen by their neighbours."""
    if objective.context == "masked" and encoder.stem == "conv":
        raise ValueError(
            "encoder.stem=conv sees into hidden patches: set encoder.stem=linear, or an objective with "
            "objective.context=future"
        )


class PretrainModel(nn.Module):
    """An encoder with everything stage 1 trains around it; only the encoder (the teacher's, if any) is kept.

    With `actions` the predictor is conditioned on them, and `dynamics` joins both into what a planner talks to. With
    `crop` it trains on random crops of the clips, which are then larger than the encoder's pictures.
    """

    action_mid: Tensor
    action_half: Tensor

    def __init__(
        self,
        encoder: VideoEncoder,
        objective: ObjectiveConfig,
        steps: int,
        seed: int = 0,
        actions: ActionSpec | None = None,
        crop: CropConfig | None = None,
    ) -> None:
        super().__init__()
        assert (actions is not None) == objective.actions, (actions, objective.actions)
        if objective.metric.kind != "none" and not encoder.config.pooled_dim:
            raise ValueError("objective.metric weighs the pooled embedding: set encoder.pooled_dim, or kind=none")
        if steps:
            check_stem(encoder.config, objective)
        self.objective, self.steps, self.seed, self.crop = objective, steps, seed, crop
        self.encoder = encoder
        self.teacher = make_teacher(encoder) if objective.teacher == "ema" else None
        config, pixels = encoder.config, objective.target == "pixels"
        self.predictor: nn.Module
        if objective.context == "causal":
            self.predictor, self.pixel_head = nn.Identity(), None  # the encoder's outputs are the predictions
        elif objective.space == "pooled":
            if encoder.pool is None:
                raise ValueError("objective.space=pooled needs encoder.pooled_dim > 0")
            block_dim = len(actions.block_low) if actions else 0
            self.predictor = ActionPredictor(config.pooled_dim, (1, 1), block_dim, objective.predictor)
            self.pixel_head = PixelHead(config.pooled_dim, config, pooled=True) if pixels else None
        else:
            patch_dim = 3 * config.tubelet * config.patch_px**2
            levels = encoder.num_levels if objective.levels > 1 else 1
            sizes = MaskedSizes(
                config.width,
                config.grid,
                max(1, len(objective.masks)),
                patch_dim if pixels else 0,
                levels,
                levels * config.width if objective.context_loss else 0,
                config.image_path,
                config.familiar_grid,
            )
            # One rotary code for both, as the reference.
            self.predictor = MaskedPredictor(sizes, replace(objective.predictor, rope=config.rope))
            self.pixel_head = None
        self.actions = actions
        if actions is not None:
            mid, half = actions.block_mid_half()
            self.register_buffer("action_mid", mid)
            self.register_buffer("action_half", half)
            self.inverse = nn.Sequential(
                nn.Linear(2 * config.pooled_dim, INVERSE_HIDDEN), nn.GELU(), nn.Linear(INVERSE_HIDDEN, len(mid))
            )

    def dynamics(self) -> LatentDynamics:
        """What was learned with actions, as a planner needs it: as long paths as a training clip holds."""
        objective = self.objective
        assert self.actions is not None and isinstance(self.predictor, ActionPredictor)
        horizon = objective.frames - objective.context_frames
        config = DynamicsConfig("pooled", "features", objective.context_frames, horizon, objective.predictor)
        made = LatentDynamics(config, self.trained_encoder, self.actions)
        made.predictor.load_state_dict(self.predictor.state_dict())
        return made.to(self.action_mid.device).eval()

    @property
    def trained_encoder(self) -> VideoEncoder:
        """The encoder to keep: the teacher's where there is one, as V-JEPA 2 evaluates."""
        return self.teacher if self.teacher is not None else self.encoder  # type: ignore[return-value]

    def metric(self, episodes: Iterable[Tensor]) -> Metric | None:
        """The objective's metric of the encoder to keep: see `fit_metric`."""
        return fit_metric(self.trained_encoder, self.objective.metric, episodes)

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of clips: `pixels` uint8 [B, T, H, W, C], and `action` [B, T-1, A] where it is asked for;
        with `crop` also `aspect` and `draw` [B]."""
        if self.crop is not None:
            size = self.encoder.config.image_px
            cut = random_crops(batch["pixels"], batch["aspect"], batch["draw"], self.seed, self.crop, size)
            batch = {**batch, "pixels": cut}
        made = self.predict(batch, step, place())
        pairs = list(zip(made.predicted, made.targets, strict=True))
        terms = {
            "prediction": self.objective.prediction
            * torch.stack([regression(p.float(), t, self.objective.loss) for p, t in pairs]).mean()
        }
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        terms |= made.terms | anti_collapse(made.regularised, self.objective.terms, generator)
        if self.objective.terms.infonce:
            flat = [torch.cat([x.flatten(0, -2) for x in side]) for side in (made.predicted, made.targets)]
            terms["infonce"] = self.objective.terms.infonce * infonce(
                flat[0].float(), flat[1], self.objective.terms.temperature
            )
        loss = torch.stack(list(terms.values())).sum()
        with torch.no_grad():
            terms["constant"] = constant_predictor_loss(made.targets[0].float(), self.objective.loss)
            if self.objective.masks:
                terms["unused"] = loss.new_tensor(made.unused)
        return loss, terms

    def predict(self, batch: dict[str, Tensor], step: int, among: Place = ALONE) -> Prediction:
        """Run the objective's two axes. among: whose rows of the batch these are; masks are drawn for all of it."""
        frames = batch["pixels"]
        if self.actions is not None:
            return self._predict_with_actions(frames, (batch["action"] - self.action_mid) / self.action_half)
        if self.objective.context == "causal":
            return self._predict_next(frames)
        if self.objective.space == "pooled":
            return self._predict_pooled(frames)
        return self._predict_tokens(frames, step, among)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        if self.teacher is not None:
            keep = momentum(self.objective.ema, self.objective.ema_end, step, self.steps)
            update_teacher(self.teacher, self.encoder, keep)

    # -- the future of the pooled embedding ----------------------------------------------------------------------

    def _predict_pooled(self, frames_BTHWC: Tensor) -> Prediction:
        objective = self.objective
        embedded = embed_frames(self.encoder, frames_BTHWC)
        paths = self._rollout(embedded)
        if self.pixel_head is not None:
            target = self.encoder.normalise(frames_BTHWC).movedim(1, -1)
            predicted = [self.pixel_head(path.unsqueeze(-2)) for path in paths]
        else:
            target, predicted = self._pooled_target(embedded, frames_BTHWC), paths
        first = objective.context_frames
        targets = [target[:, first + k :] for k in range(objective.rollout)]
        seen = regularised_pooled(embedded, objective.terms)
        return Prediction(predicted, targets, seen, between_clips(embedded, objective.terms))

    def _pooled_target(self, embedded: Tensor, frames_BTHWC: Tensor) -> Tensor:
        if self.teacher is not None:
            with torch.no_grad():
                return embed_frames(self.teacher, frames_BTHWC)  # type: ignore[arg-type]
        return embedded if self.objective.teacher == "shared" else embedded.detach()

    def _rollout(self, embedded_BTD: Tensor) -> list[Tensor]:
        """Predictions 1..rollout steps ahead of every window of context_frames frames: k-th [B, T - context - k, D]."""
        context, paths = self.objective.context_frames, []
        window = embedded_BTD.unfold(1, context, 1).transpose(2, 3)[:, :-1]  # [B, windows, context, D]
        for _ in range(self.objective.rollout):
            batch = window.shape[0]
            flat = rearrange(window, "b w t d -> (b w) t 1 d")
            following = self.predictor(flat)[:, -1, 0].unflatten(0, (batch, -1))
            paths.append(following)
            window = torch.cat((window[:, :, 1:], following.unsqueeze(2)), 2)[:, :-1]
        return paths

    def _predict_with_actions(self, frames_BTHWC: Tensor, rows_BTA: Tensor) -> Prediction:
        """Every frame from the true ones before it, or a path from the first ones; the terms of PLDM."""
        objective, predictor = self.objective, self.predictor
        assert isinstance(predictor, ActionPredictor)
        embedded = embed_frames(self.encoder, frames_BTHWC)
        target, first = self._pooled_target(embedded, frames_BTHWC), objective.context_frames
        if objective.rollout == 1:
            predicted, wanted = predictor(embedded[:, :-1, None], rows_BTA).squeeze(2), target[:, 1:]
        else:
            past = predictor.prefill(embedded[:, : first - 1, None], rows_BTA[:, : first - 1])
            plans = rows_BTA[:, None, first - 1 : first - 1 + objective.rollout]
            predicted = predictor.rollout(past, embedded[:, first - 1, None], plans)[:, 0].squeeze(2)
            wanted = target[:, first : first + objective.rollout]
        terms = over_time(embedded, objective.terms) | between_clips(embedded, objective.terms)
        if objective.terms.inverse:
            read = self.inverse(torch.cat((embedded[:, :-1], embedded[:, 1:]), -1))
            terms["inverse"] = objective.terms.inverse * regression(read.float(), rows_BTA, "l2")
        return Prediction([predicted], [wanted], regularised_pooled(embedded, objective.terms), terms)

    # -- hidden tokens -------------------------------------------------------------------------------------------

    def _predict_tokens(self, frames_BTHWC: Tensor, step: int, among: Place) -> Prediction:
        objective, clip = self.objective, self._clip(frames_BTHWC)
        target = self._token_target(clip)
        grid, image = self.encoder.clip_grid(clip), clip.shape[2] == 1
        predicted, targets, at_context, pooled = [], [], [], []
        masks = self._masks(len(clip), grid, step, among)
        weight = objective.context_loss * ramp(step, *objective.context_warmup)
        for number, mask in enumerate(masks):
            context = mask.context_BM.to(clip.device)
            tokens = self.encoder.levels(clip, context) if objective.levels > 1 else self.encoder(clip, context)
            pooled.append(tokens)
            for hidden in mask.targets_BP:
                hidden = hidden.to(clip.device)
                made, seen = self.predictor.both(tokens, context, hidden, grid[0], number, image)  # type: ignore[operator]
                predicted.append(made)
                targets.append(gather_tokens(target, hidden))
                if seen is not None:
                    near = context_weights(context, hidden, self.encoder.places(grid, clip.device))
                    at_context.append(regression(seen.float(), gather_tokens(target, context), objective.loss, near))
        terms = {"context": weight * torch.stack(at_context).mean()} if at_context else {}
        regularised = pooled[0].mean(1) if objective.terms.on == "pooled" else pooled[0].flatten(0, 1)
        return Prediction(predicted, targets, regularised, terms, sum(m.unused for m in masks) / len(masks))

    def _clip(self, frames_BTHWC: Tensor) -> Tensor:
        """Normalised clip; a single frame is repeated to one tubelet, unless the encoder has its own way for it."""
        clip = self.encoder.normalise(frames_BTHWC)
        if clip.shape[2] == 1 and (not self.encoder.config.image_path or self.objective.target == "pixels"):
            clip = clip.expand(-1, -1, self.encoder.config.tubelet, -1, -1)
        return clip

    def _masks(self, batch: int, grid: tuple[int, int, int], step: int, among: Place = ALONE) -> list[Masks]:
        if self.objective.context == "future":
            return [masking.future(batch, grid, self.objective.context_frames // self.encoder.config.tubelet)]
        total = batch * among.world
        drawn = [masking.sample(m, total, grid, (self.seed, step, k)) for k, m in enumerate(self.objective.masks)]
        return [masks.rows(among.rows(total)) for masks in drawn]

    def _token_target(self, clip_BCTHW: Tensor) -> Tensor:
        objective, config = self.objective, self.encoder.config
        if objective.target == "pixels":
            t, p = config.tubelet, config.patch_px
            patches = rearrange(clip_BCTHW, "b c (T t) (H p) (W q) -> b (T H W) (c t p q)", t=t, p=p, q=p)
            return normalised_patches(patches) if objective.normalise_patches else patches
        teacher = self.encoder if self.teacher is None else self.teacher
        with torch.set_grad_enabled(objective.teacher == "shared" and torch.is_grad_enabled()):
            if objective.levels > 1:
                return level_targets(teacher.outputs(clip_BCTHW))  # type: ignore[operator]
            if objective.average_blocks:
                last = range(max(0, config.depth - objective.average_blocks), config.depth)
                return averaged_target(teacher.outputs(clip_BCTHW, blocks=list(last)))  # type: ignore[operator]
            return normalised_target(teacher(clip_BCTHW))

    # -- the next token ------------------------------------------------------------------------------------------

    def _predict_next(self, frames_BTHWC: Tensor) -> Prediction:
        """Each output of the causal encoder against the next token as it comes in, which gets no gradient (NEPA)."""
        clip = self._clip(frames_BTHWC)
        tokens = self.encoder.embed(clip)
        places = self.encoder.places(self.encoder.clip_grid(clip), clip.device)
        made = self.encoder.transform(tokens, self.encoder.rotary(places))[-1]
        regularised = made.mean(1) if self.objective.terms.on == "pooled" else made.flatten(0, 1)
        return Prediction([made[:, :-1]], [tokens[:, 1:].detach()], regularised)


@torch.no_grad()
def fit_metric(encoder: VideoEncoder, config: MetricConfig, episodes: Iterable[Tensor]) -> Metric | None:
    """The metric of an encoder's pooled embedding, fitted on consecutive frames [T, H, W, C] of whole episodes; None
    for kind `none`."""
    if config.kind == "none":
        return None
    encoder.eval()
    modes = slow_modes([embed_frames(encoder, frames[None], config.of)[0] for frames in episodes], config.lag)
    return Metric(config.of, modes.mean_D, metric_map(modes, config, encoder.config.pooled_dim))


@torch.no_grad()
def fit_summary(encoder: VideoEncoder, episodes: Sequence[Tensor]) -> None:
    """Fit the encoder's pooled embedding on frames [T, H, W, C] of episodes, where it is one that is fitted."""
    if not isinstance(encoder.pool, PrincipalPool):
        return
    frames, device = torch.cat(list(episodes)), encoder.pixel_mean.device
    chunks = frames[:: -(-len(frames) // SUMMARY_FRAMES)].split(FRAMES_PER_CHUNK)
    encoder.pool.fit(torch.cat([encoder.encode_frames(chunk[None].to(device))[0] for chunk in chunks]))


def embed_frames(encoder: VideoEncoder, frames_BTHWC: Tensor, of: Of = "pooled") -> Tensor:
    """Pooled embeddings [B, T, D] of frames, each encoded alone, in chunks that fit a CPU's caches; or what the
    pool's last linear map reads."""
    embed = encoder.embed_frames if of == "pooled" else encoder.pool_inputs
    flat = frames_BTHWC.flatten(0, 1)
    size = FRAMES_PER_CHUNK if flat.device.type == "cpu" else len(flat)
    parts = [embed(chunk[None])[0] for chunk in flat.split(size)]
    return torch.cat(parts).unflatten(0, frames_BTHWC.shape[:2])
