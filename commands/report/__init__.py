"""What a run shows of itself: pages, tables, plots, videos and recordings."""
