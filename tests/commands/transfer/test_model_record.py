"""What is published of a model: no path of the machine and no name of its user, and only results of that model."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest

from commands.shared.errors import UsageError
from commands.training.model_folders import load_dynamics, save_dynamics
from commands.transfer.model_record import find_results, read_record, scrub_paths, scrub_text, write_model_folder
from tests.data.made_sets import ours
from tests.world_model.small import dynamics


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/jo/vitl.pt", "vitl.pt"),
        ("/home/jo/my work/vitl.pt", "vitl.pt"),
        ("~/weights/vitl.pt", "vitl.pt"),
        ("../jo/vitl.pt", "vitl.pt"),
        ("file:///home/jo/x.h5", "x.h5"),
        ("/home/jo/runs/collect/mine", "runs/collect/mine"),
        ("[/home/jo/a.h5,/home/jo/b.h5]", "[a.h5,b.h5]"),
        ("{scene: /srv/jo/x.xml, size: 64}", "{scene: x.xml, size: 64}"),
        (f"data/{getpass.getuser()}/a.h5", "a.h5"),
        ("runs/collect/mine", "runs/collect/mine"),
        ("facebook/vjepa2-vitl-fpc64-256", "facebook/vjepa2-vitl-fpc64-256"),
        ("hf://me/a", "hf://me/a"),
        ("https://huggingface.co/me/a", "https://huggingface.co/me/a"),
        ("gym/ogbench:cube-single-v0", "gym/ogbench:cube-single-v0"),
        ("1 / 2, 3/4", "1 / 2, 3/4"),
        ("", ""),
    ],
)
def test_a_path_is_cut_down_to_its_end_and_other_text_stays(text, left):
    assert scrub_text(text) == left


def test_nested_values_are_scrubbed_and_numbers_stay():
    value = {"a": ["/x/y", 1, None, {"b": ("~/z", 2.5, True)}]}
    assert scrub_paths(value) == {"a": ["y", 1, None, {"b": ["z", 2.5, True]}]}


def make_run(name: str, about: dict, overrides: list[str], command: str = "posttrain", **config) -> Path:
    """A run folder as its command leaves it."""
    folder = Path("runs") / command / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": 3, **config}))
    (folder / "run.json").write_text(json.dumps({"command": command, "starts": [{"commit": "abc"}]}))
    (folder / "finished.json").write_text(json.dumps({"overrides": overrides}))
    if command == "posttrain":
        save_dynamics(folder / "model", dynamics(), about)
    return folder


def test_a_record_has_the_commands_of_all_stages_settings_and_episodes_without_the_machine(tmp_path):
    make_run("c", {}, ["env=reacher", "name=c", f"runs={tmp_path}/runs"], command="collect")
    data = ours(tmp_path / "runs/collect/c/trajectories.h5")
    make_run("e", {}, ["data=runs/collect/c", "seed=3"], command="pretrain", data="runs/collect/c")
    from data.store import Reader

    reader = Reader(data)
    about = {"env": "reacher", "data": reader.file_checksum, "pretrained": "/home/jo/vitl.pt"}
    words = [f"data={tmp_path}/runs/collect/c", "encoder=runs/pretrain/e", "path=/home/jo/vitl.pt", "device=cpu"]
    trainer = {"steps": 5, "lr": 0.1, "batch_size": 4, "betas": [0.9, 0.99]}
    run = make_run("d", about, words, data="runs/collect/c", encoder="runs/pretrain/e", trainer=trainer)
    record = read_record(str(run))
    assert record.commands == (
        "jepa collect env=reacher name=c",
        "jepa pretrain data=runs/collect/c seed=3",
        "jepa posttrain data=runs/collect/c encoder=runs/pretrain/e path=vitl.pt",
    )
    assert record.settings == {"seed": 3, "trainer.steps": 5, "trainer.lr": 0.1, "trainer.batch_size": 4}
    count = len(reader.episodes())
    assert record.episodes == f"{reader.lengths(reader.episodes()).sum()} frames in {count} episodes" and count > 1
    assert (record.kind, record.commit, record.about["pretrained"]) == ("dynamics", "abc", "vitl.pt")
    assert read_record(run / "model").commands == record.commands, "the model folder in it is the same model"


def test_data_that_are_other_data_now_are_not_counted(tmp_path):
    ours(tmp_path / "x.h5")
    run = make_run("d", {"data": "0123456789abcdef"}, [], data="x.h5")
    assert read_record(str(run)).episodes == ""


def test_the_published_folder_is_the_same_model_without_names_of_the_machine():
    about = {"env": "reacher", "pretrained": "/home/jo/vitl.pt", "env_kwargs": {"xml": "/home/jo/scene.xml"}}
    run = make_run("d", about, [])
    write_model_folder(read_record(str(run)), Path("out"))
    assert {path.name for path in Path("out").iterdir()} == {"model.json", "model.safetensors"}
    assert b"home" not in Path("out/model.json").read_bytes() + Path("out/model.safetensors").read_bytes()
    model, read = load_dynamics("out")
    assert read == {"env": "reacher", "pretrained": "vitl.pt", "env_kwargs": {"xml": "scene.xml"}}
    ours_state, theirs = model.state_dict(), load_dynamics(run)[0].state_dict()
    assert all((ours_state[name] == theirs[name]).all() for name in theirs)


def results_of(about: dict) -> dict:
    empty = {"success_rate": 0.5, "methods": {}, "protocol": {}, "thresholds": []}
    return {**empty, "model": {"folder": "/home/jo/runs/posttrain/d", **about}}


def test_results_are_those_of_the_model_given_or_beside_it():
    about = {"env": "reacher", "data": "aa", "pretrained": "/home/jo/vitl.pt"}
    record = read_record(str(make_run("d", about, [])))
    assert find_results(None, record) is None
    Path("runs/plan/p").mkdir(parents=True)
    Path("runs/plan/p/results.json").write_text(json.dumps(results_of(about)))
    for given in ("runs/plan/p", "runs/plan/p/results.json"):
        assert find_results(given, record)["success_rate"] == 0.5
    shutil.copy("runs/plan/p/results.json", "runs/posttrain/d/results.json")
    assert find_results(None, record)["success_rate"] == 0.5
    Path("runs/posttrain/d/results.json").write_text(json.dumps(results_of({**about, "data": "bb"})))
    assert find_results(None, record) is None, "results of another model beside it"
    Path("runs/posttrain/d/results.json").write_text(json.dumps(results_of({**about, "losses": {"loss": "l2"}})))
    assert find_results(None, record) is None, "results of dynamics trained on it"
    Path("runs/posttrain/d/results.json").write_text(json.dumps(results_of({**about, "data": "bb"})))
    with pytest.raises(UsageError, match="are of another model, of another data: plan with this one"):
        find_results("runs/posttrain/d", record)
    Path("probe.json").write_text(json.dumps({"probes": {}, "model": about}))
    for given in ("probe.json", "runs"):
        with pytest.raises(UsageError, match="holds no results of jepa plan"):
            find_results(given, record)
