"""The model that the training loop trains in stage 1: an encoder beside its objective."""

from __future__ import annotations

from torch import Tensor, nn

from world_model.actions import ActionSpec
from world_model.distributed import world_info
from world_model.encoder import VideoEncoder
from world_model.objectives.families import ObjectiveConfig
from world_model.objectives.objective import Batch
from world_model.training.augment import CropConfig, crop_randomly


class PretrainModel(nn.Module):
    """An encoder beside its objective, as the training loop trains them; only the encoder (or its teacher) is kept.

    crop: random crops of the clips, which are then larger than the encoder's pictures.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        config: ObjectiveConfig,
        steps: int,
        seed: int = 0,
        actions: ActionSpec | None = None,
        crop: CropConfig | None = None,
    ) -> None:
        super().__init__()
        if config.metric is not None and encoder.pool is None:
            raise ValueError("objective.metric weighs the pooled embedding: set encoder.pool, or metric=null")
        if steps:  # an encoder that is never trained sees no hidden patches
            config.check_encoder(encoder.config)
        self.config, self.seed, self.crop = config, seed, crop
        self.encoder = encoder
        self.objective = config.make(encoder, steps, seed, actions)

    @property
    def trained_encoder(self) -> VideoEncoder:
        """The encoder to keep."""
        return self.objective.get_target_encoder(self.encoder)

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch with what the objective draws for it, as masks: a function of both alone, for threads that read
        ahead."""
        return self.objective.prepare(batch, step, world_info())

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of clips: `pixels` uint8 [B, T, H, W, C], and `action` [B, T-1, A] where the objective reads
        it; with `crop` also `aspect` and `draw` [B]."""
        if self.crop is not None:
            size = self.encoder.config.image_px
            clips = crop_randomly(batch["pixels"], batch["aspect"], batch["draw"], self.seed, self.crop, size)
            batch = {**batch, "pixels": clips}
        return self.objective.loss(self.encoder, batch, step)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        self.objective.update_teacher(self.encoder, step)
