"""Distractors: plain at intensity 0, functions of the state alone, within the suites' limits, and never in physics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

import envs
from envs.backgrounds import PROCEDURAL, VideoFolder
from envs.distraction import Distraction, choose_setting
from envs.goal_env import GoalEnv
from envs.presets import DISTRACTING, DISTRACTION

TASKS = ("reacher", "two_rooms", "push_t")
ALL_KINDS = ["background", "camera", "colour", "light"]
DYNAMIC = {"intensity": 0.3, "dynamic": True, "kinds": ALL_KINDS}
LEVELS = (40, 100, 160, 220, 70, 130)  # brightness of the videos' first frames


@pytest.fixture(scope="module", params=TASKS)
def distracting(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = envs.make(request.param, variation="distracting", distraction=DYNAMIC)
    yield env
    env.close()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of shapes that no frame has: four files, wide, high and small, and two folders of pictures."""
    folder = tmp_path_factory.mktemp("videos")
    shapes = [(48, 160), (160, 48), (16, 16), (64, 64), (30, 90), (90, 30)]
    for number, ((height, width), level) in enumerate(zip(shapes, LEVELS, strict=True)):
        clip = np.stack([np.full((height, width, 3), level + 3 * frame, np.uint8) for frame in range(8)])
        if number < 4:
            iio.imwrite(folder / f"{number}.mp4", clip, fps=10, macro_block_size=2)
        else:
            (folder / f"{number}").mkdir()
            for frame, picture in enumerate(clip):
                iio.imwrite(folder / f"{number}" / f"{frame:05}.png", picture)
    (folder / "notes.txt").write_text("no video")
    return folder


def _play(env: GoalEnv, steps: int = 4) -> list[np.ndarray]:
    """States and frames of some steps of random actions."""
    rng, found = np.random.default_rng(0), []
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.action_space.shape)
        found += [env.step(action)[0]["pixels"], env.get_state()]
    return found


def _rest(env: GoalEnv, seed: int, steps: int = 3) -> list[bytes]:
    """Frames of an arm or ball that stands still."""
    env.reset(seed=seed)
    state = env.get_state()
    state[env.qvel] = 0
    env.set_state(state)
    frames = [env.render().tobytes()]
    return frames + [env.step(np.zeros(env.action_space.shape))[0]["pixels"].tobytes() for _ in range(steps)]


def _make(task: str = "two_rooms", **distraction: Any) -> GoalEnv:
    return envs.make(task, variation="distracting", distraction=distraction)


@pytest.mark.parametrize("task", TASKS)
def test_intensity_zero_is_the_plain_task_to_the_bit(task: str) -> None:
    plain, zero = envs.make(task), _make(task, intensity=0.0, dynamic=True, kinds=ALL_KINDS)
    plain.reset(seed=1)
    zero.reset(seed=2)
    size, own = plain.physics.state_size, len(plain.task_factors)
    start, goal = plain.get_state(), plain.get_goal_state()
    tail = zero.get_state()[size + own :]
    observation, info = zero.reset(options={"state": np.r_[start, tail], "goal_state": np.r_[goal, tail]})
    wanted, plain_info = plain.reset(options={"state": start, "goal_state": goal})
    np.testing.assert_array_equal(observation["pixels"], wanted["pixels"])
    np.testing.assert_array_equal(observation["goal_pixels"], wanted["goal_pixels"])
    assert info["distance"] == plain_info["distance"]
    for found, known in zip(_play(zero), _play(plain), strict=True):
        np.testing.assert_array_equal(found[: len(known)], known)
    plain.close()
    zero.close()


def test_distractors_change_images_and_neither_physics_nor_distances(distracting: GoalEnv) -> None:
    plain = envs.make(distracting.task.name)
    distracting.reset(seed=1)
    size = plain.state_size
    start, goal = distracting.get_state(), distracting.get_goal_state()
    plain.reset(options={"state": start[:size], "goal_state": goal[:size]})
    assert plain._get_info()["distance"] == distracting._get_info()["distance"]
    for found, known in zip(_play(distracting), _play(plain), strict=True):
        if found.ndim == 1:
            np.testing.assert_array_equal(found[:size], known)
        else:
            assert (found != known).any(axis=-1).mean() > 0.3
    assert plain._get_info()["distance"] == distracting._get_info()["distance"]
    plain.close()


def test_a_restored_state_shows_the_same_image_in_any_environment_and_order(distracting: GoalEnv) -> None:
    distracting.reset(seed=2)
    found = _play(distracting, 5)
    frames, states = found[::2], found[1::2]
    distracting.reset(seed=3)
    other = envs.make(distracting.task.name, variation="distracting", distraction=DYNAMIC)
    for state, frame in zip(reversed(states), reversed(frames), strict=True):
        np.testing.assert_array_equal(distracting.render_state(state), frame)
        np.testing.assert_array_equal(other.render_state(state), frame)
    other.set_state(states[1])
    rng = np.random.default_rng(0)
    for _ in range(2):
        rng.uniform(-1, 1, other.action_space.shape)
    for frame in frames[2:]:
        step = other.step(rng.uniform(-1, 1, other.action_space.shape))
        np.testing.assert_array_equal(step[0]["pixels"], frame)
    other.close()


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_each_kind_is_constant_within_a_static_episode_and_changes_in_a_dynamic_one(kind: str) -> None:
    for task in ("two_rooms", "reacher"):
        static, dynamic = (_make(task, intensity=0.3, dynamic=moves, kinds=[kind]) for moves in (False, True))
        assert len(set(_rest(static, 1))) == 1
        assert len(set(_rest(dynamic, 1))) == 4
        assert _rest(static, 1)[0] == _rest(dynamic, 1)[0] != _rest(static, 2)[0], "both begin alike"
        static.close()
        dynamic.close()


def test_kinds_are_drawn_alone_so_that_one_less_leaves_the_others(distracting: GoalEnv) -> None:
    task, alone = distracting.task.name, {**DYNAMIC, "kinds": ["camera"], "dynamic": False}
    camera, both = (_make(task, **{**alone, "kinds": kinds}) for kinds in (["camera"], ["camera", "colour"]))
    for env in (camera, both):
        env.reset(seed=4)
        env.render()
    for name in ("pos", "forward", "up"):
        found, known = (getattr(env._renderer._scene.camera[0], name) for env in (both, camera))
        np.testing.assert_array_equal(found, known)
    camera.close()
    both.close()


@pytest.mark.parametrize("background", list(PROCEDURAL))
def test_a_procedural_background_is_seen_where_the_floor_was(background: str) -> None:
    env, plain = _make("push_t", intensity=0.3, kinds=["background"], background=background), envs.make("push_t")
    env.reset(seed=0)
    shown = env.render()
    known = plain.render_state(env.get_state()[: plain.state_size])
    floor = (known == known[32, 32]).all(axis=-1)
    assert floor.mean() > 0.5 and (shown[floor] != known[floor]).any(axis=-1).mean() > 0.4
    if background != "shadows":  # these lie on walls and block, too
        np.testing.assert_array_equal(shown[~floor], known[~floor])
    env.close()
    plain.close()


def test_values_stay_within_the_limits_of_the_suite() -> None:
    env = _make("reacher", **DYNAMIC)
    for seed in range(3):
        env.reset(seed=seed)
        own = env._variation.build_distractors(env._factors)
        assert own is not None and own._camera and own._colours
        camera, colours = (np.stack([walk.get(step) for step in range(400)]) for walk in (own._camera, own._colours))
        assert np.abs(camera[:, [0, 1, 3]]).max() <= np.pi / 2 * 0.3
        assert camera[:, 2].min() >= 1 - 0.5 * 0.3 and camera[:, 2].max() <= 1 + 1.5 * 0.3
        velocity = np.diff(camera[:, :4], axis=0) * np.stack([camera[:-1, 2]] * 2 + [np.ones(399)] * 2, axis=1)
        assert np.linalg.norm(velocity[:, :3], axis=1).max() <= 0.4 * 0.3 / 4 + 1e-9
        assert np.abs(velocity[:, 3]).max() <= np.pi / 50 * 0.3 + 1e-9
        assert np.abs(colours).max() <= 0.3
        assert np.diff(colours, axis=0).std() == pytest.approx(0.03 * 0.3, rel=0.2)
    env.close()


def test_the_camera_of_a_task_seen_from_the_side_stays_above_the_ground() -> None:
    env = envs.make("dmc/cartpole", variation="distracting", distraction={"intensity": 1.0, "kinds": ["camera"]})
    for seed in range(8):
        env.reset(seed=seed)
        env.render()
        assert env._renderer._scene.camera[0].forward[2] <= 1e-3
    env.close()


@pytest.mark.parametrize(("variation", "std"), [("color_easy", 0.1), ("color_hard", 0.2)])
def test_colours_of_dmc_gb_are_normal_numbers_that_last_an_episode(variation: str, std: float) -> None:
    env, drawn = envs.make("two_rooms", variation=variation), []
    for seed in range(60):
        env.reset(seed=seed)
        own = env._variation.build_distractors(env._factors[1:])
        assert own is not None and own._colours and not own._camera and own._background is None
        np.testing.assert_array_equal(own._colours.get(0), own._colours.get(9))
        drawn.append(own._colours.get(0))
    assert np.abs(drawn).max() > 2 * std
    inside = np.array(drawn)[:, env._variation._distractors._facts.colours.ravel() < 0.5]  # rarely clipped above
    assert 0.6 * std < inside.std() < 1.05 * std
    assert len(set(_rest(env, 0))) == 1
    env.close()


def test_videos_of_training_and_evaluation_are_disjoint_parts_by_name(videos: Path) -> None:
    folder = VideoFolder(str(videos), 32)
    assert (folder.training, folder.held_out) == (("0.mp4", "1.mp4", "2.mp4", "3.mp4"), ("4", "5"))
    env = _make(intensity=0.3, background="video", video_folder=str(videos))
    shown = {}
    for split in ("train", "val", "eval"):
        names = set()
        for seed in range(30):
            env.reset(seed=seed, options={"split": split})
            names.add(int(env.get_factors()["video"]))
        shown[split] = names
    assert shown == {"train": {0, 1, 2, 3}, "val": {0, 1, 2, 3}, "eval": {4, 5}}
    state = env.get_state()
    for split, numbers in shown.items():
        drawn = (env.redraw_factors(state, np.random.default_rng(k), "distracting", split=split) for k in range(20))
        place = list(env.get_factors()).index("video") - len(env.get_factors())
        assert {int(each[place]) for each in drawn} <= numbers
    env.close()


def test_a_low_intensity_plays_few_videos(videos: Path) -> None:
    setting = choose_setting("distracting", {"background": "video", "video_folder": str(videos), "intensity": 0.1})
    assert setting is not None
    assert [setting.count_videos(n) for n in (60, 3)] == [4, 3]
    counts = {s: choose_setting("distracting", {"intensity": s}) for s in (0.05, 0.15, 0.2, 0.3, 1.0)}
    assert {s: made.count_videos(60) for s, made in counts.items() if made} == {
        0.05: 2, 0.15: 6, 0.2: 8, 0.3: 60, 1.0: 60,
    }  # fmt: skip


@pytest.mark.parametrize("size", [32, 64, 100])
def test_videos_of_any_shape_fill_frames_of_any_size_and_play_from_the_start_of_the_episode(
    videos: Path, size: int
) -> None:
    keys = {"intensity": 0.3, "dynamic": True, "kinds": ["background"], "background": "video"}
    env = envs.make("two_rooms", size=size, variation="distracting", distraction=keys | {"video_folder": str(videos)})
    for seed in range(6):
        env.reset(seed=seed, options={"split": ("train", "eval")[seed % 2]})
        factors = env.get_factors()
        level, first = LEVELS[int(factors["video"])], int(8 * factors["video start"])
        floor = env.render()[size // 2, size // 4].astype(int)
        assert np.abs(floor - (level + 3 * first)).max() <= 4, "of the right video and frame, up to its compression"
    env.close()


@pytest.mark.parametrize("variation", ["video_easy", "video_hard"])
def test_videos_of_dmc_gb_replace_the_sky_and_hard_ones_the_floor_too(videos: Path, variation: str) -> None:
    plain = envs.make("dmc/cartpole")
    env = envs.make("dmc/cartpole", variation=variation, distraction={"video_folder": str(videos)})
    env.reset(seed=0)
    known, shown = plain.render_state(env.get_state()[: plain.state_size]), env.render()
    sky = ~known.any(axis=-1)
    assert sky.any() and (shown[sky] != 0).any(axis=-1).all()
    changed = (shown != known).any(axis=-1)
    assert (changed[~sky].mean() > 0.3) == (variation == "video_hard")
    assert len(set(_rest(env, 1))) > 1
    env.close()
    plain.close()


def test_distractors_are_drawn_anew_on_the_plain_scene_and_off_in_a_clean_one() -> None:
    env, plain = envs.make("reacher", factors=["mass", "colour"], variation="distracting"), envs.make("reacher")
    env.reset(seed=5)
    state, rng = env.get_state(), np.random.default_rng(0)
    clean = env.redraw_factors(state, rng, "none")
    np.testing.assert_array_equal(env.render_state(clean), plain.render_state(state[: plain.state_size]))
    drawn = env.redraw_factors(state, rng, "distracting")
    names = list(env.get_factors())
    before, after = (dict(zip(names, each[-len(names) :], strict=True)) for each in (state, drawn))
    assert after["distraction seed"] != before["distraction seed"] and after["agent mass"] == before["agent mass"]
    assert after["distraction intensity"] == Distraction().intensity and after["agent red"] == 0
    env.set_goal(state, drawn)  # a goal image may differ in its distractors
    with pytest.raises(ValueError, match=r"variation=color_easy.* made|has no distractors"):
        plain.redraw_factors(plain.get_state(), rng, "color_easy")
    env.close()
    plain.close()


def test_a_batch_in_turn_shows_what_each_episode_shows_alone() -> None:
    from envs.vector import VectorGoalEnv

    batch = VectorGoalEnv("two_rooms", 3, variation="distracting", distraction=DYNAMIC)
    single = _make("two_rooms", **DYNAMIC)
    shown = [batch.reset(seed=0)[0]["pixels"]]
    shown += [batch.step(np.zeros((3, 2)))[0]["pixels"] for _ in range(3)]
    for number in range(3):
        frames = [single.reset(seed=number)[0]["pixels"]]
        frames += [single.step(np.zeros(2))[0]["pixels"] for _ in range(3)]
        np.testing.assert_array_equal(np.stack(frames), np.stack(shown)[:, number])
    batch.close()
    single.close()


@pytest.mark.parametrize(
    ("variation", "keys", "said"),
    [
        ("distracting", {"intensity": 1.5}, r"distraction.intensity=1.5 is out of range: give a number from 0 to 1"),
        ("distracting", {"intensity": -0.1}, r"distraction.intensity=-0.1 is out of range"),
        ("distracting", {"kinds": ["colr"]}, r"distraction.kinds: 'colr' is unknown; did you mean colour"),
        ("distracting", {"kinds": []}, r"distraction.kinds=\[\] changes nothing; choices: background, camera"),
        ("distracting", {"background": "leafs"}, r"'leafs' is unknown; did you mean leaves"),
        (
            "distracting",
            {"background": "leaves", "kinds": ["camera"]},
            r"background=leaves is not seen: add background",
        ),
        ("distracting", {"background": "video"}, r"plays videos: give distraction.video_folder=FOLDER"),
        ("distracting", {"video_folder": "x"}, r"video_folder=x is not read with .*background=noise"),
        ("distracting", {"intensty": 0.1}, r"distraction has no key 'intensty'; did you mean intensity"),
        ("seen", {"intensity": 0.2}, r"intensity=0.2 changes nothing in variation=seen: it is for distracting"),
        ("color_easy", {"dynamic": True}, r"dynamic=true changes nothing in variation=color_easy"),
        ("video_hard", {}, r"variation=video_hard plays videos: give distraction.video_folder=FOLDER"),
    ],
)
def test_wrong_distractors_are_answered_before_anything_is_made(variation: str, keys: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        envs.make("two_rooms", variation=variation, distraction=keys)


def test_folders_without_videos_and_unreadable_videos_are_answered(tmp_path: Path) -> None:
    def make(folder: Path, variation: str = "video_hard") -> GoalEnv:
        return envs.make("two_rooms", variation=variation, distraction={"video_folder": str(folder)})

    with pytest.raises(ValueError, match=r"video_folder=.*missing is no folder: give the folder that holds"):
        make(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"holds no video \(.mp4.*give a folder with two or more"):
        make(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"holds one video .*some for training and the others for evaluation"):
        make(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(b"no picture")
    env = make(tmp_path)
    for split, said in (("train", r"a.mp4 cannot be read as a video"), ("eval", r"0.png cannot be read as a picture")):
        with pytest.raises(ValueError, match=said):
            env.reset(seed=0, options={"split": split})
    env.close()


def test_a_task_whose_camera_sees_no_sky_refuses_a_video_in_its_place(videos: Path) -> None:
    with pytest.raises(ValueError, match=r"video_easy replaces the sky alone, and the camera of two_rooms sees none"):
        envs.make("two_rooms", variation="video_easy", distraction={"video_folder": str(videos)})
    with pytest.raises(ValueError, match=r"variation=distracting: an environment of Gymnasium's has no factors"):
        envs.make("gym/InvertedPendulum-v5", variation="distracting")
    assert set(DISTRACTING) == {"distracting", "color_easy", "color_hard", "video_easy", "video_hard"}
    env = _make("reacher")
    assert {factor.group for factor in env._variation.factors} == {DISTRACTION}
    env.close()
