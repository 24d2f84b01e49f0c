"""What the models of a table imagined from the same recorded moments, beside one another: a video and a picture.

Every finished cell leaves its frames in the run folder (`commands.offline.imagined_paths`); its model may be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from commands.comparison.cells import Cell
from commands.comparison.execution import FRAMES, find_frames
from commands.offline.imagined_paths import Frames, read_imagined
from commands.report import page
from commands.report.imagined_videos import write_side_by_side, write_strips


def render_imagined(cells: Sequence[Cell], folder: Path) -> str:
    """A section of the report in the run folder, with its video and picture in `FRAMES`; empty where no cell of the
    first seed has left frames there."""
    models = join_models(read_frames(cells, folder))
    if not models:
        return ""
    recorded = next(iter(models.values()))["recorded"]
    imagined = {name: frames["imagined"] for name, frames in models.items()}
    stem = folder / FRAMES / cells[0].task
    video, picture = write_side_by_side(recorded, imagined, stem), stem.with_suffix(".png")
    write_strips(recorded, imagined, picture)
    text = (
        f"{len(recorded)} recorded moments of held-out episodes, not picked, and the actions that were taken there. "
        "Each model sees the frames up to step 0 and imagines the others by itself. Features are shown by a decoder "
        "that is fitted after training; pixels are the model's own prediction."
    )
    return page.render_section(
        "What the models imagine",
        page.render_note(text),
        page.render_videos([video], ["Steps of the models, three a second."]),
        page.render_picture(picture, "Steps from left to right, a row a model"),
    )


def read_frames(cells: Sequence[Cell], folder: Path) -> dict[str, Frames]:
    """The frames of every method's cell of the first seed, in the order of the table, as far as they are of the same
    moments."""
    first, found = min(cell.seed for cell in cells), dict[str, Frames]()
    for cell in cells:
        path = find_frames(folder, cell)
        if cell.seed == first and path.exists() and cell.row.name not in found:
            found[cell.row.name] = read_imagined(path)
    if not found:
        return {}
    reference = next(iter(found.values()))
    return {name: frames for name, frames in found.items() if np.array_equal(frames["recorded"], reference["recorded"])}


def join_models(frames: dict[str, Frames]) -> dict[str, Frames]:
    """Frames of each model once, under the names of all methods that plan with it."""
    groups: list[tuple[list[str], Frames]] = []
    for name, each in frames.items():
        same = (names for names, other in groups if np.array_equal(other["imagined"], each["imagined"]))
        if (names := next(same, None)) is not None:
            names.append(name)
        else:
            groups.append(([name], each))
    return {", ".join(names): each for names, each in groups}
