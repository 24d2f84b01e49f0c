"""The oracle: it imagines what the simulator does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import envs
from commands.evaluation.oracle import OracleDynamics


@pytest.mark.parametrize(
    ("task", "frame_skip"), [("reacher", 1), ("two_rooms", 1), ("reacher", 2), ("point_maze", 2), ("push_t", 5)]
)
def test_imagined_truth_equals_stepping_the_environment(task, frame_skip):
    env = envs.make(task)
    starts = []
    for seed in range(2):  # other factors each
        env.reset(seed=seed)
        starts.append(env.get_state())
    oracle = OracleDynamics(envs.make(task), None, horizon=4, threads=2, frame_skip=frame_skip)
    oracle.set_states(np.stack(starts), np.stack(starts))
    actions = torch.rand(2, 3, 4, 2 * frame_skip, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = torch.zeros(2, 1, 64, 64, 3, dtype=torch.uint8)
    context = oracle.observe(frames, torch.zeros(2, 0, 2), torch.ones(2, 1, dtype=torch.bool))
    truth = oracle.imagine(context, actions).view("truth")
    for b in range(2):
        for s in range(3):
            env.set_state(starts[b])
            for k in range(4):
                for action in actions[b, s, k].unflatten(0, (frame_skip, 2)):
                    _, _, _, _, info = env.step(action.numpy())
                np.testing.assert_allclose(truth[b, s, k], info["truth"], atol=1e-5)
    one = oracle.imagine(context.select(slice(1, 2)), actions[1:]).view("truth")
    np.testing.assert_allclose(one[0], truth[1], atol=1e-6)
    oracle.close()
    if oracle.rollout is not None:
        with pytest.raises(RuntimeError):
            oracle.imagine(context, actions).view("truth")
