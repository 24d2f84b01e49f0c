"""Hydra groups as package data: one YAML file a command, one a choice; each key has its line of help."""
