"""The renderer: which backend, how fast, and what is said where nothing can draw."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

import envs
from commands.benchmarks.render import measure_render_rate
from envs import rendering
from envs.goal_env import GoalEnv


def test_a_backend_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    assert rendering.choose_backend() == "osmesa"


def test_without_a_wish_the_first_backend_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    for egl, osmesa, wanted in ((True, True, "egl"), (False, True, "osmesa")):
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setattr(rendering, "_egl_works", lambda works=egl: works)
        monkeypatch.setattr(rendering, "_load_library", lambda *names, works=osmesa: works or None)
        assert rendering.choose_backend() == wanted
        assert rendering.os.environ["MUJOCO_GL"] == wanted, "processes started later must choose the same"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr(rendering, "_load_library", lambda *names: None)
    with pytest.raises(RuntimeError, match="no OpenGL .* install it with: .*install"):
        rendering.choose_backend()
    assert "MUJOCO_GL" not in rendering.os.environ


@pytest.mark.parametrize(("value", "message"), [("off", "unset it"), ("vulkan", "choices: egl, osmesa")])
def test_a_backend_that_cannot_draw_is_one_sentence(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", value)
    with pytest.raises(RuntimeError, match=message) as caught:
        envs.make("reacher")
    assert "\n" not in str(caught.value) and f"MUJOCO_GL={value}" in str(caught.value)


def test_the_renderer_tells_its_name(reacher: GoalEnv) -> None:
    settings = reacher.get_render_settings()
    assert len(settings["renderer"]) > 3
    assert settings["camera"] == "fixed" and settings["size"] == 64


def test_several_renderers_in_one_process_do_not_mix(reacher: GoalEnv, two_rooms: GoalEnv) -> None:
    reacher.reset(seed=0)
    two_rooms.reset(seed=0)
    arm, ball = reacher.render(), two_rooms.render()
    other = envs.make("reacher", size=128)
    other.set_state(reacher.get_state())
    large = other.render()
    for _ in range(3):
        np.testing.assert_array_equal(reacher.render_state(reacher.get_state()), arm)
        np.testing.assert_array_equal(two_rooms.render_state(two_rooms.get_state()), ball)
        np.testing.assert_array_equal(other.render_state(other.get_state()), large)
    assert large.shape == (128, 128, 3)
    small = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - arm).mean() < 4, "the large picture shows the same"
    other.close()
    np.testing.assert_array_equal(reacher.render_state(reacher.get_state()), arm)
    with pytest.raises(AssertionError, match="after close"):
        other.render_state(other.get_state())


def test_a_picture_is_the_right_way_up(two_rooms: GoalEnv) -> None:
    state = two_rooms.sample_state(np.zeros(1))
    state[two_rooms.qpos] = 0.6, 0.7  # right, and up
    frame = two_rooms.render_state(state).astype(int)
    rows, columns = np.nonzero((frame[..., 0] > 110) & (frame[..., 1] < 70))
    assert rows.mean() < 20 and columns.mean() > 44


def test_ours_is_at_least_ten_times_as_fast_as_dm_controls() -> None:
    found = measure_render_rate(2.0)
    assert found["ratio"] >= 10, found
    assert found["ours_fps"] / found["dm_control_fps"] == pytest.approx(found["ratio"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_torch_may_load_triton_after_an_environment_was_made():
    """Mesa and triton each hold an LLVM, and ended the process when they met in this order."""
    code = "import envs; env = envs.make('reacher'); env.reset(seed=0); import triton; print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "alive", (done.returncode, done.stderr[-500:])
