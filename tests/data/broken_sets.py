"""Data sets of other programs with one thing wrong each; every function returns what path= is given."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from tests.data import made_sets


def cut(path: Path) -> None:
    """Leaves half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_robomimic(what: str) -> str:
    path = Path("set.hdf5")
    if what == "mixed rates":
        made_sets.robomimic(Path("both/a.hdf5"), freq=20)
        made_sets.robomimic(Path("both/b.hdf5"), freq=10)
        return "both"
    made_sets.robomimic(path, drop=("actions",) if what == "no actions" else (), images=what != "no pictures")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            if what == "short actions":
                rows = demo["actions"][:-2]
                del demo["actions"], demo["states"]
                demo["actions"] = rows
        if what == "not robomimic":
            del file["data"].attrs["env_args"]
    if what == "cut":
        cut(path)
    return str(path)


def break_ogbench(what: str) -> str:
    path = made_sets.ogbench(Path("set.npz"), visual=what != "no pictures", val=False)
    columns = dict(np.load(path))
    if what == "no terminals":
        del columns["terminals"]
    if what == "short actions":
        columns["actions"] = columns["actions"][:-2]
    np.savez(path, **columns)
    if what == "cut":
        cut(path)
    return str(path)


def break_minari(what: str) -> str:
    about = {"data_format": "arrow"} if what == "arrow" else {}
    made_sets.minari(Path("set"), "none" if what == "no pictures" else "raw", **about)
    with h5py.File("set/data/main_data.hdf5", "r+") as file:
        for episode in file.values():
            if what in ("no actions", "short actions"):
                rows = episode["actions"][:-1]
                del episode["actions"]
                if what == "short actions":
                    episode["actions"] = rows
    if what == "cut":
        cut(Path("set/data/main_data.hdf5"))
    if what == "two sets":
        made_sets.minari(Path("set/other"))
    return "set"


def break_lerobot(what: str) -> str:
    versions = {"v2.1": "v2.1", "v4": "v4.0"}
    path = made_sets.lerobot(
        Path("set"), version=versions[what] if what in versions else "v3.0", skew=0.07 if what == "mixed rates" else 0
    )
    info = json.loads(Path("set/meta/info.json").read_text())
    if what == "no pictures":
        del info["features"]["observation.images.front"]
    if what == "no actions":
        del info["features"]["action"]
    Path("set/meta/info.json").write_text(json.dumps(info))
    if what == "cut":
        for file in path.glob("data/*/*.parquet"):
            cut(file)
    if what == "cut video":
        cut(next(path.glob("videos/*/*/*.mp4")))
    return str(path)


BREAK = {
    "robomimic": break_robomimic,
    "ogbench": break_ogbench,
    "minari": break_minari,
    "lerobot": break_lerobot,
}
