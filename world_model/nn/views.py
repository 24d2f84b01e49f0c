"""What a planner may compare of goals and imagined frames: named views, each computed when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor

Lazy = Tensor | Callable[[], Tensor]  # a view, or what computes it


class FrameViews:
    """Named views of goals or imagined frames, each computed when first asked for."""

    def __init__(self, views: dict[str, Lazy], keep: Literal["path", "last"] = "path") -> None:
        self.views, self.keep = views, keep

    def view(self, name: str) -> Tensor:
        """The named view; ValueError for one this model does not offer."""
        if name not in self.views:
            raise ValueError(f"view {name!r} is not offered by this model, only {sorted(self.views)}")
        value = self.views[name]
        if callable(value):
            value = self.views[name] = value()
        return value

    def select(self, rows: slice | Tensor) -> FrameViews:
        """Those environments only."""
        return FrameViews({name: partial(self._rows, name, rows) for name in self.views}, self.keep)

    def _rows(self, name: str, rows: slice | Tensor) -> Tensor:
        return self.view(name)[rows]
