"""Pictures by time stamps, from files of every kind; clips of a folder as a function of their numbers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from made_videos import made_video, numbers_shown

from data.clips import ClipConfig, VideoClips, open_folder
from data.loader import Loader
from data.video import SUFFIXES, VideoError, convert_frame, decode_at_times, decode_by_number, inspect_video

EVEN = [k / 10 for k in range(20)]
UNEVEN = [0, 0.1, 0.15, 0.2, 0.9, 1.0, 1.1, 2.0, 2.05, 2.1, 2.5]


def nearest(stamps_s, times_s) -> list[int]:
    """Which picture is nearest, by brute force."""
    return [int(np.argmin(np.abs(np.array(stamps_s) - time))) for time in times_s]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
@pytest.mark.parametrize("stamps_s", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_a_picture_is_the_one_nearest_in_time_whatever_the_nominal_rate(tmp_path, suffix, stamps_s):
    file = inspect_video(made_video(tmp_path / f"v{suffix}", stamps_s, rate=60))
    assert file.frames == len(stamps_s) and file.length_s == pytest.approx(stamps_s[-1]) and file.aspect == 1.5
    for start_s in (0.0, 0.321, 0.931):
        times_s = start_s + np.arange(5) * 0.231
        assert numbers_shown(decode_at_times(file, times_s, (16, 16), "whole")) == nearest(stamps_s, times_s)


def test_a_video_that_does_not_start_at_time_zero_counts_from_its_first_frame(tmp_path):
    file = inspect_video(made_video(tmp_path / "late.webm", [5 + time for time in EVEN]))
    assert file.start_s == pytest.approx(5) and file.length_s == pytest.approx(1.9)
    assert numbers_shown(decode_at_times(file, [0.0, 0.5, 1.9], (16, 16), "whole")) == [0, 5, 19]


def test_frames_by_number_ignore_time_stamps_and_a_missing_one_is_an_error(tmp_path):
    path = made_video(tmp_path / "v.mp4", UNEVEN)
    assert numbers_shown(decode_by_number(path, [0, 4, 10], (16, 16), "whole")) == [0, 4, 10]
    with pytest.raises(VideoError, match="ends before frame 11"):
        decode_by_number(path, [3, 11], (16, 16), "whole")


def test_the_middle_is_cut_in_true_proportions_and_the_whole_is_squeezed():
    stripes = np.zeros((32, 96, 3), np.uint8)
    stripes[:, 32:64] = 200
    frame = av.VideoFrame.from_ndarray(stripes, format="rgb24")
    assert (convert_frame(frame, (32, 32), "centre") == 200).all()
    whole = convert_frame(frame, (32, 48), "whole")
    assert (whole[:, 18:30] == 200).all() and (whole[:, :14] == 0).all() and (whole[:, 34:] == 0).all()
    assert convert_frame(frame, (16, 64), "centre").shape == (16, 64, 3)


@pytest.mark.parametrize("kind", ["words", "cut", "empty", "missing"])
def test_what_is_no_whole_video_is_an_error_that_names_the_file(tmp_path, kind):
    path = tmp_path / "v.mp4"
    if kind == "words":
        path.write_text("not a video " * 50)
    elif kind == "cut":
        whole = made_video(path, EVEN).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.touch()
    with pytest.raises(VideoError, match="v.mp4"):
        inspect_video(path)


def mixed_folder(folder: Path) -> Path:
    made_video(folder / "a.mp4", EVEN)
    made_video(folder / "b/c.webm", EVEN, (48, 32), rate=60)
    made_video(folder / "d.GIF".lower(), UNEVEN, (40, 40))
    made_video(folder / "e.mp4", UNEVEN, (64, 40), rate=10)
    made_video(folder / "short.mp4", [0, 0.1])
    (folder / "words.mp4").write_text("no video")
    (folder / ".hidden.mp4").write_text("left alone")
    (folder / "notes.txt").write_text("no video either")
    return folder


def test_a_folder_is_read_whole_and_what_cannot_be_used_is_named(tmp_path):
    counted = []
    clip = ClipConfig(4, 4.0)
    found = open_folder(mixed_folder(tmp_path), clip, 0.3, 2, lambda done, total: counted.append((done, total)))
    assert sorted(file.path.name for file in found.files) == ["a.mp4", "c.webm", "d.gif", "e.mp4"]
    assert len(found.broken) == 1 and "words.mp4" in found.broken[0]
    assert [file.path.name for file in found.short] == ["short.mp4"] and counted[-1] == (6, 6)
    assert found.train and found.val and not set(found.train) & set(found.val)


def test_the_split_hangs_on_names_alone(tmp_path):
    clip, names = ClipConfig(2, 10.0), [f"{k}.gif" for k in range(12)]
    for name in names:
        made_video(tmp_path / name, [0, 0.1, 0.2], (16, 16))
    before = {file.path.name for file in open_folder(tmp_path, clip, 0.4).val}
    made_video(tmp_path / "another.gif", [0, 0.1, 0.2], (16, 16))
    after = {file.path.name for file in open_folder(tmp_path, clip, 0.4).val}
    assert after - {"another.gif"} == before and 0 < len(before) < 12


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, f"no video in .*{SUFFIXES[0]}"),
        (lambda folder: (folder / "x.mp4").write_text("words"), "none of the 1 videos"),
        (lambda folder: made_video(folder / "x.gif", [0, 0.1]), "need videos of 0.75 s, and the longest .* has 0.10 s"),
    ],
)
def test_a_folder_without_a_usable_video_is_one_sentence(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(VideoError, match=says):
        open_folder(tmp_path, ClipConfig(4, 4.0), 0.1)


def test_clips_lie_within_their_files_and_are_functions_of_their_numbers(tmp_path):
    found = open_folder(mixed_folder(tmp_path), ClipConfig(4, 4.0), 0.3)
    clips = VideoClips(found.files, ClipConfig(4, 4.0), (16, 24))
    stamps = {"a.mp4": EVEN, "c.webm": EVEN, "d.gif": UNEVEN, "e.mp4": UNEVEN}
    for index in range(len(clips)):
        number, start_s = clips.locate(index)
        file = found.files[number]
        assert 0 <= start_s <= file.length_s - 0.75 + 1e-9
        batch = clips.gather(np.array([index]))
        assert batch["pixels"].shape == (1, 4, 16, 24, 3) and batch["aspect"][0] == pytest.approx(file.aspect)
        shown = np.array(stamps[file.path.name])[numbers_shown(batch["pixels"][0])]
        wanted_s = start_s + np.arange(4) / 4
        best = np.abs(np.array(stamps[file.path.name])[:, None] - wanted_s).min(0)
        np.testing.assert_allclose(np.abs(shown - wanted_s), best, atol=2e-3)
    with pytest.raises(IndexError):
        clips.locate(len(clips))


def test_read_ahead_by_threads_video_batches_are_those_of_the_seed_and_step(tmp_path):
    found = open_folder(mixed_folder(tmp_path), ClipConfig(3, 5.0), 0.3)
    clips = VideoClips(found.train, ClipConfig(3, 5.0), (16, 16))
    ahead = list(Loader(clips, 3, seed=4, workers=3).iterate(2, 5))
    for step, batch in enumerate(ahead, 2):
        again = Loader(VideoClips(found.train, ClipConfig(3, 5.0), (16, 16)), 3, seed=4, workers=0).read_batch(step)
        assert all(torch.equal(batch[name], again[name]) for name in again)
        assert batch["draw"].tolist() == [3 * step, 3 * step + 1, 3 * step + 2]


def test_a_clip_that_breaks_later_is_replaced_by_the_same_other_one_and_told_once(tmp_path):
    found = open_folder(mixed_folder(tmp_path), ClipConfig(3, 5.0), 0.3)
    told = []
    clips = VideoClips(found.files, ClipConfig(3, 5.0), (16, 16), warn=told.append)
    bad = found.files[0].path
    bad.write_text("overwritten while training")
    first = clips.gather(np.array([0, 1]))
    again = clips.gather(np.array([0, 1]))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert (first["episode"] != 0).all() and len(told) == 1 and bad.name in told[0]
    for file in found.files:
        file.path.write_text("all of them")
    with pytest.raises(VideoError, match="in a row"):
        clips.gather(np.array([0]))


def test_a_codec_that_nobody_knows_is_named(tmp_path):
    path = made_video(tmp_path / "v.mp4", np.arange(6) / 30)
    content = path.read_bytes()
    assert content.count(b"avc1") >= 1
    path.write_bytes(content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(VideoError, match=r"v\.mp4 (has a codec that cannot be decoded|cannot be read as a video)"):
        inspect_video(path)
