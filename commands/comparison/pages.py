"""What `jepa compare` writes of the finished cells of one task: the page with its figures, CSV files, and a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from commands.comparison.cells import Cell, is_current, make_cells
from commands.comparison.imagined_frames import render_imagined
from commands.comparison.table_keys import UNTRAINED, TableKeys
from commands.report.markdown_page import render_markdown
from commands.report.page import render_page, render_section
from commands.shared.console import Console
from commands.shared.errors import UsageError
from commands.shared.runs import read_json, write_atomic
from commands.tables import law
from commands.tables.figures import write_figures
from commands.tables.overview import FIGURE, format_overview
from commands.tables.rows import ORACLE, make_rows, select_records
from commands.tables.task_page import format_task_page
from commands.tables.tidy import format_episodes_csv, format_seeds_csv

REPORT = "report.html"  # in the run folder
OVERVIEW = "README.md"  # the page of several tasks


def find_cell_folders(config: TableKeys, run: Path) -> list[Path]:
    """The folder that finished cells are written to, and that of published ones. run: the run folder."""
    own = run / "cells" if config.cells is None else Path(config.cells)
    return [own] if config.published is None else [own, Path(config.published)]


def read_records(cells: Sequence[Cell], folders: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """The records of those cells that are finished, and where each is."""
    found = [(cell, path) for cell in cells if (path := cell.find_record(*folders)) is not None]
    return [(path, cell.read_record(path)) for cell, path in found]


def write_page(
    folders: Sequence[Path], cells: Sequence[Cell], config: TableKeys, console: Console, figures: bool
) -> Path:
    """Write the table of those cells that are finished into the first folder, as Markdown with what predicts success
    and as CSV, and one of all tasks where it holds several; return the first. figures: whether it has figures."""
    own, known = folders[0], dict(read_records(cells, folders))
    records = list(known.values())
    table = own / f"{cells[0].task}.md"
    everything = [known.get(path) or read_json(path) for path in sorted(own.glob("*.json"))]
    everything = [record for record in everything if is_current(record["config"])]
    elsewhere = [record for path, record in known.items() if path.parent != own]
    page = format_task_page(records, config.budgets, find_main_objective(config), config.mixed)
    if figures:
        rows = make_rows(select_records(records, config.budgets[0]))
        page += "\n".join(["", *write_figures(rows, table.with_suffix(""))])
    write_atomic(table, f"{page}{law.write_law(everything + elsewhere, own / law.FIGURE)}")
    write_atomic(table.with_suffix(".csv"), format_seeds_csv(records))
    if episodes := format_episodes_csv(records):
        write_atomic(own / f"{cells[0].task}_episodes.csv", episodes)
    if len({record["task"] for record in everything}) > 1:
        try:
            png_path = own / FIGURE if figures else None
            page = format_overview(everything, config.budgets, find_main_objective(config), config.mixed, png_path)
            write_atomic(own / OVERVIEW, page)
        except UsageError as error:  # the table that was asked for may be one of equals
            console.warn(f"jepa compare: {own / OVERVIEW} is not written: {error}")
    return table


def write_report(table: Path, cells: Sequence[Cell], run: Path) -> Path:
    """Write the page as HTML with its figures, and what the models imagine, into the run folder; return the file."""
    html = render_markdown(table.read_text(encoding="utf-8"), table.parent) + render_imagined(cells, run)
    write_atomic(run / REPORT, render_page(f"Objectives on {cells[0].keys.env.name}", html))
    return run / REPORT


def write_tasks_page(configs: Sequence[TableKeys], runs: Sequence[Path], run: Path, console: Console) -> Path | None:
    """Write the page of several tasks beside their cells, or into their common run folder `run` where each has cells of
    its own, and a report into `run`; return the page, None where no cell is finished. runs: of each task."""
    config, records = configs[0], list[dict[str, Any]]()
    for each, folder in zip(configs, runs, strict=True):
        records += [record for _, record in read_records(make_cells(each), find_cell_folders(each, folder))]
    if not records:
        return None
    target = (run if config.cells is None else Path(config.cells)) / OVERVIEW
    main, png_path = find_main_objective(config), target.with_name(FIGURE)
    write_atomic(target, format_overview(records, config.budgets, main, config.mixed, png_path))
    links = [
        f'<li><a href="{os.path.relpath(folder / REPORT, run)}">{escape(each.env.name)}</a></li>'
        for each, folder in zip(configs, runs, strict=True)
        if (folder / REPORT).exists()
    ]
    page = target.read_text(encoding="utf-8")
    html = render_markdown(page, target.parent) + render_section("Reports of the tasks", f"<ul>{''.join(links)}</ul>")
    write_atomic(run / REPORT, render_page("Objectives over tasks", html))
    console.say(f"{page}\npage: {target}\nreport: {run / REPORT}")
    return target


def find_main_objective(config: TableKeys) -> str | None:
    """The first trained objective, which the others are compared with, as it sets the budget of equal arithmetic."""
    return next((name for name in config.objectives if name not in (ORACLE, UNTRAINED)), None)
