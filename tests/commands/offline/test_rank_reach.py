"""How far ahead costs rank: models that see the state, with true and with wrong dynamics."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import envs
from commands import probe
from commands.cli.main import main
from commands.config.compose import load_config
from commands.config.keys import CollectKeys, DataKeys, EnvKeys
from commands.evaluation.oracle import OracleContext, OracleDynamics
from commands.offline import rank_reach
from commands.offline.rank_curves import DISTANCE, DYNAMICS, Curve, find_curve, format_rank_reach
from commands.offline.rank_reach import RankReachConfig, draw_candidates, measure_planned_reach, measure_rank_reach
from commands.report.rank_plots import draw_rank_reach
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.transfer.collection import collect_into
from data.pictures import Preprocessing
from data.policies import PolicyConfig
from data.store import Reader
from envs.goal_env import GoalEnv
from planners.cem import CEM, RecordingCEM
from planners.costs import GoalCost
from planners.noise import Draws
from planners.point_mass import DoubleIntegrator
from planners.protocol import Views
from planners.sampling import draw_first_candidates
from tests.world_model.small import dynamics

EPISODES, SKIP, HORIZON = list(range(6)), 2, 3
CONFIG = RankReachConfig(moments=12, candidates=24, steps=(3, 6, 16, 50), iterations=3, simulator_moments=8)


def write_picture(state):
    """A state [..., S] as a picture [..., 1, S, 8] that holds its bytes."""
    state = np.ascontiguousarray(state, np.float64)
    return state.view(np.uint8).reshape(*state.shape[:-1], 1, state.shape[-1], 8)


def read_picture(frames):
    """The states [..., S] of pictures."""
    return np.ascontiguousarray(frames.numpy()).view(np.float64)[..., 0, :, 0]


class Recordings:
    """Recordings whose pictures hold the states; all episodes belong to every split."""

    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def episodes(self, split):
        return np.array(EPISODES)

    def gather(self, name, rows):
        return write_picture(self.reader.gather("state", rows)) if name == "pixels" else self.reader.gather(name, rows)


class SeeingModel:
    """A model that reads the state from its pictures and imagines with the true simulator: `embed` of the truth. Where
    it confuses candidates, each is imagined under the actions of another."""

    def __init__(self, env, embed=lambda truth: truth[..., :2], confuses=False):
        self.env, self.embed, self.confuses = env, embed, confuses
        self.oracle = OracleDynamics(env, None, HORIZON, 1, SKIP)
        self.spec = replace(self.oracle.spec, views=("pooled",), history=2)

    def observe(self, frames_BTHWC, past_actions_BtA, valid_BT, proprio=None):
        return OracleContext(read_picture(frames_BTHWC[:, -1]))

    def encode_goal(self, frames_BHWC, proprio=None):
        truth = torch.from_numpy(self.env.get_truth(read_picture(frames_BHWC)))
        return Views({"pooled": self.embed(truth)})

    def imagine(self, context, actions_BSKA, generator=None, keep="path"):
        actions = actions_BSKA.roll(1, 1) if self.confuses else actions_BSKA
        return Views({"pooled": self.embed(self.oracle.imagine(context, actions, keep=keep).view("truth"))}, keep)


def measure_joints(imagined, goal):
    """Euclidean distance of joint angles."""
    return (imagined - goal)[..., :2].norm(dim=-1)


def scramble(truth):
    """Features that change wildly with the state: their distance means nothing."""
    return torch.sin(1e5 * truth[..., :2])


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    keys = CollectKeys(
        env=EnvKeys(name="reacher", policy="uniform"),
        data=DataKeys(episodes=len(EPISODES), frames=25, policy=PolicyConfig(name="uniform")),
        workers=1,
    )
    path = tmp_path_factory.mktemp("reach") / "trajectories.h5"
    collect_into(path, keys, Console())
    return Recordings(Reader(path))


@pytest.fixture
def measure(reader, monkeypatch):
    """Measures a SeeingModel, for whom the simulator draws such pictures, too. The true distance is Euclidean, as what
    it sees is."""
    monkeypatch.setattr(rank_reach, "make_true_distance", lambda task: measure_joints)
    monkeypatch.setattr(GoalEnv, "render_state", lambda env, state: write_picture(state))
    size = Preprocessing((1, reader.info.state_size))

    def run(config=CONFIG, **model):
        with closing(envs.make("reacher")) as env:
            return measure_rank_reach(SeeingModel(env, **model), reader, "val", config, size, 0)

    return run


def find(results, source, candidates="random", metric="l2"):
    return find_curve(results, Curve(source, "pooled", metric, candidates))


def test_true_dynamics_that_see_the_state_rank_as_the_truth_does(measure, tmp_path):
    results = measure()
    assert results["steps"] == [4, 6, 16] and results["left_out"] == [50], "whole model steps that an episode holds"
    for name in ("random", "middle", "elite"):
        model, true = find(results, "model", name), find(results, "simulator", name)
        assert model["mean"] == pytest.approx([1] * 3, abs=1e-3) and model["reach"]["useful"] == 16
        assert true["mean"] == pytest.approx([1] * 3, abs=1e-3)
        assert model["moments"] == [12] * 3 and true["moments"] == [8] * 3
    assert find_curve(results, Curve("simulator", "truth", "truth", "random"))["mean"] == pytest.approx([1] * 3)
    for verdict in results["verdicts"]:
        if verdict["metric"] == "l2":
            assert (verdict["reach"], verdict["fails_at"], verdict["causes"]) == (16, [], {})
    text = format_rank_reach(results)
    assert "pooled, l2, elite candidates: ranked up to 16 steps ahead." in text
    assert "left out: 50 steps" in text and "beyond 6 steps, the horizon of this model" in text
    draw_rank_reach(results, tmp_path / "rank_reach.png")
    assert (tmp_path / "rank_reach.png").stat().st_size > 5000


def test_dynamics_that_confuse_candidates_fail_and_are_named(measure):
    results = measure(replace(CONFIG, iterations=1), confuses=True)
    model, true = find(results, "model"), find(results, "simulator")
    assert np.abs(model["mean"]).max() < 0.3 and min(true["mean"]) > 0.99
    verdict = next(verdict for verdict in results["verdicts"] if verdict["metric"] == "l2")
    assert verdict["causes"] == {4: [DYNAMICS], 6: [DYNAMICS], 16: [DYNAMICS]} and verdict["reach"] == 0
    assert verdict["sentence"].endswith("ranked at no distance; at 4, 6 and 16 the dynamics fail.")


def test_a_distance_without_meaning_fails_under_true_dynamics(measure):
    results = measure(replace(CONFIG, iterations=1), embed=scramble)
    verdict = next(verdict for verdict in results["verdicts"] if verdict["metric"] == "l2")
    assert np.abs(find(results, "simulator")["mean"]).max() < 0.4
    assert verdict["causes"] == {4: [DISTANCE], 6: [DISTANCE], 16: [DISTANCE]}
    assert "at 4, 6 and 16 the distance fails" in verdict["sentence"]


def test_without_rendered_moments_no_cause_is_named(measure):
    results = measure(replace(CONFIG, iterations=1, simulator_moments=0), confuses=True)
    assert {row["dynamics"] for row in results["curves"] if row["view"] == "pooled"} == {"model"}
    assert "rank_reach.simulator_moments=0" in results["verdicts"][0]["sentence"]


def test_the_same_seed_gives_the_same_numbers_in_chunks_of_any_size(measure, monkeypatch):
    config = replace(CONFIG, steps=(6,), iterations=1, simulator_moments=3)
    first = measure(config)
    monkeypatch.setattr(rank_reach, "MOMENTS_AT_ONCE", 5)
    for row, other in zip(first["curves"], measure(config)["curves"], strict=True):
        np.testing.assert_allclose(row["mean"], other["mean"], atol=1e-6)
        assert row["moments"] == other["moments"]


@pytest.mark.parametrize(
    ("model", "views"),
    [
        ({}, {"pooled", "reach"}),
        ({"space": "tokens"}, {"tokens", "pooled", "reach"}),
        ({"target": "pixels"}, {"pixels", "tokens", "pooled", "reach"}),
    ],
)
def test_every_view_of_a_model_is_ranked_by_every_metric_under_both_dynamics(model, views, reader):
    made = dynamics(frame_skip=SKIP, **model)
    made.actions = replace(made.actions, low=(-1.0, -1.0), high=(1.0, 1.0))
    config = RankReachConfig(moments=2, candidates=5, steps=(2,), iterations=2, simulator_moments=1)
    pictures = SimpleNamespace(episodes=reader.episodes, info=reader.info)
    for name in ("gather", "first_row", "lengths", "num_frames"):
        setattr(pictures, name, getattr(reader.reader, name))
    results = measure_rank_reach(made, pictures, "val", config, Preprocessing((64, 64)), 0)
    found = {tuple(row[key] for key in Curve._fields) for row in results["curves"] if row["view"] != "truth"}
    assert found == {
        Curve(source, view, metric, name)
        for source in ("model", "simulator")
        for view in views
        for metric in ("l2", "l1", "cosine")
        for name in ("random", "elite")
    }
    assert all(-1 <= row["mean"][0] <= 1 for row in results["curves"])


def test_candidates_are_those_of_a_search():
    model, frames = DoubleIntegrator(), torch.randn(5, 1, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    context, goal = model.observe(frames, None, None), model.encode_goal(frames[:, 0] + 2)
    config, noise = RankReachConfig(candidates=40, iterations=5), Draws((1, 2, 3, 4, 5), 7, torch.device("cpu"))
    sets = {one.name: one for one in draw_candidates(model, context, goal, ["pooled"], config, noise, 6)}
    assert list(sets) == ["random", "middle", "elite"]
    cost = GoalCost("pooled", "l2", "last")
    means = [float(cost(model.imagine(context, one.actions), goal, one.actions).mean()) for one in sets.values()]
    assert means[0] > means[1] > means[2]
    spread = [float(one.actions.std(1).mean()) for one in sets.values()]
    assert spread[0] > spread[1] > spread[2], "candidates of later iterations are more alike"
    plain = {
        one.name for one in draw_candidates(model, context, goal, ["pooled"], replace(config, iterations=1), noise, 6)
    }
    two = [
        one.name for one in draw_candidates(model, context, goal, ["pooled"], replace(config, iterations=2), noise, 6)
    ]
    assert plain == {"random"} and two == ["random", "elite"]


def test_recording_candidates_changes_no_plan():
    model, frames = DoubleIntegrator(), torch.zeros(2, 1, 1, 1, 4)
    context, goal = model.observe(frames, None, None), model.encode_goal(frames[:, 0] + 2)
    recording, cost = RecordingCEM(), GoalCost("pooled", "l2", "last")
    for _ in range(2):  # a second plan forgets the first
        plan = recording.plan(model, context, goal, cost, seeds=[1, 2])
    assert torch.equal(plan.actions_BKA, CEM().plan(model, context, goal, cost, seeds=[1, 2]).actions_BKA)
    assert len(recording.actions) == recording.config.iterations
    first = draw_first_candidates(model.spec, recording, Draws((1, 2), 0, torch.device("cpu")))
    assert torch.equal(first, recording.actions[0]), "drawn without a model's score"


def test_a_cell_records_the_curve_of_its_own_cost(reader, monkeypatch):
    monkeypatch.setattr(
        rank_reach, "CELL_CONFIG", replace(CONFIG, moments=6, steps=(4,), iterations=1, simulator_moments=0)
    )
    size = Preprocessing((1, reader.info.state_size))
    with closing(envs.make("reacher")) as env:
        found = measure_planned_reach(SeeingModel(env), reader, "val", GoalCost(metric="sq_l2"), size, 0)
        assert (found["steps"], found["metric"], found["dynamics"]) == ([4], "l2", "model") and found["mean"][0] > 0.8
        monkeypatch.setattr(rank_reach, "CELL_CONFIG", replace(CONFIG, steps=(50,), iterations=1))
        assert measure_planned_reach(SeeingModel(env), reader, "val", GoalCost(), size, 0) is None


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"env_id": "droid", "state_size": 3}, "droid was recorded elsewhere"),
        ({"env_id": "reacher", "state_size": 0}, "the data hold no states of reacher"),
        ({"env_id": "reacher", "state_size": 4}, "no eval episode is long enough for rank_reach.steps=[30]"),
    ],
)
def test_data_that_cannot_be_simulated_are_left_out_with_a_sentence(info, said, tmp_path, capsys):
    short = SimpleNamespace(
        info=SimpleNamespace(**info), episodes=lambda split: [], lengths=lambda episodes: np.array([])
    )
    config = probe.Config(model="m", data="d", rank_reach=RankReachConfig(steps=(30,)))
    size = Preprocessing((64, 64))
    assert probe.rank_candidates(config, DoubleIntegrator(), short, size, tmp_path, Console()) is None
    assert f"rank reach is left out: {said}" in capsys.readouterr().out
    off = replace(config, rank_reach=RankReachConfig(moments=0))
    assert probe.rank_candidates(off, DoubleIntegrator(), short, size, tmp_path, Console()) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rank_reach.steps=[0,10]", r"rank_reach.steps.0=0 is out of range"),
        ("rank_reach.steps=[]", r"rank_reach: steps=\[\] must hold at least one"),
        ("rank_reach.candidates=2", "rank_reach.candidates=2 is out of range"),
        ("rank_reach.iterations=0", "rank_reach.iterations=0 is out of range"),
        ("rank_reach.moments=-1", "rank_reach.moments=-1 is out of range"),
        ("rank_reach.sets=3", r"'rank_reach.sets' is no group or key of jepa probe"),
    ],
)
def test_settings_without_meaning_are_refused(word, said, capsys):
    with pytest.raises(UsageError, match=said):
        load_config("probe", ["model=m", "data=d", word])
    assert main(["probe", "model=m", "data=d", word]) == 2
