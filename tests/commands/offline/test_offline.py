"""Plans at recorded moments beside the recorded actions: measures by hand, and models that are right and wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import envs
from commands import plan as plan_command
from commands.config.keys import CollectKeys, DataKeys, EnvKeys
from commands.evaluation.methods import make_true_distance
from commands.evaluation.oracle import OracleContext, OracleDynamics
from commands.evaluation.protocol import ProtocolConfig
from commands.offline import measures
from commands.offline.evaluate import format_moments, format_offline_headline, plans_offline
from commands.offline.moments import draw_moments, find_nearest
from commands.report.offline import write_offline_report
from commands.shared.console import Console
from commands.shared.errors import RunError, UsageError
from commands.statistics.intervals import (
    format_mean,
    format_share,
    resample_means,
    summarise_mean,
    summarise_share,
    wilson_interval,
)
from commands.training.model_folders import MODEL, save_dynamics
from commands.transfer.collection import collect_into
from data.mapped import create_file
from data.policies import PolicyConfig
from data.schema import EpisodePlan, StoreInfo
from data.store import Reader, Writer, compute_statistics
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCost
from planners.protocol import Views
from tests.commands.report.test_planning import read as read_page
from tests.planners.point_mass import SIZE, PointMass, draw
from tests.world_model.small import dynamics

FRAMES, SKIP, STEPS, SPEED = 25, 2, 3, 0.4
COST = GoalCost(metric="l2", reduce="last")
PLANNER = CEM(CEMConfig(samples=64, elites=8, iterations=8, horizon=STEPS, std_min=0.005))
SPLITS = np.array([0] * 8 + [2] * 5, np.uint8)


def write_point_file(path, frames=FRAMES, splits=SPLITS, scale=(1.0, 1.0), env_id="elsewhere"):
    """Random walks of a point, with a third number in the actions that is always 0 where scale says so."""
    info = StoreInfo(
        env_id=env_id,
        action_low=(-1.0,) * len(scale),
        action_high=(1.0,) * len(scale),
        action_names=("right", "up", "nothing")[: len(scale)],
        step_s=0.25,
        frame_hwc=(SIZE, SIZE, 3),
        truth_names=("x", "y"),
        truth_units=("m", "m"),
        state_size=2,
    )
    create_file(path, info, EpisodePlan(np.full(len(splits), frames), np.arange(len(splits)), splits))
    writer, rng = Writer(path), np.random.default_rng(0)
    for episode in range(len(splits)):
        actions = rng.uniform(-0.9, 0.9, (frames - 1, len(scale))) * scale
        path_T2 = np.concatenate([np.zeros((1, 2)), SPEED * actions[:, :2].cumsum(0)]) + rng.uniform(-2, 2, 2)
        columns = {
            "pixels": draw(torch.from_numpy(path_T2)).numpy(),
            "action": actions.astype(np.float32),
            "time_s": np.arange(frames) * 0.25,
            "state": path_T2,
            "truth": path_T2.astype(np.float32),
        }
        writer.write(episode, columns)
    return Reader(path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return write_point_file(tmp_path_factory.mktemp("point") / "trajectories.h5")


def point(speed=SPEED):
    return PointMass(frame_skip=SKIP, history=2, speed=speed)


def run(reader, model, count=30, **protocol):
    setup = measures.make_offline_setup(model, reader, PLANNER, COST, ProtocolConfig(episodes=count, **protocol))
    return setup, *measures.measure_plans(setup, PLANNER, COST, 0, Console())


# --- moments


def test_moments_have_a_whole_history_a_whole_horizon_and_come_from_every_episode(reader):
    moments = draw_moments(reader, "eval", 12, 0, point().spec, STEPS, 4)
    index = moments.index
    assert sorted(np.unique(index.episode, return_counts=True)[1]) == [2, 2, 2, 3, 3], "spread evenly over five"
    assert len({*zip(index.episode.tolist(), index.last.tolist(), strict=True)}) == 12
    assert (index.last >= SKIP).all() and (index.after == index.last + STEPS * SKIP).all()
    assert (index.after < FRAMES).all() and {reader.split(e) for e in index.episode} == {"eval"}
    now, goal = moments.read_frames(reader)
    for row in range(12):
        episode, last = int(index.episode[row]), int(index.last[row])
        np.testing.assert_array_equal(goal[row], reader.column("pixels", episode)[last + 4])
        np.testing.assert_array_equal(now[row], reader.column("pixels", episode)[last])
        expected = reader.column("action", episode)[last : last + STEPS * SKIP]
        np.testing.assert_array_equal(moments.read_actions(reader)[row], expected)


def test_the_seed_fixes_the_moments_and_a_file_may_serve_fewer(reader):
    spec = point().spec
    every = draw_moments(reader, "eval", 10_000, 0, spec, STEPS, 6)
    assert len(every) == 5 * (FRAMES - SKIP - STEPS * SKIP)
    one, same, other = (draw_moments(reader, "eval", 8, seed, spec, STEPS, 6).index.last for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()


def test_data_without_held_out_episodes_or_with_short_ones_are_refused(reader):
    spec = point().spec
    with pytest.raises(RunError, match=r"split val has no episode.*train 8, val 0, eval 5"):
        draw_moments(reader, "val", 5, 0, spec, STEPS, 6)
    with pytest.raises(RunError, match=r"takes 27 frames .* longest episode of split eval has 25.*planner.horizon"):
        draw_moments(reader, "eval", 5, 0, spec, 12, 6)
    assert len(draw_moments(reader, "eval", 99, 0, spec, 11, 6)) == 5, "one moment an episode at the limit"


def test_the_nearest_moment_is_that_of_the_nearest_pair_of_frames(reader):
    spec = point().spec
    asked, others = (draw_moments(reader, split, 70, 0, spec, STEPS, 4) for split in ("eval", "train"))
    found = find_nearest(point(), "pooled", reader, asked, others)

    def read_pairs(moments):
        rows = zip(moments.index.episode.tolist(), moments.index.last.tolist(), strict=True)
        return np.array([np.r_[reader.column("state", e)[t], reader.column("state", e)[t + 4]] for e, t in rows])

    distances = np.linalg.norm(read_pairs(asked)[:, None] - read_pairs(others)[None], axis=-1)
    np.testing.assert_allclose(distances[np.arange(70), found], distances.min(1), atol=5e-3)


@pytest.mark.parametrize("offset", [3, 8])
def test_a_goal_off_the_plan_is_refused(reader, offset):
    with pytest.raises(UsageError, match=rf"protocol.goal_offset={offset}: .* frame skip \(2\) .* \(6 environment"):
        measures.make_offline_setup(point(), reader, PLANNER, COST, ProtocolConfig(goal_offset=offset))


# --- measures


def test_errors_are_mean_absolute_differences_over_the_standard_deviation():
    rng = np.random.default_rng(0)
    actions, recorded, std = rng.normal(size=(4, 3, 6, 2)), rng.normal(size=(4, 6, 2)), np.array([0.5, 3.0])
    errors = measures.compare_actions(actions, recorded, std, frame_skip=2)
    for n in range(4):
        first, every, average, dims = [], [], [], [[], []]
        for s in range(3):
            for a in range(2):
                gaps = [abs(actions[n, s, t, a] - recorded[n, t, a]) / std[a] for t in range(6)]
                first += gaps[:2]
                every += gaps
                dims[a] += gaps
                average.append(abs(actions[n, s, :, a].mean() - recorded[n, :, a].mean()) / std[a])
        assert errors["first_step"][n] == pytest.approx(np.mean(first))
        assert errors["all_steps"][n] == pytest.approx(np.mean(every))
        assert errors["average_action"][n] == pytest.approx(np.mean(average))
        np.testing.assert_allclose(errors["by_dimension"][n], [np.mean(gaps) for gaps in dims])


def test_the_rank_is_the_share_of_candidates_that_cost_less_and_ties_count_half():
    cost = np.array([2.0, 0.0, 9.0, np.inf])
    candidates = np.array([[1.0, 2.0, 3.0, 2.0], [1, 2, 3, 4], [1, 2, 3, 4], [np.inf] * 4])
    assert measures.rank_recorded(cost, candidates).tolist() == [0.5, 0.0, 1.0, 0.5]


def test_by_chance_a_tenth_of_the_ranks_is_in_the_best_tenth():
    costs = np.random.default_rng(0).random((20_000, measures.CANDIDATES + 1))
    ranks = measures.rank_recorded(costs[:, 0], costs[:, 1:])
    assert (ranks <= measures.BEST_SHARE).mean() == pytest.approx(0.1, abs=0.007)
    assert ranks.mean() == pytest.approx(0.5, abs=0.007)


def test_intervals_resample_episodes():
    rng = np.random.default_rng(0)
    episode, level = np.repeat(np.arange(40), 5), np.repeat(rng.normal(size=40), 5)
    summary = summarise_mean(level, episode, 0)
    low, high = summary["ci95"]
    assert summary["mean"] == pytest.approx(level.mean()) and low < summary["mean"] < high
    assert high - low == pytest.approx(2 * 1.96 * level[::5].std() / np.sqrt(40), rel=0.15)
    means, resampled = resample_means(np.stack([level, level + 1], 1), episode, 0)
    np.testing.assert_allclose(resampled[:, 1] - resampled[:, 0], 1)
    assert summarise_mean(level[:5], episode[:5], 0)["ci95"] is None
    assert format_mean({"mean": 0.5, "ci95": None}) == "0.50"
    assert format_mean({"mean": 0.5, "ci95": [0.25, 1]}) == "0.50 (0.25 to 1.00)"
    assert format_share({"mean": 0.5, "ci95": [0.25, 1]}) == "50% (25 to 100%)"
    assert format_share({"mean": 0.5, "ci95": None}) == "50%"


def test_a_share_on_which_all_episodes_agree_has_the_interval_of_as_many_trials():
    episode = np.repeat(np.arange(6), 3)
    assert summarise_share(np.ones(18, bool), episode, 0) == {"mean": 1.0, "ci95": list(wilson_interval(6, 6))}
    assert summarise_share(np.zeros(18, bool), episode, 0)["ci95"] == list(wilson_interval(0, 6))
    assert 0 < summarise_share(episode > 2, episode, 0)["ci95"][0] < 0.5


# --- models


def test_a_perfect_model_ranks_the_recorded_actions_best_and_finds_their_average(reader):
    _, results, planned, methods = run(reader, point())
    rank, errors = results["rank"], results["action_error"]
    assert rank["uniform"]["rank"]["mean"] < 0.01 and rank["recorded"]["best_tenth"]["mean"] > 0.95
    assert planned.recorded_cost.max() < 0.01, "the recorded actions lead to the goal"
    assert errors["model"]["average_action"]["mean"] < 0.1 * errors["random"]["average_action"]["mean"]
    # Every order of the same actions leads to the goal, so a perfect plan differs at each step: hence three columns.
    assert errors["model"]["all_steps"]["mean"] > 0.5
    assert errors["nearest neighbour"]["average_action"]["mean"] < errors["other recorded"]["average_action"]["mean"]
    assert results["imagined_cost"]["planned"] < 0.05 and methods.recorded.shape == (30, STEPS * SKIP, 2)


def test_a_model_that_ignores_actions_is_at_chance_and_a_reversed_one_below_it(reader):
    _, still, _, _ = run(reader, point(speed=0.0))
    assert [row["rank"]["mean"] for row in still["rank"].values()] == [0.5, 0.5]
    assert [row["best_tenth"]["mean"] for row in still["rank"].values()] == [0.0, 0.0]
    _, reversed_, _, _ = run(reader, point(speed=-SPEED))
    assert reversed_["rank"]["recorded"]["rank"]["mean"] > 0.6
    assert (
        reversed_["action_error"]["model"]["average_action"]["mean"]
        > still["action_error"]["random"]["average_action"]["mean"]
    )


def test_baselines_are_what_their_names_say(reader):
    setup, results, _, methods = run(reader, point(), 20)
    mean, std = compute_statistics(reader, "action")
    np.testing.assert_allclose(methods.actions["mean action"], np.broadcast_to(mean, (20, 1, 6, 2)), rtol=1e-6)
    assert (methods.actions["zero action"] == 0).all()
    train = setup.train_moments.read_actions(reader)
    np.testing.assert_array_equal(methods.actions["nearest neighbour"][:, 0], train[methods.nearest])
    expected = np.abs(methods.recorded / std).mean()
    assert results["action_error"]["zero action"]["all_steps"]["mean"] == pytest.approx(expected, rel=1e-5)
    apart = np.abs(methods.recorded[:, :2] / std).mean() - results["action_error"]["model"]["first_step"]["mean"]
    paired = results["action_error"]["zero action"]["first_step_minus_model"]
    assert paired["mean"] == pytest.approx(apart, rel=1e-4) and paired["ci95"][0] < apart < paired["ci95"][1]
    uniform = methods.actions["random"]
    assert uniform.shape == (20, 99, 6, 2) and -1 <= uniform.min() < -0.99 and 0.99 < uniform.max() <= 1


def test_moments_planned_in_parts_give_the_same_plans_and_neighbours(reader, monkeypatch):
    _, whole, planned, methods = run(reader, point(), 20)
    monkeypatch.setattr("commands.offline.moments.MOMENTS_AT_ONCE", 7)
    _, parts, again, others = run(reader, point(), 20)
    np.testing.assert_allclose(again.actions, planned.actions, atol=1e-5)
    np.testing.assert_allclose(again.candidate_costs["uniform"], planned.candidate_costs["uniform"], atol=1e-5)
    assert others.nearest.tolist() == methods.nearest.tolist() and len(again.plan_ms) == 3
    assert parts["rank"] == whole["rank"]


def test_a_nearer_goal_is_compared_up_to_it(reader):
    _, results, planned, methods = run(reader, point(), 20, goal_offset=2)
    assert results["steps"] == {"model_steps": 1, "frame_skip": 2, "goal_offset": 2, "goal_offset_s": 0.5}
    assert methods.recorded.shape == (20, 2, 2) and planned.actions.shape == (20, 6, 2)
    rows = results["action_error"]["model"]
    assert rows["first_step"] == rows["all_steps"]


def test_numbers_that_never_change_are_not_compared(tmp_path):
    reader = write_point_file(tmp_path / "t.h5", scale=(1.0, 1.0, 0.0))
    model = SimpleNamespace(spec=PointMass(frame_skip=1).spec)
    setup = measures.make_offline_setup(model, reader, PLANNER, COST, ProtocolConfig(episodes=4))
    assert setup.compared.tolist() == [True, True, False]
    moving = write_point_file(tmp_path / "still.h5", scale=(0.0, 0.0))
    with pytest.raises(RunError, match="no number of the actions of split train varies"):
        measures.make_offline_setup(model, moving, PLANNER, COST, ProtocolConfig(episodes=4))


class SeenReacher(OracleDynamics):
    """The true simulator, which knows the state that a recorded frame shows."""

    def __init__(self, reader, horizon):
        super().__init__(envs.make("reacher"), None, horizon, 1)
        self.state_of = {}
        for episode in reader.episodes():
            frames, states = reader.column("pixels", int(episode)), reader.column("state", int(episode))
            self.state_of |= {frame.tobytes(): state for frame, state in zip(frames, states, strict=True)}

    def look_up(self, frames):
        return np.stack([self.state_of[frame.numpy().tobytes()] for frame in frames])

    def observe(self, frames_BTHWC, past_actions_BtA, valid_BT, proprio=None):
        return OracleContext(self.look_up(frames_BTHWC[:, -1]))

    def encode_goal(self, frames_BHWC, proprio=None):
        return Views({"truth": self._compute_truth(self.look_up(frames_BHWC))})


@pytest.mark.slow
def test_on_reacher_the_simulator_ranks_recorded_actions_best_and_an_untrained_model_does_not(tmp_path):
    keys = CollectKeys(
        env=EnvKeys(name="reacher", policy="smooth"),
        data=DataKeys(episodes=12, frames=31, policy=PolicyConfig(name="smooth")),
        workers=1,
    )
    collect_into(tmp_path / "t.h5", keys, Console())
    reader, planner = Reader(tmp_path / "t.h5"), CEM(CEMConfig(samples=64, elites=8, iterations=6, horizon=3))
    true_cost = GoalCost(view="truth", reduce="last", distance=make_true_distance(envs.get_task("reacher")))
    found = {}
    for name, model, cost in (("true", SeenReacher(reader, 3), true_cost), ("untrained", dynamics(), GoalCost())):
        setup = measures.make_offline_setup(model, reader, planner, cost, ProtocolConfig(episodes=30))
        found[name], *_ = measures.measure_plans(setup, planner, cost, 0, Console())
    true, untrained = found["true"], found["untrained"]
    assert true["rank"]["recorded"]["rank"]["mean"] < 0.05 < 0.3 < untrained["rank"]["recorded"]["rank"]["mean"]
    assert true["rank"]["recorded"]["best_tenth"]["mean"] > 0.9
    for column in ("first_step", "average_action"):
        errors = true["action_error"]
        assert errors["model"][column]["mean"] < errors["mean action"][column]["mean"], column
        assert untrained["action_error"]["model"][column]["mean"] > errors["mean action"][column]["mean"], column


# --- the command


def save_model(folder, env_id):
    save_dynamics(folder / MODEL, dynamics(), {"env": env_id, "env_kwargs": {}})
    return str(folder)


def test_an_evaluation_is_offline_where_the_environment_is_unknown_or_as_asked(tmp_path):
    arm, reacher = save_model(tmp_path / "arm", "droid"), save_model(tmp_path / "reacher", "reacher")
    assert plans_offline(None, arm) and not plans_offline(None, reacher)
    assert plans_offline(True, reacher) and not plans_offline(False, arm)
    with pytest.raises(UsageError, match="JEPA_MODULES=strange_module"):
        plans_offline(None, save_model(tmp_path / "strange", "gym/strange_module:Thing-v0"))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"goal": "photo.png"}, "goal=photo.png needs a simulator.*Agent"),
        ({"viewer": "rerun"}, "viewer=rerun needs a simulator"),
        ({"protocol": ProtocolConfig(goal_nuisance="clean")}, "protocol.goal_nuisance=clean needs a simulator"),
        ({"protocol": ProtocolConfig(variation="seen")}, "protocol.variation=seen needs a simulator"),
        ({"protocol": ProtocolConfig(min_goal_distance=1.0)}, "protocol.min_goal_distance=1 is a true distance"),
        ({"protocol": ProtocolConfig(split="train")}, "protocol.split=train: .* choose val or eval"),
    ],
)
def test_keys_that_need_a_simulator_are_refused_by_name(tmp_path, keys, said):
    config = plan_command.Config(model=save_model(tmp_path, "droid"), data="d", **keys)
    with pytest.raises(UsageError, match=said):
        plan_command.check(config)


def test_the_page_and_the_lines_of_moments_hold_the_results(reader, tmp_path):
    setup, results, planned, methods = run(reader, point(), 12)
    results |= {"split": "eval", "seed": 0, "note": "a <remark>", "asked": 50, "planner": {"samples": 64}}
    results["open_loop"] = {"predicted": [0.1, 0.2], "copy": [0.3, 0.4]}
    write_offline_report(results, setup, planned, methods, 2, tmp_path)
    text, addresses = read_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "12 moments, of 5 held-out episodes (50 were asked for)" in text and "a <remark>" in text
    for name, row in results["action_error"].items():
        assert f"{name} {row['first_step']['mean']:.2f}" in text, name
    assert (tmp_path / "moments.png").exists() and (tmp_path / "open_loop.png").exists()
    lines = [json.loads(line) for line in format_moments(setup, planned, methods).splitlines()]
    assert len(lines) == 12
    means = np.mean([line["action_error"]["model"]["all_steps"] for line in lines])
    assert means == pytest.approx(results["action_error"]["model"]["all_steps"]["mean"], abs=1e-4)
    line = format_offline_headline(results)
    assert "elsewhere, offline" in line and "chance 50%" in line and "12 moments of 5 episodes" in line
