"""A ball, a wall and a door: specification, environment and scene."""
