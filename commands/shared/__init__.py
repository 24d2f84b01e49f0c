"""What every command uses: console, errors, run folders, processes. Imports nothing else of `commands`."""
