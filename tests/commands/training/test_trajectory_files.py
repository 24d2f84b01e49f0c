"""What follows from a data file: no import of a module that only the file names, and how pictures become frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from commands.shared.errors import UsageError
from commands.training.trajectory_files import MODULES_VARIABLE, check_trusted_module, derive_preprocessing
from data.pictures import Preprocessing
from data.store import Reader
from tests.data.made_sets import ours


def test_a_module_that_only_a_file_names_is_not_imported(monkeypatch):
    monkeypatch.delenv(MODULES_VARIABLE, raising=False)
    with pytest.raises(
        UsageError, match="is in the module evil.code, which would be imported and run.*JEPA_MODULES=evil"
    ):
        check_trusted_module("gym/evil.code:Thing-v0")
    for known in ("gym/Pendulum-v1", "reacher", "robomimic/evil:Lift", "gym/ogbench:cube-single-v0", "gym/json:Any-v0"):
        check_trusted_module(known)
    monkeypatch.setenv(MODULES_VARIABLE, "other,evil.code")
    check_trusted_module("gym/evil.code:Thing-v0")


@pytest.mark.parametrize(
    ("source", "crop"),
    [
        ({}, "centre"),
        ({"import": {"view": "whole"}}, "whole"),
        ({"import": {"view": "centre", "origin": {"import": {"view": "whole"}}}}, "whole"),  # exported in between
    ],
)
def test_pictures_are_cropped_as_at_the_file_s_import_and_pass_through_its_size(tmp_path, source, crop):
    info = replace(Reader(ours(Path(tmp_path / "trajectories.h5"))).info, source=source)
    assert derive_preprocessing(info, (64, 64)) == Preprocessing((64, 64), crop, stored_hw=(32, 32))
    assert derive_preprocessing(info, (32, 32)) == Preprocessing((32, 32), crop)
