"""A Reader whose frames are brought to a model's size as they are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.pictures import Preprocessing
from data.store import Reader


def prepare_reader(reader: Reader, preprocessing: Preprocessing) -> Any:
    """The reader itself where its frames have the right size, else one whose `pixels` are preprocessed."""
    if tuple(reader.info.frame_hwc[:2]) == preprocessing.size_hw:
        return reader
    return PreparedReader(reader, preprocessing)


class PreparedReader:
    """A Reader with `pixels` and `info.frame_hwc` of another size; all else is the Reader's."""

    def __init__(self, reader: Reader, preprocessing: Preprocessing) -> None:
        self.reader, self.preprocessing = reader, preprocessing
        self.info = replace(reader.info, frame_hwc=(*preprocessing.size_hw, 3))

    def __getattr__(self, name: str) -> Any:
        if name == "reader":  # not there yet while a pickled one is restored
            raise AttributeError(name)
        return getattr(self.reader, name)

    def column(self, name: str, episode: int) -> NDArray[Any]:
        """As of the Reader."""
        return self._prepare(name, self.reader.column(name, episode))

    def gather(self, name: str, rows: NDArray[Any]) -> NDArray[Any]:
        """As of the Reader."""
        return self._prepare(name, self.reader.gather(name, rows))

    def _prepare(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        return self.preprocessing.prepare(np.asarray(values)) if name == "pixels" else values
