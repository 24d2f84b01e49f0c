"""From the overrides of a command line to a checked configuration.

A command `NAME` is a module of `commands` with a frozen dataclass `Config`: its keys, their defaults and help texts.
`compose` reads the choices in `pkg://configs` (YAML) through Hydra, puts the defaults of `Config` beneath them, and
checks every override: a group, choice or key that does not exist is a `UsageError` with the nearest names. No part of
Hydra goes further than this file and `commands.cli.sweep`.
"""

from __future__ import annotations

import importlib
import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from commands.config import schema
from commands.config.choices import list_offered, open_loader
from commands.shared.errors import UsageError, describe_choices, join_lines, join_names, suggest_names
from commands.shared.runs import flatten

# Hydra takes any word `data=...` for a choice of the group configs/data, also in a command where `data` is a
# file. Such words travel as `++given.data=...`, and `resolved` puts them in their place.
ASIDE = "given"


@dataclass(frozen=True)
class Composed:
    """A command's whole configuration as nested plain values, and the choice of each group ("env" -> "reacher")."""

    command: str
    config: dict[str, Any]
    choices: dict[str, str]


def get_module_name(command: str) -> str:
    """Return where a command's body is: commands/NAME.py, or NAME_.py where the name is a word of Python."""
    return f"commands.{command}{'_' if keyword.iskeyword(command) else ''}"


def get_config_class(command: str) -> type:
    """Return the dataclass of a command's keys."""
    return importlib.import_module(get_module_name(command)).Config


def parse_overrides(command: str, words: list[str], loader: Any) -> list[Any]:
    """Parse `key=value` words into Hydra's Override objects; a word that is none is a UsageError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=loader)
    overrides = []
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"'{word}' is not key=value (jepa {command} --help lists groups and keys)")
        try:
            overrides += parser.parse_overrides([word])
        except HydraException as error:
            raise UsageError(f"'{word}' cannot be read as key=value") from error
    return overrides


def compose(command: str, words: list[str]) -> Composed:
    """Check the words against the configuration of `command`, and return it composed and resolved.

    Raises UsageError for a group, choice or key that is unknown, a value of another kind than the default's,
    several values where one is meant, and a required key (`???`) that is not given.
    """
    usual = compose_defaults(command)
    with open_loader() as loader:
        overrides = parse_overrides(command, _expanded(usual, words, loader), loader)
        chosen, values = _split(overrides, usual.choices, loader)
        chosen += _kinds(command, chosen, values)
        known = compose_choices(command, chosen) if chosen else usual
        for override in values:
            _check_value(command, override, known.config, usual.choices)
        config = _composed(command, chosen + [_adding(item.input_line) for item in values])
        return Composed(command, resolve_config(command, config), known.choices)


def load_config(command: str, words: Sequence[str] = ()) -> Any:
    """Return the configuration of a command with these overrides as an instance of its `Config`."""
    return schema.build(get_config_class(command), compose(command, list(words)).config)


@cache
def compose_defaults(command: str) -> Composed:
    """Return the command's configuration without any words, unresolved; what must be given is still '???'."""
    with open_loader():
        return compose_choices(command, [])


def compose_help(command: str, words: list[str]) -> tuple[Composed, dict[str, list[str]]]:
    """Return the configuration with the words' choices, nothing resolved, and the choices each group has."""
    usual = compose_defaults(command)
    with open_loader() as loader:
        chosen, _ = _split(parse_overrides(command, _expanded(usual, words, loader), loader), usual.choices, loader)
        options = {group: list_offered(loader, group, usual.choices) for group in usual.choices}
        return compose_choices(command, chosen) if chosen else usual, options


def nest_overrides(words: Sequence[str | dict[str, Any]]) -> dict[str, Any]:
    """["a.b=1", "a.c=[2,3]"] as {"a": {"b": 1, "c": [2, 3]}}, with what is nested already; UsageError for a word that
    is not key=value."""
    from omegaconf import OmegaConf

    strange = [word for word in words if not isinstance(word, dict) and "=" not in str(word)]
    if strange:
        raise UsageError(f"'{strange[0]}' is not key=value")
    parts = [OmegaConf.from_dotlist([word]) if isinstance(word, str) else word for word in words]
    return _plain(OmegaConf.merge({}, *parts))


def expand_overrides(command: str, words: list[str]) -> list[str]:
    """Return the words of a sweep as Hydra itself can take them: see ASIDE."""
    usual = compose_defaults(command)
    with open_loader() as loader:
        expanded = _expanded(usual, words, loader)
    return [word if word.partition("=")[0] in usual.choices else _adding(word) for word in expanded]


def _expanded(usual: Composed, words: list[str], loader: Any) -> list[str]:
    aside = [key for key in usual.config if key not in usual.choices and loader.get_group_options(key)]
    out = []
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        word = f"++{ASIDE}.{key}={value}" if key in aside and "=" in word else word
        out.append(_quoted(word, loader))
    return out


def _quoted(word: str, loader: Any) -> str:
    """Return the word, its value in quotes where Hydra's grammar cannot read it bare (a file (1).h5)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    key, equals, value = word.partition("=")
    try:
        OverridesParser.create(config_loader=loader).parse_override(word)
        return word
    except HydraException:
        return f"{key}={QuotedString(value, Quote.double).with_quotes()}" if equals else word


def compose_choices(command: str, chosen: list[str]) -> Composed:
    """Return the configuration with these choices, unresolved."""
    config = _composed(command, chosen) if chosen else _wordless(command)
    filled = schema.fill_defaults(get_config_class(command), _plain(_own(command, config)))
    return Composed(command, filled, get_choices(config))


def get_choices(config: Any) -> dict[str, str]:
    """Return {"env": "reacher", ...} of a configuration with Hydra's own node, in the YAML's order."""
    chosen = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    return {key: chosen[key] for key in reversed(chosen) if not key.startswith("hydra/")}


def resolve_config(command: str, config: Any) -> dict[str, Any]:
    """Return a composed configuration as plain nested values, with defaults, of the command's own keys alone.

    Raises UsageError where a required key is not given or a reference leads nowhere.
    """
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    config = _own(command, config)
    with open_dict(config):
        config.merge_with(config.pop(ASIDE, {}))
    filled = OmegaConf.create(schema.fill_defaults(get_config_class(command), _plain(config)))
    missing = sorted(OmegaConf.missing_keys(filled))
    if missing:
        given = " ".join(f"{key}=..." for key in missing)
        raise UsageError(f"{join_names(missing)} must be given: jepa {command} {given}")
    try:
        plain = OmegaConf.to_container(filled, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(join_lines(error)) from error
    assert isinstance(plain, dict), type(plain)
    return {str(key): value for key, value in plain.items()}


def _plain(config: Any) -> dict[str, Any]:
    """Return the unresolved nested values of a composed configuration."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict), type(plain)
    return {str(key): value for key, value in plain.items()}


def _own(command: str, config: Any) -> Any:
    """Return what the command has keys for: without Hydra's node, and without what a recipe sets for other commands."""
    from omegaconf import OmegaConf

    keys = schema.get_field_types(get_config_class(command)).keys() | {ASIDE}
    return OmegaConf.masked_copy(config, [key for key in config if key in keys])


@cache
def _wordless(command: str) -> Any:
    return _composed(command, [])


def _composed(command: str, words: list[str]) -> Any:
    """Run Hydra's own composition; what it still finds wrong becomes a UsageError."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return hydra_compose(command, overrides=words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise UsageError(f"{join_lines(cause)} (jepa {command} --help lists groups and keys)") from error


def _split(overrides: list[Any], defaults: dict[str, str], loader: Any) -> tuple[list[str], list[Any]]:
    """Separate checked group choices (as words) from overrides of values (as Override objects)."""
    chosen, values = [], []
    for override in overrides:
        key = _key(override)
        if override.is_sweep_override():
            key = key.removeprefix(f"{ASIDE}.")
            raise UsageError(
                f"{key}={_after_equals(override)} gives several values: add --multirun for one run each, "
                f"or write a list as {key}=[a,b]"
            )
        if override.is_delete():
            raise UsageError(f"{override.input_line}: a key cannot be taken away, only set (key=value)")
        if override.is_hydra_override():
            raise UsageError(f"{override.input_line} steers Hydra's launcher: it goes with --multirun only")
        if key not in defaults:
            values.append(override)
            continue
        choice, options = str(override.value()), list_offered(loader, key, defaults)
        if choice not in options:
            raise UsageError(
                f"{key}={choice}: there is no such {key.partition('@')[0]}{describe_choices(choice, options)}"
            )
        chosen.append(f"{key}={choice}")
    return chosen, values


def _kinds(command: str, chosen: list[str], values: list[Any]) -> list[str]:
    """Return the words by which overrides such as encoder.pool.kind=keypoints replace a part by one of another kind,
    with the defaults of that kind, instead of leaving keys of the former kind in it."""
    parts = {key.removesuffix(".kind"): item for item in values if (key := _key(item)).endswith(".kind")}
    parts = {
        key: item for key, item in parts.items() if schema.is_union(schema.get_type_at(get_config_class(command), key))
    }
    if not parts:
        return []
    composed, words = _plain(_own(command, _composed(command, chosen))), []
    filled = schema.fill_defaults(get_config_class(command), composed)
    for part, item in parts.items():
        if _find(filled, f"{part}.kind")[1] != item.value():
            words += [f"~{part}"] if isinstance(_find(composed, part)[1], dict) and _find(composed, part)[0] else []
            words += [_adding(item.input_line)]
    return words


def _key(override: Any) -> str:
    package = f"@{override.package}" if override.package else ""
    return f"{override.key_or_group}{package}"


def _after_equals(override: Any) -> str:
    return str(override.input_line).partition("=")[2]


def _adding(word: str) -> str:
    """Return the override as Hydra takes it for a key that the YAML files leave to its default."""
    return f"++{word.lstrip('+')}"


def _find(tree: dict[str, Any], key: str) -> tuple[bool, Any]:
    """Look a dotted key up: (True, value), or (False, the last thing that was found on the way)."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False, node
        node = node[part]
    return True, node


def _check_value(command: str, override: Any, known: dict[str, Any], groups: dict[str, str]) -> None:
    """Raise UsageError unless the key exists and the value is of the same kind as its default."""
    key, value = _key(override).removeprefix(f"{ASIDE}."), override.value()
    found, default = _find(known, key)
    hint = schema.get_type_at(get_config_class(command), key)
    if not found and (default == {} or hint is not None and not isinstance(default, dict)):
        return  # an open mapping, or a part that is null or a word by default
    if not found:
        raise UsageError(
            f"'{key}' is no group or key of jepa {command}{suggest_names(key, [*groups, *flatten(known)])} "
            f"(jepa {command} --help lists them)"
        )
    group, _, last = key.partition(".")
    if last in ("name", "family") and isinstance(known.get(group), dict):
        choice = value if last == "name" else "NAME"
        raise UsageError(f"{key} follows from the group: choose with {group}={choice}")
    if not schema.has_alternatives(hint):
        _check_kind(key, value, default)


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Compare a value with its default by kind; the exact type is checked again where a dataclass is
    built."""
    if isinstance(default, dict):
        if not isinstance(value, dict):
            raise UsageError(
                f"{key}={value}: {key} holds several keys; set one of them: {join_names(flatten(default, key))}"
            )
        for name, inner in value.items():
            if default and name not in default:
                raise UsageError(f"'{key}.{name}' is no key{describe_choices(name, default, 'keys')}")
            if default:
                _check_kind(f"{key}.{name}", inner, default[name])
        return
    wanted = _kind(default)
    if value is None or wanted in ("anything", "text") and not isinstance(value, (dict, list)):
        return
    if wanted not in ("anything", _kind(value)):
        raise UsageError(f"{key}={value}: {key} is {wanted} (by default {default})")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, str) and (value == "???" or "${" in value):
        return "anything"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "text"
