"""The families of objectives. A config names its family by the key `family`, and makes its objective by `make`, or a
world model of its own by `make_world_model`."""

from world_model.generative.rssm import RssmConfig
from world_model.objectives.autoencoder import AutoencoderConfig
from world_model.objectives.causal import CausalConfig
from world_model.objectives.end_to_end import EndToEndConfig
from world_model.objectives.future import FutureConfig
from world_model.objectives.masked import MaskedConfig

ObjectiveConfig = MaskedConfig | FutureConfig | CausalConfig | EndToEndConfig | AutoencoderConfig | RssmConfig
