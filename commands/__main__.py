"""`python -m commands` is `jepa`, for a checkout that is not installed."""

import sys

from commands.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
