"""Writers of factors of variation into MuJoCo's model; see `envs.factors`. Imports MuJoCo, as `envs.physics` does.

`restore_model` undoes all writers, and `update_constants` recomputes what MuJoCo derives from masses, sizes, cameras
and lamps.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.physics import HELD_OUT_PATTERNS, PATTERN, Physics

Indices = NDArray[np.int64]
Roles = dict[str, Indices]
Colours = NDArray[np.float32]

_UNSET_RGBA = np.array((0.5, 0.5, 0.5, 1.0), np.float32)  # MuJoCo draws a geom of this colour in that of its material
DARKEST = 0.02

_WRITTEN = (
    *("geom_rgba", "geom_matid", "geom_size", "geom_pos", "geom_rbound", "geom_aabb", "geom_friction"),
    *("site_pos", "site_size", "light_pos", "light_dir", "light_diffuse", "cam_pos", "cam_quat", "cam_fovy"),
    *("body_mass", "body_inertia", "body_ipos", "dof_damping", "dof_frictionloss"),
)
# Computed by mj_setConst from these and from the reference pose; bvh_aabb are the boxes of the contact search.
_DERIVED = (
    *("bvh_aabb", "dof_length"),
    *("body_subtreemass", "body_invweight0", "dof_invweight0", "dof_M0", "tendon_invweight0", "tendon_length0"),
    *("tendon_lengthspring", "actuator_acc0", "actuator_length0", "eq_data", "cam_pos0", "cam_poscom0", "cam_mat0"),
    *("light_pos0", "light_poscom0", "light_dir0"),
)
_STATISTICS = ("meaninertia", "meanmass", "meansize", "extent")


def restore_model(model: mujoco.MjModel, compiled: mujoco.MjModel) -> None:
    """Copy everything that a writer or `update_constants` changes from the model as compiled."""
    for name in (*_WRITTEN, *_DERIVED):
        getattr(model, name)[:] = getattr(compiled, name)
    model.vis.headlight.diffuse[:] = compiled.vis.headlight.diffuse


def update_constants(model: mujoco.MjModel, compiled: mujoco.MjModel, scratch: mujoco.MjData) -> None:
    """Recompute the derived constants; the statistics, which scale the image, stay as compiled."""
    mujoco.mj_setConst(model, scratch)
    for name in _STATISTICS:
        setattr(model.stat, name, getattr(compiled.stat, name))
    model.stat.center[:] = compiled.stat.center


def find_roles(model: mujoco.MjModel) -> Roles:
    """Indices of the visible geoms that are agent, object, floor and walls (see `envs.factors`)."""
    physics, kinds = Physics(model), mujoco.mjtTrn
    physics.update_kinematics()
    owners = {
        int(kinds.mjTRN_JOINT): model.jnt_bodyid,
        int(kinds.mjTRN_JOINTINPARENT): model.jnt_bodyid,
        int(kinds.mjTRN_SITE): model.site_bodyid,
        int(kinds.mjTRN_BODY): np.arange(model.nbody),
    }
    targets = zip(model.actuator_trntype.tolist(), model.actuator_trnid[:, 0], strict=True)
    driven = [model.body_rootid[owners[kind][index]] for kind, index in targets if kind in owners]
    visible = get_colours(model, np.arange(model.ngeom))[:, 3] > 0
    visible &= model.geom_group <= 2  # the groups that are drawn are 0 to 2
    moving = model.body_weldid[model.geom_bodyid] != 0
    agent = np.isin(model.body_rootid[model.geom_bodyid], driven)
    floor = (model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)) & (physics.data.geom_xmat[:, 8] > 0.99)
    masks = {"agent": moving & agent, "object": moving & ~agent, "floor": ~moving & floor, "walls": ~moving & ~floor}
    return {role: np.flatnonzero(visible & mask) for role, mask in masks.items()}


def scale_fields(model: mujoco.MjModel, value: float, fields: tuple[str, ...], rows: Any = slice(None)) -> None:
    """Multiply rows of some of the model's arrays."""
    for name in fields:
        getattr(model, name)[rows] *= value


# Looks


def get_colours(model: mujoco.MjModel, geoms: Indices) -> Colours:
    """Colours `[n, 4]` in which geoms are drawn, or with which their textures are multiplied."""
    material, own = model.geom_matid[geoms], model.geom_rgba[geoms]
    from_material = (material >= 0) & np.all(own == _UNSET_RGBA, axis=1)
    return np.where(from_material[:, None], model.mat_rgba[material], own) if model.nmat else own


def tint_geoms(model: mujoco.MjModel, value: float, geoms: Indices, channel: int) -> None:
    """Add to one channel of the geoms' colours; on a texture, of the colour that multiplies it."""
    colours = get_colours(model, geoms)
    colours[:, channel] = np.clip(colours[:, channel] + value, DARKEST, 1.0)
    model.geom_rgba[geoms] = colours


def _get_texture(model: mujoco.MjModel, geom: int) -> NDArray[np.uint8] | None:
    """Pixels `[n, 3]` of a geom's texture, or None."""
    material = model.geom_matid[geom]
    texture = -1 if material < 0 else model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    if texture < 0:
        return None
    channels = model.tex_nchannel[texture]
    count = model.tex_height[texture] * model.tex_width[texture] * channels
    return np.asarray(model.tex_data[model.tex_adr[texture] :][:count].reshape(-1, channels)[:, :3])


def list_floor_materials(model: mujoco.MjModel, geoms: Indices) -> tuple[dict[str, int], Colours]:
    """Materials (-1: none) that a floor of these geoms can have, by name, and the mean colours `[n, 4]` of the geoms.

    The first material, `own`, leaves the floor as compiled; `plain` exists where something is textured; the held-out
    ones come last.
    """
    colours, materials = get_colours(model, geoms), {"own": -1}
    for row, geom in enumerate(geoms):
        pixels = _get_texture(model, geom)
        if pixels is not None:
            materials["plain"] = -1
            colours[row, :3] *= pixels.mean(0) / 255
    for name in (PATTERN, *HELD_OUT_PATTERNS):
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL, name)
        materials |= {name: number} if number >= 0 else {}
    return materials, colours


def write_material(
    model: mujoco.MjModel, value: float, geoms: Indices, materials: tuple[int, ...], colours: Colours
) -> None:
    """Give the geoms the material number `value`, and the mean colours of the one that they had."""
    # A texture's data would have to be sent to OpenGL again; which material a geom has is read for every frame.
    model.geom_rgba[geoms] = colours
    model.geom_matid[geoms] = materials[int(value)]


def measure_contrast(model: mujoco.MjModel, roles: Roles) -> float:
    """How far agent, object and walls differ from the floor's darkest and brightest colour.

    In the channel that differs most, where 1 is full; the smallest of all these numbers. For agent and object, whose
    mean colour counts, black is a floor, too: it lies around the scene.
    """
    grounds = []
    for geom, colour in zip(roles["floor"], get_colours(model, roles["floor"])[:, :3], strict=True):
        pixels = _get_texture(model, geom)
        tones = np.ones((1, 3)) if pixels is None else np.stack([pixels.min(0), pixels.max(0)]) / 255
        grounds.extend(colour * tones)
    movers = [get_colours(model, roles[role])[:, :3].mean(0) for role in ("agent", "object") if len(roles[role])]
    pairs = [(mover, ground) for mover in movers for ground in (*grounds, np.zeros(3))]
    pairs += [(wall, ground) for wall in get_colours(model, roles["walls"])[:, :3] for ground in grounds]
    return min((float(np.abs(one - other).max()) for one, other in pairs), default=np.inf)


def scale_light(model: mujoco.MjModel, value: float) -> None:
    """Scale the diffuse light of all lamps and of the one at the camera."""
    model.light_diffuse *= value
    model.vis.headlight.diffuse[:] *= value


def shift_lamps(model: mujoco.MjModel, value: float, axis: int) -> None:
    """Shift lamps sideways by a share of their height, and turn them so that they aim at the same point."""
    model.light_pos[:, axis] += value * model.light_pos[:, 2]
    model.light_dir[:, axis] -= value * np.abs(model.light_dir[:, 2])
    model.light_dir[:] /= np.linalg.norm(model.light_dir, axis=1, keepdims=True)


# Camera


def measure_view_height(model: mujoco.MjModel, camera: int) -> float:
    """Height in metres of what a camera sees in the plane through the scene's centre."""
    if model.cam_projection[camera] == mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC:
        return float(model.cam_fovy[camera])
    distance_m, _ = measure_view(model, camera)
    return float(2 * distance_m * np.tan(np.deg2rad(model.cam_fovy[camera]) / 2))


def measure_view(model: mujoco.MjModel, camera: int) -> tuple[float, NDArray[np.float64]]:
    """Metres from a camera to the plane through the scene's centre, and the direction `[3]` in which it looks."""
    physics = Physics(model)
    physics.update_kinematics()
    towards = -physics.data.cam_xmat[camera].reshape(3, 3)[:, 2]
    return abs(float((model.stat.center - physics.data.cam_xpos[camera]) @ towards)), towards


def shift_camera(model: mujoco.MjModel, value: float, camera: int, axis: int, unit_m: float) -> None:
    """Shift a camera by `value` times `unit_m` along its image's axis (0 right, 1 up)."""
    rotation, step = np.zeros(9), np.zeros(3)
    mujoco.mju_quat2Mat(rotation, model.cam_quat[camera])
    step[axis] = value * unit_m
    model.cam_pos[camera] += rotation.reshape(3, 3) @ step


def roll_camera(model: mujoco.MjModel, value: float, camera: int) -> None:
    """Rotate a camera about its line of sight by `value` radians."""
    rotated = np.zeros(4)
    mujoco.mju_mulQuat(rotated, model.cam_quat[camera], np.array([np.cos(value / 2), 0.0, 0.0, np.sin(value / 2)]))
    model.cam_quat[camera] = rotated


# Bodies


def scale_bodies(model: mujoco.MjModel, value: float, bodies: Indices) -> None:
    """Scale bodies at constant mass.

    A single body grows as a whole, and its inertia with the square. The links of several bodies keep their lengths,
    which the joints' positions fix: they get thicker, with the same masses and inertias.
    """
    kinds = mujoco.mjtGeom
    single = len(bodies) == 1
    for geom in np.flatnonzero(np.isin(model.geom_bodyid, bodies)):
        kind = model.geom_type[geom]
        if kind in (kinds.mjGEOM_PLANE, kinds.mjGEOM_HFIELD, kinds.mjGEOM_MESH, kinds.mjGEOM_SDF):
            continue
        long = kind in (kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER)
        model.geom_size[geom, : 1 if long and not single else 3] *= value
        if single:
            model.geom_pos[geom] *= value
        _update_bounds(model, geom)
    if single:
        sites = model.site_bodyid == bodies[0]
        scale_fields(model, value, ("body_ipos",), bodies)
        scale_fields(model, value**2, ("body_inertia",), bodies)
        scale_fields(model, value, ("site_pos", "site_size"), sites)


def _update_bounds(model: mujoco.MjModel, geom: Any) -> None:
    """Recompute the bounding sphere and box of a geom whose size was changed."""
    kinds, kind = mujoco.mjtGeom, model.geom_type[geom]
    first, second, _ = model.geom_size[geom]
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


def has_contact_friction(model: mujoco.MjModel) -> bool:
    """Whether any contact of moving geoms has friction."""
    touching = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    off = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT
    moving = np.any(touching & (model.body_weldid[model.geom_bodyid] != 0))
    return bool(not off and moving and np.any(model.geom_condim[touching] > 1))
