"""No malformed data set or weights end in an internal error, a hang, something unusable, or a read outside."""

from __future__ import annotations

import contextlib
import importlib.util
import os

import numpy as np
import pytest

from commands.shared.errors import RunError
from tests.malformed_inputs import FAULTS, KINDS, Examiner, UnusableError, check_episodes, is_ours, watch_opened

EACH, SEED = 30, 0
HAVE_ARROW = importlib.util.find_spec("pyarrow") is not None


@pytest.fixture(scope="module")
def examiner(tmp_path_factory):
    """One process for all kinds, which is spared the imports."""
    with contextlib.closing(Examiner(SEED, tmp_path_factory.mktemp("inputs"))) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_malformed_inputs_are_refused_in_one_sentence_or_can_be_used(kind, examiner):
    if "lerobot" in kind and not HAVE_ARROW:
        pytest.skip("pyarrow is an optional extra")
    endings = examiner.examine(kind, range(EACH))
    assert len(endings) == EACH
    assert not [str(ending) for ending in endings if ending.how in FAULTS]
    assert all("\n" not in ending.sentence for ending in endings)
    refused = sum(ending.how == "refused" for ending in endings)
    assert refused >= EACH // 10, "the changes hardly reach what is read"


def test_a_file_that_is_opened_outside_is_noticed(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("a", "folder/b"):
        (tmp_path / name).touch()
    with watch_opened(tmp_path) as list_opened:
        os.stat(tmp_path / "a")
        assert not list_opened()
        (tmp_path / "folder/b").read_bytes()
        assert any("b" in name for name in list_opened())


def test_a_library_s_own_words_count_as_an_internal_error():
    with pytest.raises(ValueError) as theirs:
        np.zeros(3).reshape(2)
    with pytest.raises(RunError) as ours:
        KINDS["ours"].read()
    assert not is_ours(theirs.value) and is_ours(ours.value)


def test_an_accepted_file_with_a_number_that_is_not_finite_counts_as_unusable(tmp_path):
    from data.store import Reader
    from tests.data import made_sets

    path = made_sets.ours(tmp_path / "trajectories.h5")
    check_episodes(Reader(path))
    reader = Reader(path)
    whole = reader.column
    reader.column = lambda name, episode: whole(name, episode) * (np.nan if name == "state" else 1)  # type: ignore
    with pytest.raises(UnusableError, match="episode 0, "):
        check_episodes(reader)
