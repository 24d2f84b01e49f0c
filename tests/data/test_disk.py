"""What is checked before a file is written."""

from __future__ import annotations

import resource

import pytest

from data.disk import check_free_space
from data.schema import StoreError


def test_a_file_larger_than_the_disk_is_refused_before_it_is_written(tmp_path):
    check_free_space(tmp_path / "small.h5", 1000)
    with pytest.raises(StoreError, match="huge.h5 needs .* MiB and its disk has .* MiB free"):
        check_free_space(tmp_path / "huge.h5", 2**60)


def test_a_file_larger_than_the_limit_of_the_shell_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, 2**20))
    check_free_space(tmp_path / "small.h5", 2**20)
    with pytest.raises(StoreError, match=r"a file may have 1.0 MiB here: raise the limit \(ulimit -f\)"):
        check_free_space(tmp_path / "large.h5", 2**20 + 1)
