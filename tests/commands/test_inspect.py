"""What `jepa inspect` prints of files, folders and records."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands.cli.main import main
from commands.training.model_folders import save_dynamics, save_encoder
from tests.world_model.small import dynamics, encoder
from world_model.nn.flow import FlowConfig

HOME = Path(__file__).resolve().parents[2]


def inspect(capsys, *words):
    code = main(["inspect", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_run_folder_shows_its_command_its_result_and_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "env=two_rooms", "env.variation=seen", "data=debug", "data.frames=13", "name=small"]) == 0
    capsys.readouterr()
    code, out, _ = inspect(capsys, "runs/collect/small", "verify=true")
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert code == 0 and "run folder runs/collect/small" in out
    assert "78 frames in 6 episodes" in lines["result"]
    assert lines["environment"].endswith("two_rooms variation=seen")
    assert lines["episodes"].endswith("6 of 6: train=4, val=1, eval=1")
    assert lines["frames"].endswith("78 of 64 x 64 pixels, 10 a second")
    assert "floor texture" in lines["factors"] and lines["checksum"].endswith(", verified")


def test_a_model_folder_shows_its_sizes_and_training(tmp_path, capsys):
    save_encoder(tmp_path / "model", encoder(), {"env": "reacher", "objective": {"family": "future"}})
    for path in (tmp_path, tmp_path / "model"):
        code, out, _ = inspect(capsys, path)
        assert code == 0 and "2 blocks x 24, patches of 16" in out and "learned, 12 numbers" in out
        assert "family=future" in out and "reacher" in out


def test_a_model_folder_shows_what_a_flow_draws(tmp_path, capsys):
    for target in ("features", "pixels"):
        made = dynamics("tokens", target, flow=FlowConfig(steps=3, width=16))
        save_dynamics(tmp_path / target, made, {"env": "reacher", "objective": {"family": "future"}})
        code, out, _ = inspect(capsys, tmp_path / target)
        assert code == 0 and f"{target} of each token by flow matching, 3 Euler steps, 2 layers x 16" in out
    save_dynamics(tmp_path / "plain", dynamics("tokens"), {"env": "reacher", "objective": {"family": "future"}})
    assert "flow" not in inspect(capsys, tmp_path / "plain")[1]


def test_a_finished_cell_shows_its_success(capsys):
    code, out, _ = inspect(capsys, next(HOME.glob("docs/recipes/reacher-future-both-seed0-*.json")))
    assert code == 0 and "future on reacher, seed 0" in out and "100% within 0.2 rad" in out


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("empty", None, 1, "is no run folder, model folder, trajectory file or record of jepa"),
        ("a.json", "{}", 1, "is no run folder, model folder, trajectory file or record of jepa"),
        ("b.json", "{half", 1, "b.json is damaged"),
        ("a.txt", "text", 1, "a.txt is not an HDF5 file"),
        ("missing", "", 2, "there is no such file or folder"),
    ],
)
def test_what_is_not_ours_is_refused(tmp_path, capsys, name, content, code, said):
    if content is None:
        (tmp_path / name).mkdir()
    elif content:
        (tmp_path / name).write_text(content)
    got, _, err = inspect(capsys, tmp_path / name)
    assert got == code and said in err and err.count("\n") == 1, err
