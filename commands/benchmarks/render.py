"""Frames a second of our renderer beside dm_control's own, on the same scene, in one run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from envs.reacher.env import load_model
from envs.rendering import Renderer, choose_backend

if TYPE_CHECKING:
    import mujoco

_DM_CONTROL_BENCH = """
import sys, time
from dm_control import suite
seconds, size = float(sys.argv[1]), int(sys.argv[2])
physics = suite.load("reacher", "hard").physics
physics.render(size, size, camera_id="fixed")
start, frames = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    physics.render(size, size, camera_id="fixed")
    frames += 1
print("frames_per_s", frames / (time.perf_counter() - start))
physics.free()
"""


def measure_render_rate(seconds: float, size: int = 64) -> dict[str, Any]:
    """Frames a second of the reacher at `size` x `size`: ours, and dm_control's `physics.render` as it comes.

    dm_control runs in a process of its own for `seconds`, between two halves of ours, on the same backend and
    with its own default settings, Mesa's threads included. Raises `RuntimeError` where either cannot render.
    """
    environment = dict(os.environ, MUJOCO_GL=choose_backend())
    import mujoco

    if environment.get("LP_NUM_THREADS") == "0":
        del environment["LP_NUM_THREADS"]
    model = load_model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, size, size, "fixed")
    try:
        before = measure_frames_per_s(renderer, data, seconds / 2)
        command = [sys.executable, "-c", _DM_CONTROL_BENCH, str(seconds), str(size)]
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = [line.split()[1] for line in child.stdout.splitlines() if line.startswith("frames_per_s")]
        if not found:
            said = child.stderr.strip().splitlines()
            raise RuntimeError(f"dm_control could not render: {said[-1] if said else child.returncode}")
        ours = (before + measure_frames_per_s(renderer, data, seconds / 2)) / 2
        result = {
            "size": size,
            "seconds": seconds,
            "backend": choose_backend(),
            "renderer": renderer.get_gl_renderer(),
        }
        theirs = float(found[0])
        return result | {"ours_fps": ours, "dm_control_fps": theirs, "ratio": ours / theirs}
    finally:
        renderer.close()


def measure_frames_per_s(renderer: Renderer, data: mujoco.MjData, seconds: float) -> float:
    renderer.render(data)
    start, frames = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        renderer.render(data)
        frames += 1
    return frames / (time.perf_counter() - start)
