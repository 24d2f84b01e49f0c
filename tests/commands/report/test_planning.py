"""The report: one file without references to elsewhere that holds each number, plot and video of a run."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from commands.evaluation import methods
from commands.evaluation.cases import Cases
from commands.evaluation.episodes import Rollouts
from commands.evaluation.evaluate import Played, collect_results
from commands.evaluation.protocol import ProtocolConfig, resolve_protocol
from commands.evaluation.setup import EvaluationSetup
from commands.report import planning as report
from commands.report import videos
from commands.report.plots import draw_horizon_curves, draw_training_curves
from commands.report.videos import write_videos
from commands.shared.runs import to_json_value
from envs.reacher.spec import REACHER
from envs.two_rooms.spec import TWO_ROOMS

VOID = {"meta", "img", "br", "hr", "link", "input"}
STARTS = np.array([1.1, 1.2, 1.7, 2.1, 2.2, 3.5])
STEPS, SIZE, NUM_VIDEOS = 12, 16, 2


SPEC = SimpleNamespace(device=torch.device("cpu"), frame_skip=2, proprio="none")  # of the model


def rollouts(finals, plan_ms=(), num_videos=0):
    """Distances that fall in equal steps from STARTS to `finals`; red frames, blue goal images."""
    finals = np.array(finals, float)
    path = np.linspace(STARTS[: len(finals)], finals, STEPS + 1, axis=1)
    run = Rollouts(path, np.zeros((len(finals), STEPS, 2), np.float32), list(plan_ms))
    if num_videos:
        run.frames = np.zeros((num_videos, STEPS + 1, SIZE, SIZE, 3), np.uint8)
        run.frames[..., 0] = 200
        run.goal_frames = np.zeros((num_videos, SIZE, SIZE, 3), np.uint8)
        run.goal_frames[..., 2] = 200
    return run


@pytest.fixture(scope="module")
def cases():
    count = len(STARTS)
    places, nothing = np.arange(count), np.zeros((count, 4))
    return Cases(nothing, nothing, 30 + places, 37 + places, STARTS, None, tuple(range(count)), 311, 1204)


def baselines_and_model():
    still = STARTS.tolist()
    return {
        methods.MODEL_METHOD: rollouts([0.01, 0.15, 0.01, 0.9, 0.02, 0.04], [20.0, 30.0, 40.0], NUM_VIDEOS),
        methods.RANDOM_METHOD: rollouts([0.15, *still[1:]]),
        methods.ZERO_METHOD: rollouts(still),
    }


@pytest.fixture
def runs():
    return baselines_and_model()


def results_of(runs, cases, task=REACHER):
    model, protocol = SimpleNamespace(spec=SPEC), resolve_protocol(ProtocolConfig(), task)
    setup = EvaluationSetup(model, {}, None, task, protocol, cases, SPEC.frame_skip)
    made = collect_results(Played(runs, dict.fromkeys(runs, 2.5), []), setup, methods.EvaluationKeys())
    made["model"] = {"folder": "runs/posttrain/small", "env": task.name}
    made["data"] = {"file": ["runs/collect/small/data.h5"], "checksum": "9a8b"}
    return made


@pytest.fixture(scope="module")
def page(cases, tmp_path_factory):
    """The page of five methods, read by most tests, and the paths of its videos."""
    folder = tmp_path_factory.mktemp("plan")
    runs = baselines_and_model()
    runs |= {methods.ORACLE_METHOD: rollouts([0.01] * 6), methods.ORACLE_COST_METHOD: rollouts([0.01, 0.01, 0.5, 0.6])}
    runs[methods.MODEL_METHOD].energies = [np.array([[3.0, 5.0, 9.0], [2.0, 2.5, 4.0]]), np.array([[1.0, np.inf, 2.0]])]
    written = write_videos(runs[methods.MODEL_METHOD], cases, REACHER, folder / "videos")
    report.write_report(results_of(runs, cases), runs, cases, REACHER, written, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8"), written


class Reader(HTMLParser):
    """Collects text and addresses, and fails on tags that do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return " ".join(" ".join(reader.words).split()), reader.addresses


def states(text, *values):
    """Whether the values stand close together in this order, whatever the words between them."""
    return re.search(r"\D.{0,60}?".join(rf"(?<!\d){re.escape(value)}" for value in values), text) is not None


def test_the_page_refers_to_nothing_outside_of_itself_and_runs_no_script(page):
    html, _ = page
    _, addresses = read(html)
    assert addresses and all(re.match(r"data:|#", address) for address in addresses)
    assert not re.search(r"https?://|<script|@import|url\((?!#)", html)


def test_the_scenes_stand_between_the_headline_and_the_methods(runs, cases, tmp_path):
    path, section = tmp_path / "r.html", "<section><h2>Scenes</h2></section>"
    report.write_report(results_of(runs, cases), runs, cases, REACHER, [], path, scenes=section)
    html = path.read_text(encoding="utf-8")
    assert html.index('class="headline"') < html.index(section) < html.index("<h2>Methods</h2>")


def test_every_method_is_named_with_its_rates_and_intervals(page):
    text, _ = read(page[0])
    for name in ("model", "random", "zero action", "oracle", "oracle, model's cost"):
        assert text.count(name) >= 4, name  # table, three figures
    assert states(text, "5 of 6", "83%", "44–97%")  # Wilson, by hand
    assert states(text, "17%", "0%", "100%", "0.80"), "random, no action, oracle, and the model between them"
    assert states(text, "oracle, model's cost", "4", "2.5 s", *["50%", "15–85%"] * 3)


def test_the_page_gives_bins_with_counts_and_says_where_there_was_no_episode(page):
    text, _ = read(page[0])
    for low, high in zip(REACHER.distance_bins[:-1], REACHER.distance_bins[1:], strict=True):
        assert f"{low:g} to {high:g} rad" in text
    assert re.search(r"model 2 of 2 1 of 1 1 of 2 \D+ 1 of 1", text), "a bin without episodes has no number"
    assert re.search(r"random 1 of 2 0 of 1 0 of 2 \D+ 0 of 1", text)
    assert not states(text, "3 episodes")


def test_episodes_outside_of_the_bins_are_counted(runs, cases, tmp_path):
    narrow = replace(REACHER, distance_bins=(1.0, 1.5, 2.0))
    report.write_report(results_of(runs, cases, narrow), runs, cases, narrow, [], tmp_path / "r.html")
    assert states(read((tmp_path / "r.html").read_text())[0], "3 episodes")


def test_the_page_says_how_it_was_judged_and_what_was_left_out(page):
    text, _ = read(page[0])
    assert states(text, "311", "1204"), "starts at the goal, and nearer than the least distance"
    assert states(text, "25", "2.5 s", "1 rad"), "goal offset and least distance"
    assert states(text, "30", "0.1 s", "3 s"), "budget"
    assert states(text, "0.2", "0.1", "0.05 rad") and states(text, "3", "0.3 s"), "thresholds and held steps"
    assert states(text, "oracle, model's cost", "4 episodes")
    assert states(text, "30 ms", "39 ms", "6", "5 ms") and "12.5 s" in text, "time of a plan, of an episode, of the run"
    assert all(word in text for word in ("cost.view pooled", "runs/posttrain/small", "9a8b"))


def test_videos_stand_in_the_page_byte_for_byte_with_their_episodes(page):
    html, written = page
    text, addresses = read(html)
    assert len(written) == NUM_VIDEOS
    for path in written:
        kind = {".mp4": "video/mp4", ".gif": "image/gif"}[path.suffix]
        assert f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" in addresses
    assert states(text, "30", "37", "1.10 rad", "1.0 s", "0.01 rad")
    assert states(text, "31", "38", "1.20 rad", "1.2 s", "0.15 rad")
    assert states(text, "2 of 6")


def test_text_is_escaped(runs, cases, tmp_path):
    odd = 'model <i>&amp;" $x$'
    task = replace(REACHER, description='<script>alert("x")</script>', distance_unit="<rad>")
    runs = {**runs, odd: runs[methods.MODEL_METHOD]}
    report.write_report(results_of(runs, cases, task), runs, cases, task, [], tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    text, _ = read(html)
    assert "<script" not in html and "<i>" not in html and "<rad>" not in html
    assert task.description in text and text.count(odd) >= 4 and "within 0.2 <rad>" in text


def test_further_sections_are_images_by_path_or_html_as_it_is(runs, cases, tmp_path):
    png = tmp_path / "open_loop.png"
    draw_horizon_curves({"predicted": [0.1, 0.2], "copy": [0.4, 0.5]}, png)
    extra = [("Open <loop>", png), ("As text", str(png)), ("Seconds", "<p>collect <b>31 s</b></p>")]
    report.write_report(results_of(runs, cases), runs, cases, REACHER, [], tmp_path / "r.html", extra)
    html = (tmp_path / "r.html").read_text()
    text, addresses = read(html)
    assert addresses.count(f"data:image/png;base64,{base64.b64encode(png.read_bytes()).decode()}") == 2
    assert "Open <loop>" in text and "<p>collect <b>31 s</b></p>" in html


def test_a_page_without_oracle_videos_or_plan_times_says_so(runs, cases, tmp_path):
    runs[methods.MODEL_METHOD].plan_ms.clear()
    made = results_of(runs, cases)
    assert made["oracle"] is None
    again = json.loads(json.dumps(to_json_value(made)))  # as it is read back from results.json
    for number, each in enumerate((made, again)):
        path = tmp_path / f"{number}.html"
        report.write_report(each, runs, cases, REACHER, [], path)
        text, _ = read(path.read_text())
        assert "the oracle was not run" in text and "not measured median" in text
        assert "No videos were recorded" in text and not re.search(r"\bnan\b", text)
    assert (tmp_path / "0.html").read_text() == (tmp_path / "1.html").read_text()


def test_the_page_follows_the_task(runs, cases, tmp_path):
    report.write_report(results_of(runs, cases, TWO_ROOMS), runs, cases, TWO_ROOMS, [], tmp_path / "r.html")
    text, _ = read((tmp_path / "r.html").read_text())
    assert "two_rooms" in text and "≤ 0.15 m" in text and " rad" not in text


def test_figures_have_no_colour_of_their_own_so_that_they_follow_the_page(page):
    drawn = re.findall(r"<svg.*?</svg>", page[0], re.S)
    assert len(drawn) == 4
    for svg in drawn:
        used = set(re.findall(r"#[0-9a-f]{6}\b", svg))
        assert not used, used
        assert "var(--ink)" in svg and "var(--series" in svg and 'role="img"' in svg
    ids = [name for svg in drawn for name in re.findall(r' id="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0%"), (1.0, "100%"), (0.864, "86%"), (0.996, "99.6%"), (0.004, "0.4%"), (1 - 1e-9, "100%"),
     (None, "not measured"), (float("nan"), "not measured")],
)  # fmt: skip
def test_percentages_do_not_round_a_failure_away(rate, text):
    assert report.format_percent(rate) == text


def test_a_video_shows_episode_and_goal_and_is_green_while_within_the_threshold(cases):
    frames, goal = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    frames[..., 0], goal[..., 2] = 200, 200
    pictures = videos.compose_pictures(frames, goal, np.array([1.0, 0.1, 1.0]), REACHER)
    assert len(pictures) == 3 and len({picture.shape for picture in pictures}) == 1
    height, width, _ = pictures[0].shape
    assert height % 2 == width % 2 == 0
    for step, picture in enumerate(pictures):
        found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
        counts = [int((picture == colour).all(-1).sum()) for colour in ((200, 0, 0), (0, 0, 200))]
        assert counts == [256 * 256] * 2, counts  # 8 px enlarged to the pane
        assert (videos.WITHIN in found) == (step > 0)
    bar = pictures[2][height - videos.MARGIN_PX - 4]
    runs_of_colour = [tuple(bar[i]) for i in range(1, width) if (bar[i] != bar[i - 1]).any()]
    assert runs_of_colour == [videos.OUTSIDE, videos.WITHIN, videos.OUTSIDE, videos.BACKGROUND]
    border = [tuple(picture[videos.HEADER_PX + 100, videos.MARGIN_PX - 2]) for picture in pictures]
    assert border == [videos.BACKGROUND, videos.WITHIN, videos.BACKGROUND]


def test_a_written_video_is_readable_and_plays_in_real_time(runs, cases, tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    path, other = write_videos(runs[methods.MODEL_METHOD], cases, REACHER, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, other.name])
    assert path.suffix == ".mp4"
    with imageio.get_reader(path) as reader:
        pictures = [reader.get_data(number) for number in range(reader.count_frames())]
        assert reader.get_meta_data()["fps"] == pytest.approx(1 / REACHER.control_step_s)
    assert len(pictures) == STEPS + 1 + 8  # the last one stays for 0.8 s
    middle = pictures[0].shape[0] // 2
    left, right = pictures[0][middle, 60].astype(int), pictures[0][middle, -60].astype(int)
    assert left[0] > 150 > left[2] and right[2] > 150 > right[0]


def test_without_ffmpeg_the_video_is_a_gif(runs, cases, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(videos, "_write_mp4", fails)
    written = write_videos(runs[methods.MODEL_METHOD], cases, REACHER, tmp_path)
    assert [path.suffix for path in written] == [".gif"] * NUM_VIDEOS
    with Image.open(written[0]) as image:
        assert image.n_frames > 1 and image.info["duration"] == 100 and image.info["loop"] == 0
    report.write_report(results_of(runs, cases), runs, cases, REACHER, written, tmp_path / "r.html")
    assert "data:image/gif;base64," in (tmp_path / "r.html").read_text()


def test_no_recorded_frames_make_no_videos(runs, cases, tmp_path):
    assert write_videos(runs[methods.ZERO_METHOD], cases, REACHER, tmp_path / "videos") == []
    assert not (tmp_path / "videos").exists()


def draw_curves(tmp_path, rows, curves):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_training_curves(metrics, tmp_path / "curves.png", curves)
    with Image.open(tmp_path / "curves.png") as image:
        image.load()
        return np.asarray(image.convert("RGB")).astype(int)


CURVES = {
    "loss on val": ("prediction", "constant"),
    "probe, R2": ("probe", "probe_pixels"),
    "rank": ("rank",),
    "gone": ("nowhere",),
}


def val_rows(last=0.9):
    fixed = {"kind": "val", "constant": 1.0, "probe_pixels": 0.4}
    changing = [(0, 0.1), (10, None), (20, last)]
    return [
        {"step": s, "prediction": 1 / (1 + s), "probe": probe, "rank_mean": 3.0 + s, **fixed} for s, probe in changing
    ]


def test_training_curves_are_a_readable_picture_of_the_val_lines_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn = draw_curves(tmp_path, val_rows(), CURVES)
    assert drawn.shape[0] > 300 and drawn.shape[1] > 900 and drawn.std() > 5
    noise = [{"step": 5, "kind": "train", "prediction": 100.0, "probe": -100.0}]
    assert (draw_curves(tmp_path, val_rows() + noise, CURVES) == drawn).all()
    assert (draw_curves(tmp_path, val_rows(last=0.8), CURVES) != drawn).any()
    assert dict(matplotlib.rcParams) == before


def test_a_key_that_was_not_logged_stands_for_those_that_start_with_it(tmp_path):
    by_prefix = draw_curves(tmp_path, val_rows(), {"rank": ("rank",)})
    assert (by_prefix == draw_curves(tmp_path, val_rows(), {"rank": ("rank_mean",)})).all()
    assert (by_prefix != draw_curves(tmp_path, val_rows(), {"rank": ("nowhere",)})).any()


def test_horizon_curves_are_a_readable_picture_of_both_errors(tmp_path):
    pictures = []
    for copy in ([0.5, 0.6, 0.7], [0.5, 0.6, 0.8]):
        draw_horizon_curves({"predicted": [0.1, 0.2, 0.3], "copy": copy}, tmp_path / "open_loop.png")
        with Image.open(tmp_path / "open_loop.png") as image:
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    assert pictures[0].shape[1] > 900 and (pictures[0] != pictures[1]).any()


def test_importing_the_report_imports_no_plotting():
    code = "import sys, commands.report; assert not {'matplotlib', 'imageio_ffmpeg', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
