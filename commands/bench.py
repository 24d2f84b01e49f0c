"""`jepa bench render | load | pretrain | posttrain | plan | rollout | planners`: speed, with the limit beside it, as a
table and JSON; of planners, regret against compute (`commands.benchmarks.planners`).

Everything is measured in this process on random data of the configured sizes, after a warm-up. The limit of arithmetic
is a large matrix product measured in the same run. `plan` also compares models (`commands.benchmarks.plan_tables`), and
our search with those of other packages (`commands.benchmarks.opponents`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from commands.benchmarks import planners as bench_planners
from commands.benchmarks import rollout as bench_rollout
from commands.benchmarks.measurements import Row, format_utilisation, make_row, time_per_call
from commands.benchmarks.official import OfficialStep, time_in_turns
from commands.benchmarks.opponents import check_versus, compare_searches
from commands.benchmarks.plan_cases import make_case
from commands.benchmarks.plan_tables import PlanBenchKeys, check_table, measure_tables, set_sizes
from commands.benchmarks.render import measure_render_rate
from commands.config.groups import make_planner
from commands.evaluation.evaluate import measure_peak_mib
from commands.shared.console import Console, format_table
from commands.shared.devices import resolve_device
from commands.shared.errors import UsageError, describe_choices
from commands.shared.flops import count_flops
from commands.shared.runs import RunFolder, write_json
from commands.training.posttraining import make_random_stage2
from commands.training.pretraining import make_random_stage1
from planners.proposals import NONE
from world_model.encoder import EncoderConfig
from world_model.generative.world_model import WorldModelConfig
from world_model.objectives.masked import FeatureTargets, MaskedConfig
from world_model.objectives.masking import BlockMask
from world_model.objectives.objective import TeacherConfig
from world_model.objectives.pretrain_model import PretrainModel
from world_model.predictor import PredictorConfig
from world_model.training.compilation import compile_blocks
from world_model.training.loop import (
    TrainerConfig,
    keep_freed_memory,
    list_parameters,
    make_optimizer,
    resolve_precision,
    train_step,
)

PLAN, POSTTRAIN = "plan", "posttrain"
PLANNERS = "planners"  # measures no speed, so what=all leaves it out


@dataclass(frozen=True, kw_only=True)
class Config(PlanBenchKeys):
    """Keys of `jepa bench`."""

    what: str = "all"
    """measurement: all, render, load, pretrain, posttrain, plan, rollout; or planners (regret)"""
    sweep: bool = False
    """whether settings of planners are searched anew first (planners)"""
    official: str | None = None
    """clone of github.com/facebookresearch/vjepa2 whose training step is measured beside ours (pretrain)"""


def check(config: Config) -> None:
    """Raise UsageError for an unknown measurement."""
    if config.what not in (*BENCHES, "all"):
        raise UsageError(f"what={config.what}: nothing to measure{describe_choices(config.what, ['all', *BENCHES])}")
    if (source := config.planner.proposal.source) != NONE:
        raise UsageError(f"planner.proposal.source={source} needs recorded data, and jepa bench has none: leave it out")
    if config.planner.value is not None:
        raise UsageError(
            f"planner.value={config.planner.value} is of a trained model's features, and jepa bench has random ones: "
            "leave it out"
        )
    make_planner(config.planner)
    if config.what == POSTTRAIN and isinstance(config.objective, WorldModelConfig):
        raise UsageError(f"what={POSTTRAIN}: objective.family={config.objective.family} has no stage 2 to measure")
    asked = [f"table={config.table}"] if config.table != "none" else []
    asked += [] if config.versus is None else [f"versus={config.versus}"]
    if asked and config.what != PLAN:
        raise UsageError(f"what={config.what}: {asked[0]} is for jepa bench plan")
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} are two measurements: give one of them")
    if config.table != "none":
        check_table(config)
    if config.versus is not None:
        check_versus(config)


def run(config: Config, folder: RunFolder, console: Console) -> None:
    """Measure, print a table, write bench.json."""
    keep_freed_memory()
    names = list_benches(config)
    if PLANNERS not in names:
        console.say(describe_sizes(config))
    rows = [{"bench": name, **row} for name in names for row in BENCHES[name](config)]
    cells = [[r["bench"], r["what"], f"{r['value']:.4g}", r["unit"], r.get("limit", "")] for r in rows]
    console.say(format_table(cells, ["bench", "what", "value", "unit", "limit"]))
    write_json(folder.path / "bench.json", rows)
    if PLANNERS in names:
        bench_planners.write_report(rows, folder.path)
        console.say(f"plot and table: {folder.path / 'planners.png'}, {folder.path / 'planners.md'}")
    folder.finish(f"{len(rows)} measurements in {folder.path / 'bench.json'}")


def list_benches(config: Config) -> list[str]:
    """The measurements of this run. `all` leaves out the regret of planners, and stage 2 of a model that has none."""
    if config.what != "all":
        return [config.what]
    left_out = {PLANNERS, *([POSTTRAIN] if isinstance(config.objective, WorldModelConfig) else [])}
    return [name for name in BENCHES if name not in left_out]


def measure_render(config: Config) -> list[Row]:
    """Our renderer beside dm_control's own."""
    rates = measure_render_rate(config.seconds)
    limit = f"dm_control {rates['dm_control_fps']:.0f}, ratio {rates['ratio']:.1f}"
    return [make_row(f"frames, {rates['renderer']}", rates["ours_fps"], "frames/s", limit, **rates)]


def measure_loading(config: Config) -> list[Row]:
    """Random windows out of an array of frames, beside a plain copy of as many frames."""
    rng, size = np.random.default_rng(0), (20_000, *get_frame_shape(config))
    frames = rng.integers(0, 256, size, np.uint8)
    starts = rng.integers(0, 19_990, (1000, 48))
    seconds = time_per_call(lambda i: frames.take(starts[i % 1000][:, None] + np.arange(5), axis=0), config.seconds)
    copy = time_per_call(lambda _: frames[:2000].copy(), 0.5) / 2000 * 240
    return [make_row("windows of 5 frames", 48 / seconds, "windows/s", f"{48 / copy:.0f} (plain copy)")]


def measure_pretrain(config: Config) -> list[Row]:
    """A step of stage 1; with `official`, beside that of the official code."""
    device, trainer = torch.device(resolve_device(config.device)), config.pretrain
    model, batch = make_random_stage1(config.encoder, config.objective, trainer, config.env.name, config.seed, device)
    rows = measure_training(model, batch, trainer, device, config.seconds)
    return rows if config.official is None else rows + compare_with_official(config, model, batch, config.official)


def compare_with_official(config: Config, model: PretrainModel, batch: dict[str, Any], clone: str) -> list[Row]:
    """Trained tokens a second of our step and of V-JEPA 2's, whose code is in the folder `clone`."""
    objective, encoder, trainer = model.config, model.encoder, config.pretrain
    if not isinstance(objective, MaskedConfig) or not (
        isinstance(objective.targets, FeatureTargets)
        and isinstance(objective.teacher, TeacherConfig)
        and all(isinstance(mask, BlockMask) for mask in objective.masks)
    ):
        raise UsageError("official= measures V-JEPA 2's step: give objective=vjepa2")
    clip = encoder.normalise(batch["pixels"])
    variants = [False, True] if trainer.compile else [False]  # by its own option, compile_model, too
    official = [OfficialStep(Path(clone), encoder.config, objective, trainer, clip, on) for on in variants]
    optimizer, clips = make_optimizer(model, trainer), len(batch["pixels"])
    grid = encoder.clip_grid(clip)

    def train_once(number: int) -> int:
        loss, _ = train_step(model, batch, optimizer, trainer, number)
        loss.item()
        masks = [mask.sample(clips, grid, (config.seed, number, i)) for i, mask in enumerate(objective.masks)]
        return clips * sum(m.context_BM.shape[1] + sum(t.shape[1] for t in m.targets_BP) for m in masks)

    rates = time_in_turns(train_once, official, clips, 5 * config.seconds)
    ours = rates["ours"]["tokens_s"]
    return [
        make_row(
            f"trained tokens, {name}",
            rate["tokens_s"],
            "tokens/s",
            f"{rate['clips_s']:.2f} clips/s, ours {ours / rate['tokens_s']:.2f} times",
        )
        for name, rate in rates.items()
    ]


def measure_posttrain(config: Config) -> list[Row]:
    """A step of stage 2 on cached features."""
    device, trainer = torch.device(resolve_device(config.device)), config.posttrain
    sizes = config.objective.adapt_encoder(config.encoder)
    model, batch = make_random_stage2(sizes, config.dynamics, trainer.batch_size, config.env.name, device)
    return measure_training(model, batch, trainer, device, config.seconds)


def measure_planning(config: Config) -> list[Row]:
    """One batched plan for many environments; or a table of models, or our search beside another package's."""
    device = torch.device(resolve_device(config.device))
    if config.table != "none":
        return measure_tables(config, device)
    if config.versus is not None:
        return compare_searches(config, device)
    number = config.environments
    case = make_case(config, number, device)
    seconds, flops = time_per_call(case.plan, config.seconds), count_flops(lambda: case.plan(0))
    limit = format_utilisation(flops / seconds, device, config.seconds)
    what = f"plan, {number} environment{'s together' if number > 1 else ''}"
    return [make_row(what, 1e3 * seconds / number, "ms an environment", limit)]


def measure_rollout(config: Config) -> list[Row]:
    """A plan with cached keys and values beside the same plan by a loop that recomputes its window."""
    rows = []
    for setting in bench_rollout.SETTINGS:
        device = torch.device(resolve_device(config.device))
        whole = bool(getattr(config.planner, "compile_iteration", False))
        result = bench_rollout.compare_rollouts(setting, device, whole=whole)
        limit = (
            f"loop {result.loop_seconds:.3g} s, {result.loop_seconds / result.seconds:.1f} times; "
            f"operations {result.loop_flops / result.flops:.1f} times; costs within {result.difference:.0e}, "
            f"{result.same_elites:.0%} of the elites the same, in bf16 {result.bf16_elites:.0%}"
        )
        what = f"plan, {setting.name}, {setting.samples} candidates x {setting.iterations} iterations"
        rows.append(make_row(what, result.seconds, "s", limit, **asdict(result)))
        compiled = {"blocks compiled": result.compiled_seconds, "whole iterations compiled": result.whole_seconds}
        for what, seconds in compiled.items():
            if seconds is not None:
                rate = format_utilisation(result.flops / seconds, device, config.seconds)
                limit = f"{result.loop_seconds / seconds:.1f} times; {rate}"
                rows.append(make_row(f"the same, {what}", seconds, "s", limit))
    return rows


BENCHES: dict[str, Callable[[Config], list[Row]]] = {
    "render": measure_render,
    "load": measure_loading,
    "pretrain": measure_pretrain,
    "posttrain": measure_posttrain,
    "plan": measure_planning,
    "rollout": measure_rollout,
    PLANNERS: lambda config: bench_planners.compare_planners(config.sweep),
}


def measure_training(
    model: Any, batch: dict[str, torch.Tensor], trainer: TrainerConfig, device: torch.device, budget_s: float
) -> list[Row]:
    """Clips a second of a training step, and its peak memory."""
    if trainer.compile:
        compile_blocks(model)
    optimizer = make_optimizer(model, trainer)

    def step(number: int) -> None:
        train_step(model, batch, optimizer, trainer, number)

    seconds, flops = time_per_call(step, budget_s), count_flops(lambda: step(0))
    precision = resolve_precision(device, trainer.precision, list_parameters(optimizer))
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else measure_peak_mib()
    limit = format_utilisation(flops / seconds, device, budget_s, precision)
    size = trainer.batch_size
    return [
        make_row(f"training step, batch {size}, {precision}", size / seconds, "clips/s", limit),
        make_row(f"peak memory, batch {size}", memory / 1024, "GiB"),
    ]


def describe_sizes(config: Config) -> str:
    """The sizes that are measured, in one line."""
    encoder, objective, dynamics = config.encoder, config.objective, config.dynamics

    def shape(part: EncoderConfig | PredictorConfig) -> str:
        return f"{part.depth} x {part.width}, {part.heads} heads"

    search = ""
    if config.table != "none" or config.versus is not None:
        planner = set_sizes(config).planner
        size = f"{planner.samples} candidates x {planner.horizon} steps"
        plural = "s" if planner.iterations > 1 else ""
        search = f"{size}, {planner.iterations} iteration{plural} of {planner.name}"
    height, width = encoder.image_px
    if config.table != "none":
        return f"one environment of {config.env.name}, {height}x{width} px, {search}"
    if isinstance(objective, WorldModelConfig):
        sizes = f"world model of one stage, family {objective.family}, {objective.frames} frames, {height}x{width} px"
        return f"{sizes}; {search}" if search else sizes
    own = getattr(objective, "predictor", None)  # a causal encoder has none
    predictor = "" if own is None else f", predictor {shape(own)}"
    return (
        f"encoder {shape(encoder)}, {height}x{width} px in patches of {encoder.patch_px}; {objective.family} "
        f"objective, {objective.frames} frames{predictor}; dynamics of "
        f"{dynamics.space}, {shape(dynamics.predictor)}{'; ' if search else ''}{search}"
    )


def get_frame_shape(config: Config) -> tuple[int, int, int]:
    """Height, width and channels of a frame."""
    return (*config.encoder.image_px, 3)
