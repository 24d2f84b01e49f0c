"""What the tests of devices share: the stand-in for a GPU, on one thread, which is quicker for small tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.devices.cuda_stand_in import cuda_stand_in


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models compute on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """The device of the stand-in, which torch has while the test runs."""
    with cuda_stand_in() as device:
        yield device
