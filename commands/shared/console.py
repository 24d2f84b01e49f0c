"""What a command prints while it works: lines, progress with rate and time left, and metrics.jsonl.

On a terminal progress is a bar (rich); elsewhere, as in a log of CI or Slurm, a plain line every few seconds.
Lines and results go to stdout, progress to stderr, so that a result can be piped.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from commands.shared.errors import RunError
from commands.shared.runs import to_json_value, write_atomic

TABLE_COLUMNS = 1000  # wider than any table, so that no cell is cut
METRICS = "metrics.jsonl"  # in the folder of a training


def format_duration(seconds: float) -> str:
    """Return a length of time in words: 8.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Return rows as aligned columns of plain text, numbers to the right."""
    from rich import box
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, show_header=bool(head), show_edge=False, pad_edge=False)
    for name, cells in zip_longest(head, zip_longest(*rows, fillvalue=""), fillvalue=""):
        numeric = all(_is_number(cell) for cell in cells if cell != "")
        grid.add_column(Text(str(name)), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    stream = io.StringIO()
    RichConsole(file=stream, width=TABLE_COLUMNS, color_system=None).print(grid)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


class Progress:
    """Counts `total` units of one piece of work. Use as `with console.progress(...) as progress:`.

    `start` units were done before (a resumed run) and do not count for the rate. `advance(n, loss=0.3)` shows
    the keyword values beside the bar.
    """

    def __init__(self, what: str, total: int, unit: str, start: int = 0, every_s: float = 5.0) -> None:
        assert total >= 0 and 0 <= start, (what, total, start)
        self.what, self.total, self.unit, self.done, self.every_s = what, total, unit, start, every_s
        self._start, self._fields = start, ""
        self._began_s = self._printed_s = time.monotonic()

    def advance(self, n: int = 1, **fields: Any) -> None:
        """Count n more units; keyword values are shown beside the count."""
        self.done += n
        if fields:
            self._fields = " ".join(f"{key} {_format_value(value)}" for key, value in fields.items())
        self._show()

    def update(self, done: int, **fields: Any) -> None:
        """Set the count itself, for work that reports its total instead of its increments."""
        self.advance(done - self.done, **fields)

    @property
    def rate(self) -> float:
        """Units per second since this start."""
        return (self.done - self._start) / max(time.monotonic() - self._began_s, 1e-9)

    def format_line(self) -> str:
        """Return the state as one line: count, rate, time left, values."""
        left_s = (self.total - self.done) / self.rate if self.done > self._start else None
        parts = [f"{self.what}: {self.done}/{self.total} {self.unit}", f"{_format_value(self.rate)}/s"]
        if left_s is not None and self.done < self.total:
            parts.append(f"{format_duration(max(left_s, 0.0))} left")
        return ", ".join(parts + ([self._fields] if self._fields else []))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def print_above(self, text: str) -> bool:
        """Print a line above a bar that stands on the terminal; False where there is none."""
        return False

    def _show(self) -> None:
        pass


class PlainProgress(Progress):
    """A line every `every_s` seconds and one at the end."""

    def __init__(self, stream: TextIO, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stream = stream

    def _show(self) -> None:
        now_s = time.monotonic()
        if now_s - self._printed_s >= self.every_s:
            self._printed_s = now_s
            print(self.format_line(), file=self._stream, flush=True)

    def __exit__(self, *exception: object) -> None:
        took = format_duration(time.monotonic() - self._began_s)
        print(f"{self.format_line()}, took {took}", file=self._stream, flush=True)


class BarProgress(Progress):
    """A bar on a terminal."""

    def __init__(self, stream: TextIO, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=RichConsole(file=stream),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task(self.what, total=max(self.total, 1), completed=self.done, state="")

    def print_above(self, text: str) -> bool:
        if self._bar.live.is_started:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        return self._bar.live.is_started

    def _show(self) -> None:
        state = self.format_line().removeprefix(f"{self.what}: ")
        self._bar.update(self._task, completed=self.done, state=state)

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._show()
        self._bar.stop()


class Console:
    """Output of a command. `interactive=None` asks whether stderr is a terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None, interactive: bool | None = None) -> None:
        self.out = out if out is not None else sys.stdout
        self.err = err if err is not None else sys.stderr
        self.interactive = self.err.isatty() if interactive is None else interactive
        self._progress: Progress | None = None

    def say(self, text: str = "") -> None:
        """Print a line (a result, a phase, a path) to stdout."""
        if self._progress is None or not self.out.isatty() or not self._progress.print_above(text):
            print(text, file=self.out, flush=True)

    def warn(self, text: str) -> None:
        """Print a line to stderr."""
        print(text, file=self.err, flush=True)

    def progress(self, what: str, total: int, unit: str = "steps", start: int = 0, every_s: float = 5.0) -> Progress:
        """Return a context manager that counts `total` units: a bar on a terminal, plain lines elsewhere."""
        kind: Callable[..., Progress] = BarProgress if self.interactive else PlainProgress
        self._progress = kind(self.err, what, total, unit, start=start, every_s=every_s)
        return self._progress


def make_silent_console() -> Console:
    """Return a console that discards its output, for the processes that train beside the first one."""
    nowhere = open(os.devnull, "w")
    return Console(nowhere, nowhere, interactive=False)


class Metrics:
    """metrics.jsonl: one object a line, always written, flushed line by line.

    Opened again after a crash it keeps the lines up to step `keep_to` (None: all of them) and drops the rest, a
    half-written last line included. It also drops the evaluation of that step, which the resumed run repeats.
    """

    def __init__(self, path: Path | str, keep_to: int | None = None) -> None:
        self.path = Path(path)
        if self.path.is_file():  # never replace a device: /dev/null of processes that write nothing
            lines = list(_read_complete_lines(self.path.read_text(encoding="utf-8").splitlines(), self.path))
            kept = [text for text, row in lines if keep_to is None or _comes_before(row, keep_to)]
            write_atomic(self.path, "".join(f"{text}\n" for text in kept))
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one object; NaN and infinity are written as null."""
        self._file.write(json.dumps(to_json_value(values)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Return the objects of a metrics.jsonl, a half-written last line left out."""
    return [row for _, row in _read_complete_lines(Path(path).read_text(encoding="utf-8").splitlines(), Path(path))]


def read_evaluations(path: Path | str) -> list[dict[str, Any]]:
    """Return the evaluations of a metrics.jsonl (its lines of kind "val"), oldest first; null becomes NaN."""
    rows = [row for row in read_metrics(path) if row.get("kind") == "val"]
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


def _comes_before(row: Mapping[str, Any], step: int) -> bool:
    return row.get("step", 0) < step + (row.get("kind") != "val")


def _read_complete_lines(lines: list[str], path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    for number, text in enumerate(lines, start=1):
        try:
            yield text, json.loads(text)
        except ValueError:
            if number < len(lines):
                raise RunError(f"{path} is damaged at line {number}: move it away and run again") from None


def _is_number(text: Any) -> bool:
    return str(text).rstrip("%x ").replace("-", "", 1).replace(".", "", 1).isdigit()


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
