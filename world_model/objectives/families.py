"""The families of objectives. A config names its family by the key `family`, and makes its objective by `make`.

`ObjectiveConfig`: objectives that train an encoder. `Stage1Config`: these, and world models of one stage, which their
configs make by `make_world_model`.
"""

from world_model.generative.diamond import DiamondConfig
from world_model.generative.rssm import RssmConfig
from world_model.generative.tdmpc2 import Tdmpc2Config
from world_model.objectives.autoencoder import AutoencoderConfig
from world_model.objectives.causal import CausalConfig
from world_model.objectives.end_to_end import EndToEndConfig
from world_model.objectives.future import FutureConfig
from world_model.objectives.masked import MaskedConfig

ObjectiveConfig = MaskedConfig | FutureConfig | CausalConfig | EndToEndConfig | AutoencoderConfig
Stage1Config = ObjectiveConfig | RssmConfig | DiamondConfig | Tdmpc2Config
