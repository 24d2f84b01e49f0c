"""From overrides on the command line to a checked configuration."""
