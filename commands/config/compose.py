"""From the overrides of a command line to a checked configuration.

A command `NAME` is a module of `commands` with a frozen dataclass `Config`: its keys, their defaults and help texts.
Hydra reads the choices in `pkg://configs` (YAML), the defaults of `Config` fill the keys that these leave out, and
overrides of single keys come last. An unknown group, choice or key is a `UsageError` with the nearest names.
"""

from __future__ import annotations

import copy
import importlib
import keyword
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib import resources
from typing import Any

from commands.config import schema
from commands.shared.errors import UsageError, describe_choices, join_lines, join_names, suggest_names
from commands.shared.runs import flatten

CONFIGS = "configs"
HYDRA_VERSION = "1.3"
MODULE = "module"  # choice of a group that a class in another module may serve


@dataclass(frozen=True)
class Composed:
    """A command's whole configuration as nested plain values, and the choice of each group ("env" -> "reacher").

    keys: the same configuration as an instance of the command's Config; None where values may still be missing.
    overrides: what it was composed from.
    """

    command: str
    config: dict[str, Any]
    choices: dict[str, str]
    keys: Any = None
    overrides: tuple[str, ...] = ()


def get_module_name(command: str) -> str:
    """Return the module of a command: commands/NAME.py, or NAME_.py where Python reserves the name."""
    return f"commands.{command}{'_' if keyword.iskeyword(command) else ''}"


def get_config_class(command: str) -> type:
    """Return the dataclass of a command's keys."""
    return importlib.import_module(get_module_name(command)).Config


def load_config(command: str, overrides: Sequence[str] = ()) -> Any:
    """Return the configuration of a command with these overrides as an instance of its `Config`."""
    return compose(command, overrides).keys


def compose(command: str, overrides: Sequence[str]) -> Composed:
    """Return the configuration of a command with these overrides, complete and checked.

    Raises UsageError for a group, choice or key that is unknown, a value of another type, several values where one is
    meant, and a required key (`???`) that is not given.
    """
    cls, (chosen, values) = get_config_class(command), _split(command, parse_overrides(command, overrides))
    base = compose_choices(command, chosen)
    config = base.config
    for key, value, text in sorted(values, key=lambda item: not item[0].endswith(".kind")):  # kinds decide what exists
        _check_key(command, key, value, config)
        value = schema.read_text(schema.find_types(cls, key, config)[0], value, text)
        config = schema.fill_defaults(cls, nest(key, value), config)
    if missing := sorted(key for key, value in _list_leaves(config) if value == schema.REQUIRED):
        given = " ".join(f"{key}=..." for key in missing)
        raise UsageError(f"{join_names(missing)} must be given: jepa {command} {given}")
    config = _resolve(config)
    _check_recipe(_load(command, tuple(chosen))[0], base.choices, config)
    return Composed(command, config, base.choices, schema.build(cls, config), tuple(overrides))


def _list_leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested mappings and lists that are neither, each with its place as "a.b[0]"."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _list_leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _list_leaves(item, f"{where}[{number}]")
    else:
        yield where, value


def _resolve(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its references `${a.b}` replaced by what they refer to. UsageError for one to nothing.

    OmegaConf gets the parts alone that hold references or are referred to: it needs a quarter of a second for a whole
    table's configuration.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found = [(key, value) for key, value in _list_leaves(config) if isinstance(value, str) and "$" in value]
    holders = {key.partition(".")[0].partition("[")[0] for key, _ in found}
    named = {name for _, value in found for name in re.findall(r"\w+", value)}
    parts = {key: value for key, value in config.items() if key in holders | named}
    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(parts), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{join_lines(error)}; a $ that is part of a name is written \\$, in single quotes") from error
    return copy.deepcopy(config) | resolved  # what it was made of is kept for other commands


@cache
def compose_defaults(command: str) -> Composed:
    """Return the command's configuration without overrides; references stay, and what must be given is '???'."""
    return compose_choices(command, [])


def compose_help(command: str, overrides: list[str]) -> tuple[Composed, dict[str, list[str]]]:
    """Return the configuration with the choices among the overrides, and the choices that each group has."""
    chosen, _ = _split(command, parse_overrides(command, overrides))
    groups = compose_defaults(command).choices
    return compose_choices(command, chosen), {group: list_command_choices(command, group) for group in groups}


def compose_choices(command: str, chosen: Sequence[str]) -> Composed:
    """Return the configuration with these choices; references stay, and what must be given is '???'.

    Only keys of the command are kept: a recipe may set those of other commands, too. Its key `choices` chooses in
    groups that not every command has, where `chosen` does not.
    """
    config, choices = _load(command, tuple(chosen))
    further = [f"{group}={choice}" for group, choice in config.get("choices", {}).items() if group in choices]
    if further:
        config, choices = _load(command, (*further, *chosen))  # of two choices in a group the last one counts
    cls = get_config_class(command)
    own = {key: value for key, value in config.items() if key in schema.get_field_types(cls)}
    return Composed(command, schema.fill_defaults(cls, own), choices)


@cache
def _load(command: str, chosen: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Let Hydra compose the YAML files; return their values and the choices of the groups, in the order of the YAML."""
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = get_loader().load_configuration(command, list(chosen), run_mode=RunMode.RUN, from_shell=False)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise UsageError(f"{join_lines(cause)} (jepa {command} --help lists groups and keys)") from error
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return plain, {key: choices[key] for key in reversed(choices) if not key.startswith("hydra/")}


@cache
def get_loader() -> Any:
    """Return Hydra's loader of the files in `pkg://configs`. Hydra's global state stays as it is."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    version.setbase(HYDRA_VERSION)
    return ConfigLoaderImpl(create_config_search_path(f"pkg://{CONFIGS}"))


@cache
def list_choices(group: str) -> list[str]:
    """Return the choices of a group: its files, but for those that only others include (_shared.yaml), and those in
    its folders as "folder/choice"."""
    from hydra.core.object_type import ObjectType

    loader, group = get_loader(), group.partition("@")[0]
    inner = [
        f"{folder}/{choice}"
        for folder in loader.get_group_options(group, ObjectType.GROUP)
        for choice in loader.get_group_options(f"{group}/{folder}")
    ]
    return sorted(name for name in loader.get_group_options(group) if not name.startswith("_")) + sorted(inner)


def list_command_choices(command: str, group: str) -> list[str]:
    """Return the choices of a group without those that set a group which the command does not have."""
    folder, groups = group.partition("@")[0], compose_defaults(command).choices.keys()
    return [name for name in list_choices(group) if _read_overridden_groups(f"{folder}/{name}") <= groups]


@cache
def _read_overridden_groups(file: str) -> frozenset[str]:
    """Return the groups that a file, or a file that it includes, chooses itself ("override /GROUP: choice")."""
    import yaml

    text = resources.files(CONFIGS).joinpath(f"{file}.yaml").read_text(encoding="utf-8")
    groups: set[str] = set()
    for item in yaml.safe_load(text)["defaults"] if "defaults:" in text else []:
        if isinstance(item, dict):
            groups |= {str(key).removeprefix("override /") for key in item if str(key).startswith("override /")}
        elif item != "_self_":
            groups |= _read_overridden_groups(f"{file.rpartition('/')[0]}/{item}")
    return frozenset(groups)


def parse_overrides(command: str, overrides: Sequence[str]) -> list[Any]:
    """Parse `key=value` texts into Hydra's Override objects; a text that is none is a UsageError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=get_loader())
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise UsageError(f"'{text}' is not key=value (jepa {command} --help lists groups and keys)")
        try:
            parsed.append(parser.parse_override(quote_value(text)))
        except HydraException as error:
            raise UsageError(f"'{text}' cannot be read as key=value") from error
    return parsed


def quote_value(text: str) -> str:
    """Return an override with its value in quotes where Hydra's grammar cannot read it bare, as a file (1).h5."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, equals, value = text.partition("=")
    try:
        OverridesParser.create().parse_override(text)
        return text
    except (HydraException, ValueError):  # ValueError: a number of more digits than Python reads
        return f"{key}={QuotedString(value, Quote.double).with_quotes()}" if equals else text


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for the key "a.b"."""
    return reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)


def nest_overrides(overrides: Sequence[str | Mapping[str, Any]]) -> dict[str, Any]:
    """Return {"a": {"b": 1, "c": [2, 3]}} for ["a.b=1", "a.c=[2,3]"], or for mappings of that kind; UsageError for a
    text that is not key=value."""
    merged: dict[str, Any] = {}
    for item in overrides:
        if not isinstance(item, Mapping) and "=" not in str(item):
            raise UsageError(f"'{item}' is not key=value")
        merged = _merge(merged, item if isinstance(item, Mapping) else _read_override(item))
    return copy.deepcopy(merged)


@cache
def _read_override(text: str) -> dict[str, Any]:
    """{"a": {"b": 1}} of "a.b=1"."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.from_dotlist([text]))  # type: ignore[return-value]


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both nested mappings; of a key with two values the second counts, and mappings are merged."""
    merged = dict(first)
    for key, value in second.items():
        old = merged.get(key)
        merged[key] = _merge(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return merged


def _split(command: str, overrides: list[Any]) -> tuple[list[str], list[tuple[str, Any, str]]]:
    """Separate choices of groups, checked, as texts, from (key, value, value as written) of single keys."""
    chosen, values = [], []
    groups = compose_defaults(command).choices
    for override in overrides:
        key = f"{override.key_or_group}{f'@{override.package}' if override.package else ''}"
        if override.is_sweep_override():
            written = str(override.input_line).partition("=")[2]
            raise UsageError(
                f"{override.input_line} gives several values: add --multirun for one run each, or write a list as "
                f"{key}=[a,b], or a name with a comma as '{key}=\"{written}\"'"
            )
        if override.is_delete():
            raise UsageError(f"{override.input_line}: a key cannot be taken away, only set (key=value)")
        if override.is_hydra_override():
            raise UsageError(f"{override.input_line} configures Hydra's launcher: it goes with --multirun only")
        if key not in groups:
            values.append((key, override.value(), str(override.input_line).partition("=")[2]))
            continue
        choice, options, group = str(override.value()), list_command_choices(command, key), key.partition("@")[0]
        if ":" in choice and MODULE in options:  # planner=MODULE:CLASS
            chosen.append(f"{key}={MODULE}")
            values.append((f"{group}.target", choice, choice))
            continue
        if choice not in options:
            fault = f"there is no such {group}"
            if choice in list_choices(group):
                lacking = join_names(sorted(_read_overridden_groups(f"{group}/{choice}") - groups.keys()))
                fault = f"it also chooses {lacking}, which jepa {command} does not have"
            raise UsageError(f"{key}={choice}: {fault}{describe_choices(choice, options)}")
        chosen.append(f"{key}={choice}")
    return chosen, values


def _check_recipe(recipe: Mapping[str, Any], choices: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that the recipe's key `refuses` names. recipe: the values as Hydra composed them."""
    values = flatten(config)
    for key, value in recipe.get("refuses", {}).items():
        if values.get(key) == value:
            raise UsageError(
                f"{key}={value} contradicts recipe={choices['recipe']}: leave out {key}={value}, or give recipe=none"
            )


def _check_key(command: str, key: str, value: Any, config: Mapping[str, Any]) -> None:
    """Raise UsageError unless the command has the key and no group decides it."""
    group, _, last = key.partition(".")
    if not schema.has_key(get_config_class(command), key, config):
        known = [*compose_defaults(command).choices, *flatten(config)]
        raise UsageError(
            f"'{key}' is no group or key of jepa {command}{suggest_names(key, known)} "
            f"(jepa {command} --help lists them)"
        )
    if last in ("name", "family") and isinstance(config.get(group), Mapping):
        choice = value if last == "name" else "NAME"
        raise UsageError(f"{key} follows from the group: choose with {group}={choice}")
