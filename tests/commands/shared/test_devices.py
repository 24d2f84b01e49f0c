"""The machine's memory."""

from __future__ import annotations

import pytest

from commands.shared import devices
from commands.shared.errors import UsageError


def test_sizes_beyond_the_memory_of_the_machine_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "measure_memory", lambda: 2**34)
    devices.require_memory(2**33, "the weights alone")
    with pytest.raises(UsageError, match="the weights alone need 32 GiB of memory, and this machine has 16 GiB"):
        devices.require_memory(2**35, "the weights alone")
    monkeypatch.setattr(devices, "measure_memory", lambda: None)
    devices.require_memory(2**60, "anything")
