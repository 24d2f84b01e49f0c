"""The text of `jepa --help` and `jepa COMMAND --help`: groups, choices and keys, a line each.

A key's line is the help text below its field in the dataclass. The comment of a YAML file on the value that it sets
follows in brackets. The first line of a YAML file explains the choice itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from commands.config.compose import CONFIGS, Composed, compose_help, get_config_class
from commands.config.help_texts import collect_help_texts
from commands.shared.runs import flatten

# Header of a file whose keys stand at the top, not under its group's name (recipes).
PACKAGE = "# @package"
USAGE = "jepa COMMAND [group=choice] [key=value ...] [--multirun] [--traceback] [--help]"


def format_overview(commands: Mapping[str, Any]) -> str:
    """Return the page of `jepa --help`; reads only the first line of each command's file."""
    width = max(map(len, commands))
    lines = [f"usage: {USAGE}", "", "commands:"]
    lines += [f"  {name.ljust(width)}  {read_title(name)}" for name in commands]
    lines += [
        "",
        "options:",
        "  --help, -h      this page, or with a command its groups and keys",
        "  --multirun, -m  several values of a key (seed=0,1,2) are several runs",
        "  --traceback     show where an error came from",
        "  --version       print the version",
        "",
        "Runs are written to runs/COMMAND/NAME; the same command finds its folder again and goes on.",
        "Exit code: 0 success, 1 failure, 2 wrong usage.",
    ]
    return "\n".join(lines)


def format_command_help(command: Any, words: list[str]) -> str:
    """Return the page of `jepa COMMAND --help`, for the choices in `words`."""
    composed, options = compose_help(command.name, words)
    choices = composed.choices
    word = f" [{command.bare_key}]" if command.bare_key else ""
    lines = [f"usage: jepa {command.name}{word} [group=choice] [key=value ...]", "", read_title(command.name)]
    if options:
        lines += ["", "groups (* is chosen):"]
    for group, names in options.items():
        lines.append(f"  {group}=")
        width, folder = max(map(len, names)), group.partition("@")[0]
        for name in names:
            mark = "*" if choices.get(group) == name else " "
            lines.append(f"    {mark} {name.ljust(width)}  {read_title(f'{folder}/{name}')}")
    texts = collect_key_help(command.name, composed)
    leaves = flatten(composed.config)
    lines += ["", "keys (with these choices):"]
    pairs = {key: f"{key}={_format_value(value)}" for key, value in leaves.items()}
    width = min(max((len(text) for text in pairs.values()), default=0), 44)
    lines += [f"  {text.ljust(width)}  {texts.get(key, '')}".rstrip() for key, text in pairs.items()]
    return "\n".join(lines)


def read_title(file: str) -> str:
    """Return the first line of a file ("plan" or "env/reacher") without its comment sign."""
    first = next((line for line in _text(file).splitlines() if not line.startswith(PACKAGE)), "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def collect_key_help(command: str, composed: Composed) -> dict[str, str]:
    """Return {"a.b": help text} for every key of a command with these choices."""
    texts = collect_help_texts(get_config_class(command), composed.config)
    reasons = read_comments(command)
    for group, choice in composed.choices.items():
        folder, _, package = group.partition("@")
        whole = _text(f"{folder}/{choice}").startswith(PACKAGE)
        prefix = "" if whole else f"{package or folder}."
        reasons |= {f"{prefix}{key}": text for key, text in read_comments(f"{folder}/{choice}").items()}
    return texts | {key: f"{texts[key]} [{text}]" for key, text in reasons.items() if key in texts}


@cache
def _text(file: str) -> str:
    return resources.files(CONFIGS).joinpath(f"{file}.yaml").read_text(encoding="utf-8")


def read_comments(file: str) -> dict[str, str]:
    """Return {"a.b": comment} of one file and of the files its defaults list takes in whole."""
    import yaml

    text = _text(file)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    comments: dict[str, str] = {}
    if not isinstance(root, yaml.MappingNode):
        return comments
    folder = file.rpartition("/")[0]
    for key, value in root.value:
        if key.value == "defaults" and isinstance(value, yaml.SequenceNode):
            for item in value.value:
                if isinstance(item, yaml.ScalarNode) and item.value != "_self_":
                    comments |= read_comments(f"{folder}/{item.value}" if folder else item.value)
    _collect(root, "", text.splitlines(), comments)
    return comments


def _collect(node: Any, prefix: str, lines: list[str], comments: dict[str, str]) -> None:
    """Walk a YAML mapping; a comment stands behind the value on its line, else in the line above the key."""
    import yaml

    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults":
            continue
        number = key.start_mark.line
        inner = isinstance(value, yaml.MappingNode) and not value.flow_style
        start = key.end_mark.column if inner else value.end_mark.column
        end_line = number if inner else value.end_mark.line
        behind = lines[end_line][start:].partition("#")[2].strip() if end_line < len(lines) else ""
        above = lines[number - 1].strip() if number else ""
        own_line = above.startswith("#") and number > 1
        text = behind or (above.lstrip("# ") if own_line else "")
        if text:
            comments[name] = text
        if inner:
            _collect(value, f"{name}.", lines, comments)


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_format_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_format_value(item)}' for key, item in value.items())}}}"
    return str(value)
