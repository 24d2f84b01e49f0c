"""What frozen features hold: probes, readouts, surprise."""
