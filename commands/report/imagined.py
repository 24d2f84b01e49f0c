"""What a model with a pixel head imagined, beside what happened: the same actions from the same first frame.

A check for the eye, never a number of the protocol: a planner may find goals with blurred pictures, and sharp ones may
mislead it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from commands.evaluation.episodes import Rollouts
from commands.shared.runs import write_atomic
from planners.mpc import observe_first_frames
from planners.protocol import Dynamics, view_first_draw

EPISODES = 3  # shown at most
GAP_PX, ENLARGED = 2, 2
TITLE = "Imagined from the first frame, with the actions taken"


@torch.no_grad()
def imagine_episodes(model: Dynamics, run: Rollouts) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames that happened and frames imagined, each uint8 [n, K, H, W, 3], model steps 1..K after the start.

    n: recorded episodes of the run; K: as many model steps as the model can look ahead and the episodes have.
    ValueError for a model without pixels, AssertionError for a run without recorded frames.
    """
    spec = model.spec
    assert run.frames is not None, "episodes without recorded frames"
    steps = min(spec.max_horizon, run.actions.shape[1] // spec.frame_skip)
    taken = run.actions[: len(run.frames), : steps * spec.frame_skip]
    blocks = torch.from_numpy(rearrange(taken, "n (k f) a -> n 1 k (f a)", f=spec.frame_skip)).to(spec.device)
    proprio = None if run.start_proprio is None else torch.from_numpy(run.start_proprio).to(spec.device)
    context = observe_first_frames(model, torch.from_numpy(run.frames[:, 0]).to(spec.device), proprio)
    pixels = view_first_draw(model.imagine(context, blocks), "pixels")[:, 0]
    imagined = pixels.round().to(torch.uint8).cpu().numpy()
    recorded = run.frames[:, spec.frame_skip :: spec.frame_skip][:, :steps]
    return recorded, imagined


def write_strip(model: Dynamics, run: Rollouts, path: Path) -> None:
    """A picture of the first episodes, two rows each: above what happened, below what was imagined."""
    from PIL import Image

    recorded, imagined = imagine_episodes(model, run)
    rows = [row for pair in zip(recorded[:EPISODES], imagined[:EPISODES], strict=True) for row in pair]
    edges = ((GAP_PX // 2,) * 2,) * 2
    cells = np.pad(np.stack(rows), ((0, 0), (0, 0), *edges, (0, 0)), constant_values=255)
    sheet = rearrange(cells, "r k h w c -> (r h) (k w) c").repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "png")
    write_atomic(path, buffer.getvalue())
