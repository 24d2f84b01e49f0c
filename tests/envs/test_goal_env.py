"""The GoalEnv contract, for every task: exact restore, goals, Gymnasium's checker, bad input."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zlib

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from mujoco import rollout

import envs
from envs.goal_env import GoalEnv

_CHILD = """
import sys, zlib, envs, numpy as np
env = envs.make(sys.argv[1])
env.set_state(np.frombuffer(bytes.fromhex(sys.argv[2])))
for action in np.frombuffer(bytes.fromhex(sys.argv[3])).reshape(-1, 2):
    frame = env.step(action)[0]["pixels"]
print(zlib.crc32(frame.tobytes()), env.get_state().tobytes().hex())
"""


def _walk(env: GoalEnv, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    frames, states = [], []
    for action in actions:
        frames.append(env.step(action)[0]["pixels"])
        states.append(env.get_state())
    return np.stack(frames), np.stack(states)


def _actions(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).repeat(4, axis=0)


_CHECKED_ALWAYS = (*envs.OWN_TASKS, "dmc/cartpole")


@pytest.mark.parametrize(
    "name", [n if n in _CHECKED_ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in sorted(envs.TASKS)]
)
def test_gymnasiums_checker_passes(name: str) -> None:
    env = gymnasium.make(envs.get_gym_id(name), reward="sparse", proprio=True, size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box observation space (minimum|maximum) value is .*inf")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", sorted(envs.TASKS))
def test_every_id_makes_resets_steps_and_renders(name: str) -> None:
    env = gymnasium.make(envs.get_gym_id(name), size=32)
    obs, info = env.reset(seed=0)
    assert set(obs) == {"pixels", "goal_pixels"}, "proprioception is off by default"
    assert obs["pixels"].shape == (32, 32, 3)
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["truth"].shape == (len(envs.TASKS[name].truth_names),)
    np.testing.assert_array_equal(env.render(), obs["pixels"])
    env.close()


def test_the_same_seed_gives_the_same_start_and_goal_and_another_seed_others(env: GoalEnv) -> None:
    first, _ = env.reset(seed=5)
    state, goal = env.get_state(), env.get_goal_state()
    second, _ = env.reset(seed=5)
    np.testing.assert_array_equal(env.get_state(), state)
    np.testing.assert_array_equal(env.get_goal_state(), goal)
    np.testing.assert_array_equal(first["pixels"], second["pixels"])
    np.testing.assert_array_equal(first["goal_pixels"], second["goal_pixels"])
    env.reset(seed=6)
    assert not np.array_equal(env.get_state(), state) and not np.array_equal(env.get_goal_state(), goal)


def test_a_restored_state_renders_the_same_frame_and_goes_on_the_same(env: GoalEnv) -> None:
    env.reset(seed=1)
    _walk(env, _actions(0, 5))
    start, picture = env.get_state(), env.render()
    frames, states = _walk(env, _actions(1, 10))
    assert len(np.unique(frames, axis=0)) > 30, "the actions hardly move anything"
    env.reset(seed=2)  # another episode, other factors, another warm start of the solver
    _walk(env, _actions(2, 5))
    env.set_state(start)
    np.testing.assert_array_equal(env.render(), picture)
    again_frames, again_states = _walk(env, _actions(1, 10))
    np.testing.assert_array_equal(again_states, states)
    np.testing.assert_array_equal(again_frames, frames)
    for state, frame in zip(states[::7], frames[::7], strict=True):
        np.testing.assert_array_equal(env.render_state(state), frame)


def test_a_state_goes_on_the_same_in_another_process(env: GoalEnv) -> None:
    env.reset(seed=3)
    _walk(env, _actions(3, 3))
    start, actions = env.get_state(), _actions(4, 3)
    frames, states = _walk(env, actions)
    arguments = [env.task.name, start.tobytes().hex(), actions.tobytes().hex()]
    child = subprocess.run([sys.executable, "-c", _CHILD, *arguments], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert child.stderr == "", "an environment left open ends noisily"
    checksum, state = child.stdout.split()
    assert bytes.fromhex(state) == states[-1].tobytes()
    assert int(checksum) == zlib.crc32(frames[-1].tobytes())


def test_rendering_another_state_leaves_the_moment_alone(env: GoalEnv) -> None:
    env.reset(seed=4)
    other = env.get_goal_state()
    _walk(env, _actions(5, 3))
    start = env.get_state()
    _, undisturbed = _walk(env, _actions(6, 5))
    env.set_state(start)
    disturbed = []
    for action in _actions(6, 5):
        env.render_state(other)
        env.set_goal(other)
        env.step(action)
        env.render()
        disturbed.append(env.get_state())
    np.testing.assert_array_equal(disturbed, undisturbed)


def test_a_session_put_aside_goes_on_with_its_goal_and_generator(env: GoalEnv) -> None:
    env.reset(seed=8)
    env.step(np.ones(2))
    session = env.save_session()
    wanted, _, _, _, wanted_info = env.step(np.ones(2))
    env.np_random = np.random.default_rng(9)  # another episode has its own
    env.reset()
    env.load_session(session)
    assert env.np_random is session.rng
    found, _, _, _, info = env.step(np.ones(2))
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    assert info["distance"] == wanted_info["distance"]


def test_a_goal_is_far_enough_shares_the_factors_and_is_shown(env: GoalEnv) -> None:
    for seed in range(20):
        obs, info = env.reset(seed=seed)
        assert info["distance"] >= env.task.min_goal_distance
        np.testing.assert_array_equal(obs["goal_pixels"], env.render_state(env.get_goal_state()))
        env.set_state(env.get_goal_state())
        np.testing.assert_array_equal(env.render(), obs["goal_pixels"])
        assert env.step(np.zeros(2))[4]["distance"] < env.task.thresholds[-1]


def test_reset_takes_a_start_and_a_goal(env: GoalEnv) -> None:
    env.reset(seed=10)
    start, goal = env.get_state(), env.get_goal_state()
    _walk(env, _actions(7, 2))
    obs, info = env.reset(seed=11, options={"state": start, "goal_state": goal})
    np.testing.assert_array_equal(env.get_state(), start)
    np.testing.assert_array_equal(info["goal_truth"], env.get_truth(goal))
    np.testing.assert_array_equal(obs["pixels"], env.render_state(start))
    for option, given, kept in (("state", start, env.get_state), ("goal_state", goal, env.get_goal_state)):
        _, info = env.reset(seed=12, options={option: given})
        np.testing.assert_array_equal(kept(), given)
        assert info["distance"] > 0
        if env.task_factors:
            assert info["truth"][-1] == info["goal_truth"][-1] == env.get_truth(given)[-1], "one door for both"


def test_truth_is_vectorised_over_states(env: GoalEnv) -> None:
    env.reset(seed=13)
    states, truths = [], []
    for action in _actions(8, 3):
        truths.append(env.step(action)[4]["truth"])
        states.append(env.get_state())
    found = env.get_truth(np.array(states).reshape(3, 4, -1))
    assert found.dtype == np.float32 and found.shape[:2] == (3, 4)
    np.testing.assert_array_equal(found.reshape(12, -1), truths)


def test_mujocos_rollout_steps_as_the_environment_does(env: GoalEnv) -> None:
    env.reset(seed=14)
    _walk(env, _actions(9, 3))
    start, actions = env.get_state(), _actions(10, 5)
    _, states = _walk(env, actions)
    env.reset(seed=15)
    env.apply_factors(start)
    model = env.physics.model
    full = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    warm = np.zeros(model.nv)
    mujoco.mj_extractState(
        model, start[: env.state_size - len(env.task_factors)], mujoco.mjtState.mjSTATE_INTEGRATION,
        warm, mujoco.mjtState.mjSTATE_WARMSTART,
    )  # fmt: skip
    found, _ = rollout.rollout(
        model, [mujoco.MjData(model)], initial_state=start[None, :full], initial_warmstart=warm[None],
        control=actions.repeat(env.physics.substeps, axis=0)[None],
    )  # fmt: skip
    found = found[0, env.physics.substeps - 1 :: env.physics.substeps]
    np.testing.assert_array_equal(found[:, env.qpos], states[:, env.qpos])
    np.testing.assert_array_equal(found[:, env.qvel], states[:, env.qvel])


def test_an_action_is_clipped_to_its_bounds(env: GoalEnv) -> None:
    ends = []
    for scale in (1.0, 7.0):
        env.reset(seed=16)
        env.step(np.array([scale, -scale]))
        ends.append(env.get_state())
    np.testing.assert_array_equal(*ends)


def test_frames_given_out_are_the_callers_own(env: GoalEnv) -> None:
    obs, _ = env.reset(seed=17)
    kept = {name: frame.copy() for name, frame in obs.items()}
    for frame in (*obs.values(), env.render()):
        frame[:] = 0
    np.testing.assert_array_equal(env.render(), kept["pixels"])
    env.step(np.zeros(2))
    np.testing.assert_array_equal(env.step(np.zeros(2))[0]["goal_pixels"], kept["goal_pixels"])


def test_the_scripted_behaviour_is_a_function_of_its_generator(env: GoalEnv) -> None:
    runs = []
    for _ in range(2):
        env.reset(seed=18)
        rng, memory = np.random.default_rng(0), {}
        actions = []
        for _ in range(40):
            actions.append(env.sample_scripted_action(rng, memory))
            assert env.action_space.contains(actions[-1])
            env.step(actions[-1])
        runs.append(actions)
    np.testing.assert_array_equal(*runs)
    assert np.std(runs[0]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["uniform", "zero"])
def test_random_and_zero_actions_seldom_reach_the_goal(env: GoalEnv, policy: str) -> None:
    rng, reached, episodes = np.random.default_rng(0), 0, 100
    for seed in range(episodes):
        env.reset(seed=seed)
        goal = env.get_truth(env.get_goal_state())
        nearest = np.inf
        for _ in range(env.task.budget):
            env.physics.step(rng.uniform(-1, 1, 2) if policy == "uniform" else np.zeros(2))
            nearest = min(nearest, float(env.task.distance(env.get_truth(), goal)))
        reached += nearest < env.task.thresholds[0]
    assert reached / episodes <= 0.1


def test_bad_input_is_named(env: GoalEnv) -> None:
    env.reset(seed=19)
    state = env.get_state()
    with pytest.raises(ValueError, match=r"no options \['stat'\].*'state', 'goal_state', 'goal_image_state', 'split'"):
        env.reset(options={"stat": state})
    with pytest.raises(ValueError, match="state of shape .* is no state of"):
        env.set_state(state[:-1])
    with pytest.raises(ValueError, match="goal_state of shape"):
        env.set_goal(np.full_like(state, np.nan))
    names = env.task.action_names
    for action, says in (
        (np.zeros(3), r"action of shape \(3,\) and type float64: .* takes 2 real numbers"),
        (np.zeros(2, complex), "type complex128: .* takes 2 real numbers"),
        (np.array([0.0, np.nan]), rf"action \[0.0, nan\]: {names[1]} is nan, and {env.task.name} takes finite numbers"),
        ([-np.inf, 0.0], rf"action \[-inf, 0.0\]: {names[0]} is -inf"),
    ):
        with pytest.raises(ValueError, match=says):
            env.step(action)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"'recher'.*did you mean reacher\?.*two_rooms"):
        envs.make("recher")
    with pytest.raises(ValueError, match="size=4"):
        envs.make("reacher", size=4)
    with pytest.raises(ValueError, match="render_mode='human'"):
        envs.make("reacher", render_mode="human")


def test_without_a_render_mode_observations_hold_the_same_pictures() -> None:
    frames = []
    for mode in ("rgb_array", None):
        env = gymnasium.make("jepa/reacher-v0", render_mode=mode)
        frames.append(env.reset(seed=3)[0]["pixels"])
        assert env.render_mode == mode
        env.close()
    np.testing.assert_array_equal(*frames)


def test_importing_envs_imports_neither_a_simulator_nor_torch() -> None:
    code = (
        "import sys, envs, envs.goal_env, envs.vector, envs.rendering\n"
        "import envs.point_maze.env, envs.push_t.env, envs.reacher.env, envs.two_rooms.env\n"
        "print([name for name in ('mujoco', 'dm_control', 'torch', 'OpenGL') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
