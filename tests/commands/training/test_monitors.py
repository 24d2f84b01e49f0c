"""Which frames of val stage 1 is judged on, and what is measured of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import envs
from commands.training.monitors import LEAST_FRAMES, NUM_FRAMES, PretrainMonitor, select_frames
from tests.world_model.small import FUTURE, VJEPA2, encoder, frames
from world_model.objectives.pretrain_model import PretrainModel
from world_model.training.appearance import AppearanceConfig


class Reader:
    """Episodes of 41 frames, all of them val."""

    def __init__(self, count: int) -> None:
        self.count = count

    def episodes(self, split: str) -> np.ndarray:
        assert split == "val"
        return np.arange(self.count)

    def num_frames(self, episode: int) -> int:
        return 41


@pytest.mark.parametrize("count", [1, 100, 192, 193, 5000])
def test_frames_are_spread_over_episodes_with_several_of_each(count):
    rows = select_frames(Reader(count))
    assert 0.5 * NUM_FRAMES <= sum(len(chosen) for _, chosen in rows) <= NUM_FRAMES or count == 1
    episodes = [episode for episode, _ in rows]
    assert len(set(episodes)) == len(episodes) and episodes[0] == 0 and episodes[-1] == count - 1
    for _, chosen in rows:
        assert len(chosen) >= LEAST_FRAMES and chosen[0] == 0 and chosen[-1] == 40 and (np.diff(chosen) > 0).all()


class Trajectories(Reader):
    """Eight episodes of `reacher`: random poses, and pictures with one floor per episode and one pixel that moves."""

    def __init__(self, factors: tuple[str, ...]) -> None:
        super().__init__(8)
        self.info = SimpleNamespace(factors=factors)
        rng = np.random.default_rng(0)
        self.columns = {"truth": rng.uniform(-2, 2, (8, 41, 6))}
        self.columns["pixels"] = np.broadcast_to(rng.integers(0, 200, (8, 1, 1, 1, 3)), (8, 41, 64, 64, 3)).copy()
        self.columns["pixels"][:, :, 3, 3, 0] = np.arange(41)

    def column(self, name: str, episode: int) -> np.ndarray:
        return self.columns[name][episode].astype(np.uint8 if name == "pixels" else float)


def make_monitor(factors: tuple[str, ...], objective=FUTURE) -> PretrainMonitor:
    batches = SimpleNamespace(read_batch=lambda index: {"pixels": frames(2, objective.frames)})
    model, clips = PretrainModel(encoder(), objective, 5), list(frames(3, 6))
    return PretrainMonitor(model, Trajectories(factors), envs.get_task("reacher"), clips, batches, torch.device("cpu"))


def test_pixels_are_a_reference_of_the_variance_within_episodes():
    monitor = make_monitor(())
    pixels = monitor.frames.flatten(1).double()
    within = sum(pixels[monitor.groups == e].var(0, unbiased=False).sum() for e in range(8)) / 8
    want = within / pixels.var(0, unbiased=False).sum()
    assert monitor(0)["within_share_pixels"] == pytest.approx(want.item()) and 0 < want < 0.001


@pytest.mark.parametrize("objective", [FUTURE, VJEPA2], ids=["embedding", "tokens"])
def test_pairs_of_different_episodes_are_measured_where_scenes_vary(objective):
    keys = {"cross_episode_correlation", "cross_episode_correlation_pixels", "cross_episode_correlation_random"}
    plain, varied = make_monitor((), objective), make_monitor(("floor red",), objective)
    numbers = varied(0)
    assert keys <= set(numbers) and not keys & set(plain(0))
    drawn = {key for panel in varied.curves.values() for key in panel}
    assert {*keys, "within_share", "within_share_random"} <= drawn
    assert not keys & {key for panel in plain.curves.values() for key in panel}
    assert "between episodes" in varied.summarise(numbers) and "between episodes" not in plain.summarise(numbers)


def test_an_embedding_that_hardly_moves_within_episodes_is_warned_of_beside_collapse():
    monitor = make_monitor(("floor red",))
    healthy = {**monitor(0), "within_share": 0.5}
    assert monitor.find_warning([healthy, healthy]) is None
    assert "nearly constant within episodes" in monitor.find_warning([healthy, healthy | {"within_share": 0.001}])
    assert "have collapsed" in monitor.find_warning([healthy, healthy | {"within_share": 0.001, "feature_std": 0.0}])


def test_shrunken_features_are_warned_of_where_two_views_share_an_error():
    views = replace(FUTURE, frames=6, views=AppearanceConfig())
    for objective, is_judged in ((FUTURE, False), (views, True), (replace(views, shared_error=0.0), False)):
        monitor = make_monitor((), objective)
        numbers = {**monitor(0), "within_share": 0.5}
        warning = monitor.find_warning([numbers, {**numbers, "feature_std": 0.2 * numbers["feature_std"]}])
        assert ("objective.shared_error=0.1" in (warning or "")) == is_judged
