"""`jepa plan viewer=rerun`: the model's recorded episodes as a recording for the viewer of rerun.io.

Entities, one tree an episode: `episode_00/camera`, `/goal`, `/distance`, `/actions`, and `/imagined` where the model
decodes pixels. Timelines: `step` (environment steps) and `time` (simulated seconds).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from commands.report.imagined import imagine_episodes
from commands.shared.errors import UsageError
from envs.task_spec import TaskSpec
from world_model.dynamics import LatentDynamics

Viewer = Literal["none", "rerun"]


def check_viewer(name: Viewer, videos: int) -> None:
    """UsageError for a viewer that is not installed, or would be shown no episode."""
    if name == "rerun" and importlib.util.find_spec("rerun") is None:
        raise UsageError("viewer=rerun needs the package rerun-sdk: pip install 'jepa-lab[rerun]'")
    if name != "none" and videos < 1:
        raise UsageError(f"viewer={name} shows the recorded episodes: videos must be at least 1")


def write_recording(model: LatentDynamics, run: Rollouts, cases: Cases, task: TaskSpec, path: Path) -> None:
    """Write the recorded episodes (run.frames) to `path`, a file that `rerun PATH` opens."""
    import rerun as rr

    assert run.frames is not None and run.goal_frames is not None, "episodes without recorded frames"
    recording = rr.RecordingStream(f"jepa {task.name}", recording_id=f"jepa-{task.name}")
    recording.save(path)
    decoded = imagine_episodes(model, run)[1] if "pixels" in model.spec.views else None
    for number, frames in enumerate(run.frames):
        entity = f"episode_{number:02d}"
        about = f"episode {cases.episodes[number]} from step {cases.starts[number]}, distance in {task.distance_unit}"
        recording.log(f"{entity}/about", rr.TextDocument(about), static=True)
        recording.log(f"{entity}/goal", rr.Image(run.goal_frames[number]), static=True)
        names = rr.SeriesLines(names=list(task.action_names))
        recording.log(f"{entity}/actions", names, static=True)
        for step, frame in enumerate(frames):
            _set_time(recording, step, task)
            recording.log(f"{entity}/camera", rr.Image(frame))
            recording.log(f"{entity}/distance", rr.Scalars([float(run.distances[number, step])]))
            if step < run.actions.shape[1]:
                recording.log(f"{entity}/actions", rr.Scalars(run.actions[number, step].tolist()))
        for k, frame in enumerate(() if decoded is None else decoded[number], start=1):
            _set_time(recording, k * model.spec.frame_skip, task)
            recording.log(f"{entity}/imagined", rr.Image(frame))
    recording.flush()
    recording.disconnect()


def _set_time(recording: Any, step: int, task: TaskSpec) -> None:
    recording.set_time("step", sequence=step)
    recording.set_time("time", duration=step * task.control_step_s)
