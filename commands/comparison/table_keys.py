"""Keys of a table, and the pipeline of each of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any

from annotated_types import Ge, Gt, Interval

from commands.comparison.axes import Variant, list_decided_keys, list_variants, merge_overrides
from commands.comparison.budgets import Budget
from commands.comparison.one_stage import adapt_variant, check_overrides, drop_stage2, find_unfit_axis
from commands.comparison.search import Distribution, leave_out_keys, read_space
from commands.config.compose import list_choices, load_config, nest, nest_overrides
from commands.config.schema import override
from commands.evaluation.protocol import ProtocolConfig
from commands.pipeline import PipelineKeys
from commands.shared.errors import UsageError, join_names
from commands.tables.rows import ORACLE, Effort, format_row
from world_model.encoder import EncoderConfig
from world_model.generative.world_model import WorldModelConfig
from world_model.nn.pools import KeypointPoolConfig
from world_model.objectives.end_to_end import EndToEndConfig
from world_model.objectives.families import Stage1Config
from world_model.objectives.future import FutureConfig
from world_model.objectives.metric import Kind, MetricConfig

UNTRAINED = "untrained"  # method: an encoder before its first step
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class TableKeys(PipelineKeys):
    """Keys of a table: the pipeline that all methods share, the methods, and the variants that each is run in."""

    objective: Stage1Config = field(default_factory=FutureConfig, repr=False)  # each method has its own
    videos: int = field(default=0, repr=False)
    objectives: list[str] = field(default_factory=list)
    """methods: names of objectives, of arms, untrained, oracle"""
    arms: dict[str, list[Any]] = field(default_factory=dict)
    """methods of this table's own, as overrides of the pipeline, {arm: [objective=NAME, key=value]}"""
    budgets: list[Budget] = field(default_factory=lambda: ["steps", "total"])
    """steps: equal steps of stage 1; total: equal FLOPs of both stages together; flops: equal FLOPs of stage 1; each
    those of the first trained method"""
    efforts: list[Effort] = field(default_factory=lambda: ["candidates"])
    """candidates: equal candidates of a search; flops: equal FLOPs of a plan; time: equal wall time of a plan; each
    those of the first trained method"""
    seeds: Annotated[int, Ge(1)] = 1
    """training seeds, from `seed` on, each with data of its own that all methods share"""
    axes: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """variants of each axis, as overrides that every method gets, {axis: {variant: [key=value]}}"""
    vary: dict[str, list[str]] = field(default_factory=dict)
    """variants that every method is run in, by axis, as {metric: [none, biharmonic]}; empty: none"""
    trials: Annotated[int, Ge(1)] = 1
    """settings that each row is trained with; the best on val is evaluated (1: the published setting alone)"""
    trial_episodes: Annotated[int, Ge(1)] = 50
    """pairs of start and goal of val that each trial is evaluated on"""
    trial_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """share of the training steps that a trial takes in both stages; below 1 the chosen setting is trained in full"""
    search: dict[str, dict[str, Any]] = field(default_factory=dict)
    """search space of each method's trials, {method: {key: distribution}}; distributions: {log: [low, high]},
    {uniform: [low, high]}, {choice: [values]}"""
    cells: str | None = None
    """folder to which finished cells, one JSON file each, and their table are written; null: cells in the run folder"""
    published: str | None = "docs/objectives"
    """folder of cells that were finished before, which are read and never written; null: none"""
    table_only: bool = False
    """whether to make the table of finished cells and run none"""
    keep_models: bool = False
    """whether the models of finished cells stay in the run folder, to plan with them again"""
    metric: Kind | None = "biharmonic"
    """objective.metric.kind of all methods but those that learn dynamics themselves, where vary has no metric; null: no
    metric"""
    mixed: bool = False
    """whether one table may mix cells of different tasks' settings, data or protocols"""
    may_differ: list[str] | None = None
    """keys, or parts of the configuration, in which the methods of a controlled table may differ; null: in any"""
    same_size: Annotated[float, Gt(0)] | None = None
    """largest share by which the parameters that methods train and plan with may differ; null: any"""
    oracle_costs: list[str] | None = None
    """methods with whose cost the true simulator is planned, if protocol.oracle_cost.episodes is above 0; null: all"""
    small: dict[str, list[Any]] = field(default_factory=dict)
    """overrides of an objective's published values at this scale, as words or {objective: {...}}"""

    @property
    def shared(self) -> PipelineKeys:
        """The pipeline of all methods."""
        return PipelineKeys(**{item.name: getattr(self, item.name) for item in fields(PipelineKeys)})


@dataclass(frozen=True)
class MethodVariant:
    """One method in one variant: a row of the table."""

    objective: str
    variant: Variant

    @property
    def name(self) -> str:
        """As the table shows it."""
        return format_row(self.objective, self.variant)

    @property
    def is_trained(self) -> bool:
        """Whether stage 1 takes steps."""
        return self.objective not in (UNTRAINED, ORACLE)


def list_rows(config: TableKeys) -> tuple[list[MethodVariant], dict[str, list[str]]]:
    """The rows of a table, and the names of those that are left out by the reason: a variant that changes nothing for
    a method, or an encoder that its objective refuses."""
    rows: list[MethodVariant] = []
    left_out: dict[str, list[str]] = {}
    for objective in config.objectives:
        seen: list[PipelineKeys] = []
        for variant in list_variants(config.axes, config.vary) if objective != ORACLE else [{}]:
            row, keys = MethodVariant(objective, variant), make_cell_keys(config, objective, config.seed, variant)
            unfit = None if keys.has_stage2 else find_unfit_axis(merge_overrides(config.axes, variant))
            if unfit is not None:
                left_out.setdefault(unfit, []).append(row.name)
                continue
            effective = replace(keys, encoder=keys.stage1.adapted_encoder)
            reason = find_refusal(effective) if variant else None
            if effective in seen:
                reason = "the same as another variant of this objective"
            if reason is not None:
                left_out.setdefault(reason, []).append(row.name)
                continue
            seen.append(effective)
            rows.append(row)
    return rows, left_out


def find_refusal(keys: PipelineKeys) -> str | None:
    """Why an objective refuses the encoder that it would train; None where it does not."""
    if not keys.pretrain.steps:
        return None
    try:
        keys.objective.check_encoder(keys.encoder)
    except ValueError as error:
        return str(error)
    return None


def make_cell_keys(
    config: TableKeys, objective: str, seed: int, variant: Variant = NOTHING, setting: Mapping[str, Any] = NOTHING
) -> PipelineKeys:
    """The pipeline of a method with a seed, in a variant, with a trial's setting (dotted keys). Later overrides win:
    `small`, then the arm's, the variant, and the setting. Raises UsageError for an unknown objective or override."""
    known = (*config.arms, *list_choices("objective"))
    if objective not in (UNTRAINED, ORACLE, *known):
        raise UsageError(f"objectives: {objective} is none (choices: {UNTRAINED}, {ORACLE}, {join_names(known, 30)})")
    keys = replace(config.shared, seed=seed, videos=0)
    if objective == ORACLE or config.oracle_costs is not None and objective not in config.oracle_costs:
        keys = replace(keys, protocol=drop_oracle_cost(keys.protocol))
    if objective == ORACLE:
        keys = replace(keys, protocol=replace(keys.protocol, oracle=True))
        return _apply_overrides(keys, config.small.get(ORACLE, []), f"small.{ORACLE}")
    of_variant, of_setting = merge_overrides(config.axes, variant), [nest(*item) for item in setting.items()]
    where_variant = f"vary ({format_row(objective, variant)})"
    name, of_arm = read_arm(config.arms, objective)
    if objective == UNTRAINED:
        chosen = nest_overrides([of_variant, *of_setting]).get("encoder", {})
        name = get_untrained_objective(_apply_overrides(keys, [{"encoder": chosen}], where_variant).encoder)
    cost = replace(keys.planner.cost, view=keys.dynamics.space)
    published = _load_published(name)
    if isinstance(published, WorldModelConfig):
        keys, of_variant = drop_stage2(keys), adapt_variant(of_variant)
        cost = keys.planner.cost
        check_overrides(nest_overrides(config.small.get(name, [])), f"small.{name}", name)
        check_overrides(of_arm, f"arms.{objective}", name)
        check_overrides(nest_overrides(of_setting), f"search.{objective}", name)
    elif not isinstance(published, EndToEndConfig):
        metric = None if config.metric is None else replace(published.metric or MetricConfig(), kind=config.metric)
        published = replace(published, metric=metric)
    keys = replace(keys, objective=published, planner=replace(keys.planner, cost=cost))
    keys = _apply_overrides(keys, config.small.get(name, []), f"small.{name}")
    keys = _apply_overrides(keys, [of_arm], f"arms.{objective}")
    keys = _apply_overrides(keys, [of_variant], where_variant)
    keys = _apply_overrides(keys, of_setting, f"search.{objective}")
    return replace(keys, pretrain=replace(keys.pretrain, steps=0)) if objective == UNTRAINED else keys


def drop_oracle_cost(protocol: ProtocolConfig) -> ProtocolConfig:
    """The protocol without the true simulator planned with a model's cost."""
    return replace(protocol, oracle_cost=replace(protocol.oracle_cost, episodes=0))


def read_arm(arms: Mapping[str, Sequence[Any]], method: str) -> tuple[str, dict[str, Any]]:
    """The objective of a method's stage 1, and the overrides of its arm: of another method its own name and none.
    Raises UsageError for an arm that names no objective."""
    if method not in arms:
        return method, {}
    chosen = [word for word in arms[method] if isinstance(word, str) and word.partition("=")[0] == "objective"]
    name = chosen[0].partition("=")[2] if len(chosen) == 1 else None
    if name not in list_choices("objective"):
        raise UsageError(
            f"arms.{method} names no objective: give objective=NAME among its overrides, once (choices: "
            f"{join_names(list_choices('objective'), 30)})"
        )
    return name, nest_overrides([word for word in arms[method] if word not in chosen])


def get_untrained_objective(encoder: EncoderConfig) -> str:
    """The objective whose encoder is taken before its first step: what a new keypoint pool embeds, or else principal
    components of new tokens."""
    return "future" if isinstance(encoder.pool, KeypointPoolConfig) else "vjepa2"


def make_search_space(config: TableKeys, objective: str) -> dict[str, Distribution]:
    """The search space of a method's rows, without keys that an axis of the table decides."""
    space = read_space(find_search(config, objective), f"search.{objective}")
    return leave_out_keys(space, list_decided_keys(config.axes, config.vary))


def find_search(config: TableKeys, objective: str) -> dict[str, Any]:
    """The search space that the configuration states for a method: an arm's own, or that of its objective."""
    return config.search.get(objective) or config.search.get(read_arm(config.arms, objective)[0], {})


def _apply_overrides(keys: PipelineKeys, overrides: Sequence[Any], where: str) -> PipelineKeys:
    try:
        nested = nest_overrides(overrides)
        return override(keys, nested) if nested else keys
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


@cache
def _load_published(objective: str) -> Stage1Config:
    return load_config("demo", [f"objective={objective}"]).objective
