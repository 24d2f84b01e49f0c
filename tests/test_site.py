"""The documents as a site: `make docs`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HOME = Path(__file__).resolve().parent.parent


def test_the_site_builds_without_a_dead_link(tmp_path):
    words = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    done = subprocess.run(words, cwd=HOME, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "api/world_model.html").stat().st_size > 10_000
    assert "world_model.encoder.VideoEncoder" in (tmp_path / "api/world_model.html").read_text(encoding="utf-8")
