"""World models and policies of other people: model=MODULE:CLASS, LeWorldModel's weights, and `jepa.evaluate`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import jepa
from commands.cli.main import main
from commands.config.compose import load_config
from commands.evaluation.models import check_model, describe_view, fit_actions, load_model, prepare_model
from commands.shared.errors import UsageError
from commands.shared.runs import to_json_value
from data.schema import StoreInfo
from tests.world_model.small import dynamics, make_released_lewm
from world_model.generative.diamond import DiamondConfig
from world_model.nn.flow import FlowConfig

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


@pytest.fixture(scope="module")
def lewm(tmp_path_factory):
    """A folder of LeWorldModel's weights, small and random."""
    folder = tmp_path_factory.mktemp("lewm")
    save_file(make_released_lewm(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"predictor": {"heads": 2, "dim_head": 64}}')
    return str(folder)


def test_plan_takes_a_folder_of_leworldmodels_weights(lewm, data, tmp_path):
    words = ["plan", f"model={lewm}", f"data={data}", *PROTOCOL, "planner=cem_lewm", "planner.iterations=2"]
    words += ["planner.samples=16", "planner.elites=4", "videos=0", "name=p", f"runs={tmp_path}"]
    assert main(words) == 0
    results = json.loads((tmp_path / "plan/p/results.json").read_text())
    assert results["model"]["released"] == "LeWorldModel" and results["plan"]["flops"] > 0
    assert list(results["methods"]) == ["model", "random", "zero action"]


def test_leworldmodel_gets_the_statistics_of_the_datas_actions(lewm, data):
    reader = jepa.open_reader(data)
    model, source, preprocessing = load_model(lewm, {}, reader.info, "cpu")
    assert preprocessing.size_hw == model.spec.frame_hw == (28, 28) and source["env"] == "reacher"
    fit_actions(model, reader)
    actions = np.concatenate([reader.column("action", episode) for episode in reader.episodes("train")])
    for found, expected in ((model.action_mean, actions.mean(0)), (model.action_std, actions.std(0, ddof=1))):
        np.testing.assert_allclose(found.numpy(), np.tile(expected, 5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["goal=photo.png"], "goal=photo.png needs a model of jepa posttrain, and model={lewm} holds LeWorldModel's"),
        (["offline=true"], "offline=True needs a model of jepa posttrain, and model={lewm} holds LeWorldModel's"),
        (["model_options={size: 3}"], "are of model=MODULE:CLASS, and model={lewm} is a folder"),
    ],
)
def test_what_leworldmodels_weights_do_not_serve_is_refused(lewm, data, words, said, capsys, tmp_path):
    assert main(["plan", f"model={lewm}", f"data={data}", f"runs={tmp_path}", *words]) == 2
    assert said.format(lewm=lewm) in capsys.readouterr().err


def test_other_commands_say_that_leworldmodels_weights_are_for_plan(lewm, data, capsys, tmp_path):
    assert main(["probe", f"model={lewm}", f"data={data}", f"runs={tmp_path}"]) == 2
    assert "holds LeWorldModel's released weights, which jepa plan model= alone reads" in capsys.readouterr().err


def test_a_folder_of_pickled_models_is_refused_by_name_and_leaves_no_run(data, capsys, tmp_path):
    (tmp_path / "theirs").mkdir()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "theirs" / "lewm_object.ckpt")
    words = ["plan", f"model={tmp_path / 'theirs'}", f"data={data}", f"runs={tmp_path / 'runs'}"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "lewm_object.ckpt needs code to be executed, which is refused" in error and "\n" not in error
    assert "torch.nn.modules.linear.Linear" in error and not list((tmp_path / "runs").glob("plan/*"))


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


def test_planning_may_take_other_euler_steps_than_training():
    model = dynamics("tokens", flow=FlowConfig(steps=4, width=8))
    planner = load_config("bench", ["planner.flow_steps=2"]).planner
    prepare_model(load_config("bench").planner, model)
    assert model.flow.steps == 4
    prepare_model(planner, model)
    assert model.flow.steps == 2 and model.config.flow.steps == 4
    diamond = DiamondConfig(widths=(8,)).make_world_model((16, 16), model.actions)
    prepare_model(load_config("bench", ["planner.flow_steps=2", "planner.cost.view=pixels"]).planner, diamond)
    assert diamond.sampling_steps == 2
    with pytest.raises(UsageError, match="planner.flow_steps=2 is for a model with .*, and mine draws no samples"):
        prepare_model(planner, dynamics("tokens"), "mine")
    with pytest.raises(UsageError, match="compile_iteration=true cannot compile the drawing of a model's noise"):
        prepare_model(load_config("bench", ["planner=icem", "planner.compile_iteration=true"]).planner, model)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["dynamics=tokens", "dynamics.flow={steps: 0}"],
            "dynamics.flow.steps=0 is out of range: it must be at least 1",
        ),
        (
            ["dynamics=tokens", "dynamics.flow={width: 0}"],
            "dynamics.flow.width=0 is out of range: it must be at least 1",
        ),
        (
            ["dynamics=tokens", "dynamics.flow={}"],
            "dynamics.losses.loss=l1: dynamics.flow is trained by a squared error",
        ),
        (["dynamics.flow={}"], "dynamics.flow draws patch tokens, and dynamics.space=pooled has none: give tokens"),
        (["planner.flow_steps=0"], "planner.flow_steps=0 is out of range: it must be at least 1"),
    ],
)
def test_flows_that_cannot_be_are_refused_in_one_sentence(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("space", "view", "told"), [("tokens", "pooled", True), ("tokens", "tokens", False), ("pooled", "pooled", False)]
)
def test_plans_of_a_token_model_that_compare_another_view_say_so(space, view, told):
    note = describe_view(view, dynamics(space))
    assert (note is not None) == told and (not told or "planner.cost.view=tokens compares the tokens" in note)
