"""Judging a model in its environment: protocol, methods, oracle, photo goals."""
