"""The `jepa` command line: the only place where models, planners, environments and data meet."""
