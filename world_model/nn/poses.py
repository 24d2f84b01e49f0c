"""End-effector poses [x, y, z, roll, pitch, yaw, gripper] and the actions between them, as in DROID and V-JEPA 2-AC.

Metres; extrinsic xyz Euler angles in radians in the robot's base frame (R = Rz(yaw) Ry(pitch) Rx(roll)); gripper
closedness 0..1. An action is the difference of positions, the angles of the rotation that leads from one orientation to
the next, applied from the left, and the difference of closedness (arXiv 2506.09985, section 3.1). Everything is
vectorised over leading axes, on any device, in the dtype given.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSE_SIZE = 7


def make_rotation_matrix(euler_3: Tensor) -> Tensor:
    """Matrices [..., 3, 3] of extrinsic xyz angles [..., 3], radians."""
    (cr, cp, cy), (sr, sp, sy) = euler_3.cos().unbind(-1), euler_3.sin().unbind(-1)
    rows = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def find_euler_angles(matrix_33: Tensor) -> Tensor:
    """Extrinsic xyz angles [..., 3], radians, of matrices [..., 3, 3]; pitch lies in [-pi/2, pi/2]."""
    m = matrix_33
    level = torch.hypot(m[..., 2, 1], m[..., 2, 2])  # the cosine of pitch
    roll, yaw = torch.atan2(m[..., 2, 1], m[..., 2, 2]), torch.atan2(m[..., 1, 0], m[..., 0, 0])
    # At a pitch of +-90 degrees only the sum or difference of roll and yaw is defined: yaw is set to 0.
    locked = level < 1e-6
    roll = torch.where(locked, torch.atan2(-m[..., 1, 2], m[..., 1, 1]), roll)
    return torch.stack((roll, torch.atan2(-m[..., 2, 0], level), torch.where(locked, 0.0, yaw)), -1)


def subtract_poses(poses_T7: Tensor) -> Tensor:
    """Actions [..., T-1, 7] that lead from each pose of [..., T, 7] to the next."""
    before, after = poses_T7[..., :-1, :], poses_T7[..., 1:, :]
    turn = make_rotation_matrix(after[..., 3:6]) @ make_rotation_matrix(before[..., 3:6]).transpose(-1, -2)
    return torch.cat((after[..., :3] - before[..., :3], find_euler_angles(turn), after[..., 6:] - before[..., 6:]), -1)


def integrate_actions(poses_7: Tensor, actions_7: Tensor) -> Tensor:
    """Poses [..., 7] after one action each; closedness is clamped to 0..1."""
    rotation = make_rotation_matrix(actions_7[..., 3:6]) @ make_rotation_matrix(poses_7[..., 3:6])
    gripper = (poses_7[..., 6:] + actions_7[..., 6:]).clamp(0, 1)
    return torch.cat((poses_7[..., :3] + actions_7[..., :3], find_euler_angles(rotation), gripper), -1)
