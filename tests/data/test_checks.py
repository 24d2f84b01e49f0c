"""Checks of what a file says: paths stay inside, pipes are no files, templates have names, fields have types."""

from __future__ import annotations

import os
from typing import Annotated

import pydantic
import pytest

from data import checks
from data.checks import (
    FileError,
    check_memory,
    check_regular,
    fill_template,
    parse_fields,
    parse_json,
    read_json,
    resolve_inside,
)

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


@pytest.fixture
def root(tmp_path):
    """A folder with a file, beside a file that it must not reach."""
    (tmp_path / "outside.txt").write_text("secret")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "inside.txt").write_text("data")
    return folder


def test_a_path_in_the_folder_is_found_and_so_is_a_link_within_it(root):
    (root / "link.txt").symlink_to("inside.txt")
    for name in ("inside.txt", "./inside.txt", "link.txt", "not/there.txt"):
        assert resolve_inside(root, name, "info.json") == root / name


@pytest.mark.parametrize("name", ["../outside.txt", "sub/../../outside.txt", "sub/../inside.txt", "/etc/passwd"])
def test_a_path_that_is_absolute_or_climbs_is_refused_with_the_file_that_names_it(root, name):
    with pytest.raises(FileError, match="info.json names .* leads out of"):
        resolve_inside(root, name, "info.json")


def test_links_that_lead_out_are_refused_and_so_are_circles_and_names_that_are_no_path(root):
    (root / "link.txt").symlink_to("../outside.txt")
    (root / "folder").symlink_to("..")
    (root / "circle").symlink_to("circle")
    for name in ("link.txt", "folder/outside.txt"):
        with pytest.raises(FileError, match="leads out of"):
            resolve_inside(root, name, "info.json")
    for name in ("circle/x", "a\0b", "x" * 300):
        with pytest.raises((FileError, OSError)):
            resolve_inside(root, name, "info.json").stat()


def test_the_cache_of_hugging_face_links_from_a_snapshot_to_its_blobs(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/123", tmp_path / "models--a--b/blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "abc").write_text("weights")
    (blobs / "bad").symlink_to("/etc/passwd")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "sub").mkdir()
    (snapshot / "sub/table.parquet").symlink_to("../../../blobs/abc")
    assert resolve_inside(snapshot / "sub", "table.parquet", "info.json").read_text() == "weights"
    (snapshot / "other.safetensors").symlink_to("../../blobs/bad")
    assert resolve_inside(snapshot, "model.safetensors", "index").read_text() == "weights"
    with pytest.raises(FileError, match="leads out of"):
        resolve_inside(snapshot, "other.safetensors", "index")


def test_blobs_that_all_models_of_the_cache_share_are_read_and_no_other_blobs(tmp_path):
    for repo in ("models--a--b", "mine"):
        snapshot, blobs, shared = tmp_path / repo / "snapshots/123", tmp_path / repo / "blobs", tmp_path / "blobs/ab"
        for folder in (snapshot, blobs, shared):
            folder.mkdir(parents=True, exist_ok=True)
        (shared / "abcd").write_text("weights")
        (blobs / "etag").symlink_to("../../blobs/ab/abcd")
        (snapshot / "model.safetensors").symlink_to("../../blobs/etag")
    known = tmp_path / "models--a--b/snapshots/123"
    assert resolve_inside(known, "model.safetensors", "index").read_text() == "weights"
    with pytest.raises(FileError, match="leads out of"):
        resolve_inside(tmp_path / "mine/snapshots/123", "model.safetensors", "index")


def test_a_pipe_is_refused_before_it_is_opened(root):
    os.mkfifo(root / "pipe")
    for check in (check_regular, read_json, lambda path: resolve_inside(root, path.name, "info.json")):
        with pytest.raises(FileError, match="pipe is a pipe, a socket or a device"):
            check(root / "pipe")
    with pytest.raises(FileError, match="/dev/zero is a pipe"):
        check_regular(checks.Path("/dev/zero"))


def test_a_template_is_filled_by_name_as_str_format_would():
    values = {"chunk_index": 7, "file_index": 1234, "video_key": "observation.images.front"}
    for template in (DATA_PATH, "videos/{video_key}/file-{file_index}.mp4", "{chunk_index:5d}-{file_index:05}"):
        assert fill_template(template, values, "info.json") == template.format(**values).replace(" ", "0")


@pytest.mark.parametrize(
    "template",
    [
        "{chunk_index.__class__}",
        "{chunk_index[0]}",
        "{chunk_index!r}",
        "{chunk_index:9999999999d}",
        "{chunk_index:>03d}",
        "{}",
        "{0}",
        "{{chunk_index}}",
        "{chunk_index",
        "{episode_index:06d}",
        "{video_key:03d}",
    ],
)
def test_a_template_with_anything_else_is_refused(template):
    with pytest.raises(FileError, match="info.json has the path template"):
        fill_template(template, {"chunk_index": 0, "video_key": "front"}, "info.json")


def test_what_does_not_fit_into_memory_is_refused_with_both_sizes(monkeypatch):
    assert checks.measure_memory() > 2**20
    monkeypatch.setattr(checks, "measure_memory", lambda: 10 * 2**30)
    check_memory("set.npz: pixels", 7 * 2**30, "take a part")
    with pytest.raises(
        FileError, match="set.npz: pixels needs 9.0 GiB of memory and 10.0 GiB are free .*: take a part"
    ):
        check_memory("set.npz: pixels", 9 * 2**30, "take a part")


class Facts(pydantic.BaseModel):
    """A schema as the formats have them."""

    fps: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    shape: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "info.json has no fps"),
        ({"fps": None}, "info.json has fps=None: it must be a valid number"),
        ({"fps": float("nan")}, "info.json has fps=nan: it must be a"),
        ({"fps": -1}, "info.json has fps=-1: it must be greater than 0"),
        ({"fps": 1, "shape": [2, "x"]}, "info.json has shape.1=x: it must be a valid integer"),
        ([1], "info.json is \\[1\\]: it must be a"),
        ({"fps": "long " * 100}, "long long.*\\.\\.\\.: it must be"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_value(values, says):
    with pytest.raises(FileError, match=says) as caught:
        parse_fields(Facts, values, "info.json")
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_what_is_no_json_object_is_refused(tmp_path):
    for text in ("", "{", "[1]", "null", "3", '"{}"', "[" * 100_000, "{\udcff}".encode("utf-8", "surrogatepass")):
        with pytest.raises(FileError, match="meta is "):
            parse_json(text, "meta")
    (tmp_path / "big.json").touch()
    os.truncate(tmp_path / "big.json", checks.LARGEST_JSON + 1)
    with pytest.raises(FileError, match="has 256 MiB"):
        read_json(tmp_path / "big.json")
