"""What a model imagines from recorded moments, with the actions that were taken there, beside the frames that followed.

A file of frames (.npz) has for n moments and K model steps

    recorded   uint8 [n, 1 + K, H, W, 3]   the frame now, and those after each model step
    imagined   uint8 [n, K, H, W, 3]       by the model alone, from the history up to now (open loop)
    episode, frame   [n]                   where the moments were recorded

Models of one data file with the same history, horizon and seed have the same moments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commands.offline.moments import draw_moments
from commands.offline.transitions import load_transitions
from commands.shared.runs import replace_atomically
from planners.noise import Draws
from planners.protocol import Dynamics, view_first_draw

PATHS = 4  # moments
Frames = dict[str, NDArray[Any]]


@torch.no_grad()
def imagine_paths(dynamics: Dynamics, reader: Any, split: str, seed: int, paths: int = PATHS) -> Frames | None:
    """The arrays above; None for a model without pixels, or where no episode of the split holds a model step."""
    spec, lengths = dynamics.spec, reader.lengths(reader.episodes(split))
    longest = max(lengths, default=0) - 1 - (spec.history - 1) * spec.frame_skip
    steps = min(spec.max_horizon, int(longest) // spec.frame_skip)
    if "pixels" not in spec.views or steps < 1:
        return None
    index = draw_moments(reader, split, paths, seed, spec, steps, steps * spec.frame_skip).index
    past = load_transitions(dynamics, reader, index)
    valid = torch.ones(past.past_BTHWC.shape[:2], dtype=torch.bool, device=spec.device)
    context = dynamics.observe(past.past_BTHWC, past.actions_BtA, valid, past.proprio_BTQ)
    rows = reader.first_row(index.episode) + index.last
    noise = Draws(tuple(rows.tolist()), seed, spec.device)
    pixels = view_first_draw(dynamics.imagine(context, past.taken_BKA[:, None], noise), "pixels")[:, 0]
    recorded = reader.gather("pixels", rows[:, None] + np.arange(steps + 1) * spec.frame_skip)
    imagined = pixels.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return {"recorded": recorded, "imagined": imagined, "episode": index.episode, "frame": index.last}


def write_imagined(dynamics: Dynamics, reader: Any, split: str, seed: int, path: Path) -> None:
    """Write the file of frames, if there are any."""
    if (frames := imagine_paths(dynamics, reader, split, seed)) is not None:
        with replace_atomically(path) as temporary:
            recorded, imagined, episode, frame = frames.values()
            np.savez_compressed(temporary, recorded=recorded, imagined=imagined, episode=episode, frame=frame)


def read_imagined(path: Path) -> Frames:
    """The arrays of a file of frames."""
    with np.load(path) as stored:
        return dict(stored)
