"""A ball in mazes: specification, environment, scene, layouts and routes."""
