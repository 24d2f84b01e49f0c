"""Free space is checked before a file is written; a file exists whole or not at all; globs name files."""

from __future__ import annotations

import glob
import os
import platform
import resource
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.schema import StoreError

PathLike = str | os.PathLike[str]
SPARE_BYTES = 64 * 2**20  # left free for other programs that write to the same disk


def check_free_space(path: Path, num_bytes: int) -> None:
    """StoreError if the disk that will hold `path` has fewer than `num_bytes` free, or no file may be as large."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and num_bytes > limit:
        raise StoreError(
            f"{path} needs {num_bytes / 2**20:.0f} MiB and a file may have {limit / 2**20:.1f} MiB here: raise the "
            "limit (ulimit -f), or ask for less"
        )
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes + SPARE_BYTES > free:
        raise StoreError(
            f"{path} needs {num_bytes / 2**20:.0f} MiB and its disk has {free / 2**20:.0f} MiB free "
            f"({SPARE_BYTES // 2**20} MiB are left spare): free some, choose another disk, or ask for less"
        )


def reserve_blocks(path: Path) -> None:
    """Reserves all blocks of a file; OSError if the disk is full.

    A disk that fills up later would kill a process that writes through a memory map. macOS has no posix_fallocate.
    """
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        os.fsync(file.fileno())


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name to write to; the file moves to `path` if the block succeeds and is removed if it fails.

    Temporary files of killed processes of this machine are removed first. An OSError of the block (a full disk, no
    permission) becomes a StoreError that names `path`.
    """
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, f".{path.name}.{platform.node()}-", ".partial")
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, start: str, end: str) -> None:
    """Removes the files of a folder named START, the number of a process, END whose process was killed."""
    for entry in folder.iterdir():
        owner = entry.name.removeprefix(start).removesuffix(end)
        if entry.name == f"{start}{owner}{end}" and owner.isdigit() and not _is_alive(int(owner)):
            entry.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's process
    return True


def expand_paths(paths: PathLike | Sequence[PathLike]) -> tuple[Path, ...]:
    """Files that a path, a glob or a list of both names; StoreError for none and for one named twice."""
    files: list[Path] = []
    for path_or_glob in [paths] if isinstance(paths, str | os.PathLike) else paths:
        entry = os.fspath(path_or_glob)
        matches = sorted(glob.glob(entry)) if glob.has_magic(entry) and not os.path.exists(entry) else [entry]
        if not matches:
            raise StoreError(f"no file matches {entry}")
        files += map(Path, matches)
    if not files:
        raise StoreError("no data file was given")
    resolved = [path.resolve() for path in files]
    for path in files:
        if resolved.count(path.resolve()) > 1:
            raise StoreError(f"{path} is named twice")
    return tuple(files)
