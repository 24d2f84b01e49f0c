"""World models and policies of other people: model=MODULE:CLASS, and `jepa.evaluate`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import jepa
from commands.cli.main import main
from commands.evaluation.models import check_model, load_model
from commands.shared.errors import UsageError
from commands.shared.runs import to_json_value
from data.schema import StoreInfo

GUIDE = Path(__file__).resolve().parents[3] / "docs/guides/own_model.md"
PROTOCOL = ("protocol.episodes=2", "protocol.budget=4", "protocol.oracle=false", "protocol.oracle_cost.episodes=0")
INFO = StoreInfo("reacher", (-1, -1), (1, 1), ("a", "b"), 0.1, (64, 64, 3), (), (), 0)
OTHERS = """
from jepa import DynamicsSpec

class Part:
    spec = DynamicsSpec((-1.0, -1.0), (1.0, 1.0), (32, 32), 8, ("pooled",))

    def observe(self): ...

class Model(Part):
    def __init__(self, size=32):
        self.spec = DynamicsSpec((-1.0, -1.0), (1.0, 1.0), (size, size), 8, ("pooled",))

    def encode_goal(self): ...
    def imagine(self): ...

class Wide(Model):
    def __init__(self):
        self.spec = DynamicsSpec((-1.0,) * 6, (1.0,) * 6, (32, 32), 8, ("pooled",), frame_skip=2)

class NoSpec(Model):
    def __init__(self):
        self.spec = {}
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python title=\"linear_model.py\"\n(.*?)```", GUIDE.read_text(), re.S)
    (tmp_path / "linear_model.py").write_text(block)
    (tmp_path / "other_models.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    runs = tmp_path_factory.mktemp("data")
    assert main(["collect", "data=debug", "data.episodes=60", "name=data", f"runs={runs}", "workers=1"]) == 0
    return str(runs / "collect/data")


def test_a_class_is_called_with_its_options_and_gives_the_size_of_pictures(modules):
    model, source, preprocessing = load_model("other_models:Model", {"size": 48}, INFO, "cpu")
    assert type(model).__name__ == "Model" and model.spec.frame_hw == preprocessing.size_hw == (48, 48)
    assert source == {"env": "reacher", "env_kwargs": {}, "options": {"size": 48}}


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("other_models:Part", {}, "Part lacks encode_goal and imagine, which every world model has"),
        ("other_models:Modal", {}, "other_models has no class Modal; did you mean Model"),
        ("other_model:Model", {}, "put the folder of other_model.py on PYTHONPATH"),
        ("other_models:Model", {"sise": 3}, "model_options={'sise': 3}: .*unexpected keyword argument 'sise'"),
        ("other_models:Wide", {}, "which is 3 an environment step, and the data has actions of size 2"),
        ("other_models:NoSpec", {}, "its spec is dict; make it a planners.DynamicsSpec"),
    ],
)
def test_what_is_no_world_model_is_refused_by_name(modules, model, options, said):
    with pytest.raises(UsageError, match=said):
        load_model(model, options, INFO, "cpu")


def test_options_of_a_folder_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match=f"are of model=MODULE:CLASS, and model={tmp_path} is a folder"):
        check_model(str(tmp_path), {"size": 3})


def test_a_folder_named_like_a_class_is_a_folder(modules, monkeypatch):
    monkeypatch.chdir(modules)
    Path("other_models:Model").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_model("other_models:Model", {"size": 3})


def test_the_linear_model_of_the_guide_predicts_its_data(modules, data):
    """One step of a linear map is nearer to the next picture than the present picture is."""
    import torch

    model, _, _ = load_model("linear_model:LinearModel", {"data": data}, jepa.open_reader(data).info, "cpu")
    reader = jepa.open_reader(data)
    copied, predicted = [], []
    for episode in reader.episodes("val"):
        frames, actions = reader.column("pixels", episode), torch.tensor(reader.column("action", episode))
        context = model.observe(torch.tensor(frames[:-1])[:, None], actions[:, :0], None)
        now, after = context.view("pooled"), model.encode_goal(torch.tensor(frames[1:])).view("pooled")
        imagined = model.imagine(context, actions[:, None, None]).view("pooled")[:, 0, 0]
        copied.append((now - after).square().sum())
        predicted.append((imagined - after).square().sum())
    assert sum(predicted) < 0.9 * sum(copied)


def test_plan_takes_a_class_and_writes_the_report(modules, data):
    words = ["plan", "model=linear_model:LinearModel", f"model_options={{data: {data}}}", f"data={data}", *PROTOCOL]
    words += ["planner.horizon=4", "planner.samples=16", "planner.elites=4", "videos=1", "name=p", f"runs={modules}"]
    words += ["planner.precision=bf16", "compare_batches=true"]
    assert main(words) == 0
    results = json.loads((modules / "plan/p/results.json").read_text())
    assert results["model"]["folder"] == "linear_model:LinearModel" and results["model"]["options"] == {"data": data}
    assert list(results["methods"]) == ["model", "random", "zero action"] and results["plan"]["flops"] > 0
    assert results["plan"]["episode_flops"] > results["plan"]["flops"]
    batches = [(row["batch"], row["chunk_elements"], row["episodes"]) for row in results["batches"]]
    assert batches == [(1, 0, 2), (1, 32, 2), (2, 32, 2)] and all(row["flipped"] <= 2 for row in results["batches"])
    assert results["plan"]["precision"] == "bf16" and 0 < results["plan"]["elite_overlap"] <= 1
    assert (modules / "plan/p/report.html").exists() and list((modules / "plan/p/videos").iterdir())


@pytest.mark.parametrize("word", ["offline=true", "goal=photo.png"])
def test_what_needs_a_trained_model_is_refused_for_a_class(modules, data, word, capsys):
    assert main(["plan", "model=other_models:Model", f"data={data}", word, f"runs={modules}"]) == 2
    assert "needs a model of jepa posttrain, and model=other_models:Model is a class" in capsys.readouterr().err


class Recorder:
    """Pushes with full force; keeps what it is given."""

    def reset(self, goal_frames, seeds):
        self.goals, self.seeds, self.states = goal_frames, seeds, []

    def act(self, frames, proprio=None):
        self.frames = frames
        self.states.append(proprio)
        return np.ones((len(frames), 2))


def test_a_policy_is_evaluated_beside_the_baselines_on_the_same_goals(data, tmp_path):
    policy = Recorder()
    results = jepa.evaluate(policy, data, tmp_path / "r", (*PROTOCOL, "videos=1"), size_hw=(48, 40), proprio=True)
    assert to_json_value(results) == json.loads((tmp_path / "r/results.json").read_text())
    assert list(results["methods"]) == ["policy", "random", "zero action"] and results["episodes"] == 2
    assert policy.goals.shape == policy.frames.shape == (2, 48, 40, 3) and policy.states[0].shape[0] == 2
    assert results["proprio"] == "observed" and (tmp_path / "r/report.html").exists()
    lines = [json.loads(line) for line in (tmp_path / "r/episodes.jsonl").read_text().splitlines()]
    by_method = {name: [each for each in lines if each["method"] == name] for name in results["methods"]}
    assert policy.seeds == tuple(each["seed"] for each in by_method["random"])
    assert [each["start"] for each in by_method["policy"]] == [each["start"] for each in by_method["random"]]


def test_a_policy_without_a_method_and_an_unknown_key_are_refused(data, tmp_path):
    with pytest.raises(UsageError, match="policy: object lacks reset and act, which every policy has"):
        jepa.evaluate(object(), data, tmp_path)
    with pytest.raises(UsageError, match="protocol.episods"):
        jepa.evaluate(Recorder(), data, tmp_path, ("protocol.episods=2",))
