"""`jepa encode`: features of a frozen encoder of every frame of trajectories or videos, as one HDF5 file.

features.h5 holds, of all F frames of E episodes (or video files) in a row,

    features  [F, D] of one embedding a frame, or [F, N, D] of layer-normed patch tokens (float16)
    time_s    [F]    seconds since the episode's first frame
    start, length, name  [E]  first row, number of rows, and the episode's number in its file, or the video's path

and the attributes `encoder`, `features` and `preprocessing` (JSON).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray

from commands.config.keys import Files, OnDamaged
from commands.shared.console import Console
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder
from commands.training.encoder_sources import EncoderSourceKeys, check_encoder, load_frozen_encoder
from commands.training.model_folders import read_preprocessing
from commands.training.trajectory_files import derive_preprocessing, open_reader
from data.disk import temporary_beside
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from data.video import VideoFile, decode_at_times, find_videos, inspect_video
from world_model.encoder import VideoEncoder
from world_model.nn.pools import normalise_tokens

FILE = "features.h5"
CHUNK = 64  # frames encoded at once
FeatureKind = Literal["pooled", "tokens"]


@dataclass(frozen=True, kw_only=True)
class Config(EncoderSourceKeys):
    """Keys of `jepa encode`."""

    encoder: str
    """run folder of jepa pretrain or posttrain, or owner/name on the hub; or pretrained (at path=), or timm"""
    data: Files | None = None
    """trajectory file, a list of them, a glob, or a run folder of jepa collect"""
    video: str | None = None
    """video file, or a folder of them with those below it"""
    fps: Annotated[float, Gt(0)] | None = None
    """frames a second that are taken of videos, by their time stamps; null: each file's own mean rate"""
    features: FeatureKind | None = None
    """pooled (one embedding a frame) or tokens; null: pooled where the encoder has an embedding"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""


@dataclass(frozen=True)
class Clip:
    """Frames [T, H, W, 3] of an episode or a video, and their times [T] since the first."""

    name: str
    frames_THWC: NDArray[np.uint8]
    times_s: NDArray[np.float64]


def check(config: Config) -> None:
    """Refuse a call without frames, or with two kinds of them."""
    if (config.data is None) == (config.video is None):
        raise UsageError("give data= (trajectories) or video= (a video file, or a folder of them), and not both")
    if config.video is not None and not Path(config.video).exists():
        raise UsageError(f"video={config.video}: there is no such file or folder")
    check_encoder(config, config.encoder)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Encode every frame into the run folder."""
    device = torch.device(resolve_device(config.device))
    frozen = load_frozen_encoder(config, config.encoder, console)
    encoder, about = frozen.encoder, frozen.about
    encoder.to(device)
    kind = config.features or ("tokens" if encoder.pool is None else "pooled")
    if kind == "pooled" and encoder.pool is None:
        raise UsageError("features=pooled: this encoder has no embedding of a frame; give features=tokens")
    if config.data is not None:
        reader = open_reader(config.data, config.on_damaged)
        preprocessing = derive_preprocessing(reader.info, encoder.config.image_px)
        clips, count = read_episodes(prepare_reader(reader, preprocessing)), len(reader.episodes())
    else:
        preprocessing = read_preprocessing(about, encoder.config.image_px)
        files = [inspect_video(path) for path in _list_videos(Path(str(config.video)))]
        clips, count = read_videos(files, preprocessing, config.fps), len(files)
    path = folder.path / FILE
    with console.progress("encode", count, "clips") as progress:

        def encode() -> Iterator[tuple[Clip, NDArray[Any]]]:
            for clip in clips:
                yield clip, extract_features(encoder, clip.frames_THWC, kind)
                progress.advance()

        frames = write_features(path, encode(), config.encoder, kind, preprocessing)
    line = (
        f"{kind} features of {frames} frames of {count} {'episodes' if config.data is not None else 'videos'}, {path}"
    )
    console.say(f"encode: {line}")
    folder.finish(line)


@torch.no_grad()
def extract_features(encoder: VideoEncoder, frames_THWC: NDArray[np.uint8], kind: FeatureKind) -> NDArray[Any]:
    """Features of frames, each encoded alone: embeddings [T, D], float32, or layer-normed tokens [T, N, D], float16.

    frames_THWC: uint8, in the encoder's size. They are computed on the encoder's device.
    """
    parts = []
    for chunk in torch.from_numpy(np.array(frames_THWC)).split(CHUNK):
        frames = chunk[None].to(encoder.pixel_mean.device)
        if kind == "pooled":
            parts.append(encoder.embed_frames(frames)[0].float().cpu().numpy())
        else:
            parts.append(normalise_tokens(encoder.encode_frames(frames))[0].cpu().numpy().astype(np.float16))
    return np.concatenate(parts)


def read_episodes(reader: Any) -> Iterator[Clip]:
    """Every complete episode of a trajectory file."""
    for episode in map(int, reader.episodes()):
        yield Clip(str(episode), reader.column("pixels", episode), np.asarray(reader.column("time_s", episode)))


def read_videos(files: Iterable[VideoFile], preprocessing: Preprocessing, fps: float | None) -> Iterator[Clip]:
    """Every video whole, in the size of the model's frames."""
    for file in files:
        rate = fps or (file.rate if file.length_s else 1.0)
        times_s = np.arange(int(file.length_s * rate + 1e-6) + 1) / rate
        frames = decode_at_times(file, times_s, preprocessing.size_hw, preprocessing.crop)
        yield Clip(str(file.path), frames, times_s)


def write_features(
    path: Path,
    encoded: Iterable[tuple[Clip, NDArray[Any]]],
    encoder: str,
    kind: FeatureKind,
    preprocessing: Preprocessing,
) -> int:
    """Write the file, whole or not at all, and return its number of frames."""
    names, lengths = [], []
    with temporary_beside(path) as temporary, h5py.File(temporary, "w") as file:
        for clip, features in encoded:
            for name, rows in (("features", features), ("time_s", clip.times_s - clip.times_s[0])):
                if name not in file:
                    file.create_dataset(name, (0, *rows.shape[1:]), rows.dtype, maxshape=(None, *rows.shape[1:]))
                file[name].resize(len(file[name]) + len(rows), 0)
                file[name][-len(rows) :] = rows
            names.append(clip.name)
            lengths.append(len(features))
        file["length"], file["start"] = np.array(lengths), np.cumsum([0, *lengths[:-1]])
        file["name"] = names
        file.attrs.update(encoder=encoder, features=kind, preprocessing=json.dumps(asdict(preprocessing)))
    return sum(lengths)


def _list_videos(path: Path) -> list[Path]:
    return [path] if path.is_file() else find_videos(path)
