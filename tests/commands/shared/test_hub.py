"""Models of the hub by name: downloaded by huggingface_hub itself, from a hub on this machine or its cache."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from commands.agent import Agent
from commands.cli.main import main
from commands.shared.errors import UsageError, explain
from commands.shared.hub import HubName, download_model, parse_hub_name, resolve_model
from commands.training.model_folders import load_dynamics, load_encoder, load_parts, save_dynamics, save_encoder
from tests.commands.fake_hub import GATED, serve_hub, set_endpoint, use_cache
from tests.world_model.small import dynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.export import export_huggingface

SIZES = EncoderConfig((32, 32), 8, 2, 48, 2, 3, pool=None, rope="tiled")
HOME = Path(__file__).parents[3]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub without models, in an empty folder; the cache is empty and nobody is logged in."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # other tests' handlers may write to streams that are closed
    use_cache(tmp_path / "home", monkeypatch)
    with serve_hub(tmp_path / "repos") as served:
        set_endpoint(served.endpoint, monkeypatch)
        yield served


def go_offline(monkeypatch) -> None:
    """A hub that nothing answers for, in a new process."""
    set_endpoint("http://127.0.0.1:1", monkeypatch)
    download_model.cache_clear()


def fill_cache(cache: Path, repo: str, files: Path) -> None:
    """The layout of huggingface_hub's cache with the files of a folder, as other programs leave it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = folder / "snapshots" / ("a" * 40), folder / "blobs"
    for path in (snapshot, blobs, folder / "refs"):
        path.mkdir(parents=True)
    (folder / "refs/main").write_text("a" * 40)
    for file in files.iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("facebook/vjepa2-vitl-fpc64-256", "facebook/vjepa2-vitl-fpc64-256", None),
        ("me/a.b_c@v1.0", "me/a.b_c", "v1.0"),
        ("me/a@refs/pr/3", "me/a", "refs/pr/3"),
        ("hf://me/a", "me/a", None),
        ("hf://runs/a@main", "runs/a", "main"),
        ("hf://me/weights.pt", "me/weights.pt", None),
    ],
)
def test_names_of_the_hub_are_recognised(text, repo, revision):
    assert parse_hub_name(text) == HubName(text, repo, revision)


@pytest.mark.parametrize(
    "text",
    [
        "name",
        "a/b/c",
        "/a/b",
        "./a",
        "../a",
        "~/a",
        "runs/a",
        "me/weights.pt",
        "me/DATA.H5",
        "me/a--b",
        "me/a b",
        "a/",
    ],
)
def test_paths_are_not_taken_for_names_of_the_hub(text):
    assert parse_hub_name(text) is None


@pytest.mark.parametrize("text", ["hf://", "hf://a", "hf://a/b/c", "hf://a/b@", "hf://a/..", "hf:///a/b", "hf://a b/c"])
def test_a_wrong_hf_name_says_how_it_is_written(text):
    with pytest.raises(UsageError, match="names no model: write hf://owner/name, or hf://owner/name@revision"):
        parse_hub_name(text)


def test_official_weights_are_downloaded_once_without_anything_but_json_and_safetensors(hub, monkeypatch):
    repo = hub.root / "facebook/tiny"
    encoder = VideoEncoder(SIZES)
    export_huggingface(repo, encoder)
    (repo / "pytorch_model.bin").write_bytes(b"\x80pickle")
    (repo / "modeling.py").write_text("raise SystemExit")
    (repo / "other").mkdir()
    (repo / "other/model.safetensors").write_bytes(b"large")
    found = load_parts("facebook/tiny").encoder
    assert torch.equal(found.blocks[0].attn.qkv.weight, encoder.blocks[0].attn.qkv.weight)
    assert hub.downloaded == {"config.json", "model.safetensors", "video_preprocessor_config.json"}
    asked = len(hub.paths)
    load_parts("facebook/tiny")
    assert len(hub.paths) == asked, "the second look-up of a process asks nobody"
    go_offline(monkeypatch)
    load_parts(f"hf://facebook/tiny@{hub.find_commit('facebook/tiny')}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load_parts("hf://facebook/tiny@main")
    assert len(hub.paths) == asked


def test_a_cache_that_another_program_filled_is_read_without_a_network(hub, tmp_path, monkeypatch):
    go_offline(monkeypatch)
    export_huggingface(tmp_path / "files", VideoEncoder(SIZES))
    fill_cache(Path(constants.HF_HUB_CACHE), "facebook/tiny", tmp_path / "files")
    assert load_parts("facebook/tiny").encoder.config == SIZES


def test_a_local_path_wins_over_the_hub(hub):
    save_encoder(Path("me/model"), VideoEncoder(SIZES), {"env": "here"})
    save_encoder(hub.root / "me/model", VideoEncoder(SIZES), {"env": "there"})
    assert load_encoder("me/model")[1] == {"env": "here"}
    assert load_encoder("hf://me/model")[1] == {"env": "there"}


def test_models_of_this_project_are_loaded_by_name_everywhere(hub, capsys):
    save_dynamics(hub.root / "me/reach", dynamics(), {"env": "reacher"})
    assert load_dynamics("me/reach")[1] == load_encoder("me/reach@main")[1] == {"env": "reacher"}
    agent = Agent.from_pretrained("me/reach", device="cpu", overrides=("planner.horizon=3",))
    assert agent.about == {"env": "reacher"} and agent.mpc.planner.horizon == 3
    assert main(["inspect", "me/reach"]) == 0
    assert "dynamics" in capsys.readouterr().out
    assert main(["encode", "encoder=pretrained", "path=me/reach", "data=x.h5", "device=cpu"]) == 2
    assert "path=me/reach is a model of this program: give encoder=me/reach" in capsys.readouterr().err


def test_weights_of_others_say_which_key_reads_them(hub):
    export_huggingface(hub.root / "facebook/tiny", VideoEncoder(SIZES))
    with pytest.raises(ValueError, match="holds no model.json; .* encoder=pretrained path=facebook/tiny"):
        load_encoder("facebook/tiny")


def say(name: str) -> str:
    """The sentence of a name that cannot be resolved; its exit code is 2."""
    with pytest.raises(UsageError) as caught:
        resolve_model(name)
    code, sentence = explain(caught.value)
    assert code == 2
    return sentence


def test_without_a_network_the_command_that_downloads_elsewhere_is_named(hub, monkeypatch):
    go_offline(monkeypatch)
    here = "there is no file or folder me/a@v1 here (a run folder is named as runs/posttrain/NAME), and me/a of the"
    command = "hf download me/a --revision v1 --local-dir FOLDER, and give FOLDER in place of me/a@v1"
    said = say("me/a@v1")
    assert said.startswith(here) and "the hub cannot be reached" in said and said.endswith(command), said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in say("me/a@v1")
    assert say("hf://me/a").startswith("me/a of the Hugging Face hub is not complete in the local cache")


def test_a_download_that_was_cut_short_is_not_taken_for_a_model(hub, tmp_path, monkeypatch):
    go_offline(monkeypatch)
    export_huggingface(tmp_path / "files", VideoEncoder(SIZES))
    (tmp_path / "files/model.safetensors").unlink()
    fill_cache(Path(constants.HF_HUB_CACHE), "facebook/tiny", tmp_path / "files")
    assert "is not complete in the local cache and the hub cannot be reached" in say("facebook/tiny")


def test_each_refusal_of_the_hub_has_its_sentence(hub):
    for repo in ("me/here", "me/gated", "me/down", "me/forbidden"):
        save_encoder(hub.root / repo, VideoEncoder(SIZES), {})
    hub.refused |= {"me/gated": GATED, "me/down": (500, ""), "me/forbidden": (403, "")}
    for name, said in (
        ("me/none", "the Hugging Face hub has no model me/none, or it is private"),
        ("me/here@v9", "me/here on the Hugging Face hub has no revision v9"),
        ("me/gated", "is gated: ask for access on its page, https://huggingface.co/me/gated, and log in with hf auth"),
        ("me/down", "me/down could not be downloaded from the Hugging Face hub: "),
        ("me/forbidden", "does not let you use me/forbidden: log in with hf auth login"),
    ):
        sentence = say(name)
        assert f"no file or folder {name} here" in sentence and said in sentence, sentence
        assert "there is no file" not in say(f"hf://{name}")


def test_pickles_are_neither_downloaded_nor_read(hub):
    repo = hub.root / "me/old"
    repo.mkdir(parents=True)
    (repo / "config.json").write_text("{}")
    (repo / "model.pth").write_bytes(b"\x80pickle")
    said = say("me/old")
    assert "weights as pickles alone (model.pth), which are not downloaded" in said
    assert "hf download me/old model.pth --local-dir FOLDER and give path=FOLDER/model.pth" in said
    assert hub.downloaded == {"config.json"}
    (repo / "model.pth").unlink()
    save_file({"x": torch.zeros(1)}, repo / "adapter.safetensors")
    (repo / "config.json").unlink()
    download_model.cache_clear()
    assert "model.json or config.json with *.safetensors is needed in its top folder" in say("me/old")


def test_a_misspelt_run_folder_is_not_looked_up_on_the_hub(hub, capsys):
    Path("out").mkdir()
    for name in ("runs/wm", "out/wm"):
        assert main(["plan", f"model={name}", "data=x.h5"]) == 2
        assert f"there is no folder {name}; give a run folder of jepa pretrain or" in capsys.readouterr().err
    assert not hub.paths


def test_commands_refuse_an_unknown_model_before_a_run_folder_is_made(hub, capsys):
    for words in (
        ["plan", "model=me/none", "data=x.h5"],
        ["probe", "model=me/none", "data=x.h5"],
        ["posttrain", "encoder=me/none", "data=x.h5"],
        ["posttrain", "encoder=pretrained", "path=hf://me/none", "data=x.h5"],
        ["encode", "encoder=pretrained", "path=me/none@v1", "data=x.h5"],
        ["export", "model=me/none", "format=official", "to=x.pt"],
        ["inspect", "me/none"],
    ):
        assert main(words) == 2, words
        message = capsys.readouterr().err
        assert "the Hugging Face hub has no model me/none" in message and message.count("\n") == 1, message
    assert not list(Path.cwd().iterdir())


@pytest.mark.slow
def test_the_command_respects_hf_home_and_hf_hub_offline(tmp_path):
    save_dynamics(tmp_path / "files", dynamics(), {"env": "reacher"})
    fill_cache(tmp_path / "home/hub", "me/reach", tmp_path / "files")
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(HOME)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | settings
    for name, code, said in (
        ("me/reach", 0, "reacher"),
        ("me/none", 2, "HF_HUB_OFFLINE is set: with a network run hf"),
    ):
        words = [sys.executable, "-m", "commands", "inspect", name]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == code and said in done.stdout + done.stderr, done.stdout + done.stderr
