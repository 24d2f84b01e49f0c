"""The shell blocks of README.md and docs/**/*.md run as written, at the smallest sizes.

A block with the info string `sh` is run; `sh no-run` is for what needs hours, a GPU, the network or files of the
reader's. All blocks of a page run in order in one empty folder, where every fenced block with `title="NAME"` is the
file NAME. `jepa` runs in the process of the tests, which is spared the imports. The words of SMALL are added to every
`jepa` command and replace the page's words for the same keys.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from commands.cli.main import COMMANDS, main

HOME = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^( *)```(\S*)[ \t]*([^\n`]*)\n(.*?)^\1```[ \t]*$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
VARIABLE = re.compile(r"[A-Z_]+=.*")
PAGES = ("README.md", *sorted(str(page.relative_to(HOME)) for page in (HOME / "docs").rglob("*.md")))

DATA = ("data=debug", "data.episodes=12", "data.frames=41")
STAGES = ("encoder=tiny", "trainer@pretrain=debug", "trainer@posttrain=debug")
SEARCH = ("planner.samples=12", "planner.elites=4", "planner.iterations=2")
PROTOCOL = (
    *("protocol.episodes=1", "protocol.budget=3"),
    *("protocol.oracle=false", "protocol.oracle_cost.episodes=0"),
)
SMALL: dict[str, tuple[str, ...]] = {
    "bench": ("encoder=tiny", "seconds=0.1"),
    "clone": ("trainer=debug", "trainer.steps=5"),
    "collect": DATA,
    "compare": (*DATA, *STAGES, *SEARCH, *PROTOCOL, "objectives=[future]", "budgets=[steps]", "seeds=1", "cells=cells"),
    "demo": (*DATA, *STAGES, *SEARCH, *PROTOCOL, "videos=1"),
    "plan": (*SEARCH, *PROTOCOL, "videos=1"),
    "posttrain": ("trainer=debug", "trainer.steps=5"),
    "pretrain": ("encoder=tiny", "trainer=debug", "trainer.steps=5"),
    "probe": (
        *("windows=40", "episodes=2", "readout.steps=3", "readout.depth=2", "landscape.cells=5"),
        *("rank_reach.moments=2", "rank_reach.candidates=6", "rank_reach.simulator_moments=1"),
    ),
}
WITHOUT_ELITES = ("gradient", "mppi", "nevergrad", "predictive_sampling", "projected_gradient")


def small(words: list[str]) -> list[str]:
    """The words of a command line with those that make it small."""
    if "--help" in words or not words:
        return words
    added = list(SMALL.get(words[0], ()))
    if any(word.removeprefix("planner=") in WITHOUT_ELITES for word in words):
        added.remove("planner.elites=4")
    if "planner=direct" in words:
        added = [word for word in added if word not in SEARCH]
    keys = {word.partition("=")[0] for word in added}
    return [word for word in words if word.partition("=")[0] not in keys] + added


def read(page: str) -> str:
    """The text of a page."""
    return (HOME / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Language, rest of the info string and text of every fenced block of a page."""
    found = FENCE.findall(read(page))
    return [(name, info, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, name, info, text in found]


def shell_lines(page: str) -> list[str]:
    """The commands of a page, without comments, each on one line."""
    text = "\n".join(text for name, info, text in blocks(page) if name == "sh" and info != "no-run")
    return [line for line in text.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run one command of a page in the present folder; its exit code. Variables are set for all that follow."""
    words = shlex.split(line, comments=True)
    if words[0] == "export":
        words = words[1:]
    while words and VARIABLE.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        if name == "PYTHONPATH":
            monkeypatch.syspath_prepend(os.path.abspath(value))
            value += f":{HOME}"
        monkeypatch.setenv(name, value)
    tool, words = (words[0].removeprefix(".venv/bin/"), words[1:]) if words else ("", [])
    if tool == "make" and words[0] == "demo":
        tool, words = "jepa", ["demo", *" ".join(words[1:]).removeprefix("ARGS=").split()]
    if tool == "make":
        return int(not re.search(rf"^{words[0]}:", (HOME / "Makefile").read_text(), re.MULTILINE))
    if tool == "torchrun":
        commands = words.index("commands") + 1
        words = ["-m", "torch.distributed.run", *words[:commands], *small(words[commands:])]
    if tool in ("python", "torchrun"):
        return subprocess.run([sys.executable, *words]).returncode
    if tool == "jepa":
        return main(small(words))
    assert not tool, f"{tool} is not run here: mark the block as `sh no-run`"
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if shell_lines(page)])
def test_the_shell_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HOME))
    for _, info, text in blocks(page):
        if title := TITLE.search(info):
            Path(title[1]).write_text(text, encoding="utf-8")
    for line in shell_lines(page):
        assert run_line(line, monkeypatch) == 0, f"{page}: {line}"


def test_folders_of_demos_without_a_name_are_those_that_the_command_makes():
    from commands.cli.command import find_run_folder
    from commands.config.compose import compose

    folders = [find_run_folder(COMMANDS["demo"], compose("demo", words)) for words in ((), ("recipe=varied",))]
    made = {folder.path.name for folder in folders}
    named = {name for page in PAGES for name in re.findall(r"runs/demo/((?:default|varied)[\w-]*)", read(page))}
    strange = {start for start in named if not any(name.startswith(start) for name in made)}  # a hash follows
    assert named and not strange, f"pages name {sorted(named)}, jepa demo makes {sorted(made)}"


def test_words_that_make_a_command_small_replace_the_pages_own():
    assert small(["collect", "env=reacher", "data.episodes=1000"]) == ["collect", "env=reacher", *DATA]
    assert small(["doctor", "env=reacher"]) == ["doctor", "env=reacher"]
    assert "planner.elites=4" not in small(["plan", "planner=mppi"])
    assert small(["plan", "planner=direct"]) == ["plan", "planner=direct", *PROTOCOL, "videos=1"]


def test_blocks_are_found_inside_lists_with_titles_and_over_several_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HOME", tmp_path)
    (tmp_path / "page.md").write_text(
        '```python title="a.py"\nx = 1\n```\n\n'
        "1. first\n\n    ```sh\n    jepa doctor \\\n        env=reacher\n    ```\n\n"
        "```sh no-run\nmake test\n```\n\n```sh\n# a comment\nmake lint  # and another\n```\n"
    )
    assert blocks("page.md")[0] == ("python", 'title="a.py"', "x = 1\n")
    assert [shlex.split(line, comments=True) for line in shell_lines("page.md")] == [
        ["jepa", "doctor", "env=reacher"],
        ["make", "lint"],
    ]
