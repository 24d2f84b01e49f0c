"""Trajectory formats of other programs, one file each, and what they share."""
