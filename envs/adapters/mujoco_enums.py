"""Modules of others that compare numbers of a MuJoCo model with its enumerations, made to work with MuJoCo 3.17.

There `mujoco.mjtJoint.mjJNT_HINGE == numpy.int32(3)` is False (and True the other way round), so that
`kind in (mjJNT_HINGE, mjJNT_SLIDE)`, as Gymnasium-Robotics 1.4.2 asks of the joints of its Fetch models, is False.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

COMPARING = {"gymnasium_robotics": "gymnasium_robotics.utils.mujoco_utils"}  # package: its module that compares


def patch_package(gym_id: str) -> None:
    """Mend the package of an id "PACKAGE:NAME" that is in COMPARING; ImportError where it is not installed."""
    package = gym_id.partition(":")[0]
    if package in COMPARING:
        patch_enums(importlib.import_module(COMPARING[package]))


def patch_enums(module: ModuleType) -> None:
    """Let the `mujoco` of `module` number the kinds of joints and constraints plainly, where it does not yet."""
    import mujoco

    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if hinge != np.int32(int(hinge)) and module.mujoco is mujoco:
        module.mujoco = _Numbers(mujoco)  # type: ignore[attr-defined]


class _Numbers:
    """MuJoCo, but for those two enumerations."""

    def __init__(self, mujoco: ModuleType) -> None:
        self._mujoco = mujoco
        for kind in ("mjtJoint", "mjtEq"):
            members = getattr(mujoco, kind).__members__.items()
            setattr(self, kind, SimpleNamespace(**{name: int(member) for name, member in members}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mujoco, name)
