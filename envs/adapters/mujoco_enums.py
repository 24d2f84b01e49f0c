"""A correction for packages that compare numbers of a MuJoCo model with MuJoCo's enumerations, under MuJoCo 3.17.

There `mujoco.mjtJoint.mjJNT_HINGE == numpy.int32(3)` is False (and True the other way round), so that
`kind in (mjJNT_HINGE, mjJNT_SLIDE)`, which Gymnasium-Robotics 1.4.2 evaluates for the joints of its Fetch models, is
False.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import numpy as np

COMPARING = {"gymnasium_robotics": "gymnasium_robotics.utils.mujoco_utils"}  # package: its module that compares


def patch_package(gym_id: str) -> None:
    """Correct the package of an id "PACKAGE:NAME" that is in COMPARING; ImportError where it is not installed."""
    package = gym_id.partition(":")[0]
    if package in COMPARING:
        patch_enums(importlib.import_module(COMPARING[package]))


def patch_enums(module: ModuleType) -> None:
    """Replace `mujoco` in `module` by a copy whose kinds of joints and constraints are plain integers, if needed."""
    import mujoco

    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if hinge != np.int32(int(hinge)) and module.mujoco is mujoco:
        kinds = {"mjtJoint": mujoco.mjtJoint, "mjtEq": mujoco.mjtEq}
        plain = {
            name: SimpleNamespace(**{member: int(value) for member, value in kind.__members__.items()})
            for name, kind in kinds.items()
        }
        module.mujoco = SimpleNamespace(**vars(mujoco) | plain)  # type: ignore[attr-defined]
