"""How factors of variation are written into MuJoCo's model; see `envs.factors`.

`restore` brings a model back to how it was compiled, the writers change it from there, and `derive` recomputes
what MuJoCo derives from masses, sizes, cameras and lamps.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

Indices = NDArray[np.int64]
Roles = dict[str, Indices]

PATTERN = "pattern"  # a task's model may hold a material of this name for its floor, see `add_pattern`
_UNSET_RGBA = np.array((0.5, 0.5, 0.5, 1.0), np.float32)  # MuJoCo draws a geom of this colour in that of its material
_DARKEST = 0.02

_WRITTEN = (
    *("geom_rgba", "geom_matid", "geom_size", "geom_pos", "geom_rbound", "geom_aabb", "geom_friction"),
    *("site_pos", "site_size", "light_pos", "light_dir", "light_diffuse", "cam_pos", "cam_quat", "cam_fovy"),
    *("body_mass", "body_inertia", "body_ipos", "dof_damping", "dof_frictionloss"),
)
# What mj_setConst computes from these and from the reference pose; bvh_aabb are the boxes that contacts are sought in.
_DERIVED = (
    *("bvh_aabb", "dof_length"),
    *("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0", "tendon_length0"),
    *("tendon_lengthspring", "actuator_acc0", "actuator_length0", "eq_data", "cam_pos0", "cam_poscom0", "cam_mat0"),
    *("light_pos0", "light_poscom0", "light_dir0"),
)
_STATISTICS = ("meaninertia", "meanmass", "meansize", "extent")


def restore_model(model: mujoco.MjModel, untouched: mujoco.MjModel) -> None:
    """Everything that a writer or `derive` changes, as compiled."""
    for name in (*_WRITTEN, *_DERIVED):
        getattr(model, name)[:] = getattr(untouched, name)
    model.vis.headlight.diffuse[:] = untouched.vis.headlight.diffuse


def copy_model(model: mujoco.MjModel) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The model as it is now, for `restore`, and room for `derive` to compute in."""
    import mujoco

    return copy.copy(model), mujoco.MjData(model)


def update_constants(model: mujoco.MjModel, untouched: mujoco.MjModel, scratch: mujoco.MjData) -> None:
    """Constants that follow from masses, sizes and places; the statistics, by which a picture is scaled, stay."""
    import mujoco

    mujoco.mj_setConst(model, scratch)
    for name in _STATISTICS:
        setattr(model.stat, name, getattr(untouched.stat, name))
    model.stat.center[:] = untouched.stat.center


def add_pattern(spec: mujoco.MjSpec) -> None:
    """Give a task's model the material that the factor `floor texture` may put on its floor; drawn only then."""
    import mujoco

    texture = spec.add_texture(name=PATTERN, type=mujoco.mjtTexture.mjTEXTURE_2D, width=64, height=64)
    texture.builtin = mujoco.mjtBuiltin.mjBUILTIN_CHECKER
    texture.rgb1, texture.rgb2 = (1.0, 1.0, 1.0), (0.55, 0.55, 0.55)
    material = spec.add_material(name=PATTERN, texrepeat=(3.0, 3.0), texuniform=True)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = PATTERN


def find_roles(model: mujoco.MjModel) -> Roles:
    """Which geoms that can be seen are agent, object, floor and walls."""
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    driven, visible = _find_driven_trees(model), _get_colours(model, np.arange(model.ngeom))[:, 3] > 0
    found: dict[str, list[int]] = {"agent": [], "object": [], "floor": [], "walls": []}
    for geom in range(model.ngeom):
        if model.geom_group[geom] > 2 or not visible[geom]:  # the groups that are drawn are 0 to 2
            continue
        body = model.geom_bodyid[geom]
        if model.body_weldid[body]:
            found["agent" if model.body_rootid[body] in driven else "object"].append(geom)
        else:
            plane = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE
            found["floor" if plane and data.geom_xmat[geom, 8] > 0.99 else "walls"].append(geom)
    return {role: np.array(geoms, np.int64) for role, geoms in found.items()}


def _find_driven_trees(model: mujoco.MjModel) -> set[int]:
    """Roots of the kinematic trees that an actuator acts on."""
    import mujoco

    kinds = mujoco.mjtTrn
    bodies: list[int] = []
    for kind, (index, _) in zip(map(kinds, model.actuator_trntype), model.actuator_trnid, strict=True):
        if kind == kinds.mjTRN_JOINT or kind == kinds.mjTRN_JOINTINPARENT:
            bodies.append(model.jnt_bodyid[index])
        elif kind == kinds.mjTRN_SITE:
            bodies.append(model.site_bodyid[index])
        elif kind == kinds.mjTRN_BODY:
            bodies.append(index)
    return {int(model.body_rootid[body]) for body in bodies}


# Looks


def _get_colours(model: mujoco.MjModel, geoms: Indices) -> NDArray[np.float32]:
    """Colours `[n, 4]` in which geoms are drawn, or with which their textures are multiplied."""
    material, own = model.geom_matid[geoms], model.geom_rgba[geoms]
    of_material = (material >= 0) & np.all(own == _UNSET_RGBA, axis=1)
    return np.where(of_material[:, None], model.mat_rgba[material], own) if model.nmat else own


def tint_geoms(model: mujoco.MjModel, value: float, geoms: Indices, channel: int) -> None:
    """Add to one channel of the geoms' colours; on a texture, of the colour it is multiplied with."""
    colours = _get_colours(model, geoms)
    colours[:, channel] = np.clip(colours[:, channel] + value, _DARKEST, 1.0)
    model.geom_rgba[geoms] = colours


@dataclass(frozen=True)
class FloorLooks:
    """What a floor can be made to look like, by name: as it is (first), plain, patterned; see `floor_look`."""

    geoms: Indices
    names: tuple[str, ...]
    colours: NDArray[np.float32]  # [n, 4], a texture's mean where there is one
    pattern: int  # material, or -1


def list_floor_looks(model: mujoco.MjModel, geoms: Indices) -> FloorLooks:
    """The looks of these geoms: plain where something is textured, patterned where the model has a pattern."""
    import mujoco

    colours, textured = _get_colours(model, geoms), False
    for row, geom in enumerate(geoms):
        material = model.geom_matid[geom]
        texture = -1 if material < 0 else model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
        if texture < 0:
            continue
        textured = True
        channels = model.tex_nchannel[texture]
        count = model.tex_height[texture] * model.tex_width[texture] * channels
        pixels = model.tex_data[model.tex_adr[texture] :][:count].reshape(-1, channels)
        colours[row, :3] *= pixels[:, :3].mean(0) / 255
    pattern = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL, PATTERN)
    names = ("own", *(("plain",) if textured else ()), *((PATTERN,) if pattern >= 0 else ()))
    return FloorLooks(geoms, names, colours, pattern)


def write_floor_look(model: mujoco.MjModel, value: float, looks: FloorLooks) -> None:
    """Take the floor's texture away, or put the pattern there, in the texture's mean colour."""
    # A texture's data would have to be sent to OpenGL again; which material a geom has is read for every frame.
    model.geom_rgba[looks.geoms] = looks.colours
    model.geom_matid[looks.geoms] = -1 if looks.names[int(value)] == "plain" else looks.pattern


def scale_light(model: mujoco.MjModel, value: float) -> None:
    """Scale the diffuse light of all lamps and of the one at the camera."""
    model.light_diffuse *= value
    model.vis.headlight.diffuse[:] *= value


def shift_lamps(model: mujoco.MjModel, value: float, axis: int) -> None:
    """Move lamps sideways by a share of their height, and turn them as far the other way, so that they aim alike."""
    model.light_pos[:, axis] += value * model.light_pos[:, 2]
    model.light_dir[:, axis] -= value * np.abs(model.light_dir[:, 2])
    model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)


# Camera


def measure_view_height(model: mujoco.MjModel, camera: int) -> float:
    """Height of what a camera sees in the plane through the scene's centre."""
    import mujoco

    if model.cam_projection[camera] == mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC:
        return float(model.cam_fovy[camera])
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
    towards = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
    distance_m = abs(float((model.stat.center - data.cam_xpos[camera]) @ towards))
    return float(2 * distance_m * np.tan(np.deg2rad(model.cam_fovy[camera]) / 2))


def move_camera(model: mujoco.MjModel, value: float, camera: int, axis: int, unit_m: float) -> None:
    """Shift a camera along its picture's axis (0 right, 1 up)."""
    import mujoco

    turn, step = np.zeros(9), np.zeros(3)
    mujoco.mju_quat2Mat(turn, model.cam_quat[camera])
    step[axis] = value * unit_m
    model.cam_pos[camera] += turn.reshape(3, 3) @ step


def roll_camera(model: mujoco.MjModel, value: float, camera: int) -> None:
    """Turn a camera about its line of sight by `value` radians."""
    import mujoco

    turned = np.zeros(4)
    mujoco.mju_mulQuat(turned, model.cam_quat[camera], np.array([np.cos(value / 2), 0.0, 0.0, np.sin(value / 2)]))
    model.cam_quat[camera] = turned


def zoom_camera(model: mujoco.MjModel, value: float, camera: int) -> None:
    """Scale a camera's field of view (an angle, or a length where the picture is orthographic)."""
    model.cam_fovy[camera] *= value


# Bodies


def scale_geoms(model: mujoco.MjModel, value: float, geoms: Indices) -> None:
    """Scale what geoms belong to, mass kept.

    A body that is alone grows as a whole, and its inertia with the square of it. The links of a body with joints
    keep their lengths, which the joints' places fix: they get thicker, and weigh and turn as before.
    """
    import mujoco

    kinds = mujoco.mjtGeom
    bodies = np.unique(model.geom_bodyid[geoms])
    alone = len(bodies) == 1
    for geom in np.flatnonzero(np.isin(model.geom_bodyid, bodies)):
        kind = model.geom_type[geom]
        if kind in (kinds.mjGEOM_PLANE, kinds.mjGEOM_HFIELD, kinds.mjGEOM_MESH, kinds.mjGEOM_SDF):
            continue
        long = kind in (kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER)
        model.geom_size[geom, : 1 if long and not alone else 3] *= value
        if alone:
            model.geom_pos[geom] *= value
        _update_bounds(model, geom)
    if alone:
        body = bodies[0]
        model.body_ipos[body] *= value
        model.body_inertia[body] *= value**2
        sites = model.site_bodyid == body
        model.site_pos[sites] *= value
        model.site_size[sites] *= value


def _update_bounds(model: mujoco.MjModel, geom: Any) -> None:
    """The sphere and the box around a geom whose size was changed."""
    import mujoco

    kinds = mujoco.mjtGeom
    first, second, _ = model.geom_size[geom]
    kind = model.geom_type[geom]
    half = model.geom_size[geom].copy()
    if kind == kinds.mjGEOM_SPHERE:
        half, bound = np.full(3, first), first
    elif kind == kinds.mjGEOM_CAPSULE:
        half, bound = np.array([first, first, first + second]), first + second
    elif kind == kinds.mjGEOM_CYLINDER:
        half, bound = np.array([first, first, second]), np.hypot(first, second)
    else:
        bound = np.linalg.norm(half) if kind == kinds.mjGEOM_BOX else half.max()
    model.geom_rbound[geom] = bound
    model.geom_aabb[geom] = np.concatenate([np.zeros(3), half])


def scale_mass(model: mujoco.MjModel, value: float, bodies: Indices) -> None:
    """Scale masses and inertias together."""
    model.body_mass[bodies] *= value
    model.body_inertia[bodies] *= value


def has_contact_friction(model: mujoco.MjModel) -> bool:
    """Whether any two geoms that can touch rub."""
    import mujoco

    touching = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    off = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT
    moving = np.any(touching & (model.body_weldid[model.geom_bodyid] != 0))
    return bool(not off and moving and np.any(model.geom_condim[touching] > 1))


def scale_contact_friction(model: mujoco.MjModel, value: float) -> None:
    """Scale sliding, torsional and rolling friction of all geoms."""
    model.geom_friction *= value


def scale_joint_friction(model: mujoco.MjModel, value: float) -> None:
    """Scale damping and dry friction of all joints."""
    model.dof_damping *= value
    model.dof_frictionloss *= value
