"""The command line: `jepa COMMAND ...`, its help, and sweeps of several runs."""
