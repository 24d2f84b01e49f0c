"""Small data sets of other programs, written here by h5py, numpy and pyarrow as their documentation has them, and one
file of ours with everything a file can hold. The places of the facts are named in the modules of `data`."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch
from PIL import Image

from data.mapped import create_file
from data.schema import Column, EpisodePlan, StoreInfo
from data.store import Writer

ACTIONS, SIZE = 3, 32
LENGTHS = (6, 4, 5)


def pictures(rng: np.random.Generator, frames: int, hw: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    """Smooth ones, so that JPEG and video stay near them."""
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    base = np.stack([rows * 3, columns * 3, rows + columns], -1)
    return (base + rng.integers(0, 60, (frames, 1, 1, 3))).astype(np.uint8)


def robomimic(path: Path, drop: tuple[str, ...] = (), images: bool = True, freq: int = 20, demos: int = 4) -> Path:
    """robosuite's: N rows of observations and actions, masks train and valid, actions in [-1, 1]."""
    rng = np.random.default_rng(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        kwargs = {"control_freq": freq, "robots": ["Panda"]}
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_type": 1, "env_kwargs": kwargs})
        data.attrs["total"] = 7 * demos
        for number in range(demos):
            n, demo = 7, data.create_group(f"demo_{number}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = n, "<mujoco/>"
            demo["actions"] = rng.uniform(-1, 1, (n, ACTIONS))
            demo["states"], demo["rewards"] = rng.normal(size=(n, 5)), np.arange(n, dtype=float)
            demo["dones"] = np.zeros(n, int)
            for side in ("obs", "next_obs"):
                for name, size in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2)):
                    demo[f"{side}/robot0_{name}"] = rng.normal(size=(n, size))
                demo[f"{side}/object"] = rng.normal(size=(n, 4))
                if images:
                    demo[f"{side}/robot0_eye_in_hand_image"] = pictures(rng, n)
                    demo[f"{side}/agentview_image"] = pictures(rng, n)
            for name in drop:
                del demo[name]
        file["mask/train"] = np.array([f"demo_{k}" for k in range(1, demos)], "S8")
        file["mask/valid"] = np.array(["demo_0"], "S8")
        file["mask/1_demos"] = np.array(["demo_1"], "S8")
    return path


def ogbench(path: Path, visual: bool = True, val: bool = True) -> Path:
    """T rows an episode, the last action of which leads nowhere; qpos and qvel; float32 as OGBench saves it."""
    for file, seed in ((path, 1), *(((path.with_name(f"{path.stem}-val.npz"), 2),) if val else ())):
        rng = np.random.default_rng(seed)
        rows = sum(LENGTHS)
        terminals = np.zeros(rows, bool)
        terminals[np.cumsum(LENGTHS) - 1] = True
        observed = pictures(rng, rows) if visual else rng.normal(size=(rows, 7)).astype(np.float32)
        columns = {name: rng.normal(size=(rows, 4)).astype(np.float32) for name in ("qpos", "qvel")}
        actions = rng.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32)
        np.savez_compressed(file, observations=observed, actions=actions, terminals=terminals, **columns)
    return path


def minari(
    folder: Path, coding: str = "jpeg", place: str = "observations", lengths: tuple[int, ...] = LENGTHS, **about: Any
) -> Path:
    """T+1 observations and T actions an episode; pictures as JPEGs, as arrays, or none."""
    rng = np.random.default_rng(3)
    (folder / "data").mkdir(parents=True)

    def box(shape: tuple[int, ...], dtype: str, low: float, high: float) -> dict[str, Any]:
        ends = {key: np.full(shape, value).tolist() for key, value in (("low", low), ("high", high))}
        return {"type": "Box", "dtype": dtype, "shape": list(shape), **ends}

    spaces = {"arm": {"type": "Dict", "subspaces": {"pos": box((3,), "float64", -np.inf, np.inf)}}}
    if coding != "none" and place == "observations":
        spaces["rgb"] = box((SIZE, SIZE, 3), "uint8", 0, 255)
    with h5py.File(folder / "data/main_data.hdf5", "w", track_order=True) as file:
        for number, frames in enumerate(lengths):
            episode, steps = file.create_group(f"episode_{number}"), frames - 1
            episode.attrs["id"], episode.attrs["total_steps"], episode.attrs["seed"] = number, steps, 40 + number
            episode["observations/arm/pos"] = rng.normal(size=(frames, 3))
            episode["actions"] = rng.uniform(-2, 2, (steps, ACTIONS)).astype(np.float32)
            episode["rewards"] = np.arange(steps, dtype=float)
            episode["terminations"] = np.zeros(steps, bool)
            episode["truncations"] = np.arange(steps) == steps - 1
            episode["infos/clock"] = np.arange(frames, dtype=float)
            if coding != "none":
                shown = pictures(rng, frames)
                if coding == "jpeg":
                    encoded = [np.frombuffer(coded(frame, "JPEG"), np.uint8) for frame in shown]
                    kind = h5py.vlen_dtype(np.uint8)
                    rows = episode.create_dataset(f"{place}/rgb", (frames,), kind)
                    for k, row in enumerate(encoded):
                        rows[k] = row
                else:
                    episode[f"{place}/rgb"] = shown
    words = {
        "dataset_id": "arm/reach-v0",
        "total_episodes": len(lengths),
        "total_steps": sum(lengths) - len(lengths),
        "data_format": "hdf5",
        "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
        "action_space": json.dumps(box((ACTIONS,), "float32", -2, 2)),
        "env_spec": json.dumps({"id": "Arm-v1", "kwargs": {"size": 3}}),
        "minari_version": "0.5.4",
        **about,
    }
    (folder / "data/metadata.json").write_text(json.dumps(words))
    return folder


def coded(frame: np.ndarray, kind: str) -> bytes:
    """A picture's bytes as JPEG or PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format=kind)
    return buffer.getvalue()


def lerobot(
    root: Path,
    video: bool = True,
    version: str = "v3.0",
    fps: int = 10,
    skew: float = 0.0,
    lengths: tuple[int, ...] = LENGTHS,
) -> Path:
    """Two data files and one video of a few episodes; the state has names. skew: how late the last frame is, s."""
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng(4)
    key, (height, width) = "observation.images.front", (24, 32)
    shown = [pictures(rng, frames, (height, width)) for frames in lengths]
    rows, begun = [], 0
    for number, frames in enumerate(lengths):
        times = np.arange(frames) / fps
        times[-1] += skew
        columns = {
            "action": list(rng.normal(size=(frames, ACTIONS)).astype(np.float32)),
            "observation.state": list(rng.normal(size=(frames, 2)).astype(np.float32)),
            "next.reward": np.arange(frames, dtype=np.float32),
            "timestamp": times.astype(np.float32),
            "frame_index": np.arange(frames),
            "episode_index": np.full(frames, number),
            "index": begun + np.arange(frames),
            "task_index": np.zeros(frames, np.int64),
        }
        if not video:
            columns[key] = [{"bytes": coded(frame, "PNG"), "path": None} for frame in shown[number]]
        where = {"data/chunk_index": 0, "data/file_index": min(number, 1)}
        file = root / f"data/chunk-000/file-{where['data/file_index']:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table(columns)
        if file.exists():
            table = pyarrow.concat_tables([pyarrow.parquet.read_table(file), table])
        pyarrow.parquet.write_table(table, file)
        row = {"episode_index": number, "length": frames, "tasks": ["reach"], **where}
        row |= {"dataset_from_index": begun, "dataset_to_index": begun + frames, "stats/action/mean": [0.0]}
        if video:
            row |= {f"videos/{key}/{name}_index": 0 for name in ("chunk", "file")}
            row |= {f"videos/{key}/from_timestamp": begun / fps, f"videos/{key}/to_timestamp": (begun + frames) / fps}
        rows.append(row)
        begun += frames
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    if video:
        mp4(root / f"videos/{key}/chunk-000/file-000.mp4", np.concatenate(shown), fps)
    info = {
        "codebase_version": version,
        "robot_type": "so101",
        "fps": fps,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "action": {"dtype": "float32", "shape": [ACTIONS], "names": {"motors": ["pan", "lift", "grip"]}},
            "observation.state": {"dtype": "float32", "shape": [2], "names": ["pan", "lift"]},
            key: {"dtype": "video" if video else "image", "shape": [height, width, 3], "names": None},
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in ("index", "timestamp")},
        },
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    """H.264 as cameras record it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def ours(path: Path, episodes: int = len(LENGTHS), env_id: str = "reacher") -> Path:
    """A file of ours with proprio, reward, factors, seeds and all three splits, in another order than by split."""
    rng = np.random.default_rng(5)
    info = StoreInfo(
        env_id=env_id,
        env_kwargs={"size": SIZE},
        action_low=(-1.0, -0.5),
        action_high=(1.0, 0.75),
        action_names=("shoulder", "wrist"),
        step_s=0.1,
        frame_hwc=(SIZE, SIZE, 3),
        truth_names=("a", "b", "c"),
        truth_units=("rad", "m", ""),
        state_size=4,
        factors=(Column("mass", (), "float64"), Column("colour", (3,), "float64")),
        extra=(Column("proprio", (1,), "float32"), Column("reward", (), "float32"), Column("touch", (2,), "float64")),
        render={"camera": "fixed"},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths, seeds, splits = np.array(LENGTHS), np.array([2**52 + 1, 7, 8]), np.array([2, 0, 1], np.uint8)
    create_file(path, info, EpisodePlan(*(column[:episodes] for column in (lengths, seeds, splits))))
    writer = Writer(path)
    for number, frames in enumerate(LENGTHS[:episodes]):
        columns = {
            column.name: rng.normal(size=(frames, *column.shape)).astype(column.dtype) for column in info.columns
        }
        columns["pixels"] = rng.integers(0, 256, (frames, SIZE, SIZE, 3)).astype(np.uint8)
        columns["action"] = columns["action"][:-1]
        writer.write(number, columns, {"mass": rng.normal(), "colour": rng.normal(size=3)})
    return path


def table_columns(lengths: tuple[int, ...] = LENGTHS) -> dict[str, np.ndarray]:
    """What stable-worldmodel's World.collect records: NaN behind the last action, and before the first reward."""
    rng = np.random.default_rng(6)
    rows, ends = sum(lengths), np.cumsum(lengths) - 1
    columns = {
        "episode_idx": np.repeat(np.arange(len(lengths)), lengths).astype(np.int32),
        "step_idx": np.concatenate([np.arange(frames) for frames in lengths]).astype(np.int32),
        "pixels": pictures(rng, rows),
        "action": rng.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32),
        "proprio": rng.normal(size=(rows, 2)).astype(np.float32),
        "state": rng.normal(size=(rows, 4)),
        "reward": rng.normal(size=rows),
        "terminated": np.isin(np.arange(rows), ends),
        "goal_state": rng.normal(size=(rows, 4)),
        "id": np.repeat(rng.integers(0, 1000, len(lengths)), lengths),
    }
    columns["action"][ends] = np.nan
    columns["reward"][ends + 1 - lengths] = np.nan
    return columns


def table(path: Path, columns: dict[str, np.ndarray] | None = None, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """In HDF5 as its HDF5Writer stores it: chunks of one row, ep_len and ep_offset instead of episode_idx."""
    columns = columns or table_columns(lengths)
    with h5py.File(path, "w", libver="latest") as file:
        for name, rows in columns.items():
            if name != "episode_idx":
                file.create_dataset(name, data=rows, chunks=(1, *rows.shape[1:]), maxshape=(None, *rows.shape[1:]))
        file["ep_len"] = np.array(lengths, np.int32)
        file["ep_offset"] = np.cumsum(lengths) - lengths
    return path


def parquet_table(
    folder: Path, cuts: tuple[int, ...] = (8,), coding: str = "struct", columns: dict[str, np.ndarray] | None = None
) -> Path:
    """In parquet files as on the Hugging Face hub, cut between any two rows; pictures as PNG or as lists."""
    import pyarrow
    import pyarrow.parquet

    columns = dict(columns or table_columns())
    shown = columns.pop("pixels")
    cells: list[Any] = shown.tolist() if coding == "lists" else [coded(frame, "PNG") for frame in shown]
    if coding == "struct":
        cells = [{"bytes": each, "path": None} for each in cells]
    kind = pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.uint8()))) if coding == "lists" else None
    whole = pyarrow.table({name: rows if rows.ndim == 1 else list(rows) for name, rows in columns.items()})
    whole = whole.append_column("pixels", pyarrow.array(cells, kind))
    folder.mkdir(parents=True, exist_ok=True)
    edges = (0, *cuts, len(shown))
    for number, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        part = whole.slice(start, stop - start)
        pyarrow.parquet.write_table(part, folder / f"part-{number:02d}.parquet", row_group_size=5)
    return folder


def dino_wm(root: Path, video: bool = True, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Push-T's (videos, train and val, lengths as a pickled list), or a maze's (tensors, one folder)."""
    for number, folder in enumerate((root / "train", root / "val") if video else (root,)):
        rng, steps = np.random.default_rng(7 + number), max(lengths)
        folder.mkdir(parents=True)

        def save(name: str, *shape: int, folder: Path = folder, rng: np.random.Generator = rng) -> None:
            rows = rng.normal(size=(len(lengths), max(lengths), *shape)).astype(np.float32)
            for episode, length in enumerate(lengths):
                rows[episode, length:] = np.nan  # padding
            torch.save(torch.from_numpy(rows), folder / f"{name}.pth")

        save("states", 5 if video else 4)
        if video:
            for name in ("rel_actions", "abs_actions", "velocities"):
                save(name, 2)
            (folder / "seq_lengths.pkl").write_bytes(pickle.dumps(list(lengths)))
        else:
            save("actions", 2)
            torch.save(torch.tensor(lengths), folder / "seq_lengths.pth")
            (folder / "obses").mkdir()
        for episode in range(len(lengths)):
            frames = pictures(rng, steps)
            if video:
                mp4(folder / f"obses/episode_{episode:03d}.mp4", frames, 10)
            else:
                torch.save(torch.from_numpy(frames), folder / f"obses/episode_{episode:03d}.pth")
    return root
