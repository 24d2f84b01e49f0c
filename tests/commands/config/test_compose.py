"""Composition of configurations, and frozen dataclasses built from them."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import json
import typing
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from commands.cli.command import find_run_folder
from commands.cli.main import COMMANDS
from commands.config.compose import (
    compose,
    compose_defaults,
    compose_help,
    get_config_class,
    get_module_name,
    load_config,
    nest_overrides,
)
from commands.config.groups import PLANNERS, make_planner
from commands.config.help_texts import collect_help_texts
from commands.config.keys import EnvKeys
from commands.config.schema import build, choose_class, fill_defaults, get_field_types, override
from commands.shared.devices import resolve_device
from commands.shared.errors import RunError, UsageError, join_names, suggest_names
from commands.shared.runs import flatten, write_json
from envs.presets import PRESETS
from world_model.nn.pools import KeypointPoolConfig, LearnedPoolConfig

CONFIGS = Path(__file__).parents[3] / "configs"
# What each command must be given; a cooldown goes on from a run.
GIVEN = {
    "import": ["format=droid"],
    "pretrain": ["data=x.h5"],
    "posttrain": ["data=x.h5", "encoder=runs/e"],
    "clone": ["data=x.h5", "model=runs/m"],
    "encode": ["data=x.h5", "encoder=runs/e"],
    "plan": ["data=x.h5", "model=runs/m"],
    "probe": ["data=x.h5", "model=runs/m"],
    "compare": ["objectives=[future]"],  # not each objective is for each encoder
}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner
    name: str = "a"
    kind: Literal["soft", "hard"] = "soft"
    flag: bool = False
    size: tuple[int, int] = (1, 2)
    betas: tuple[float, ...] = ()
    tags: list[str] = field(default_factory=list)
    extra: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    either: int | str = 0
    colour: Colour = Colour.RED
    path: Path = Path(".")
    parts: tuple[Inner, ...] = ()
    anything: Any = None

    def __post_init__(self):
        if self.name == "forbidden":
            raise ValueError("name=forbidden is taken")


def test_words_and_pieces_of_configuration_nest_alike():
    words = ["objective.frames=9", {"objective": {"terms": {"centred": True}}}, "data.episodes=5"]
    assert nest_overrides(words) == {"objective": {"frames": 9, "terms": {"centred": True}}, "data": {"episodes": 5}}
    assert nest_overrides([]) == {}
    for strange in ("frames", 3):
        with pytest.raises(UsageError, match=f"'{strange}' is not key=value"):
            nest_overrides([strange])


def test_nested_dicts_become_frozen_dataclasses_with_their_types():
    made = build(
        Outer,
        {
            "inner": {"width": 3.0, "rate": 1},
            "size": [4, 5],
            "betas": [0, 1],
            "tags": ["x"],
            "extra": {"k": 2},
            "limit": 7,
            "either": "seven",
            "colour": "blue",
            "path": "a/b",
            "parts": [{"width": 1}, {"width": 2}],
            "kind": "hard",
            "flag": True,
            "anything": {"free": 1},
        },
    )
    assert made == Outer(
        Inner(3, 1.0),
        kind="hard",
        flag=True,
        size=(4, 5),
        betas=(0.0, 1.0),
        tags=["x"],
        extra={"k": 2},
        limit=7,
        either="seven",
        colour=Colour.BLUE,
        path=Path("a/b"),
        parts=(Inner(1), Inner(2)),
        anything={"free": 1},
    )
    assert type(made.inner.width) is int and type(made.inner.rate) is float
    assert build(Outer, {"inner": {"width": 1}, "either": 5}).either == 5
    assert build(Outer, {"inner": {"width": 1}, "limit": None}).limit is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nam": "b"}, "'top.nam' is no key; did you mean name?"),
        ({"inner": {"widht": 3}}, "'top.inner.widht' is no key; did you mean width?"),
        ({"inner": {}}, "top.inner.width is missing"),
        ({"inner": 3}, "top.inner"),
        ({"inner": {"width": 2.5}}, "top.inner.width=2.5: top.inner.width must be a whole number"),
        ({"inner": {"width": True}}, "must be a whole number"),
        ({"inner": {"width": "3"}}, "must be a whole number"),
        ({"inner": {"width": 3, "rate": "fast"}}, "must be a number"),
        ({"flag": 1}, "must be true or false"),
        ({"name": ["a"]}, "must be text"),
        ({"kind": "sof"}, "did you mean soft? (choices: soft, hard)"),
        ({"colour": "green"}, "choices: red, blue"),
        ({"size": [1]}, "top.size=[1]: the list has another length"),
        ({"betas": 1}, "must be a list"),
        ({"limit": "none"}, "must be a whole number"),
        ({"extra": {"k": "v"}}, "top.extra.k=v"),
        ({"parts": [{"width": "x"}]}, "top.parts[0].width=x"),
        ({"name": "forbidden"}, "top: name=forbidden is taken"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change, said):
    with pytest.raises(UsageError) as caught:
        build(Outer, {"inner": {"width": 1}, **change}, "top")
    assert said in str(caught.value), str(caught.value)


def test_a_configuration_is_plain_and_its_references_are_resolved():
    composed = compose("collect", ["env=two_rooms"])
    assert composed.choices == {"env": "two_rooms", "data": "small"}
    assert composed.config["data"]["policy"]["name"] == composed.config["env"]["policy"]
    assert "hydra" not in composed.config and "given" not in composed.config
    for key, value in flatten(composed.config).items():
        assert value is None or type(value) in (str, int, float, bool, list, dict), (key, type(value))


def test_a_choice_takes_its_other_keys_from_the_one_it_is_based_on():
    small, debug = (compose("collect", [f"data={name}"]).config["data"] for name in ("small", "debug"))
    assert debug.keys() == small.keys() and debug["episodes"] < small["episodes"]
    assert debug["policy"] == small["policy"]


def test_values_are_set_whole_or_key_by_key():
    one = compose("collect", ["data.policy.name=uniform", "data.policy.hold=3"]).config
    two = compose("collect", ["data.policy={name: uniform, hold: 3}"]).config
    assert one == two and one["data"]["policy"]["std"] == compose_defaults("collect").config["data"]["policy"]["std"]
    assert compose("collect", ["env.kwargs={size: 32, proprio: true}"]).config["env"]["kwargs"] == {
        "size": 32,
        "proprio": True,
    }
    assert compose("collect", ["+seed=2"]).config["seed"] == 2
    assert compose("collect", ["name=3"]).config["name"] == "3"


@pytest.mark.parametrize("name", ["2024", "007", "1e3", "1_000", "true", "off", "0x10", "nan"])
def test_a_name_that_reads_as_a_number_stays_as_it_was_written(name):
    assert load_config("pretrain", [f"data={name}", f"name={name}"]).data == name
    assert load_config("pretrain", ["data=x", f"start={name}", "start=null"]).start is None
    assert load_config("pretrain", ["data=[2024,b]"]).data == ["2024", "b"]


@pytest.mark.parametrize(("written", "spelling"), [("a,b", '"a,b"'), ("${x}", r"\${x}")])
def test_a_refused_name_says_how_it_is_written(written, spelling):
    with pytest.raises(UsageError) as caught:
        compose("pretrain", [f"data={written}"])
    assert spelling.removesuffix("{x}") in str(caught.value)
    assert load_config("pretrain", [f"data={spelling}"]).data == written


def test_a_recipe_of_other_commands_is_refused_with_the_group_that_is_missing():
    with pytest.raises(UsageError, match="recipe=varied: it also chooses planner, which jepa pretrain does not have"):
        compose("pretrain", ["recipe=varied", "data=x"])


def test_composing_leaves_no_trace_in_hydra():
    from hydra.core.global_hydra import GlobalHydra

    compose("collect", [])
    assert not GlobalHydra.instance().is_initialized()


def test_what_must_be_given_is_asked_for():
    with pytest.raises(UsageError, match=r"data, encoder must be given: jepa posttrain data=\.\.\. encoder="):
        compose("posttrain", [])
    assert compose("posttrain", ["data=[a.h5,b.h5]", "encoder=runs/e"]).config["data"] == ["a.h5", "b.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name].folder])
def test_every_choice_of_every_group_is_accepted_by_its_command(name, tmp_path, monkeypatch):
    """Each YAML key must be one that the typed configurations know, and each of their keys must be there."""
    module = importlib.import_module(get_module_name(name))
    _, options = compose_help(name, [])
    # What `demo` has tried in every choice, these two need not try again: it takes half a minute each.
    tried = (
        {group.partition("@")[0] for group in compose_help("demo", [])[1]} if name in ("bench", "compare") else set()
    )
    options = {group: choices for group, choices in options.items() if group.partition("@")[0] not in tried}
    lines = [[]] + [[f"{group}={choice}"] for group, choices in options.items() for choice in choices]
    usual = compose_defaults(name).choices
    checkpoint = tmp_path / "checkpoints" / "step-00000001.safetensors"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    (tmp_path / "trajectory.h5").touch()
    (tmp_path / "runs" / "m").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for line in lines:
        if line and "cooldown" in line[0]:
            line.append(f"start={tmp_path}")
        if name == "import":
            line.append(f"path={tmp_path}")
        if line and line[0] in {
            "planner=module",
            "planner=direct",
            *(f"{group}={choice}" for group, choice in usual.items()),
        }:
            continue
        config = load_config(name, [*GIVEN.get(name, []), *line])
        if hasattr(module, "check"):
            module.check(config)


def test_every_choice_of_a_planner_has_its_class_and_every_class_a_choice():
    names = set()
    for choice in set(compose_help("plan", [])[1]["planner"]) - {"module", "direct"}:
        keys = load_config("plan", [*GIVEN["plan"], f"planner={choice}"]).planner
        names.add(keys.name)
        assert type(make_planner(keys)) is PLANNERS[type(keys)] and make_planner(keys).config == keys
    assert names == {keys().name for keys in PLANNERS}
    with pytest.raises(UsageError, match="planner=direct executes proposals and planner.proposal.source is none"):
        make_planner(load_config("plan", [*GIVEN["plan"], "planner=direct"]).planner)
    keys = load_config("plan", [*GIVEN["plan"], "planner=direct", "planner.proposal.source=retrieval"]).planner
    assert make_planner(keys).config == keys and make_planner(keys).horizon == keys.horizon


def test_a_planners_keys_are_those_of_its_class():
    with pytest.raises(
        UsageError, match="'planner.sampels' is no group or key of jepa plan; did you mean planner.samples"
    ):
        compose("plan", [*GIVEN["plan"], "planner.sampels=3"])
    with pytest.raises(UsageError, match="'planner.temperature' is no group or key"):
        compose("plan", [*GIVEN["plan"], "planner.temperature=3"])
    assert load_config("plan", [*GIVEN["plan"], "planner=mppi", "planner.temperature=3"]).planner.temperature == 3


def find_classes(cls):
    """A dataclass and all dataclasses that its fields may hold."""
    classes = {cls}
    for hint in get_field_types(cls).values():
        for option in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(option):
                classes |= find_classes(option)
    return classes


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_has_a_help_text(name):
    for cls in find_classes(get_config_class(name)):
        texts = collect_help_texts(cls, {})
        assert not [key for key in get_field_types(cls) if not texts.get(key)], cls


def test_auto_is_a_device_that_computes():
    import torch

    assert torch.ones(2, device=resolve_device("auto")).sum() == 2
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="choices: auto, cpu, cuda, mps"):
        resolve_device("cuda:first")


def test_the_nearest_names_are_few_and_near():
    names = ["trainer.lr", "trainer.lr_end", "trainer.steps", "seed", "data"]
    assert suggest_names("sed", names) == "; did you mean seed?"
    assert suggest_names("steps", names) == "; did you mean trainer.steps?"
    assert suggest_names("lr", names) == "; did you mean trainer.lr?"
    assert suggest_names("trainer.step", names) == "; did you mean trainer.steps?"
    assert suggest_names("qqqq", names) == ""
    assert join_names("abcd", most=2) == "a, b, ... (2 more)"


def test_a_choice_may_lie_in_a_folder_of_its_group_and_a_gym_task_is_named_by_its_id():
    assert compose("collect", ["env=dmc/cheetah"]).config["env"]["name"] == "dmc/cheetah"
    gym = compose("collect", ["env=gym", "env.id=MountainCarContinuous-v0"]).config["env"]
    assert gym["name"] == "gym/MountainCarContinuous-v0"
    with pytest.raises(UsageError, match="env.name follows from the group"):
        compose("collect", ["env=gym", "env.name=gym/Pendulum-v1"])


def test_factors_reach_the_data_file_and_are_not_there_when_off():
    from commands.transfer.collection import make_collect_config

    on = make_collect_config(load_config("collect", ["env.factors=[colour,light]", "env.kwargs.size=32"]))
    assert on.env_kwargs == {"size": 32, "factors": ["colour", "light"]}
    assert make_collect_config(load_config("collect", ["env.kwargs.size=32"])).env_kwargs == {"size": 32}
    preset = make_collect_config(load_config("collect", ["env.variation=unseen"]))
    assert preset.env_kwargs == {"variation": "unseen"}
    assert make_collect_config(load_config("collect", ["env.variation=none"])).env_kwargs == {}
    words = ["env.variation=distracting", "env.distraction.dynamic=true", "env.distraction.kinds=[camera]"]
    made = make_collect_config(load_config("collect", words)).env_kwargs
    keys = {"dynamic": True, "kinds": ["camera"]}
    assert made == {"variation": "distracting", "distraction": keys}


def test_the_presets_of_variation_are_those_of_the_environments():
    assert typing.get_args(typing.get_type_hints(EnvKeys)["variation"]) == PRESETS


@pytest.mark.parametrize("group", ["planner", "objective", "encoder", "dynamics", "protocol", "data", "env"])
def test_a_choice_restates_no_default(group):
    """A value that a YAML file sets differs from the dataclass's default, or a comment names its source."""
    hint = get_field_types(get_config_class("demo"))[group]
    for path in sorted((CONFIGS / group).rglob("*.yaml")):
        content = yaml.safe_load(path.read_text()) or {}
        if "defaults" in content:
            continue  # it may take back what another choice sets
        tags = {key: content[key] for key in ("name", "family", "policy", "id") if isinstance(content.get(key), str)}
        default = flatten(fill_defaults(choose_class(hint, content), tags))
        bare = {key for key in flatten(content) if f"{key.rpartition('.')[2]}: " in path.read_text()}
        bare -= {line.partition(":")[0].strip() for line in path.read_text().splitlines() if "  # " in line}
        assert not [key for key in bare - tags.keys() if key in default and flatten(content)[key] == default[key]], path


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["objective=vjepa2", "objective.teacher=stop"], "teacher", "stop"),
        (["objective=collapse", "objective.teacher.ema=0.9"], "teacher", {"ema": 0.9, "ema_end": 0.99925}),
        (["objective=future", "objective.metric=null"], "metric", None),
        (["objective=vjepa2", "objective.metric={kind: commute, lag: 1}"], "metric.lag", 1),
        (["objective=lewm", "objective.metric.kind=commute"], "metric.kind", "commute"),
        (["objective=pldm"], "metric", None),
        (
            ["objective=vjepa21", "objective.targets.kind=pixels"],
            "targets",
            {"kind": "pixels", "normalise_patches": True},
        ),
        (["objective=vjepa2", "objective.targets.kind=average", "objective.targets.blocks=3"], "targets.blocks", 3),
    ],
)
def test_a_part_of_an_objective_may_be_another_kind_a_word_or_null(words, key, value):
    config = compose("pretrain", [*words, "data=x"]).config["objective"]
    found = config
    for name in key.split("."):
        found = found[name]
    assert found == value
    load_config("pretrain", [*words, "data=x"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["objective.teacher=ema"],
            "objective.teacher=ema: objective.teacher is one of stop, shared, or holds keys, as ema",
        ),
        (["objective.masks=[]"], "'objective.masks' is no group or key"),  # those of another family
        (["objective=vjepa2", "objective.targets.blocks=3"], "'objective.targets.blocks' is no group or key"),
        (["objective=vjepa2", "objective.targets.kind=pixel"], "objective.targets.kind=pixel is no choice"),
        (["objective.family=masked"], "objective.family follows from the group"),
        (["objective=lewm", "objective.terms.contrast=1"], "'objective.terms.contrast' is no group or key"),
        (["objective=pldm", "objective.terms.contrast_scale=1"], "'objective.terms.contrast_scale' is no group or key"),
    ],
)
def test_keys_of_another_family_or_kind_are_refused(words, said):
    with pytest.raises(UsageError) as caught:
        load_config("pretrain", [*words, "data=x"])
    assert said in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("objective", "fits"), [("future", True), ("lewm", False), ("pldm", False)])
def test_a_run_of_an_earlier_loss_is_not_resumed(objective, fits, tmp_path):
    words = [f"objective={objective}", "data=x.h5", "name=x", f"runs={tmp_path}"]
    folder = find_run_folder(COMMANDS["pretrain"], compose("pretrain", words))
    with folder:
        write_json(folder / "part.json", 1)
    folder.check()
    stored = json.loads((folder / "config.json").read_text())
    stored["objective"].pop("loss_version", None)  # as an earlier version wrote it
    write_json(folder / "config.json", stored)
    with nullcontext() if fits else pytest.raises(RunError, match="objective.loss_version is 1 there and 2 here"):
        folder.check()


@pytest.mark.parametrize(
    ("words", "pool"),
    [
        ([], LearnedPoolConfig()),
        (["encoder.pool.dim=5"], LearnedPoolConfig(dim=5)),
        (["encoder.pool=null"], None),
        (["encoder.pool.kind=keypoints", "encoder.pool.stride=2"], KeypointPoolConfig(stride=2)),
        (["encoder=vit_tiny", "encoder.pool.kind=keypoints"], KeypointPoolConfig()),
        (["encoder=vit_tiny"], None),
        (["recipe=push_t"], KeypointPoolConfig(points=128, stride=2)),
        (["recipe=push_t", "encoder.pool.dim=5"], KeypointPoolConfig(dim=5, points=128, stride=2)),
        (["recipe=push_t", "encoder.pool.kind=learned"], LearnedPoolConfig()),
    ],
)
def test_the_kind_of_a_pool_is_chosen_by_yaml_or_on_the_command_line(words, pool):
    assert load_config("demo", words).encoder.pool == pool


def test_a_configuration_can_be_changed_without_changing_the_next_one():
    first = compose("compare", ["recipe=reacher"])
    first.config["search"]["future"].clear()
    first.config["arms"].clear()
    again = compose("compare", ["recipe=reacher"])
    assert again.config["search"]["future"] and again.config["arms"]


@pytest.mark.parametrize(
    "over",
    [
        {"planner": {"name": "mppi", "samples": 64}, "seed": 3},
        {"planner": {"cost": {"view": "tokens"}}},
        {"dynamics": {"losses": {"loss": "l2"}, "space": "tokens"}},
        {"objective": {"terms": {"centred": True}}, "clone": {"trainer": {"steps": 1}}},
    ],
)
def test_overridden_parts_are_those_of_a_whole_new_configuration(over):
    composed = compose("demo", ["recipe=reacher"])
    config, cls = composed.keys, type(composed.keys)
    made = override(config, over)
    assert made == build(cls, fill_defaults(cls, over, composed.config))
    assert made.encoder is config.encoder and made != config
