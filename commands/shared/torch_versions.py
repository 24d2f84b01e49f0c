"""The pairs of torch and torchvision that are tested.

All tests run with `PINNED`, which constraints.txt installs. tests/test_torch_versions.py runs the tests that depend
most on torch with the other pairs. A new pair is one line in `TESTED` and a passed run of that test.
"""

from __future__ import annotations

TESTED = {"2.11.0": "0.26.0", "2.14.1": "0.29.1", "2.15.0": "0.29.2"}  # torch: its torchvision, oldest first
PINNED = "2.14.1"


def is_tested(torch: str, torchvision: str) -> bool:
    """Whether this pair of versions is tested, with any build suffix (2.14.1+cpu)."""
    return TESTED.get(_release(torch)) == _release(torchvision)


def _release(version: str) -> str:
    return version.partition("+")[0]
