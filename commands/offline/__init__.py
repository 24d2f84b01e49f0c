"""Measures at recorded moments, where nothing is executed: errors, ranks, and evaluation without a simulator."""
