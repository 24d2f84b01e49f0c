"""Trajectories of other programs, in and out."""
