"""Scenes of an evaluation: another appearance in the goal image, appearance drawn from a preset."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import envs
from commands.config.compose import load_config
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import RandomPolicy
from commands.evaluation.evaluate import format_headline
from commands.evaluation.judging import detect_success
from commands.evaluation.keys import EvaluationKeys
from commands.evaluation.methods import ORACLE_COST_METHOD, make_policies, play_policy
from commands.evaluation.oracle import OracleDynamics
from commands.evaluation.protocol import OracleCostConfig, ProtocolConfig, resolve_protocol
from commands.evaluation.scenes import adapt_env_kwargs, check_scenes, describe_scenes, redraw_scenes
from commands.evaluation.setup import EvaluationSetup
from commands.shared.console import Console
from commands.shared.errors import UsageError
from envs.distraction import Distraction
from envs.presets import APPEARANCE, DISTRACTING, PRESETS, choose_env_kwargs
from envs.reacher.spec import REACHER
from tests.world_model.small import dynamics

SEEN = {"variation": "seen"}
CONSOLE = Console()
COUNT = 3


@pytest.fixture(scope="module")
def env():
    made = envs.make("reacher", variation="seen")
    yield made
    made.close()


@pytest.fixture(scope="module")
def cases(env):
    """Starts and goals of three episodes, each with an appearance of its own."""
    pairs = []
    for seed in range(COUNT):
        env.reset(seed=seed)
        pairs.append((env.get_state(), env.get_goal_state()))
    starts, goals = (np.stack(states) for states in zip(*pairs, strict=True))
    distances = REACHER.distance(env.get_truth(starts), env.get_truth(goals))
    places = np.arange(COUNT)
    return Cases(starts, goals, places, places, distances, None, tuple(range(COUNT)), 0, 0)


def make_setup(cases, model=None, **keys):
    protocol = resolve_protocol(ProtocolConfig(episodes=COUNT, **keys), REACHER)
    reader = SimpleNamespace(info=SimpleNamespace(env_kwargs=SEEN, env_id="reacher"))
    drawn = redraw_scenes(cases, protocol, "reacher", SEEN)
    return EvaluationSetup(model, {"env_kwargs": SEEN}, reader, REACHER, protocol, drawn, 2)


class Recorder:
    """A policy without action that keeps the goal images that it was given."""

    def reset(self, goal_frames, seeds):
        self.goal_frames = goal_frames.copy()

    def act(self, frames, proprio=None):
        return np.zeros((len(frames), 2), np.float32)


def play(setup, steps=1):
    policy = Recorder()
    setup = replace(setup, protocol=replace(setup.protocol, budget=steps))
    return play_policy(policy, "recorder", setup, CONSOLE, videos=COUNT), policy.goal_frames


@pytest.mark.slow
def test_episodes_in_worker_processes_are_those_of_this_process(cases):
    setup = make_setup(cases)
    setup = replace(setup, protocol=replace(setup.protocol, budget=2))
    here, there = (
        play_policy(RandomPolicy(REACHER), "random", setup, CONSOLE, videos=COUNT, workers=workers)
        for workers in (0, 2)
    )
    assert np.array_equal(here.frames, there.frames) and np.array_equal(here.distances, there.distances)


def list_appearance(env):
    return [factor.name for factor in env.list_factors() if factor.group in APPEARANCE]


def read_factors(env, state):
    env.set_state(state)
    return env.get_factors()


def test_goal_images_have_the_appearance_asked_for_and_the_true_goal_stays(cases, env):
    shown = {name: play(make_setup(cases, goal_nuisance=name)) for name in ("same", "other", "clean")}
    same, other, clean = (frames.astype(int) for _, frames in shown.values())
    for number, (start, goal) in enumerate(zip(cases.start_states, cases.goal_states, strict=True)):
        np.testing.assert_array_equal(same[number], env.render_state(goal))
        defaults = env.redraw_factors(goal, np.random.default_rng(0), "none")
        np.testing.assert_array_equal(clean[number], env.render_state(defaults))
        assert np.abs(other[number] - same[number]).mean() > 1 < np.abs(clean[number] - same[number]).mean()
        for run, _ in shown.values():  # starts and success are those of the file, whatever the goal image shows
            np.testing.assert_array_equal(run.frames[number, 0], env.render_state(start))
            np.testing.assert_array_equal(run.distances[number], shown["same"][0].distances[number])
            assert run.distances[number, 0] == pytest.approx(cases.distances[number])


def test_films_show_the_goal_image_that_the_method_got(cases):
    run, frames = play(make_setup(cases, goal_nuisance="other"))
    np.testing.assert_array_equal(run.goal_frames, frames)


def test_the_appearance_depends_on_seed_and_case_alone(cases):
    first = make_setup(cases, goal_nuisance="other", variation="unseen").cases
    again = make_setup(cases, goal_nuisance="other", variation="unseen").cases
    few = make_setup(cases.take(2), goal_nuisance="other", variation="unseen").cases
    for name in ("start_states", "goal_states", "goal_image_states"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(first, name)[:2], getattr(few, name))
    assert len(np.unique(first.goal_image_states[:, -1])) == COUNT
    reseeded = make_setup(cases, goal_nuisance="other", variation="unseen", seed=1).cases
    assert (reseeded.start_states != first.start_states).any()
    assert (reseeded.goal_image_states != first.goal_image_states).any()
    np.testing.assert_array_equal(first.take(1).goal_image_states, first.goal_image_states[:1])


@pytest.mark.parametrize("variation", sorted({*PRESETS} - {*DISTRACTING}))
def test_scenes_of_a_preset_keep_poses_and_give_start_and_goal_one_appearance(cases, variation):
    setup = make_setup(cases, variation=variation)
    made = envs.make("reacher", **setup.env_kwargs)
    ranges = {factor.name: factor for factor in made.list_factors()}
    recorded = envs.make("reacher", **SEEN)
    outside = 0
    for number in range(COUNT):
        start, goal = setup.cases.start_states[number], setup.cases.goal_states[number]
        np.testing.assert_array_equal(made.get_truth(start), recorded.get_truth(cases.start_states[number]))
        np.testing.assert_array_equal(made.get_truth(goal), recorded.get_truth(cases.goal_states[number]))
        factors, before = read_factors(made, start), read_factors(recorded, cases.start_states[number])
        assert read_factors(made, goal) == factors
        for name in list_appearance(recorded):
            factor = ranges[name]
            if variation == "none":
                assert factors[name] == factor.default
            elif not factor.choices:
                assert factors[name] != before[name]
                outside += not factor.low <= factors[name] <= factor.high
    assert (outside > 0) == (variation == "unseen")
    run, goal_frames = play(setup)
    for number in range(COUNT):
        np.testing.assert_array_equal(run.frames[number, 0], made.render_state(setup.cases.start_states[number]))
    made.close()
    recorded.close()


def make_cases(task, kwargs, count=2):
    """Starts and goals of a task with these arguments of its environment."""
    env = envs.make(task, **kwargs)
    pairs = []
    for seed in range(count):
        env.reset(seed=seed)
        pairs.append((env.get_state(), env.get_goal_state()))
    env.close()
    starts, goals = (np.stack(states) for states in zip(*pairs, strict=True))
    return Cases(starts, goals, np.arange(count), np.arange(count), np.ones(count), None, tuple(range(count)), 0, 0)


@pytest.mark.parametrize("nuisance", ["same", "other", "clean"])
def test_distractors_at_test_time_need_no_factors_in_the_data(nuisance):
    keys = Distraction(intensity=0.3, dynamic=True, background="leaves")
    protocol = ProtocolConfig(variation="distracting", distraction=keys, goal_nuisance=nuisance)
    check_scenes(protocol, "two_rooms", {})
    plain, shown = envs.make("two_rooms"), envs.make("two_rooms", **adapt_env_kwargs(protocol, {}))
    drawn = redraw_scenes(cases := make_cases("two_rooms", {}), protocol, "two_rooms", {})
    assert len({read_factors(shown, start)["distraction seed"] for start in drawn.start_states}) == 2
    for number, (start, goal) in enumerate(zip(drawn.start_states, drawn.goal_states, strict=True)):
        assert read_factors(shown, start) == read_factors(shown, goal)
        np.testing.assert_array_equal(start[: plain.state_size], cases.start_states[number])
        image = goal if nuisance == "same" else drawn.goal_image_states[number]
        seen, seed = shown.render_state(image), read_factors(shown, image)["distraction seed"]
        assert (seed == read_factors(shown, start)["distraction seed"]) == (nuisance == "same")
        same = np.array_equal(seen, plain.render_state(cases.goal_states[number]))
        assert same == (nuisance == "clean")
    plain.close()
    shown.close()


def test_data_with_distractors_are_evaluated_on_other_draws_or_on_the_plain_scene():
    recorded = {"variation": "distracting", "distraction": {"intensity": 0.3}}
    cases, plain = make_cases("two_rooms", recorded), envs.make("two_rooms")
    other = redraw_scenes(cases, ProtocolConfig(goal_nuisance="other"), "two_rooms", recorded)
    np.testing.assert_array_equal(other.start_states, cases.start_states)
    env = envs.make("two_rooms", **recorded)
    here, there = (read_factors(env, states[0]) for states in (cases.goal_states, other.goal_image_states))
    assert here["distraction seed"] != there["distraction seed"] and there["distraction intensity"] == 0.3
    protocol = ProtocolConfig(variation="none")
    check_scenes(protocol, "two_rooms", recorded)
    still = redraw_scenes(cases, protocol, "two_rooms", recorded)
    shown = envs.make("two_rooms", **adapt_env_kwargs(protocol, recorded))
    start = cases.start_states[0][: plain.state_size]
    np.testing.assert_array_equal(shown.render_state(still.start_states[0]), plain.render_state(start))
    for made in (plain, env, shown):
        made.close()


def test_other_goals_of_unseen_scenes_are_unseen_too(cases, env):
    setup = make_setup(cases, variation="unseen", goal_nuisance="other")
    ranges = {factor.name: factor for factor in env.list_factors() if not factor.choices}
    for start, image in zip(setup.cases.start_states, setup.cases.goal_image_states, strict=True):
        here, there = read_factors(env, start), read_factors(env, image)
        assert all(here[name] != there[name] for name in list_appearance(env) if name in ranges)
        assert any(
            not ranges[name].low <= there[name] <= ranges[name].high for name in list_appearance(env) if name in ranges
        )


@pytest.mark.parametrize("nuisance", ["same", "other", "clean"])
def test_the_oracle_solves_the_task_whatever_the_goal_image_shows(cases, nuisance):
    setup = make_setup(cases, goal_nuisance=nuisance, variation="unseen", oracle_cost=OracleCostConfig(episodes=0))
    keys = EvaluationKeys(workers=1)
    keys = replace(keys, planner=replace(keys.planner, samples=64, elites=8, iterations=3))
    run = play_policy(make_policies(keys, setup)["oracle"], "oracle", setup, CONSOLE)
    assert detect_success(run.distances, REACHER.thresholds[0]).all()


def test_the_oracle_with_a_models_cost_sees_the_goal_image_that_the_model_sees(cases, monkeypatch):
    model, seen = dynamics(), []
    setup = make_setup(cases, model, goal_nuisance="other")
    setup = replace(setup, protocol=replace(setup.protocol, budget=1))
    keys = EvaluationKeys(workers=1)
    keys = replace(keys, planner=replace(keys.planner, samples=4, elites=2, iterations=1, horizon=2))
    encode = OracleDynamics.encode_goal

    def record(self, frames_BHWC, proprio=None):
        seen.append((frames_BHWC.cpu().numpy(), self.goal_states))
        return encode(self, frames_BHWC, proprio)

    monkeypatch.setattr(OracleDynamics, "encode_goal", record)
    policies = make_policies(keys, setup)
    play_policy(policies[ORACLE_COST_METHOD], ORACLE_COST_METHOD, setup, CONSOLE)
    frames, goal_states = seen[0]
    np.testing.assert_array_equal(frames, play(setup)[1])
    np.testing.assert_array_equal(goal_states, cases.goal_states)
    assert torch.is_tensor(model.encode_goal(torch.from_numpy(frames)).view("pooled"))


def test_scenes_as_in_the_file_change_nothing(cases):
    assert redraw_scenes(cases, ProtocolConfig(), "reacher", SEEN) is cases
    assert choose_env_kwargs(None, {"size": 64}) == {"size": 64}


@pytest.mark.parametrize(
    ("keys", "env_id", "kwargs", "said"),
    [
        ({"goal_nuisance": "other"}, "reacher", {}, "protocol.goal_nuisance=other: .* without factors of appearance"),
        ({"goal_nuisance": "clean"}, "reacher", {"factors": ["mass"]}, "collect with env.variation=seen"),
        ({"variation": "unseen"}, "two_rooms", {}, "protocol.variation=unseen: the data of two_rooms"),
        ({"variation": "seen"}, "gym/Pendulum-v1", {}, "no factors of variation are known for gym/Pendulum-v1"),
        ({"variation": "seen", "goal_nuisance": "clean"}, "aloha", {}, "variation=seen, protocol.goal_nuisance=clean"),
    ],
)
def test_an_appearance_that_cannot_be_drawn_is_refused(keys, env_id, kwargs, said):
    with pytest.raises(UsageError, match=said):
        check_scenes(ProtocolConfig(**keys), env_id, kwargs)
    check_scenes(ProtocolConfig(), env_id, kwargs)  # nothing is drawn


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["protocol.goal_nuisance=othr"], "protocol.goal_nuisance=othr is no choice; did you mean other"),
        (["protocol.variation=unsen"], "protocol.variation=unsen is no choice; did you mean unseen"),
        (["protocol.variation=none", "protocol.goal_nuisance=other"], "choose goal_nuisance=same"),
        (["protocol.strength=0.5"], "scales nothing in protocol.variation=null: choose protocol.variation=unseen or"),
        (["protocol.variation=seen", "protocol.strength=0"], "leave the strength at 1"),
        (["protocol.variation=unseen", "protocol.strength=3"], "protocol.strength=3 is out of range"),
        (["protocol.variation=distracting", "protocol.strength=2"], "protocol.distraction.intensity scales it"),
        (
            ["protocol.variation=distracting", "protocol.distraction.intensity=2"],
            "distraction.intensity=2 is out of range",
        ),
        (["protocol.distraction.intensity=0.2"], "changes nothing in protocol.variation=null: it is for distracting"),
        (["protocol.variation=video_hard"], "plays videos: give protocol.distraction.video_folder=FOLDER"),
    ],
)
def test_mistyped_and_contradicting_settings_are_refused(words, said):
    with pytest.raises(UsageError, match=said):
        load_config("plan", ["model=m", "data=d", *words])


def test_report_and_headline_say_what_the_scenes_were():
    protocol = {"variation": "unseen", "goal_nuisance": "other"}
    assert describe_scenes(protocol).startswith("appearance drawn again from values outside")
    assert describe_scenes(protocol).endswith("another draw of the appearance than the start")
    results = {
        "task": "reacher", "protocol": protocol, "success_rate": 0.5, "success_rate_ci95": (0.4, 0.6), "held_rate": 0.5,
        "thresholds": [0.2], "unit": "rad", "oracle": None, "proprio": "none", "episodes": 2,
        "baselines": {"random": 0.0, "zero": 0.0}, "plan": {},
    }  # fmt: skip
    assert "reacher (scenes unseen, goal images other): 50%" in format_headline(results)
    scaled = {"variation": "moving", "goal_nuisance": "same", "strength": 0.5}
    assert format_headline({**results, "protocol": scaled}).startswith("reacher (scenes moving, strength 0.5): 50%")
    assert "within an episode, nuisance 0.5 times as strong; goal" in describe_scenes(scaled)
    keys = {"intensity": 0.2, "dynamic": True, "kinds": ["camera", "background"], "background": "leaves"}
    distracting = {"variation": "distracting", "goal_nuisance": "other", "strength": 1.0, "distraction": keys}
    said = "reacher (scenes distracting, intensity 0.2, dynamic, goal images other): 50%"
    assert format_headline({**results, "protocol": distracting}).startswith(said)
    assert "intensity 0.2, changing within an episode: camera, background leaves; goal" in describe_scenes(distracting)
    plain = {**results, "protocol": {"variation": None, "goal_nuisance": "same", "strength": 1.0}}
    assert format_headline(plain).startswith("reacher: 50%")


def test_the_strength_scales_starts_and_other_goal_images_and_leaves_clean_ones(cases, env):
    ranges = {factor.name: factor for factor in env.list_factors() if factor.unseen}
    keys = {"variation": "unseen", "goal_nuisance": "other"}
    usual, edge, twice = (make_setup(cases, strength=strength, **keys).cases for strength in (1.0, 0.0, 2.0))
    for name in ("start_states", "goal_states", "goal_image_states"):
        states = [getattr(scaled, name) for scaled in (make_setup(cases, **keys).cases, usual, edge, twice)]
        np.testing.assert_array_equal(states[0], states[1])
        for number in range(COUNT):
            factors = [read_factors(env, rows[number]) for rows in states[1:]]
            for key in set(list_appearance(env)) & set(ranges):
                low, high = ranges[key].low, ranges[key].high
                usual_gap, edge_gap, twice_gap = (abs(drawn[key] - np.clip(drawn[key], low, high)) for drawn in factors)
                assert edge_gap == 0 < min(usual_gap, twice_gap), key
    clean = [make_setup(cases, variation="unseen", goal_nuisance="clean", strength=s).cases for s in (1.0, 0.5)]
    np.testing.assert_array_equal(clean[0].goal_image_states, clean[1].goal_image_states)


def test_nuisance_moves_in_scenes_of_the_preset_moving_alone(cases):
    """Without action and velocity the arm rests, so whatever changes is nuisance."""
    resting = replace(cases, start_states=cases.goal_states)
    for variation in (None, "unseen", "moving"):
        run, _ = play(make_setup(resting, variation=variation), steps=3)
        changes = (np.diff(run.frames.astype(int), axis=1) != 0).any(axis=(1, 2, 3, 4))
        assert changes.all() if variation == "moving" else not changes.any(), variation


def test_goals_of_a_file_with_unseen_values_follow_its_split(cases, env):
    unseen = {"variation": "unseen"}
    for split, outside in (("eval", True), ("val", False)):
        protocol = ProtocolConfig(goal_nuisance="other", split=split)
        images = redraw_scenes(cases, protocol, "reacher", unseen).goal_image_states
        drawn = [read_factors(env, image)["light strength"] for image in images]
        strength = next(factor for factor in env.list_factors() if factor.name == "light strength")
        assert all((not strength.low <= value <= strength.high) == outside for value in drawn)


@pytest.mark.parametrize("task", ["point_maze", "push_t", "two_rooms"])
def test_scenes_of_other_tasks_keep_their_own_factors_and_truth(task):
    recorded = envs.make(task, factors=["colour", "mass"])
    recorded.reset(seed=2)
    starts, goals = recorded.get_state()[None], recorded.get_goal_state()[None]
    place = np.zeros(1, int)
    cases = Cases(starts, goals, place, place, np.ones(1), None, (0,), 0, 0)
    protocol, kwargs = ProtocolConfig(variation="moving", goal_nuisance="clean"), {"factors": ["colour", "mass"]}
    drawn = redraw_scenes(cases, protocol, task, kwargs)
    moving = envs.make(task, **choose_env_kwargs(protocol.variation, kwargs))
    options = {"state": drawn.start_states[0], "goal_state": drawn.goal_states[0]}
    observation, info = moving.reset(options=options | {"goal_image_state": drawn.goal_image_states[0]})
    np.testing.assert_array_equal(info["truth"], recorded.get_truth(starts[0]))
    np.testing.assert_array_equal(info["goal_truth"], recorded.get_truth(goals[0]))
    factors, before = moving.get_factors(), read_factors(recorded, starts[0])
    kept = [name for name in before if name in recorded.task_factors or name.endswith("mass")]
    assert kept and all(factors[name] == before[name] for name in kept)
    plain = envs.make(task, factors=["mass"])
    mass_alone = goals[0][[*range(plain.state_size - len(plain.get_factors())), *_find(recorded, plain)]]
    np.testing.assert_array_equal(observation["goal_pixels"], plain.render_state(mass_alone))
    for made in (recorded, moving, plain):
        made.close()


def _find(env, other):
    """Indices in a state of `env` of the factors that `other` has."""
    names, size = list(env.get_factors()), env.physics.state_size
    return [size + names.index(name) for name in other.get_factors()]
