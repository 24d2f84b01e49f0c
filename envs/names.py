"""Names that users mistype: the hint that names the closest known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


# envs may import neither commands (its `nearest`) nor data, hence a helper of its own.
def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return "did you mean a or b? " for the names closest to `name`, or "" where none is close."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? " if near else ""
