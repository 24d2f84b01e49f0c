"""Intervals of rates and means, over episodes and over seeds, and the summary of several runs."""
