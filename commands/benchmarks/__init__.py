"""What `jepa bench` measures, and the comparison with reference numbers."""
