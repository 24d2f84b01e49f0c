"""Run folders, files that are whole or absent, and what the console writes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from commands.config.compose import Composed
from commands.config.run_names import make_run_name
from commands.shared import runs
from commands.shared.console import Console, Metrics, Progress, format_duration, format_table, read_metrics
from commands.shared.errors import RunError, UsageError
from commands.shared.runs import RunFolder, to_json_value, write_atomic, write_json

USUAL = Composed(
    "work",
    {
        "name": None,
        "runs": "runs",
        "seed": 0,
        "workers": 0,
        "env": {"a": 1},
        "trainer": {"steps": 5, "lr": 0.1},
    },
    {"env": "reacher", "encoder": "small"},
)
HOME = Path(__file__).resolve().parents[3]
GROWS, FREE = ("trainer.steps",), ("workers",)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def composed(choices=None, **keys):
    config = json.loads(json.dumps(USUAL.config))
    for key, value in keys.items():
        group, _, inner = key.partition("__")
        if inner:
            config[group][inner] = value
        else:
            config[group] = value
    return Composed("work", config, {**USUAL.choices, **(choices or {})})


def folder(**keys):
    config = composed(**keys)
    return RunFolder("work", make_run_name(config, USUAL, (*GROWS, *FREE)), config.config, GROWS, FREE)


def name(**keys):
    return make_run_name(composed(**keys), USUAL, (*GROWS, *FREE))


def test_a_name_says_the_choices_that_differ_and_a_hash_of_the_rest():
    assert name().startswith("default-") and len(name()) == len("default-") + 8
    other = name(choices={"env": "two_rooms", "encoder": "tiny"}, seed=3)
    assert other.startswith("two_rooms-tiny-seed3-")
    assert name(name="mine") == "mine" and name(name=7) == "7"


def test_a_name_is_the_same_for_the_same_configuration_and_for_what_changes_no_result():
    assert name() == name() == name(workers=7) == name(trainer__steps=99) == name(runs="elsewhere")
    different = {name(), name(seed=1), name(trainer__lr=0.2), name(env__a=2)}
    assert len(different) == 4


@pytest.mark.parametrize("bad", ["a/b", "..", "", " x", "-x", "a b"])
def test_a_name_is_one_folder(bad):
    with pytest.raises(UsageError, match="a name is one folder"):
        folder(name=bad)


def test_a_folder_holds_the_configuration_and_is_found_again():
    with folder(seed=4) as first:
        assert not first.resumed and first.seed == 4
        assert json.loads((first / "config.json").read_text()) == first.config
    with folder(seed=4, trainer__steps=50) as second:
        assert second.resumed and second.path == first.path
        assert json.loads((second / "config.json").read_text())["trainer"]["steps"] == 50
    record = json.loads((first / "run.json").read_text())
    assert record["seed"] == 4 and len(record["starts"]) == 1, "an equal start is not written twice"


def test_finished_means_as_far_as_asked():
    with folder() as run:
        assert run.describe_finished() is None
        run.finish("went well")
    line = f"{run.path} is finished: went well"
    assert folder().describe_finished() == folder(workers=3).describe_finished() == line
    assert folder(trainer__steps=4).describe_finished() == line
    assert folder(trainer__steps=6).describe_finished() is None


def test_a_run_that_grows_by_a_mapping_is_not_finished_for_another_one():
    def make(vary):
        return RunFolder("work", "x", {"vary": vary, "seed": 1}, grows=["vary"])

    with make({"metric": ["none"]}) as run:
        run.finish()
    assert make({"metric": ["none"]}).describe_finished() is not None
    for other in ({"metric": ["none", "kinetic"]}, {"metric": ["none"], "encoder": ["conv"]}, {}):
        assert make(other).describe_finished() is None
        make(other).check()  # the same folder


def test_overrides_find_what_they_finished_with_the_same_commit(monkeypatch):
    monkeypatch.setattr(runs, "get_commit", lambda: "c0ffee")
    with RunFolder("work", "x", {}, overrides=["seed=3"]) as run:
        assert runs.find_finished("work", ["seed=3"]) is None
        run.finish("went well")
    assert runs.find_finished("work", ["seed=3"]) == "runs/work/x is finished: went well"
    assert runs.find_finished("work", ["seed=3", "runs=other"]) is None and runs.find_finished("work", []) is None
    for commit in ("c0ffee+changes", "cafe", None):  # edited code, other code, installed code
        monkeypatch.setattr(runs, "get_commit", lambda commit=commit: commit)
        assert runs.find_finished("work", ["seed=3"]) is None
        run.finish("went well")
        assert (runs.find_finished("work", ["seed=3"]) is None) == (commit != "cafe")


def test_another_configuration_is_refused_by_its_keys():
    with folder(name="x") as run:
        write_json(run / "part.json", 1)
    with pytest.raises(RunError, match=r"trainer.lr is 0.1 there and 0.2 here\): give another name="):
        folder(name="x", trainer__lr=0.2).check()
    with pytest.raises(RunError, match="trainer.lr"), folder(name="x", trainer__lr=0.2):
        pass
    folder(name="x", trainer__steps=8, workers=2).check()


def test_a_folder_with_files_that_are_no_run_is_left_alone():
    Path("runs/work/x").mkdir(parents=True)
    Path("runs/work/x/thesis.tex").write_text("years")
    with pytest.raises(RunError, match="thesis.tex"), folder(name="x"):
        pass
    assert [path.name for path in Path("runs/work/x").iterdir()] == ["thesis.tex"]


def test_one_process_works_in_a_folder():
    home = str(Path(runs.__file__).resolve().parents[2])
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from commands.shared.runs import RunFolder\n"
        "with RunFolder('work', 'x', {}):\n    print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "in\n"
        with pytest.raises(RunError, match=f"in use by process {child.pid}"), RunFolder("work", "x", {}):
            pass
        child.kill()
    with RunFolder("work", "x", {}) as run:
        assert run.resumed, "a killed process holds no lock"


def test_a_file_is_whole_or_as_it_was(monkeypatch):
    write_atomic("a.txt", "first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_atomic("a.txt", "second")
    assert Path("a.txt").read_text() == "first" and [p.name for p in Path().iterdir()] == ["a.txt"]


def test_temporaries_of_killed_processes_are_removed():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    Path(f".{child.pid}.a.txt").write_text("half")
    Path(f".{os.getpid()}.b.txt").write_text("of a process that works")
    write_atomic("a.txt", "whole")
    write_atomic("c.txt", "whole")
    assert {path.name for path in Path().iterdir()} == {"a.txt", f".{os.getpid()}.b.txt", "c.txt"}


def test_a_run_that_fails_before_it_wrote_anything_leaves_no_folder():
    with pytest.raises(ValueError, match="no data"), RunFolder("work", "x", {"data": "z"}):
        Path("runs/work/x/metrics.jsonl").touch()
        raise ValueError("no data")
    assert not Path("runs/work/x").exists()
    with pytest.raises(KeyboardInterrupt), RunFolder("work", "x", {"data": "a"}) as run:
        write_json(run / "part.json", 1)
        raise KeyboardInterrupt
    with pytest.raises(RunError, match="data is a there and b here"):
        RunFolder("work", "x", {"data": "b"}).check()


def test_a_folder_without_work_is_taken_by_another_configuration():
    with RunFolder("work", "x", {"data": "a"}):
        pass  # as after SIGKILL before the first file
    with RunFolder("work", "x", {"data": "b"}) as run:
        assert runs.read_json(run / "config.json") == {"data": "b"}


def test_json_holds_what_results_are_made_of():
    @dataclass(frozen=True)
    class Row:
        rate: float
        place: Path

    value = {
        "row": Row(0.5, Path("a")),
        "array": np.arange(3),
        "scalar": np.float32(2),
        1: (float("nan"), float("inf"), True, None),
    }
    assert to_json_value(value) == {
        "row": {"rate": 0.5, "place": "a"},
        "array": [0, 1, 2],
        "scalar": 2.0,
        "1": [None, None, True, None],
    }
    write_json("v.json", value)
    assert runs.read_json("v.json") == to_json_value(value)
    Path("v.json").write_text("{half")
    with pytest.raises(RunError, match="v.json is damaged"):
        runs.read_json("v.json")


def test_metrics_are_one_object_a_line_and_resume_without_repeating_a_step():
    with Metrics("m.jsonl") as metrics:
        for step in range(4):
            metrics.write({"step": step, "loss": float("nan") if step == 2 else 0.5})
    with open("m.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics("m.jsonl")] == [0, 1, 2, 3]
    with Metrics("m.jsonl", keep_to=2) as metrics:
        metrics.write({"step": 3, "loss": 0.25})
    rows = read_metrics("m.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["loss"] is None and rows[3]["loss"] == 0.25
    Path("m.jsonl").write_text('{"step": 0}\n{bad\n{"step": 1}\n')
    with pytest.raises(RunError, match="damaged at line 2"):
        read_metrics("m.jsonl")


def test_metrics_never_replace_a_device():
    Path("nowhere").symlink_to(os.devnull)
    with Metrics("nowhere") as metrics:
        metrics.write({"step": 0})
    assert Path("nowhere").is_symlink(), "a process that writes nothing would replace /dev/null by a file"


def test_progress_tells_count_rate_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("commands.shared.console.time.monotonic", lambda: now[0])
    progress = Progress("train", 100, "steps", start=40)
    now[0] += 10
    progress.advance(20, loss=0.12345)
    assert progress.rate == 2.0, "what an earlier start did is no speed of this one"
    assert progress.format_line() == "train: 60/100 steps, 2/s, 20.0 s left, loss 0.1235"
    progress.update(100)
    assert progress.format_line() == "train: 100/100 steps, 6/s, loss 0.1235"


def test_progress_is_plain_lines_where_there_is_no_terminal():
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, err)
    with console.progress("train", 3, "steps", every_s=0.0) as progress:
        for _ in range(3):
            progress.advance()
        console.say("between")
    assert out.getvalue() == "between\n"
    lines = err.getvalue().splitlines()
    assert len(lines) == 4 and "\x1b" not in err.getvalue() and "took" in lines[-1]


def test_progress_is_a_bar_on_a_terminal():
    err = io.StringIO()
    console = Console(io.StringIO(), err, interactive=True)
    with console.progress("train", 3, "steps") as progress:
        progress.advance(3, loss=0.5)
        console.say("[not markup]")
    assert "3/3 steps" in err.getvalue() and "loss 0.5" in err.getvalue()
    assert "[not markup]" in console.out.getvalue()


def test_durations_and_tables_read_well():
    assert [format_duration(s) for s in (0.04, 8.23, 200, 7500)] == ["0.0 s", "8.2 s", "3 min 20 s", "2 h 05 min"]
    assert format_table([["a", 1.5], ["bcd", 12]], ["name", "n"]).splitlines() == [
        "name     n",
        "──────────",
        "a      1.5",
        "bcd     12",
    ]
    assert format_table([["a", "[red]"], ["b", 1, "beyond the head"]], ["", "n"]).splitlines()[2:] == [
        "a   [red]",
        "b   1       beyond the head",
    ]


def test_the_commit_is_that_of_the_source_tree():
    if not (HOME / ".git").exists():
        assert runs.get_commit() is None
        return
    head = subprocess.run(["git", "-C", str(HOME), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found = runs.get_commit()
    assert found is not None and found.removesuffix("+changes") == head.stdout.strip()


def test_a_tree_outside_of_git_has_no_commit_and_an_edited_one_is_marked(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.setattr(runs, "__file__", str(tree / "commands/shared/runs.py"))
    assert runs.get_commit() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "empty"]):
        subprocess.run(["git", "-C", str(tree), *words], check=True)
    clean = runs.get_commit()
    assert clean is not None and len(clean) == 40
    (tree / "new.py").touch()
    assert runs.get_commit() == f"{clean}+changes"
