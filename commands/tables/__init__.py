"""Finished cells, one record each, as a table: its rows, estimates, figures, Markdown and CSV."""
