"""The command line: words, exit codes, sentences, run folders, sweeps, signals."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from commands.cli import main as cli
from commands.cli.help import collect_key_help, format_command_help, read_title
from commands.config.compose import compose_help
from commands.shared import errors
from commands.shared.runs import flatten

HOME = Path(cli.__file__).resolve().parents[2]
CONFIGS = HOME / "configs"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def body(monkeypatch):
    """Give a command another body: body("collect", run=..., check=...) -> list of the configs it ran with."""

    def replace(name, run=None, check=None):
        seen = []

        def default(config, folder, console):
            seen.append(config)
            if folder is not None:
                folder.finish("did it")

        real = vars(importlib.import_module(f"commands.{name}"))
        module = types.SimpleNamespace(**{key: value for key, value in real.items() if key != "check"})
        module.run = run or default
        if check is not None:
            module.check = check
        monkeypatch.setitem(sys.modules, f"commands.{name}", module)
        return seen

    return replace


def raising(error):
    def run(*_):
        raise error

    return run


def jepa(*words, **environment):
    """Run the real thing in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "commands", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(HOME), **environment},
    )


def test_help_names_every_command_with_its_line(capsys):
    assert cli.main(["--help"]) == 0
    page = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert f"  {name}" in page and read_title(name) in page and read_title(name), name


@pytest.mark.parametrize(("words", "output"), [(["--help"], "commands:"), (["collect", "seed=3"], "is finished: done")])
def test_help_and_a_finished_run_import_nothing_heavy(words, output, tmp_path):
    folder = tmp_path / "runs/collect/seed3"
    folder.mkdir(parents=True)
    record = {"summary": "done", "extent": {}, "overrides": ["seed=3"], "commit": "c0ffee"}
    (folder / "finished.json").write_text(json.dumps(record))
    script = (
        "import sys; from commands.cli import main as cli; from commands.shared import runs; "
        f"runs.get_commit = lambda: 'c0ffee'; assert cli.main({words}) == 0; "
        "heavy = {'torch', 'numpy', 'hydra', 'mujoco', 'rich', 'yaml'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and output in done.stdout, done.stderr


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_shows_every_group_choice_and_key(name):
    composed, options = compose_help(name, [])
    page = format_command_help(cli.COMMANDS[name], [])
    comments = collect_key_help(name, composed)
    for group, choices in options.items():
        assert f"  {group}=" in page and f"* {composed.choices[group]}" in page, group
        lines = [read_title(f"{group.partition('@')[0]}/{choice}") for choice in choices]
        assert all(line and line in page for line in lines), (group, lines)
    for key in flatten(composed.config):
        assert f"  {key}=" in page and comments.get(key, "") in page, key


@pytest.mark.parametrize("file", sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")))
def test_every_file_has_a_title(file):
    assert read_title(file.removesuffix(".yaml")), file


def test_a_command_without_words_and_an_unknown_one_are_wrong_usage(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out
    assert cli.main(["colect"]) == 2
    assert "did you mean collect?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "env=reachr"], "did you mean reacher? (choices: "),
        (["collect", "evn=reacher"], "did you mean env"),
        (["collect", "data.episods=3"], "did you mean data.episodes?"),
        (["collect", "episodes=3"], "did you mean data.episodes?"),
        (["collect", "data.policy.nme=uniform"], "did you mean data.policy.name?"),
        (["collect", "data.policy={nme: uniform}"], "did you mean name?"),
        (["collect", "data.episodes=many"], "data.episodes must be a whole number"),
        (["collect", "data.policy=3"], "data.policy holds keys, as name"),
        (["collect", "env.name=two_rooms"], "choose with env=two_rooms"),
        (["collect", "env=dmc/chetah"], "did you mean dmc/cheetah"),
        (["collect", "env=cheetah"], "did you mean dmc/cheetah"),
        (["collect", "seed=1,2"], "add --multirun"),
        (["collect", "~seed"], "cannot be taken away"),
        (["collect", "seed"], "'seed' is not key=value"),
        (["collect", "hydra.run.dir=x"], "--multirun only"),
        (["collect", "--multirn"], "did you mean --multirun?"),
        (["collect", "name=a/b"], "a name is one folder"),
        (["pretrain"], "data must be given: jepa pretrain data=..."),
        (["demo", "trainer=debug"], "trainer@pretrain"),
        (["demo", "trainer@pretrain=debg"], "did you mean debug?"),
    ],
)
def test_wrong_words_give_one_sentence_code_two_and_leave_nothing(words, said, body, capsys, tmp_path):
    seen = body(words[0])
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1, message
    assert not seen and not list(tmp_path.iterdir())


def test_overrides_reach_the_body_as_a_typed_configuration(body):
    seen = body("collect")
    assert cli.main(["collect", "env=two_rooms", "data.episodes=7", "env.kwargs.size=32", "seed=3"]) == 0
    config = seen[0]
    assert type(config.env).__name__ == "EnvKeys" and type(config.env.kwargs) is dict
    assert config.env.name == "two_rooms" and config.env.kwargs == {"size": 32}
    assert config.data.episodes == 7 and config.seed == 3


@pytest.mark.parametrize("path", ["file.h5", "runs/a b/*.h5", "odd (1)=[x].h5", "a{b}.h5"])
def test_a_key_that_is_also_a_group_elsewhere_takes_any_path(path, body):
    seen = body("pretrain")
    assert cli.main(["pretrain", f"data={path}", "device=cpu"]) == 0
    assert seen[0].data == path


def test_a_bare_word_sets_the_key_that_a_command_keeps_for_it(body):
    seen = body("bench")
    assert cli.main(["bench", "render", "device=cpu"]) == 0
    assert seen[0].what == "render"


def test_a_finished_run_says_so_and_is_not_run_again(body, capsys):
    seen = body("collect")
    assert cli.main(["collect"]) == 0 and cli.main(["collect", "workers=3"]) == 0
    assert len(seen) == 1
    assert "is finished: did it" in capsys.readouterr().out


def test_more_steps_go_on_in_the_same_folder_and_fewer_are_finished(body):
    seen = body("pretrain")
    words = ["pretrain", "data=x.h5", "device=cpu"]
    for steps in (5, 10, 7):
        assert cli.main([*words, f"trainer.steps={steps}"]) == 0
    assert [config.trainer.steps for config in seen] == [5, 10]
    assert len(list(Path("runs/pretrain").iterdir())) == 1


def test_another_configuration_in_the_same_folder_is_refused_and_nothing_changes(body, capsys):
    seen = body("collect")
    assert cli.main(["collect", "name=mine", "data.episodes=11"]) == 0
    before = Path("runs/collect/mine/config.json").read_bytes()
    assert cli.main(["collect", "name=mine", "data.episodes=9"]) == 1
    message = capsys.readouterr().err
    assert "data.episodes is 11 there and 9 here" in message and message.count("\n") == 1
    assert Path("runs/collect/mine/config.json").read_bytes() == before and len(seen) == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.UsageError("no such thing"), 2, "no such thing"),
        (errors.RunError("cannot go on"), 1, "cannot go on"),
        (ValueError("size=3: must be even"), 1, "size=3: must be even"),
        (
            OSError(errno.ENOSPC, "No space left on device", "big.h5"),
            1,
            "the disk is full while writing big.h5",
        ),
        (RuntimeError("write failed: No space left on device"), 1, "the disk is full"),
        (MemoryError(), 1, "memory does not suffice"),
        (
            RuntimeError("can't allocate memory: you tried to allocate 2147483648 bytes"),
            1,
            "2 GiB were asked for at once",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), 1, "choose smaller sizes"),
        (RuntimeError("Found no NVIDIA driver on your system"), 1, "device=cpu"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.h5"), 1, "No such file or directory: x.h5"),
        (KeyError("depth"), 1, "--traceback"),
    ],
)
def test_an_exception_in_a_command_is_one_sentence(error, code, said, body, capsys):
    body("collect", run=raising(error))
    assert cli.main(["collect"]) == code
    message = capsys.readouterr().err
    assert said in message and message.startswith("jepa collect: ") and message.count("\n") == 1, message
    assert cli.main(["collect", "--traceback"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_sentence_raised_by_our_own_code_is_shown_without_a_place():
    from envs.goal_env import GoalEnv  # any module of ours; the frame is what counts

    place = Path(GoalEnv.__init__.__code__.co_filename).parent / "made_up.py"
    for line, bare in (("raise RuntimeError('no OpenGL found')", True), ("len(RuntimeError)", False)):
        try:
            exec(compile(line, str(place), "exec"))
        except Exception as error:
            import linecache

            linecache.cache[str(place)] = (len(line), None, [line + "\n"], str(place))
            code, sentence = errors.explain(error)
            assert code == 1 and (sentence == "no OpenGL found") == bare, sentence


def test_what_check_refuses_is_wrong_usage_and_makes_no_folder(body, capsys, tmp_path):
    seen = body("collect", check=raising(ValueError("frames=1: give at least 2")))
    assert cli.main(["collect"]) == 2
    assert "frames=1" in capsys.readouterr().err
    assert not seen and not (tmp_path / "runs").exists()


def test_cuda_where_there_is_none_is_one_sentence_and_makes_no_folder(body, capsys, monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    seen = body("collect")
    assert cli.main(["collect", "device=cuda"]) == 1
    message = capsys.readouterr().err
    assert "sees 0 CUDA devices" in message and "device=cpu" in message and message.count("\n") == 1
    assert cli.main(["collect", "device=gpu"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert not seen and not (tmp_path / "runs").exists()


def test_an_interruption_says_that_the_same_command_goes_on(body, capsys):
    def stop_halfway(config, folder, console):
        (folder / "half.h5").write_text("some episodes")
        raise KeyboardInterrupt

    body("collect", run=stop_halfway)
    assert cli.main(["collect"]) == 1
    assert "the same command goes on" in capsys.readouterr().err
    seen = body("collect")
    assert cli.main(["collect"]) == 0 and len(seen) == 1
    assert "resuming runs/collect/default-" in capsys.readouterr().out


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_is_no_error(body, closed, monkeypatch):
    body("collect", run=lambda config, folder, console: console.say("written nowhere"))
    monkeypatch.setattr(sys, closed, None)
    assert cli.main(["collect"]) == 0


def test_sigterm_ends_a_command_as_ctrl_c_does(tmp_path):
    script = (
        "import sys, time, types\n"
        "def run(config, folder, console):\n"
        "    console.say('at work')\n"
        "    time.sleep(60)\n"
        "from commands.collect import Config\n"
        "sys.modules['commands.collect'] = types.SimpleNamespace(run=run, Config=Config)\n"
        "from commands.cli import main as cli\n"
        "sys.exit(cli.main(['collect', f'runs={sys.argv[1]}']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    words = [sys.executable, "-c", script, str(tmp_path / "runs")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None and child.stderr is not None
        while child.stdout.readline().strip() != "at work":
            assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 1
        assert "jepa collect: stopped" in child.stderr.read()


def test_multirun_runs_each_value_in_its_own_folder(body, capfd):
    seen = body("collect")
    assert cli.main(["collect", "--multirun", "seed=0,1", "env=reacher,two_rooms"]) == 0
    assert [(c.seed, c.env.name) for c in seen] == [
        (0, "reacher"),
        (0, "two_rooms"),
        (1, "reacher"),
        (1, "two_rooms"),
    ]
    names = {path.name.rpartition("-")[0] for path in Path("runs/collect").glob("[!.]*")}
    assert names == {"default", "two_rooms", "seed1", "two_rooms-seed1"}
    single = body("collect")
    assert cli.main(["collect", "seed=1", "env=two_rooms"]) == 0, "the same run outside the sweep"
    assert not single, "it was finished in the sweep, so the same folder must be found"
    capfd.readouterr()


def test_multirun_sweeps_over_files_and_open_mappings(body, capfd):
    seen = body("pretrain")
    assert cli.main(["pretrain", "-m", "data=a.h5,b.h5"]) == 0
    assert [config.data for config in seen] == ["a.h5", "b.h5"]
    seen = body("collect")
    assert cli.main(["collect", "-m", "env.kwargs.size=32,48"]) == 0
    assert [config.env.kwargs for config in seen] == [{"size": 32}, {"size": 48}]
    capfd.readouterr()


def test_a_failing_run_of_a_sweep_stops_no_other_and_fails_the_whole(body, capfd):
    done = []

    def run(config, folder, console):
        if config.seed == 0:
            raise errors.RunError("the first one cannot")
        done.append(config.seed)

    body("collect", run=run)
    assert cli.main(["collect", "--multirun", "seed=0,1"]) == 1
    assert done == [1]
    assert "the first one cannot" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=0,1", "env=reachr"], "did you mean reacher?"),
        (["seed=0,1", "name=same"], "would share the folder"),
        (["sed=0,1"], "did you mean seed?"),
    ],
)
def test_a_sweep_is_checked_before_its_first_run(words, said, body, capsys, tmp_path):
    seen = body("collect")
    assert cli.main(["collect", "--multirun", *words]) == 2
    assert said in capsys.readouterr().err
    assert not seen and not list(tmp_path.iterdir())


def test_under_torchrun_the_first_process_runs_a_command_alone(body, capfd, monkeypatch):
    seen = body("collect")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for words in (["collect"], ["--version"], ["pretrain", "--help"], []):
        assert cli.main(words) == 0
    assert not seen and capfd.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["collect"]) == 0
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pretrain", "--multirun", "data=x.h5", "seed=0,1"], 2, "without torchrun"),
        (["pretrain", "data=x.h5", "device=cpu"], 1, "LOCAL_RANK is not set"),
        (["pretrain", "data=x.h5", "device=mps:0"], 2, "one device for several processes"),
    ],
)
def test_what_processes_cannot_do_together_is_said(words, code, said, body, capsys, monkeypatch):
    seen = body("pretrain")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("commands.shared.processes.resolve_device", str)
    assert cli.main(words) == code
    assert said in capsys.readouterr().err and not seen


def test_a_sweep_without_its_launcher_names_the_extra(body, capsys, monkeypatch):
    seen = body("collect")
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_submitit_launcher", None)
    assert cli.main(["collect", "--multirun", "hydra/launcher=submitit_slurm", "seed=0,1"]) == 2
    assert "[slurm]" in capsys.readouterr().err and not seen


def test_a_package_of_the_users_that_hides_one_of_ours_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("")
    both = os.pathsep.join([str(tmp_path), str(HOME)])
    for words in (["collect"], ["doctor"]):
        done = jepa(*words, PYTHONPATH=both)
        assert done.returncode == 1, done
        assert str(tmp_path / "data") in done.stderr and "Traceback" not in done.stderr


def test_a_bare_folder_of_the_same_name_does_no_harm(tmp_path):
    (tmp_path / "data").mkdir()
    done = jepa("collect", "sed=1")
    assert done.returncode == 2 and "did you mean seed?" in done.stderr, done


def test_the_version_is_the_packages():
    done = jepa("--version")
    assert done.returncode == 0 and done.stdout.startswith("jepa ")


def test_a_run_folder_says_how_it_was_made(body):
    body("collect")
    assert cli.main(["collect", "seed=5", "name=x"]) == 0
    record = json.loads(Path("runs/collect/x/run.json").read_text())
    assert record["command"] == "collect" and record["seed"] == 5
    assert {"commit", "versions", "argv"} <= record["starts"][0].keys()
    assert {"python", "torch", "mujoco"} <= record["starts"][0]["versions"].keys()
