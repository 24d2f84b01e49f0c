"""Trackers beside metrics.jsonl."""

from __future__ import annotations

import importlib.util
import io
import math
import sys

import numpy as np
import pytest

from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.training.trackers import open_tracker

LINES = [
    {"step": 0, "kind": "val", "prediction": 0.5, "probe": math.nan, "note": "words"},
    {"step": 10, "kind": "train", "loss": 2.0, "seconds": 1},
]
has = importlib.util.find_spec


def write(name, folder):
    import imageio.v3 as iio

    out = io.StringIO()
    iio.imwrite(folder / "curves.png", np.zeros((8, 8, 4), np.uint8))
    (folder / "config.json").write_text('{"seed": 3}')
    with open_tracker(name, folder, 0, Console(out)) as tracker:
        for line in LINES:
            tracker.log(line)
        tracker.add_picture("curves", folder / "curves.png", 10)
    return out.getvalue()


def test_without_a_tracker_nothing_is_written(tmp_path):
    write("none", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "config.json"}


@pytest.mark.skipif(has("tensorboard") is None, reason="tensorboard is an optional extra")
def test_tensorboard_gets_every_number_and_the_picture(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"val/prediction", "val/probe", "train/loss", "train/seconds"}
    (loss,) = events.Scalars("train/loss")
    assert (loss.step, loss.value) == (10, 2.0) and events.Tags()["images"] == ["curves"]


@pytest.mark.skipif(has("wandb") is None, reason="wandb is an optional extra")
def test_wandb_without_a_login_keeps_the_run_in_its_folder_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = write("wandb", tmp_path)
    assert "`wandb sync` sends it" in said and list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_with_its_extra(tmp_path, monkeypatch, name):
    missing = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[name]
    monkeypatch.setitem(sys.modules, missing, None)
    refused = pytest.raises(UsageError, match=rf"logger={name} needs an extra: pip install 'jepa-lab\[{name}\]'")
    with refused, open_tracker(name, tmp_path, 0, Console(io.StringIO())):
        pass
