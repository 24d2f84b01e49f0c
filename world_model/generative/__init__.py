"""Generative world models as published, behind the same Dynamics protocol: one file a model, its layers beside it."""
