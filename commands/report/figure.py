"""One figure and its style: no global state of pyplot, written as PNG or as SVG that stands inside HTML.

matplotlib is imported at the first figure, since a command that draws nothing should not wait for it. The SVG
names its colours as CSS variables (`format_theme` defines them, for light and dark pages), so that one drawing
serves both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from commands.shared.runs import write_atomic

# name: (on a light page, on a dark page). Markers and line styles differ too, for colour-blind readers.
THEME = {
    "ink": ("#1b1e23", "#e9e7e3"),
    "muted": ("#5f656e", "#a3a9b2"),
    "grid": ("#e2e4e7", "#353a41"),
    "page": ("#fdfdfc", "#16181b"),
    "good": ("#dcf0e4", "#15291f"),
    "series0": ("#0063ad", "#62b5f6"),
    "series1": ("#90959d", "#8c929b"),
    "series2": ("#a1428f", "#dd8dd0"),
    "series3": ("#00805f", "#45cf9f"),
    "series4": ("#bf5f00", "#f2a345"),
    "series5": ("#a8261f", "#ff8f84"),
}
SERIES = tuple(light for name, (light, _) in THEME.items() if name.startswith("series"))
MARKERS = "osvD^P"
INK, MUTED, GRID, PAGE, GOOD = (THEME[name][0] for name in ("ink", "muted", "grid", "page", "good"))
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "figure.facecolor": PAGE,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.constrained_layout.wspace": 0.05,
    "figure.constrained_layout.hspace": 0.06,
}


def format_theme() -> str:
    """The CSS variables that the SVG figures and the page around them use."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in THEME.items()) for i in (0, 1))
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def pick_colour(number: int) -> str:
    """The colour of the series of that number."""
    return SERIES[number % len(SERIES)]


def pick_marker(number: int) -> str:
    """The marker of the series of that number."""
    return MARKERS[number % len(MARKERS)]


@contextmanager
def new_figure(
    columns: int, rows: int, panel_inches: tuple[float, float], sharex: bool = False, sharey: bool = False
) -> Iterator[tuple[Any, Any]]:
    """A figure of equal panels in our style, and its axes in reading order."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * panel_inches[0], rows * panel_inches[1]), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel())
        yield figure, axes


def _hide_unused(figure: Any) -> None:
    """Panels of the last row that hold nothing."""
    for axis in figure.axes:
        if not axis.has_data() and not axis.texts:
            axis.set_visible(False)


def save_png(figure: Any, path: Path | str) -> None:
    """Write the figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _hide_unused(figure)
    figure.set_dpi(150)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # figure.savefig draws twice
    write_atomic(path, buffer.getvalue())


def render_svg(figure: Any, label: str) -> str:
    """The figure as an <svg> element without outside references, its colours as CSS variables."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    _hide_unused(figure)
    figure.set_facecolor("none")
    buffer = io.StringIO()
    nothing = {"Creator": None, "Date": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": label}):  # ids that differ between the figures of a page
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)  # figure.savefig draws twice
    text = buffer.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| id="[\w.]+_\d+"', "", text[text.index("<svg") :])
    for name, (light, _) in THEME.items():
        text = text.replace(light, f"var(--{name})")
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', text)
    assert size is not None, text[:200]
    return text.replace(
        size[0],
        f'role="img" aria-label="{escape(label)}" style="max-width:{float(size[1]) * 4 / 3:.0f}px"',
        1,
    )
