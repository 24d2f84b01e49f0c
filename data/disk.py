"""Asking the disk first, files that exist whole or not at all, and the files that a path or a glob names."""

from __future__ import annotations

import glob
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.schema import StoreError

PathLike = str | os.PathLike[str]
SPARE_BYTES = 64 * 2**20  # left free for everything else that writes to the same disk


def check_free_space(path: Path, num_bytes: int) -> None:
    """StoreError if the disk that will hold `path` has not `num_bytes` free."""
    free = shutil.disk_usage(_find_existing_parent(path)).free
    if num_bytes + SPARE_BYTES > free:
        raise StoreError(
            f"{path} needs {num_bytes / 2**20:.0f} MiB and its disk has {free / 2**20:.0f} MiB free "
            f"({SPARE_BYTES // 2**20} MiB are left spare): free some, choose another disk, or ask for less"
        )


def reserve_blocks(path: Path, num_bytes: int) -> None:
    """Reserves a file's blocks, so that a disk that fills up later cannot kill a process that writes through
    a map.

    Raises OSError when the disk is full now. Without posix_fallocate (macOS) the question asked before must
    do.
    """
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
        os.fsync(file.fileno())


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name to write to; the file moves to `path` if the block ends well and is removed if it does not.

    What killed processes of this machine left under such names is removed first. OSErrors of the block (a
    full disk, no permission) become a StoreError that names `path`.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Removes temporary files of processes of this machine that are gone."""
    start, end = f".{path.name}.{platform.node()}-", ".partial"
    for entry in path.parent.iterdir():
        owner = entry.name.removeprefix(start).removesuffix(end)
        if entry.name == f"{start}{owner}{end}" and owner.isdigit() and not _is_alive(int(owner)):
            entry.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _find_existing_parent(path: Path) -> Path:
    """The nearest folder above `path` that is there already."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def expand_paths(paths: PathLike | Sequence[PathLike]) -> tuple[Path, ...]:
    """Files that a path, a glob or a list of both names; StoreError for none and for one named twice."""
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: list[Path] = []
    for entry in (os.fspath(path) for path in given):
        matches = sorted(glob.glob(entry)) if glob.has_magic(entry) and not os.path.exists(entry) else [entry]
        if not matches:
            raise StoreError(f"no file matches {entry}")
        found += [Path(match) for match in matches]
    if not found:
        raise StoreError("no data file was given")
    real = [path.resolve() for path in found]
    for path in found:
        if real.count(path.resolve()) > 1:
            raise StoreError(f"{path} is named twice")
    return tuple(found)
