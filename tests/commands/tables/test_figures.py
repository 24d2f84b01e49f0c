"""Figures of a page, what planning costs, and what models imagined beside one another."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from commands.comparison.cells import Cell
from commands.comparison.execution import find_frames, keep_frames
from commands.comparison.imagined_frames import join_models, read_frames, render_imagined
from commands.comparison.table_keys import make_cell_keys
from commands.config.compose import load_config
from commands.report.comparison_plots import draw_success_by_time
from commands.report.imagined_videos import NAME_PX, make_even, write_strips
from commands.tables.effort_tables import read_sampling_steps, tabulate_planning, tabulate_time_gaps
from commands.tables.figures import write_figures
from commands.tables.overview import format_overview
from commands.tables.rows import make_rows
from tests.commands.tables.made_records import make_record

ARMS = ("F-F", "P-P", "P-F", "F-P", "F+R", "V-V", "R", "G-F")


def make_measured(name, seed=0, scale=1.0, **more):
    """A record of an arm with all that figures show."""
    planning = {"ms_p50": 400.0 * scale, "environments": 10, "device": "cpu", "precision": "fp32"}
    planning |= {"flops": 2e9 * scale, "episode_flops": 2e10 * scale}
    reach = {"steps": [2, 6], "mean": [0.9, None], "reach": {"useful": 6, "above_chance": 6}}
    errors = {"predicted": [0.1 * scale, 0.2 * scale], "copy": [0.5, 0.5]}
    return make_record("future", seed) | {
        "objective": name,
        "planning": planning,
        "rank_reach": reach,
        "open_loop": errors,
        **more,
    }


def test_all_figures_are_drawn_of_eight_arms(tmp_path):
    records = [make_measured(name, scale=1.0 + number) for number, name in enumerate(ARMS)]
    lines = write_figures(make_rows([*records, make_record("oracle", rate=0.9)]), tmp_path / "reacher")
    shown = [line for line in lines if line.startswith("![")]
    assert [line.partition("](")[2] for line in shown] == [
        "reacher_success.png)",
        "reacher_open_loop.png)",
        "reacher_rank_reach.png)",
    ]
    assert lines[0] == "## Figures" and max(map(len, "\n".join(lines).splitlines())) <= 120
    assert all((tmp_path / f"reacher_{name}.png").stat().st_size > 5000 for name in ("success", "open_loop"))


def test_cells_of_earlier_versions_have_the_figure_of_training_alone_and_random_actions_none(tmp_path):
    assert write_figures(make_rows([make_record("oracle")]), tmp_path / "reacher") == []
    lines = write_figures(make_rows([make_record("future")]), tmp_path / "reacher")
    assert [path.name for path in tmp_path.iterdir()] == ["reacher_success.png"] and len(lines) > 2


def test_arms_with_one_model_share_a_curve_and_colours_are_those_of_the_method(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("commands.tables.figures.draw_open_loop", lambda curves, path: drawn.extend(curves))
    records = [make_measured("F-F"), make_measured("P-P", scale=2.0), make_measured("F-P"), make_measured("R", scale=3)]
    write_figures(make_rows(records), tmp_path / "reacher")
    assert [(curve.label, curve.number) for curve in drawn] == [("F-F, F-P", 0), ("P-P", 1), ("R", 3)]
    assert drawn[1].values == pytest.approx([0.4, 0.8]) and list(drawn[1].steps) == [1, 2]


def test_planning_effort_is_that_of_one_episode():
    rows = make_rows([make_measured("F-F", 0), make_measured("F-F", 1, scale=3.0), make_record("lewm")])
    text = "\n".join(tabulate_planning(rows))
    assert "| `F-F` | 96 | 80 | 4 GFLOP | 40 GFLOP |" in text
    assert "`lewm`" not in text and "on cpu, fp32; it depends on the machine" in " ".join(text.split())
    assert tabulate_planning(make_rows([make_record("lewm")])) == []


def test_a_longer_plan_is_explained_by_sampling_steps_size_and_software():
    words = ("dynamics=latent_flow", "planner.cost.view=tokens")
    flow = make_record("vae", words=words)
    assert read_sampling_steps(flow) == 4 and read_sampling_steps(make_record("future")) == 1
    assert read_sampling_steps(make_record("vae", words=(*words, "planner.flow_steps=8"))) == 8
    assert read_sampling_steps(make_record("diamond", words=("planner.cost.view=pixels",))) == 3
    slow = make_measured("G-F", config=flow["config"])
    slow["planning"] |= {"ms_p50": 8000.0, "flops": 16e9}
    rows = make_rows([make_measured("F-F"), slow, make_record("lewm")])
    text = "\n".join(tabulate_time_gaps(rows))
    assert "| `F-F` | 1 | 1 | 1 | 1 |" in text and "| `G-F` | 20 | 4 | 2 | 2.5 |" in text and "`lewm`" not in text
    assert "Times the plan of `F-F`, the fastest" in text
    assert tabulate_time_gaps(make_rows([make_measured("F-F"), make_measured("P-P", scale=1.5)])) == []


def test_success_is_drawn_against_plan_time_by_task(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("commands.tables.overview.draw_success_by_time", lambda tasks, path: drawn.append(tasks))
    records = [make_measured("F-F"), make_measured("F-F", 1, scale=3.0), make_record("lewm"), make_record("oracle")]
    records += [make_measured("P-P", task="push_t"), make_record("oracle", task="push_t")]
    page = format_overview(records, png_path=tmp_path / "tasks.png")
    assert "![success against plan time](plan_times.png)" in page
    (tasks,) = drawn
    assert {task: {name: time for name, (_, time) in points.items()} for task, points in tasks.items()} == {
        "push_t": {"P-P": 40.0},
        "reacher": {"F-F": 80.0},  # mean over seeds; lewm has no times, and the oracle is no method
    }
    draw_success_by_time(tasks, tmp_path / "times.png")
    assert (tmp_path / "times.png").stat().st_size > 5000
    assert "plan_times.png" not in format_overview([make_record("lewm")], png_path=tmp_path / "tasks.png")


def make_frames(shade, moments=4, steps=3, start=0):
    recorded = np.full((moments, 1 + steps, 8, 8, 3), 100 + start, np.uint8)
    imagined = np.full((moments, steps, 8, 8, 3), shade, np.uint8)
    return {"recorded": recorded, "imagined": imagined, "episode": np.arange(moments), "frame": np.arange(moments)}


def test_frames_of_one_model_are_shown_once_under_all_its_names():
    frames = {"F-F": make_frames(1), "P-P": make_frames(2), "F-P": make_frames(1)}
    assert list(join_models(frames)) == ["F-F, F-P", "P-P"]


def test_the_report_shows_frames_of_the_first_seed_from_the_same_moments(tmp_path):
    table = load_config("compare", ["suite=smoke"])
    names = [("F-F", 0, 0), ("P-P", 0, 0), ("R", 0, 7), ("F-F", 1, 0)]
    cells = [Cell(name, "steps", seed, make_cell_keys(table, name, seed)) for name, seed, _ in names]
    assert render_imagined(cells, tmp_path) == ""
    for shade, (cell, (_, _, start)) in enumerate(zip(cells, names, strict=True)):
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        np.savez(work / "imagined.npz", **make_frames(shade, start=start))
        keep_frames(work, find_frames(tmp_path, cell))
        assert not list(work.iterdir())
    found = read_frames(cells, tmp_path)
    assert list(found) == ["F-F", "P-P"], "R was shown other moments"
    html = render_imagined(cells, tmp_path)
    assert ("<video" in html or "image/gif" in html) and "image/png" in html
    assert {path.suffix for path in (tmp_path / "imagined").iterdir()} <= {".npz", ".png", ".mp4", ".gif"}


def test_the_picture_has_a_row_a_model_and_the_moments_beside_one_another(tmp_path):
    frames = make_frames(3)
    write_strips(frames["recorded"], {"F-F": frames["imagined"], "P-P": frames["imagined"]}, tmp_path / "strip.png")
    with Image.open(tmp_path / "strip.png") as image:
        assert image.size == (NAME_PX + 4 * (3 * 9 + 12), 3 * (8 + 6))
        assert image.getpixel((NAME_PX, 0)) == (100, 100, 100) and image.getpixel((NAME_PX, 14)) == (3, 3, 3)


def test_pictures_of_a_video_have_even_sides():
    assert make_even(np.zeros((5, 8, 3), np.uint8)).shape == (6, 8, 3)
