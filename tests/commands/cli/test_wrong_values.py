"""Numbers out of range and odd spellings on the command line: exit code 2 and one sentence, for every command."""

from __future__ import annotations

import pytest

from commands.cli.main import COMMANDS, main
from commands.config.compose import compose_defaults, get_config_class
from commands.config.schema import find_types
from commands.shared.runs import flatten
from tests.commands.config.test_values import FAR, FREE, find_number, wrap

# One key of each kind: a whole number, a number, a share, a list, a choice, a truth value, a part, a name.
KEYS = ("trainer.steps", "trainer.lr", "trainer.decay_share", "trainer.betas", "trainer.schedule", "trainer.compile")
SPELLINGS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    '""',
    "[]",
    "{}",
    "{a:1}",
    "[[1]]",
    "null",
    "1e",
    "0x10",
    "9" * 400,
    "9" * 5000,
)
LONG = "a" * 100_000


def list_numbers(command: str) -> list[tuple[str, object]]:
    """Numeric keys of a command, and a value below the range of each."""
    config, cls = compose_defaults(command).config, get_config_class(command)
    free = {name.rpartition(".")[2] for name in FREE}
    numbers = []
    for key in flatten(config):
        hint = find_types(cls, key, config)[0]
        if find_number(hint) and key.rpartition(".")[2] not in free:
            numbers.append((key, wrap(hint, FAR)))
    return numbers


def list_required(command: str) -> list[str]:
    """Values of what must be given: a missing key would be refused first."""
    return [f"{key}=x" for key, value in flatten(compose_defaults(command).config).items() if value == "???"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refuse(words: list[str], capsys) -> str:
    """The one sentence with which a command line is refused."""
    assert main(words) == 2, words
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--traceback" not in said, said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_number_far_below_its_range_is_refused_by_its_key(command, capsys, tmp_path):
    required = list_required(command)
    for key, value in list_numbers(command):
        given = [word for word in required if not word.startswith(f"{key}=")]
        said = refuse([command, *given, f"{key}={value}".replace("'", "")], capsys)
        assert key.rpartition(".")[2] in said and str(FAR) in said, said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", KEYS)
def test_an_odd_spelling_is_refused_by_its_key(key, capsys, tmp_path):
    for text in (*SPELLINGS, LONG):
        assert key in refuse(["pretrain", "data=x.h5", f"{key}={text}"], capsys)
    assert not list(tmp_path.iterdir())
