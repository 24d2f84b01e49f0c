"""Factors of variation: off to the bit, on from the seed, restored with a state, consistent with the model."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

import envs
from envs import factor_writes as write
from envs.factors import GROUPS, Variation, list_factors
from envs.goal_env import GoalEnv

TASKS = ("two_rooms", "reacher", "dmc/finger")


@pytest.fixture(scope="module", params=TASKS)
def varied(request: pytest.FixtureRequest) -> Iterator[GoalEnv]:
    env = envs.make(request.param, factors=["all"])
    yield env
    env.close()


def _walk(env: GoalEnv, count: int = 6) -> list[np.ndarray]:
    rng, size = np.random.default_rng(1), env.action_space.shape[0]
    return [part for _ in range(count) for part in (env.step(rng.uniform(-1, 1, size))[0]["pixels"], env.get_state())]


def _arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    names = [name for name in dir(model) if not name.startswith(("_", "tex_", "mesh_"))]
    return {name: value.copy() for name in names if isinstance(value := getattr(model, name), np.ndarray)}


def test_factors_at_their_defaults_are_the_task_without_them_to_the_bit(varied: GoalEnv) -> None:
    plain = envs.make(varied.task.name)
    varied.reset(seed=1)
    _walk(varied)  # leaves the model of another episode behind
    own = len(plain.task_factors)
    for seed in range(2):
        plain.reset(seed=seed)
        start, goal = plain.get_state(), plain.get_goal_state()
        defaults = varied._variation.defaults
        states = {"state": np.append(start, defaults), "goal_state": np.append(goal, defaults)}
        obs, _ = varied.reset(seed=0, options=states)
        np.testing.assert_array_equal(obs["goal_pixels"], plain.render_state(goal))
        for found, wanted in zip(_walk(varied), _walk(plain), strict=True):
            np.testing.assert_array_equal(found if found.ndim == 3 else found[: len(wanted)], wanted)
    assert plain.state_size == varied.state_size - len(defaults) and own == len(varied.task_factors)
    for name, values in _arrays(plain.physics.model).items():
        np.testing.assert_array_equal(getattr(varied.physics.model, name), values, err_msg=name)
    plain.close()


def test_environments_change_copies_of_the_compiled_model(varied: GoalEnv) -> None:
    varied.reset(seed=0)
    _walk(varied)
    compiled, kept = varied._build_model(), varied._copy_model()
    assert kept is not varied.physics.model and kept.signature == compiled.signature
    for name, values in _arrays(compiled).items():
        np.testing.assert_array_equal(getattr(kept, name), values, err_msg=name)


def test_each_factor_changes_the_model_and_nothing_of_it_stays(varied: GoalEnv) -> None:
    varied.reset(seed=0)
    model = copy.copy(varied.physics.model)
    variation = varied._variation
    variation.write(model, variation.defaults)
    before = _arrays(model)
    diffuse = model.vis.headlight.diffuse.copy()
    for index, factor in enumerate(variation.factors):
        values = variation.defaults.copy()
        values[index] = factor.high
        variation.write(model, values)
        after = _arrays(model)
        changed = [name for name, found in after.items() if not np.array_equal(found, before[name])]
        assert changed or not np.array_equal(model.vis.headlight.diffuse, diffuse), factor.name
        variation.write(model, variation.defaults)
        for name, found in _arrays(model).items():
            np.testing.assert_array_equal(found, before[name], err_msg=f"{name} after {factor.name}")
    assert model.stat.extent == varied.physics.model.stat.extent


def test_looks_change_pictures_and_no_motion_and_bodies_change_motion(varied: GoalEnv) -> None:
    looks, bodies = ("texture", "colour", "light", "camera"), ("size", "mass", "friction")
    moved, drawn = {}, {}
    for group in (None, *GROUPS):
        varied.reset(seed=3)
        state = varied.get_state()
        state[varied.state_size - len(varied._variation.factors) :] = [
            (f.high if f.group == group else f.default) for f in varied._variation.factors
        ]
        varied.set_state(state)
        drawn[group] = varied.render()
        moved[group] = np.concatenate([s[: varied.qvel.stop] for s in _walk(varied, 8)[1::2]])
    for group in looks:
        assert not np.array_equal(drawn[group], drawn[None]), group
        np.testing.assert_array_equal(moved[group], moved[None], err_msg=group)
    assert not all(np.array_equal(moved[group], moved[None]) for group in bodies)
    assert not np.array_equal(moved["mass"], moved[None])


def test_factors_come_from_the_seed_differ_between_episodes_and_are_shared_with_the_goal(varied: GoalEnv) -> None:
    varied.reset(seed=5)
    first, goal = varied.get_factors(), varied.get_goal_state()
    count = len(varied._factors)
    np.testing.assert_array_equal(goal[-count:], varied.get_state()[-count:])
    varied.reset(seed=6)
    assert varied.get_factors() != first
    varied.reset(seed=5)
    assert varied.get_factors() == first and list(first)[: len(varied.task_factors)] == list(varied.task_factors)
    for factor in varied._variation.factors:
        assert factor.low <= first[factor.name] <= factor.high


def test_a_state_restores_its_factors_and_goes_on_the_same(varied: GoalEnv) -> None:
    varied.reset(seed=7)
    _walk(varied, 2)
    state, picture = varied.get_state(), varied.render()
    wanted = _walk(varied)
    varied.reset(seed=8)
    _walk(varied, 2)
    varied.set_state(state)
    np.testing.assert_array_equal(varied.render(), picture)
    for found, want in zip(_walk(varied), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_ball_made_larger_touches_where_one_compiled_so_does() -> None:
    env = envs.make("two_rooms", factors=["agent size"])
    scale = 1.2
    env.reset(seed=0)
    state = env.get_state()
    state[env.qpos], state[env.qvel], state[-2:] = (0.5, 0.3), (0.0, 0.0), (0.0, scale)
    spec = mujoco.MjSpec.from_string(_two_rooms_xml().replace('size=".1" mass="1"', f'size="{0.1 * scale}" mass="1"'))
    model = spec.compile()
    data = mujoco.MjData(model)
    for side, name in ((-1, "wall below"), (1, "wall above")):
        model.body(name).pos[1] = side * (0.25 + 0.7)
    data.qpos[:] = (0.5, 0.3)
    env.set_state(state)
    np.testing.assert_allclose(env.physics.model.body_inertia, model.body_inertia, rtol=1e-9)
    np.testing.assert_allclose(env.physics.model.geom_aabb, model.geom_aabb, atol=1e-12)
    np.testing.assert_allclose(env.physics.model.geom_rbound, model.geom_rbound, rtol=1e-9)
    for _ in range(30):
        env.step(np.array([1.0, 1.0]))
        data.ctrl[:] = 1.0
        mujoco.mj_step(model, data, nstep=env.physics.substeps)
    np.testing.assert_allclose(env.physics.data.qpos, data.qpos, atol=1e-9)
    assert 1.0 - 0.1 * scale - 0.02 < env.physics.data.qpos[0] < 1.0 - 0.1 * scale + 0.02
    env.close()


def _two_rooms_xml() -> str:
    import importlib.resources

    return importlib.resources.files("envs.two_rooms").joinpath("scene.xml").read_text(encoding="utf-8")


def test_mass_and_inertia_change_together_as_in_a_model_compiled_heavier() -> None:
    xml = (
        '<mujoco><worldbody><camera name="c"/><body name="b"><joint name="j" axis="0 1 0"/>'
        '<geom type="box" size=".1 .2 .3" pos=".2 0 0" mass="{}"/></body></worldbody>'
        '<actuator><motor joint="j"/></actuator></mujoco>'
    )
    light, heavy = (mujoco.MjModel.from_xml_string(xml.format(mass)) for mass in (1.0, 1.7))
    variation = Variation(light, "c", ["mass"])
    assert variation.names == ("agent mass",)
    variation.write(light, np.array([1.7]))
    for name in ("body_mass", "body_inertia", "body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0"):
        np.testing.assert_allclose(getattr(light, name), getattr(heavy, name), rtol=1e-9, err_msg=name)


def test_roles_follow_from_the_model() -> None:
    from envs.adapters.dm_control_env import load_model
    from envs.adapters.dm_control_tasks import BALL_IN_CUP, FINGER

    model = load_model(FINGER)
    roles = {role: {model.geom(geom).name for geom in geoms} for role, geoms in write.find_roles(model).items()}
    assert {"proximal", "fingertip"} <= roles["agent"] and {"cap1", "cap2"} <= roles["object"]
    assert roles["floor"] == {"ground"} and not roles["walls"]
    cup = load_model(BALL_IN_CUP)
    assert [cup.geom(geom).name for geom in write.find_roles(cup)["object"]] == ["ball"]


def test_only_what_is_asked_for_varies_and_a_wrong_name_is_answered() -> None:
    env = envs.make("two_rooms", factors=["light", "agent red"])
    assert list(env.get_factors()) == ["door_y", "agent red", "light strength"]
    names = {factor.name for factor in list_factors(env.physics.model, env.camera)}
    assert "object mass" not in names and "light x" not in names, "no object and no lamp in two rooms"
    env.close()
    with pytest.raises(ValueError, match=r"'color' is no factor of this task; did you mean colour"):
        envs.make("two_rooms", factors=["color"])
