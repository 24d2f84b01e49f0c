"""What a model imagines from recorded moments: which moments, which actions, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from commands.offline.imagined_paths import imagine_paths, read_imagined, write_imagined
from planners.mpc import observe_first_frames
from tests.world_model.small import dynamics, lively_pixel_dynamics
from world_model.actions import ActionSpec
from world_model.generative.rssm import RssmConfig

FRAMES = 40


class Recordings:
    """Three episodes of random pictures and actions; all belong to eval."""

    def __init__(self, frames=FRAMES):
        rng = np.random.default_rng(0)
        self.count = frames
        self.columns = {
            "pixels": rng.integers(0, 256, (3 * frames, 64, 64, 3), np.uint8),
            "action": rng.uniform(-1, 1, (3 * frames, 2)).astype(np.float32),
        }

    def episodes(self, split):
        return np.arange(3 if split == "eval" else 0)

    def lengths(self, episodes):
        return np.full(len(episodes), self.count)

    def num_frames(self, episode):
        return self.count

    def first_row(self, episode):
        return np.asarray(episode) * self.count

    def gather(self, name, rows):
        return self.columns[name][rows]


@pytest.fixture(scope="module")
def model():
    return lively_pixel_dynamics()


def test_frames_are_those_after_each_model_step_and_the_history_is_what_was_recorded(model):
    reader, spec = Recordings(), model.spec
    found = imagine_paths(model, reader, "eval", 0)
    steps = spec.max_horizon
    assert found["recorded"].shape == (4, 1 + steps, 64, 64, 3) and found["imagined"].shape == (4, steps, 64, 64, 3)
    rows = reader.first_row(found["episode"]) + found["frame"]
    ahead = rows[:, None] + spec.frame_skip * np.arange(1 + steps)
    assert np.array_equal(found["recorded"], reader.columns["pixels"][ahead])
    assert (found["frame"] >= (spec.history - 1) * spec.frame_skip).all()
    taken = reader.columns["action"][rows[:, None] + np.arange(steps * spec.frame_skip)].reshape(4, 1, steps, -1)
    first = observe_first_frames(model, torch.from_numpy(found["recorded"][:, 0]))
    alone = model.imagine(first, torch.from_numpy(taken)).view("pixels")[:, 0].round().to(torch.uint8).numpy()
    assert alone.shape == found["imagined"].shape and not np.array_equal(alone, found["imagined"]), "it has a history"


def test_two_models_see_the_same_moments_and_a_seed_chooses_others(model):
    reader = Recordings()
    one, same, other = (imagine_paths(model, reader, "eval", seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["frame"], other["frame"])


def test_short_episodes_make_short_paths_and_models_without_pixels_none(model, tmp_path):
    spec = model.spec
    short = Recordings((spec.history + 1) * spec.frame_skip + 1)
    assert imagine_paths(model, short, "eval", 0)["imagined"].shape[1] == 2
    assert imagine_paths(model, short, "val", 0) is None, "it has no episode"
    write_imagined(dynamics("pooled", "features"), short, "eval", 0, tmp_path / "none.npz")
    assert not list(tmp_path.iterdir())
    write_imagined(model, short, "eval", 0, tmp_path / "some.npz")
    assert read_imagined(tmp_path / "some.npz").keys() == {"recorded", "imagined", "episode", "frame"}


def test_of_a_model_with_several_draws_the_first_is_shown():
    torch.manual_seed(0)
    sizes = RssmConfig(frames=6, context_frames=2, deter=16, hidden=8, classes=4, depth=2, units=4, draws=3)
    made = sizes.make_world_model((64, 64), ActionSpec((-1.0, -1.0), (1.0, 1.0), 2)).eval()
    found = imagine_paths(made, Recordings(), "eval", 0)
    assert found["recorded"].shape == (4, 5, 64, 64, 3) and found["imagined"].shape == (4, 4, 64, 64, 3)
    shown = []
    imagine = made.imagine
    made.imagine = lambda *args: shown.append(imagine(*args)) or shown[0]
    again = imagine_paths(made, Recordings(), "eval", 0)
    first = shown[0].view("pixels")[0, :, 0].round().to(torch.uint8).numpy()
    assert np.array_equal(again["imagined"], first) and np.array_equal(first, found["imagined"])
