"""Statistics: those of numpy over the split's rows, in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from data.store import Reader, compute_statistics


@pytest.mark.parametrize("name", ["pixels", "action", "truth", "state", "time_s"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_mean_and_std_are_those_of_all_rows_of_the_split(make_file, name, split):
    reader = Reader(make_file())
    rows = np.concatenate([reader.column(name, int(e)) for e in reader.episodes(split)])
    rows = rows.reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1).astype(np.float64)
    mean, std = compute_statistics(reader, name, split)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(std, rows.std(0), rtol=1e-9, atol=1e-12)


def test_an_empty_split_has_none(make_file):
    with pytest.raises(ValueError, match="split eval has no row of action"):
        compute_statistics(Reader(make_file(episodes=2)), "action", "eval")
