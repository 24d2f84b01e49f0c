"""Export: a run in formats that others read, and back, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import export
from commands.cli.main import main
from commands.training.model_folders import save_dynamics, save_encoder
from tests.world_model.small import VJEPA2, dynamics, shake
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.pretrained import IMAGENET_MEAN, IMAGENET_STD, load_pretrained
from world_model.nn.pools import PrincipalPoolConfig
from world_model.objectives.pretrain_model import PretrainModel
from world_model.predictor import PredictorConfig
from world_model.training.checkpoint import make_config_dict
from world_model.training.loop import Checkpoints, TrainerConfig, make_optimizer

SIZES = EncoderConfig((32, 32), 8, 2, 48, 3, 3, pool=PrincipalPoolConfig(4), rope="tiled")
OBJECTIVE = replace(VJEPA2, predictor=PredictorConfig(36, 2, 3))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def finished_run(sizes: EncoderConfig = SIZES, pixels=(IMAGENET_MEAN, IMAGENET_STD)) -> PretrainModel:
    """runs/pretrain/r as stage 1 leaves it, with a teacher that differs from its student; returns what it was."""
    torch.manual_seed(0)
    encoder = VideoEncoder(sizes)
    encoder.set_pixel_statistics(*map(torch.tensor, pixels))
    model = PretrainModel(encoder, OBJECTIVE, 1).eval()
    shake(model)
    folder = Path("runs/pretrain/r")
    optimizer = make_optimizer(model, TrainerConfig())
    Checkpoints(folder / "checkpoints").save(3, model, optimizer)
    save_encoder(folder / "model", model.trained_encoder, {"objective": make_config_dict(OBJECTIVE)})
    return model


def kept(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a format holds of a module."""
    return {k: v for k, v in module.state_dict().items() if not k.startswith(("pixel_", "pool."))}


def assert_same(found: torch.nn.Module | None, made: torch.nn.Module | None) -> None:
    assert found is not None and made is not None
    ours, theirs = kept(found), kept(made)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_an_official_file_holds_teacher_student_and_predictor_to_the_bit(capsys):
    model = finished_run()
    assert main(["export", "model=runs/pretrain/r", "format=official", "to=out/v.pt"]) == 0
    said = capsys.readouterr().out
    assert "with its masked predictor" in said and "encoder=pretrained path=out/v.pt reads it" in said
    found = load_pretrained(Path("out/v.pt"))
    assert found.encoder.config == replace(SIZES, pool=None)
    assert_same(found.encoder, model.objective.teacher)
    assert_same(found.predictor, model.objective.predictor)
    assert_same(load_pretrained(Path("out/v.pt"), key="encoder").encoder, model.encoder)
    assert not torch.equal(model.encoder.norm.bias, model.objective.teacher.norm.bias)
    assert main(["export", "model=out/v.pt", "format=huggingface", "to=hf"]) == 0, "one format into the other"
    assert_same(load_pretrained(Path("hf")).encoder, model.objective.teacher)


def test_a_hugging_face_directory_holds_everything_pixels_included_to_the_bit():
    model = finished_run(pixels=((100.0, 110.5, 7.3), (50.0, 40.1, 30.7)))
    assert main(["export", "model=runs/pretrain/r", "format=huggingface", "to=hf"]) == 0
    found = load_pretrained(Path("hf"))
    assert_same(found.encoder, model.objective.teacher)
    assert_same(found.predictor, model.objective.predictor)
    assert torch.equal(found.encoder.pixel_mean, model.encoder.pixel_mean)
    assert torch.equal(found.encoder.pixel_std, model.encoder.pixel_std)
    assert main(["export", "model=hf", "format=huggingface", "to=again"]) == 0
    for name in ("config.json", "model.safetensors", "video_preprocessor_config.json"):
        assert Path("hf", name).read_bytes() == Path("again", name).read_bytes(), name


def test_readers_that_know_imagenet_statistics_alone_get_the_same_features():
    model = finished_run(pixels=((100.0, 110.5, 7.3), (50.0, 40.1, 30.7)))
    assert main(["export", "model=runs/pretrain/r", "format=official", "to=v.pt"]) == 0
    found = load_pretrained(Path("v.pt"))
    torch.testing.assert_close(found.encoder.pixel_mean, torch.tensor(IMAGENET_MEAN))
    frames = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = model.objective.teacher.encode_frames(frames), found.encoder.encode_frames(frames)
    torch.testing.assert_close(theirs, ours, atol=2e-4, rtol=2e-4)
    found.encoder.set_pixel_statistics(torch.full((3,), 127.5), torch.full((3,), 127.5))
    with torch.no_grad():
        assert (found.encoder.encode_frames(frames) - ours).abs().max() > 0.01, "statistics matter here"


def test_a_run_without_checkpoints_gives_its_encoder_alone(capsys):
    model = finished_run()
    for path in Checkpoints(Path("runs/pretrain/r/checkpoints")).list_paths():
        path.unlink()
    assert main(["export", "model=runs/pretrain/r", "format=official", "to=v.pt"]) == 0
    assert "the encoder alone" in capsys.readouterr().out
    found = load_pretrained(Path("v.pt"))
    assert_same(found.encoder, model.objective.teacher)
    assert found.predictor is None


def test_nothing_is_overwritten_and_what_is_wrong_is_said_in_one_sentence(capsys):
    finished_run(replace(SIZES, rope="interleaved"))
    save_dynamics(Path("runs/posttrain/d/model"), dynamics("tokens"), {})
    Path("there.pt").write_text("precious")
    model = "model=runs/pretrain/r"
    for words, code, said in (
        ((model, "format=official", "to=there.pt"), 2, "to=there.pt exists and is not overwritten"),
        ((model, "format=offical", "to=v.pt"), 2, "did you mean official? (choices: official, huggingface, "),
        (("format=official", "to=v.pt"), 2, "format=official exports a model: give model=..."),
        ((model, "to=v.pt"), 2, "format must be given"),
        ((model, "format=official", "to=v.pt"), 1, "cannot hold this encoder: rope=interleaved"),
        ((model, "format=huggingface", "to=v"), 1, "cannot hold this encoder: rope=interleaved"),
        (("model=runs/posttrain/d", "format=official", "to=v.pt"), 1, "rope=interleaved"),
        (("model=runs/none", "format=official", "to=v.pt"), 1, "there is no folder runs/none"),
        (("model=there.pt", "format=official", "to=v.pt"), 1, "there.pt"),
    ):
        assert main(["export", *words]) == code, words
        message = capsys.readouterr().err
        assert said in message and message.count("\n") == 1, message
    assert Path("there.pt").read_text() == "precious"
    assert not Path("v.pt").exists() and not Path("v").exists()


def test_every_format_names_a_source_that_is_a_key_of_the_command():
    from commands.config.compose import compose_defaults

    assert (
        {made.source for made in export.FORMATS.values()}
        <= set(export.SOURCES)
        <= set(compose_defaults("export").config)
    )


def test_a_directory_of_several_shards_is_exported_as_posttrain_reads_it():
    model = finished_run()
    assert main(["export", "model=runs/pretrain/r", "format=huggingface", "to=hf"]) == 0
    tensors = load_file("hf/model.safetensors")
    Path("hf/model.safetensors").unlink()
    weight_map = {name: f"part{len(name) % 2}.safetensors" for name in tensors}
    for part in set(weight_map.values()):
        save_file({name: value for name, value in tensors.items() if weight_map[name] == part}, f"hf/{part}")
    Path("hf/model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert main(["export", "model=hf", "format=official", "to=v.pt"]) == 0
    assert_same(load_pretrained(Path("v.pt")).encoder, model.objective.teacher)


def test_a_model_and_data_at_once_are_refused(capsys):
    for format, other, says in (
        ("robomimic", "model", "model=x: format=robomimic exports data= alone; leave model= out"),
        ("official", "data", "data=y: format=official exports model= alone; leave data= out"),
    ):
        assert main(["export", "model=x", "data=y", f"format={format}", "to=out"]) == 2, other
        assert says in capsys.readouterr().err
