"""`jepa probe`: what the frozen features of a model encode, and what its dynamics predict.

Probes read the true state from features: fitted on `train`, chosen on `val`, reported on `eval`. With dynamics, also
the open-loop error by horizon, the energy landscape around recorded actions, how well energy discriminates what
happened from what could not have happened, and how far ahead costs rank actions. With `variation`, the open-loop error
also where the same motion is rendered in other scenes. The model is not trained.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

import envs
from commands.config.keys import Files, OnDamaged, RunKeys
from commands.evaluation.scenes import check_episode_scenes, redraw_episodes
from commands.offline import transitions
from commands.offline.horizons import format_open_loop, measure_open_loop
from commands.offline.rank_curves import format_rank_reach
from commands.offline.rank_reach import (
    RankReachConfig,
    explain_missing_simulator,
    list_served_steps,
    measure_rank_reach,
)
from commands.offline.transitions import LandscapeConfig
from commands.report.plots import draw_horizon_curves, draw_landscape
from commands.report.rank_plots import draw_rank_reach
from commands.shared.console import Console, format_table
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError
from commands.shared.runs import RunFolder, write_json
from commands.training.model_folders import find_model_folder, load_dynamics, load_encoder, read_preprocessing
from commands.training.trajectory_files import check_actions, find_frame_skip, open_reader
from data.pictures import Preprocessing
from data.prepared import prepare_reader
from data.windows import Windows
from envs.distraction import Distraction, choose_setting, list_changes
from envs.presets import Preset, require_strength
from world_model.dynamics import LatentDynamics
from world_model.encoder import VideoEncoder
from world_model.interop.timm_encoder import TimmEncoder
from world_model.nn.pools import normalise_tokens
from world_model.probing.probes import make_random_encoder
from world_model.probing.readout import ReadoutConfig, Samples, count_steps, fit_readouts
from world_model.training.checkpoint import read_model_kind

ENCODE_CHUNK = 64  # windows encoded at once
SPLITS = {"train": "train", "val": "val", "test": "eval"}
SCENES = {"open_loop": "recorded", "open_loop_redrawn": "redrawn"}  # keys of results.json and names of a table


@dataclass(frozen=True, kw_only=True)
class Config(RunKeys):
    """Keys of `jepa probe`."""

    model: str
    """run folder of jepa pretrain or jepa posttrain, or owner/name on the Hugging Face hub"""
    data: Files
    """trajectory file: probes are fitted on train, chosen on val and reported on eval"""
    on_damaged: OnDamaged = "error"
    """episodes whose checksum fails: error, or skip to leave them out"""
    frames: Annotated[int, Ge(1)] = 2
    """frames per window, one model step apart, each encoded alone"""
    windows: Annotated[int, Ge(4)] = 2000
    """training windows at most; a quarter as many of val and of eval"""
    episodes: Annotated[int, Ge(2)] = 60
    """eval episodes at most for the dynamics"""
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    """probes of the features"""
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    """energy around recorded actions"""
    rank_reach: RankReachConfig = field(default_factory=RankReachConfig)
    """rank correlation of imagined cost and true distance, by steps to the goal"""
    variation: Preset | None = None
    """preset of scenes that the episodes are rendered in again, for the dynamics: none, seen, unseen, moving,
    distracting, color_easy, color_hard, video_easy or video_hard; null: recorded scenes alone"""
    distraction: Distraction = field(default_factory=Distraction)
    """distractors of variation=distracting; folder of videos of video_easy and video_hard"""
    strength: Annotated[float, Interval(ge=0, le=2)] = 1.0
    """distance of unseen values from the training ranges, and strength of motion, times the preset's"""

    def __post_init__(self) -> None:
        require_strength(self.variation, self.strength)
        choose_setting(self.variation or "null", asdict(self.distraction))


def check(config: Config) -> None:
    """Refuse a missing model, sizes that are too small and scenes that cannot be drawn before a folder is made."""
    model = find_model_folder(config.model)
    if config.variation is not None:
        if read_model_kind(model) != "dynamics":
            raise UsageError(
                f"variation={config.variation} is for the errors of dynamics, and {config.model} is an encoder alone: "
                "give a run folder of jepa posttrain, or leave out variation"
            )
        info = open_reader(config.data, config.on_damaged).info
        check_episode_scenes(config, info.env_id, info.env_kwargs)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Measure the features, and the dynamics where there are some; write results.json and plots."""
    device = torch.device(resolve_device(config.device))
    reader = open_reader(config.data, config.on_damaged)
    dynamics: LatentDynamics | None = None
    if read_model_kind(find_model_folder(config.model)) == "dynamics":
        dynamics, source = load_dynamics(config.model, device)
        encoder = dynamics.encoder
        check_actions(dynamics.actions, reader.info, str(config.data))
    else:
        encoder, source = load_encoder(config.model)
        encoder.to(device)
    preprocessing = read_preprocessing(source, encoder.config.image_px)
    reader = prepare_reader(reader, preprocessing)
    results: dict[str, Any] = {
        "model": {"folder": str(config.model), **source},
        "data": {"file": [str(path) for path in reader.paths], "checksum": reader.file_checksum},
        "probes": probe_features(config, encoder, reader, console),
    }
    if dynamics is not None:
        results |= probe_dynamics(config, dynamics, reader, preprocessing, folder.path)
        console.say("open-loop error on eval; ratio: over the error of copying the last frame")
        console.say(format_open_loop({name: results[key] for key, name in SCENES.items() if key in results}))
        console.say(_format_dynamics(results))
        write_json(folder / "results.json", results)  # the last part may take long with a large encoder
        results["rank_reach"] = rank_candidates(config, dynamics, reader, preprocessing, folder.path, console)
    write_json(folder / "results.json", results)
    folder.finish(_format_headline(results))
    console.say(f"results: {folder / 'results.json'}")


# -- features -------------------------------------------------------------------------------------------------------


def probe_features(config: Config, encoder: VideoEncoder, reader: Any, console: Console) -> dict[str, Any]:
    """R2 of every group of true quantities: from tokens by every kind of readout, and by ridge from the pooled
    embedding and from an untrained encoder's tokens."""
    readout = config.readout
    device = encoder.pixel_mean.device
    windows = {part: _draw_windows(config, reader, split, part) for part, split in SPLITS.items()}
    values = {part: _list_targets(reader, batch) for part, batch in windows.items()}
    groups = next(iter(values.values()))[0]

    def encode_samples(encode: Any) -> dict[str, Samples]:
        return {
            part: Samples(_encode(encode, batch["pixels"], device), values[part][1]) for part, batch in windows.items()
        }

    def fit(name: str, encode: Any, kinds: tuple[str, ...]) -> dict[str, Any]:
        samples, shape = encode_samples(encode), replace(readout, kinds=kinds)
        with console.progress(f"probe {name}", count_steps(shape), "steps") as progress:
            return fit_readouts(samples, shape, config.seed, device, progress.advance)

    scores = {"tokens": fit("tokens", partial(_encode_tokens, encoder), readout.kinds)}
    if encoder.pool is not None:
        scores["embedding"] = fit("embedding", partial(_embed, encoder), ("ridge",))
    if not isinstance(encoder, TimmEncoder):
        scores["untrained tokens"] = fit(
            "untrained tokens", partial(_encode_tokens, make_random_encoder(encoder, seed=0)), ("ridge",)
        )
    rows = {}
    for features, kinds in scores.items():
        for kind, score in kinds.items():
            r2 = {group: float(np.mean([score["r2"][i] for i in columns])) for group, columns in groups.items()}
            rows[f"{features}, {kind}"] = {"r2": r2, "val": score["val"], "hyperparameters": score["hyperparameters"]}
    head = ["R2 on eval", *groups]
    console.say(format_table([[name, *(f"{v:.3f}" for v in row["r2"].values())] for name, row in rows.items()], head))
    return rows


def _draw_windows(config: Config, reader: Any, split: str, part: str) -> dict[str, np.ndarray]:
    """Random windows of a split: `pixels` [n, T, H, W, C], `truth` [n, T, L] and their `episode` [n]."""
    skip = find_frame_skip(reader.info)
    windows = Windows(reader, split, config.frames, skip, ("pixels", "truth"))
    count = min(len(windows), config.windows if part == "train" else math.ceil(config.windows / 4))
    rng = np.random.default_rng([config.seed, list(SPLITS).index(part)])
    return windows.gather(np.sort(rng.choice(len(windows), count, replace=False)))


def _list_targets(reader: Any, batch: dict[str, np.ndarray]) -> tuple[dict[str, list[int]], Tensor]:
    """Columns of each group of values, and the values [n, P] at each window's last frame: the pose as the task defines
    it (the whole true state, where the task is unknown), velocities, and the factors of variation."""
    truth, info, task = batch["truth"][:, -1], reader.info, envs.find_task(reader.info.env_id)
    parts = {"pose": truth if task is None else task.probe_targets(truth)}
    rates = [i for i, unit in enumerate(info.truth_units) if unit.endswith("/s")]
    if rates and task is not None:
        parts["velocity"] = truth[:, rates]
    factors = [reader.factors(int(episode)) for episode in batch["episode"]]
    for column in info.factors:
        parts[column.name] = np.stack([np.ravel(one[column.name]) for one in factors])
    ends = np.cumsum([part.shape[1] for part in parts.values()])
    columns = {
        name: list(range(end - part.shape[1], end)) for (name, part), end in zip(parts.items(), ends, strict=True)
    }
    return columns, torch.from_numpy(np.concatenate(list(parts.values()), 1)).float()


@torch.no_grad()
def _encode(encode: Any, frames: np.ndarray, device: torch.device) -> Tensor:
    """Features [n, T, N, D] of windows, on the CPU."""
    chunks = torch.from_numpy(frames).split(ENCODE_CHUNK)
    return torch.cat([encode(chunk.to(device)).cpu() for chunk in chunks])


def _encode_tokens(encoder: VideoEncoder, frames_BTHWC: Tensor) -> Tensor:
    return normalise_tokens(encoder.encode_frames(frames_BTHWC)).half()  # many, and of unit size


def _embed(encoder: VideoEncoder, frames_BTHWC: Tensor) -> Tensor:
    return encoder.embed_frames(frames_BTHWC).unsqueeze(2)


# -- dynamics -------------------------------------------------------------------------------------------------------


def probe_dynamics(
    config: Config, dynamics: LatentDynamics, reader: Any, preprocessing: Preprocessing, folder: Path
) -> dict[str, Any]:
    """Open-loop errors, the energy landscape and surprise, all on eval; plots into `folder`."""
    episodes = reader.episodes("eval")[: config.episodes]
    options = config.landscape
    errors = {"open_loop": measure_open_loop(dynamics, reader, episodes, config.seed)}
    draw_horizon_curves(errors["open_loop"], folder / "open_loop.png")
    if config.variation is not None:
        frames = redraw_episodes(reader, episodes, config)

        def gather(rows: np.ndarray) -> np.ndarray:
            return preprocessing.prepare(frames.gather(rows))

        redrawn = measure_open_loop(dynamics, reader, episodes, config.seed, gather)
        about: dict[str, Any] = {"variation": config.variation, "strength": config.strength}
        about |= {"distraction": changes} if (changes := list_changes(config.distraction)) else {}
        errors["open_loop_redrawn"] = {**about, **redrawn}
    summary, mean_energy, offsets = transitions.measure_landscape(dynamics, reader, episodes, options)
    draw_landscape(
        mean_energy,
        offsets,
        [reader.info.action_names[axis] for axis in options.axes],
        summary,
        folder / "landscape.png",
    )
    return {
        **errors,
        "landscape": summary,
        "surprise": transitions.measure_surprise(dynamics, reader, episodes, config.seed),
    }


def rank_candidates(
    config: Config,
    dynamics: LatentDynamics,
    reader: Any,
    preprocessing: Preprocessing,
    folder: Path,
    console: Console,
) -> dict[str, Any] | None:
    """How far ahead the model's costs rank actions, on eval; plot into `folder`. None where it is not measured."""
    options = config.rank_reach
    if options.moments == 0:
        return None
    missing = explain_missing_simulator(reader)
    if missing is None and not list_served_steps(reader, "eval", options, dynamics):
        missing = f"no eval episode is long enough for rank_reach.steps={list(options.steps)}"
    if missing is not None:
        console.say(f"rank reach is left out: {missing}")
        return None
    total = options.moments * len(list_served_steps(reader, "eval", options, dynamics))
    with console.progress("rank reach", total, "moments") as progress:
        results = measure_rank_reach(
            dynamics, reader, "eval", options, preprocessing, config.seed, advance=progress.advance
        )
    draw_rank_reach(results, folder / "rank_reach.png")
    console.say(format_rank_reach(results))
    return results


def _format_dynamics(results: dict[str, Any]) -> str:
    landscape, surprise = results["landscape"], results["surprise"]
    rows = [
        [
            "least energy off the recorded action, half ranges",
            f"{landscape['argmin_error']:.3f}",
            f"{landscape['chance']:.3f}",
        ],
        ["energy under shuffled actions, over the recorded ones", f"{surprise['shuffled_over_true']:.2f}", "1"],
    ]
    rows += [
        [f"discriminates real from impossible: {kind}", f"{pairs['share']:.1%}", "50.0%"]
        for kind, pairs in surprise["discrimination"].items()
    ]
    return format_table(rows, ["on eval", "", "chance"])


def _format_headline(results: dict[str, Any]) -> str:
    line = ", ".join(
        f"{group} {value:.2f}"
        for group, value in max(
            (row["r2"] for row in results["probes"].values()), key=lambda r2: sum(r2.values())
        ).items()
    )
    return f"best probe R2 on eval: {line}"
