"""Stage 1: clips -> encoder. An encoder beside its objective, as the training loop wants them.

No action is read, unless an objective learns encoder and dynamics end to end (LeWorldModel, PLDM).
"""

from __future__ import annotations

from torch import Tensor, nn

from world_model.dynamics import ActionSpec
from world_model.encoder import VideoEncoder
from world_model.objectives.families import ObjectiveConfig, make_objective
from world_model.training.augment import CropConfig, crop_randomly


class PretrainModel(nn.Module):
    """An encoder with everything stage 1 trains around it; only the encoder (the teacher's, if any) is kept.

    With `crop` it trains on random crops of the clips, which are then larger than the encoder's pictures.
    """

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
        if objective.metric is not None and encoder.pool is None:
            raise ValueError("objective.metric weighs the pooled embedding: set encoder.pool, or metric=null")
        if steps:  # what is never trained sees no hidden patches
            objective.check_encoder(encoder.config)
        self.config, self.seed, self.crop = objective, seed, crop
        self.encoder = encoder
        self.objective = make_objective(objective, encoder, steps, seed, actions)

    @property
    def trained_encoder(self) -> VideoEncoder:
        """The encoder to keep."""
        return self.objective.get_target_encoder(self.encoder)

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch of clips: `pixels` uint8 [B, T, H, W, C], and `action` [B, T-1, A] where it is asked for;
        with `crop` also `aspect` and `draw` [B]."""
        if self.crop is not None:
            size = self.encoder.config.image_px
            clips = crop_randomly(batch["pixels"], batch["aspect"], batch["draw"], self.seed, self.crop, size)
            batch = {**batch, "pixels": clips}
        return self.objective.loss(self.encoder, batch, step)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        self.objective.after_step(self.encoder, step)
