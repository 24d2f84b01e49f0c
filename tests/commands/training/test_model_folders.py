"""What a file may not do: have a module imported that nobody but the file has named."""

from __future__ import annotations

import pytest

from commands.shared.errors import UsageError
from commands.training.model_folders import MODULES_VARIABLE, check_trusted_module


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
