"""Environments of others as goal-image tasks: the dm_control suite and Gymnasium."""
