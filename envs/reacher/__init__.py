"""The two-joint arm of the dm_control suite: specification and environment."""
