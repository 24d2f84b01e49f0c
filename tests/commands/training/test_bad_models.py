"""Checkpoints of another kind, of another size or cut short: one sentence, the right code, never a traceback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands.cli.main import main
from commands.training.model_folders import save_dynamics, save_encoder
from tests.world_model.small import dynamics
from world_model.encoder import EncoderConfig, VideoEncoder
from world_model.interop.export import export_huggingface, export_official
from world_model.masked_predictor import MaskedPredictor, MaskedSizes
from world_model.predictor import PredictorConfig

HEADS = {"heads": 3}
SIZES = EncoderConfig((32, 32), 8, 2, 48, 2, 3, pool=None, rope="tiled")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made() -> tuple[VideoEncoder, MaskedPredictor]:
    return VideoEncoder(SIZES), MaskedPredictor(MaskedSizes(48, (4, 4)), PredictorConfig(36, 2, 3, rope="tiled"))


def weights() -> dict[str, torch.Tensor]:
    return {name: value for name, value in made()[0].state_dict().items() if not name.startswith("pixel_")}


def image_model() -> dict[str, torch.Tensor]:
    """The first names of a vision transformer of images (DINOv2, timm)."""
    return {
        "cls_token": torch.zeros(1, 1, 48),
        "pos_embed": torch.zeros(1, 17, 48),
        "patch_embed.proj.weight": torch.zeros(48, 3, 8, 8),
        "blocks.0.mlp.fc1.weight": torch.zeros(192, 48),
    }


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def half_a_pt(path: Path) -> None:
    export_official(path, *made())
    halve(path)


def a_pt_with_one_bit_flipped(path: Path) -> None:
    """An exponent's bit, which makes a weight huge and leaves it finite."""
    export_official(path, *made())
    values = made()[0].pixel_mean.new_full((1,), 1.5)
    content = torch.load(path, weights_only=True)
    content["encoder"]["norm.bias"] = values.expand(48).clone()
    torch.save(content, path)
    whole, wanted = path.read_bytes(), values.expand(48).numpy().tobytes()
    place = whole.index(wanted) + 3
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])


def half_a_directory(path: Path) -> None:
    export_huggingface(path, *made())
    halve(path / "model.safetensors")


def half_a_run(path: Path) -> None:
    save_encoder(path / "model", made()[0], {})
    halve(path / "model/model.safetensors")


def edited_directory(**changes):
    """Write a Hugging Face directory whose config.json says something else; None takes a key away."""

    def write(path: Path) -> None:
        export_huggingface(path, *made())
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return write


def other_tensors(path: Path) -> None:
    export_huggingface(path, *made())
    save_file({"language_model.embed": torch.zeros(3)}, path / "model.safetensors")


def damaged_json(path: Path) -> None:
    save_encoder(path / "model", made()[0], {})
    (path / "model/model.json").write_text('{"kind": "enc')


def edited_run(**changes):
    """Write a model folder of latent dynamics whose model.json says something else; None takes a key away."""

    def write(path: Path) -> None:
        save_dynamics(path / "model", dynamics("tokens"), {})
        file = path / "model/model.json"
        content = json.loads(file.read_text())
        for key, value in changes.items():
            *parents, last = key.split("__")
            target = content["config"]
            for parent in parents:
                target = target[parent]
            target[last] = value
            if value is None:
                del target[last]
        file.write_text(json.dumps(content))

    return write


def run_of_another_size(path: Path) -> None:
    """A model folder whose weights are not those its description tells of."""
    save_encoder(path / "model", made()[0], {})
    other = Path("other")
    save_encoder(other, VideoEncoder(replace(SIZES, width=60)), {})
    (other / "model.safetensors").rename(path / "model/model.safetensors")


def a_run_that_is_not_finite(path: Path) -> None:
    encoder = made()[0]
    with torch.no_grad():
        encoder.norm.bias[3] = torch.nan
    save_encoder(path / "model", encoder, {})


def a_run_of_links(path: Path) -> None:
    """A model folder whose weights lie elsewhere."""
    save_encoder(path / "model", made()[0], {})
    (path / "model/model.safetensors").rename("elsewhere.safetensors")
    (path / "model/model.safetensors").symlink_to("../../elsewhere.safetensors")


def short(name: str) -> dict[str, torch.Tensor]:
    return {k: v[:40] if k == name else v for k, v in weights().items()}


CASES = {
    "an image model": (lambda p: torch.save(image_model(), p), "holds an image model, not a video encoder"),
    "an image model as encoder": (lambda p: torch.save({"encoder": image_model()}, p), "holds an image model"),
    "a teacher of images": (lambda p: torch.save({"teacher": image_model()}, p), "encoder, only teacher"),
    "probes": (lambda p: torch.save({"classifiers": [{"linear.weight": torch.zeros(2, 2)}]}, p), "holds probes"),
    "another network": (lambda p: torch.save({"fc.weight": torch.zeros(2, 2)}, p), "another kind of model"),
    "a patch embedding alone": (
        lambda p: torch.save({"encoder": {"patch_embed.proj.weight": torch.zeros(48, 3, 2, 8, 8)}}, p),
        "has no blocks.0.mlp.fc1.weight: it holds another kind of network",
    ),
    "a tensor as encoder": (lambda p: torch.save({"encoder": torch.zeros(3)}, p), "something other than tensors"),
    "numbers as weights": (lambda p: torch.save({"encoder": {"a": 3}}, p), "something other than tensors"),
    "another predictor": (
        lambda p: torch.save({"encoder": weights(), "predictor": {"x": torch.zeros(3)}, "sizes": {"heads": 3}}, p),
        "has no predictor_norm.weight",
    ),
    "weights of another size": (
        lambda p: torch.save({"encoder": short("blocks.1.norm1.bias"), "sizes": {"heads": 3}}, p),
        "blocks.1.norm1.bias is (40,), not (48,)",
    ),
    "weights too few": (
        lambda p: torch.save(
            {"encoder": {k: v for k, v in weights().items() if k != "norm.bias"}, "sizes": {"heads": 3}}, p
        ),
        "missing norm.bias",
    ),
    "a file with a damaged bit": (a_pt_with_one_bit_flipped, "differs from its checksum"),
    "half a file": (half_a_pt, "no complete file of torch.save"),
    "no file of torch": (lambda p: p.write_text("<html>404</html>"), "(a web page, or a download cut short?)"),
    "half a directory": (half_a_directory, "missing or cut short"),
    "half a run": (half_a_run, "not a complete checkpoint"),
    "a damaged run": (damaged_json, "model.json is damaged"),
    "a run of another size": (
        run_of_another_size,
        "does not fit its weights: 2 blocks of width 60",
    ),
    "a run without an encoder": (edited_run(encoder=None), "model.json config has no encoder"),
    "a run of an absurd depth": (edited_run(encoder__depth=10_000_000), "has depth=10000000 width="),
    "a run of an absurd width": (edited_run(encoder__width=48_000_000), "width=48000000 and does not fit its weights"),
    "a run with an absurd predictor": (
        edited_run(dynamics__predictor__depth=10**7),
        "dynamics.predictor has depth=10000000",
    ),
    "a run of absurd action blocks": (
        edited_run(actions__frame_skip=10**12),
        "actions has 2 numbers and frame_skip=1000000000000, and does not fit its weights: 2 numbers an action block",
    ),
    "a run with an absurd tubelet": (edited_run(encoder__tubelet=10**9), "encoder.patch_embed"),
    "a run with an absurd pool": (edited_run(encoder__pool__hidden=10**9), "encoder.pool.hidden.weight is (128, 256)"),
    "a run with an absurd picture": (edited_run(encoder__image_px=[10**9, 64]), "must be at most 8192"),
    "a run whose weights are not finite": (a_run_that_is_not_finite, "norm.bias holds nan, inf or a number above 1e18"),
    "a run of links out of its folder": (a_run_of_links, "leads out of given/model and is not read"),
    "weights that are huge": (
        lambda p: torch.save({"encoder": {**weights(), "norm.bias": torch.full((48,), 1e36)}, "sizes": HEADS}, p),
        "norm.bias holds nan, inf or a number above 1e18",
    ),
    "weights that are not finite": (
        lambda p: torch.save({"encoder": {**weights(), "norm.bias": torch.full((48,), torch.inf)}, "sizes": HEADS}, p),
        "norm.bias holds nan, inf or a number above 1e18",
    ),
    "a run of words": (edited_run(encoder__depth="deep"), "model.json encoder.depth=deep: "),
    "a run with another list": (edited_run(frame_px=[1]), "model.json config has"),
    "a run whose actions are words": (edited_run(actions__low="low"), "model.json actions.low=low"),
    "a directory of another model": (edited_directory(model_type="videomae"), "'videomae'"),
    "a directory without a kind": (edited_directory(model_type=None), "config.json has no model_type"),
    "a directory without sizes": (edited_directory(crop_size=None), "has no crop_size"),
    "a directory of another size": (edited_directory(hidden_size=96), "does not fit this model"),
    "a directory of other tensors": (other_tensors, "unknown names: language_model.embed"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_encoder_is_one_sentence(case, capsys):
    write, said = CASES[case]
    write(Path("given"))
    assert main(["export", "model=given", "format=official", "to=out.pt"]) == 1
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1 and "Traceback" not in message, message
    assert len(message) < 500 and not Path("out.pt").exists(), message


def test_a_safetensors_file_alone_says_what_to_give(capsys):
    save_file({"x": torch.zeros(3)}, "model.safetensors")
    assert main(["export", "model=model.safetensors", "format=official", "to=out.pt"]) == 1
    assert "give the directory that holds it and its config.json" in capsys.readouterr().err


def test_a_model_of_the_wrong_stage_names_the_command_that_makes_the_right_one(capsys):
    from commands.shared.errors import explain
    from commands.training.model_folders import load_dynamics, load_encoder

    save_encoder(Path("runs/pretrain/e/model"), made()[0], {})
    save_dynamics(Path("runs/posttrain/d/model"), dynamics(), {"env": "reacher"})
    Path("v.pt").touch()
    for read, folder, said in (
        (load_dynamics, "runs/pretrain/e", "a 'dynamics' model is needed here: jepa posttrain encoder=runs/pretrain/e"),
        (load_encoder, "v.pt", "read with encoder=pretrained path=v.pt"),
        (load_encoder, "nowhere", "there is no folder nowhere; give a run folder"),
    ):
        with pytest.raises(ValueError) as caught:
            read(folder)
        code, sentence = explain(caught.value)
        assert code == 1 and said in sentence, sentence
    assert load_encoder("runs/posttrain/d")[1] == {"env": "reacher"}, "dynamics hold their encoder"


def test_an_encoder_beyond_the_memory_of_the_machine_is_refused_before_it_is_built(capsys):
    assert main(["pretrain", "data=x.h5", "encoder.depth=10000000"]) == 2
    message = capsys.readouterr().err
    assert "encoder.depth=10000000 encoder.width=128 needs" in message and "choose a smaller one" in message, message


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ("[{blocks: 1, area: [1.0, 1.0], aspect: [1.0, 1.0]}]", "blocks=1 of area=[1.0, 1.0] leave a sample without"),
        ("[{random: 0.999}]", "random=0.999 leave a sample without"),
        ("[{random: 1.0}]", "random=1.0"),
        ("[{blocks: 0}]", "blocks=0 is out of range"),
        ("[]", "objective.masks is empty"),
    ],
)
def test_masks_that_leave_nothing_to_see_are_wrong_usage_and_leave_no_folder(masks, said, capsys, tmp_path):
    assert main(["pretrain", "data=x.h5", "encoder=tiny", "objective=vjepa2", f"objective.masks={masks}"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1, message
    assert not list(tmp_path.iterdir())
