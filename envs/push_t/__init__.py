"""A T pushed by a disc: specification, environment, scene and the scripted pusher."""
