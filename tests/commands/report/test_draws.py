"""The picture of an evaluation's scenes shows what the methods saw, and is there only where scenes vary."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import envs
from commands.evaluation.cases import Cases
from commands.evaluation.protocol import ProtocolConfig, resolve_protocol
from commands.evaluation.scenes import choose_preset, redraw_scenes
from commands.evaluation.setup import EvaluationSetup
from commands.report.draws import COUNT, render_scenes
from envs.reacher.spec import REACHER

PX, LINE_PX = 128, 32  # of a tile: 64 px twice; of the caption


def make_setup(count, recorded, **keys):
    """Starts and goals of `count` episodes of reacher, collected with the arguments `recorded`."""
    with closing(envs.make("reacher", **recorded)) as env:
        pairs = []
        for seed in range(count):
            env.reset(seed=seed, options={"split": keys.get("split", "eval")})
            pairs.append((env.get_state(), env.get_goal_state()))
        starts, goals = (np.stack(states) for states in zip(*pairs, strict=True))
        distances = REACHER.distance(env.get_truth(starts), env.get_truth(goals))
    places = np.arange(count)
    cases = Cases(starts, goals, places, places, distances, None, tuple(range(count)), 0, 0)
    protocol = resolve_protocol(ProtocolConfig(episodes=count, **keys), REACHER)
    reader = SimpleNamespace(info=SimpleNamespace(env_kwargs=recorded, env_id="reacher"))
    return EvaluationSetup(None, {}, reader, REACHER, protocol, redraw_scenes(cases, protocol, "reacher", recorded), 2)


def list_observations(setup):
    """What the methods see at the start of every episode."""
    with closing(envs.make("reacher", **setup.env_kwargs)) as env:
        return [env.reset(seed=0, options=each)[0] for each in setup.cases.list_reset_options()]


def cut_tiles(path, columns, gap_px, width=1):
    """The tiles of a picture, each `width` frames wide, at their size in the environment."""
    sheet = np.asarray(Image.open(path))[LINE_PX:]
    wide = width * PX + (width - 1) * 2
    tiles = [
        sheet[row * (PX + gap_px) :, column * (wide + gap_px) :][:PX, :wide]
        for row in range(COUNT // columns)
        for column in range(columns)
    ]
    return [tile[::2, ::2] for tile in tiles]


def test_the_picture_shows_the_starts_of_the_first_sixteen_episodes(tmp_path):
    setup = make_setup(COUNT + 1, {"variation": "seen"})
    html = render_scenes(setup, tmp_path / "scenes.png")
    tiles = cut_tiles(tmp_path / "scenes.png", 8, 2)
    for tile, seen in zip(tiles, list_observations(setup), strict=False):
        np.testing.assert_array_equal(tile, seen["pixels"])
    assert "16 scenes of reacher: preset seen, split eval; goal images show the same scene" in html
    assert "first 16 episodes. Episodes differ in texture, colour, light, camera: values from the training" in html


def test_fewer_episodes_are_shown_in_further_scenes(tmp_path):
    setup = make_setup(2, {"variation": "seen"})
    html = render_scenes(setup, tmp_path / "scenes.png")
    tiles = cut_tiles(tmp_path / "scenes.png", 8, 2)
    for tile, seen in zip(tiles, list_observations(setup), strict=False):
        np.testing.assert_array_equal(tile, seen["pixels"])
    assert len({tile.tobytes() for tile in tiles}) == COUNT
    assert "first 2 episodes, then the same starts in 14 further scenes" in html


@pytest.mark.parametrize(("nuisance", "said"), [("other", "another draw (other)"), ("clean", "plain scene (clean)")])
def test_goal_images_that_look_different_stand_beside_their_starts(nuisance, said, tmp_path):
    setup = make_setup(3, {"variation": "seen"}, goal_nuisance=nuisance, variation="moving")
    html = render_scenes(setup, tmp_path / "scenes.png")
    tiles = cut_tiles(tmp_path / "scenes.png", 4, 10, width=2)
    for tile, seen in zip(tiles, list_observations(setup), strict=False):
        np.testing.assert_array_equal(tile[:, :64], seen["pixels"])
        np.testing.assert_array_equal(tile[:, 65:], seen["goal_pixels"])
    clean = {tile[:, 65:].tobytes() for tile in tiles}
    assert len(clean) == (3 if nuisance == "clean" else COUNT)  # three goals, each in one plain scene
    assert "preset moving, split eval; beside each start its goal image" in html and said in html
    assert "motion: values from the training ranges, and nuisance that moves" in html


@pytest.mark.parametrize(("recorded", "keys"), [({}, {}), ({"variation": "seen"}, {"variation": "none"})])
def test_a_plain_scene_has_no_picture(recorded, keys, tmp_path):
    assert render_scenes(make_setup(2, recorded, **keys), tmp_path / "scenes.png") == ""
    assert not list(tmp_path.iterdir())


def test_factors_without_appearance_are_shown_for_the_episodes_alone(tmp_path):
    html = render_scenes(make_setup(2, {"factors": ["size"]}), tmp_path / "scenes.png")
    assert "2 scenes of reacher: preset seen" in html and "differ in size" in html


def test_the_preset_unseen_of_a_file_concerns_the_split_eval_alone(tmp_path):
    assert choose_preset(ProtocolConfig(), {"variation": "unseen"}) == "unseen"
    assert choose_preset(ProtocolConfig(split="val"), {"variation": "unseen"}) == "seen"
    assert choose_preset(ProtocolConfig(split="val", variation="unseen"), {"variation": "seen"}) == "unseen"
    assert choose_preset(ProtocolConfig(), {"factors": ["colour"]}) == "seen"
