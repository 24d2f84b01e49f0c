"""Export: a run in formats that others read, and back, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from httpx2 import Request, Response
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file

from commands import export
from commands.cli.main import main
from commands.training.model_folders import load_dynamics, load_encoder, save_dynamics, save_encoder
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
        ((model, "format=offical", "to=v.pt"), 2, "did you mean official? (choices: jepa, huggingface, official, "),
        (("format=official", "to=v.pt"), 2, "format=official exports a model: give model=..."),
        ((model, "to=v.pt"), 2, "format must be given"),
        ((model, "format=official", "to=v.pt"), 1, "cannot hold this encoder: rope=interleaved"),
        ((model, "format=huggingface", "to=v"), 1, "cannot hold this encoder: rope=interleaved"),
        (("model=runs/posttrain/d", "format=official", "to=v.pt"), 1, "rope=interleaved"),
        (("model=runs/none", "format=official", "to=v.pt"), 1, "there is no folder runs/none"),
        (("model=there.pt", "format=official", "to=v.pt"), 1, "there.pt"),
        (("model=there.pt", "format=jepa", "to=v"), 2, "made elsewhere: format=jepa is for run folders"),
        (
            (model, "format=official", "to=hf://me/v"),
            2,
            "choose format=jepa or format=huggingface, not format=official",
        ),
        ((model, "format=official", "license=mit", "to=v.pt"), 2, "license=mit is for a directory with a model card"),
        ((model, "format=jepa", "to=hf://v"), 2, "hf://v names no model: write hf://owner/name"),
        ((model, "format=jepa", "to=hf://me/v@main"), 2, "becomes the newest revision; give to=hf://me/v"),
        ((model, "format=jepa", "to=v", "results=runs/plan/p"), 2, "results=runs/plan/p: there is no such folder"),
        ((model, "format=jepa", "to=v", "results=runs"), 2, "results=runs holds no results of jepa plan"),
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


def record_calls(monkeypatch, failing: Exception | None = None) -> list[tuple[str, dict]]:
    """Let uploads go nowhere; the calls of HfApi, with the files that a folder held then."""
    calls: list[tuple[str, dict]] = []

    def create_repo(self, repo, **options):
        calls.append(("create_repo", {"repo": repo, **options}))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, folder_path, **options):
        if failing is not None:
            raise failing
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        calls.append(("upload_folder", {**options, "files": files}))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def test_a_model_folder_with_its_card_is_uploaded_into_a_private_repository(tmp_path, monkeypatch, capsys):
    calls = record_calls(monkeypatch)
    about = {"env": "reacher", "pretrained": str(tmp_path / "vitl.pt")}
    save_dynamics(Path("runs/posttrain/d/model"), dynamics("tokens"), about)
    assert main(["export", "model=runs/posttrain/d", "format=jepa", "to=hf://me/reach", "license=mit"]) == 0
    said = capsys.readouterr().out
    assert "uploaded https://huggingface.co/me/reach (latent dynamics with their encoder)" in said
    assert "jepa.Agent.from_pretrained('me/reach') loads it, and so does jepa plan model=me/reach" in said
    created, uploaded = calls
    assert created == ("create_repo", {"repo": "me/reach", "private": True, "exist_ok": True})
    files = uploaded[1].pop("files")
    assert uploaded[1]["repo_id"] == "me/reach" and files.keys() == {"README.md", "model.json", "model.safetensors"}
    assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
    assert b'Agent.from_pretrained("me/reach")' in files["README.md"]
    assert not Path("me--reach").exists(), "what was uploaded is removed here"


def test_a_hugging_face_directory_is_uploaded_publicly_where_that_is_asked_for(monkeypatch):
    finished_run()
    calls = record_calls(monkeypatch)
    words = ["model=runs/pretrain/r", "format=huggingface", "to=hf://me/video", "private=false"]
    assert main(["export", *words]) == 0
    assert calls[0][1]["private"] is False
    files = calls[1][1]["files"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"}
    assert files["README.md"].startswith(b"---\nlibrary_name: transformers\n")


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set"),
        (TimeoutError("[Errno -2] Name or service not known"), "the hub cannot be reached"),
        (HfHubHTTPError("401", response=Response(401, request=Request("POST", "https://x"))), "hf auth login"),
    ],
)
def test_a_folder_that_cannot_be_uploaded_is_kept_and_named(monkeypatch, capsys, failure, says):
    save_dynamics(Path("runs/posttrain/d/model"), dynamics("tokens"), {"env": "reacher"})
    record_calls(monkeypatch, failure)
    words = ["export", "model=runs/posttrain/d", "format=jepa", "to=hf://me/reach"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1, message
    assert "the folder me--reach is kept, and later hf upload me/reach me--reach . --private uploads it" in message
    assert load_dynamics("me--reach")[1] == {"env": "reacher"}
    assert main(words) == 2
    assert "the folder me--reach, which is uploaded, exists and is not overwritten" in capsys.readouterr().err


def test_a_model_folder_written_here_is_read_as_the_run_it_came_from(capsys):
    model = finished_run()
    assert main(["export", "model=runs/pretrain/r", "format=jepa", "to=out"]) == 0
    assert "jepa.load_encoder('out') loads it, and so does jepa posttrain encoder=out" in capsys.readouterr().out
    assert_same(load_encoder("out")[0], model.objective.teacher)
    assert main(["export", "model=out", "format=jepa", "to=again"]) == 0
    assert Path("again/model.json").read_bytes() == Path("out/model.json").read_bytes()
