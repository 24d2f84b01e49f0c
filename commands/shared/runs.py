"""Run folders: runs/COMMAND/NAME, found again by the same command, and files that are whole or absent.

NAME is `name=` or is made from the choices that differ from the defaults and a hash of the resolved
configuration, never a time stamp. A folder holds

    config.json    the resolved configuration
    run.json       command, seed, and per start: commit, versions, command line (appended when they change)
    finished.json  written last: a summary, and how far the run went
    .lock          held while a process works here

A run that fails before it writes anything else leaves no folder, so the mended command may use its name.

Keys that only say how far to go (`grows`, as trainer.steps) or how to get there (`free`, as workers) belong
to no identity: asking for more steps finds the same folder and goes on.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from commands.shared.errors import RunError, join_names

VERSIONS = (
    "jepa-lab",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "mujoco",
    "dm-control",
    "gymnasium",
    "h5py",
    "av",
    "hydra-core",
)
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+=,-]*$")
PLACE = ("name", "runs")  # keys of every command that set where a run is kept
FLAT_LIST = re.compile(r"\[\n([-+.\w\s,]*)\]")  # in indented JSON: of numbers, true, false and null
FINISHED = "finished.json"
OWN = ("config.json", "run.json", ".lock")  # files of every run, written when it begins


def to_json_value(value: Any) -> Any:
    """Return `value` as JSON can hold it: tensors and arrays as lists, paths as text, NaN and infinity as
    null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return to_json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


# world_model.training.checkpoint and data.disk have their own: they may not import commands.
@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """A temporary neighbour with the same suffix to write to; synced and renamed over `path` if the block ends well."""
    from data.disk import remove_stale  # late: a finished run is found before anything is imported

    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    remove_stale(path.parent, ".", f".{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write a whole file or none (see `replace_atomically`)."""
    with replace_atomically(Path(path)) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path | str, value: Any, columns: bool = False) -> None:
    """Write `value` as indented JSON, whole or not at all. columns: a list of numbers stands on one line."""
    text = json.dumps(to_json_value(value), indent=2)
    if columns:
        text = FLAT_LIST.sub(lambda found: "[" + "".join(found[1].split()) + "]", text)
    write_atomic(path, text + "\n")


def read_json(path: Path | str) -> Any:
    """Return the value in a JSON file; RunError names a file that holds none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): move it away and run again") from error


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": value} for the leaves of a nested dict; an empty dict is a leaf."""
    if not isinstance(config, dict) or not config:
        return {prefix: config} if prefix else {}
    out: dict[str, Any] = {}
    for key, value in config.items():
        out.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return out


def get_identity(config: Mapping[str, Any], apart: Sequence[str] = ()) -> dict[str, Any]:
    """Return the flat configuration without the keys (or whole branches) in `apart`."""
    outside = (*PLACE, *apart)
    return {
        key: value
        for key, value in flatten(to_json_value(config)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in outside)
    }


class RunFolder:
    """One folder of one run. `with folder:` makes it, locks it and writes what belongs in it; the rest only
    reads.

    command, name: it is runs/command/name. config: resolved, nested plain values. grows: keys that set how far it goes;
    free: keys that change no result. complete: adds the defaults of keys that a stored configuration lacks. overrides:
    what the configuration was composed from, which `find_finished` compares.

    Attributes: path, config, seed; writes: False in a process that works beside the one that holds the
    lock and writes; inside `with`, resumed: whether an earlier start left files.
    """

    def __init__(
        self,
        command: str,
        name: str,
        config: dict[str, Any],
        grows: Sequence[str] = (),
        free: Sequence[str] = (),
        complete: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        overrides: Sequence[str] = (),
    ) -> None:
        self.command, self.config, self.complete, self.overrides = command, config, complete, overrides
        self.seed = config.get("seed")
        self.grows = tuple(grows)
        self.apart = (*grows, *free)
        self.path = Path(str(config.get("runs", "runs"))).expanduser() / command / name
        self.resumed, self.writes = False, True
        self._lock: int | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def check(self) -> None:
        """Raise RunError if another configuration lives here; it names the keys that differ."""
        stored = self.path / "config.json"
        if stored.exists() and not self._has_work():
            return
        if not stored.exists():
            strange = [item.name for item in self.path.glob("[!.]*")] if self.path.is_dir() else []
            if strange:
                raise RunError(
                    f"{self.path} holds files and no run ({join_names(sorted(strange), 3)}): give another name="
                )
            return
        there = get_identity(self.complete(read_json(stored)), self.apart)
        here = get_identity(self.config, self.apart)
        unknown = sorted({key.partition(".")[0] for key in there} - {key.partition(".")[0] for key in here})
        if unknown:
            raise RunError(
                f"{self.path} was written by another version of jepa, with keys that are unknown now "
                f"({join_names(unknown, 4)}): give another name=, or move that folder away"
            )
        differ = [key for key in sorted({*there, *here}) if there.get(key, "-") != here.get(key, "-")]
        if differ:
            pairs = [f"{key} is {there.get(key, '-')} there and {here.get(key, '-')} here" for key in differ]
            raise RunError(
                f"{self.path} holds a run of another configuration ({join_names(pairs, 4)}): "
                "give another name=, or move that folder away"
            )

    def describe_finished(self) -> str | None:
        """Return a line about a run that went at least as far as this configuration asks, else None."""
        path = self.path / FINISHED
        if not path.exists():
            return None
        record = read_json(path)
        went, asked = record.get("extent", {}), self._extent()
        if not all(_reaches(went.get(key), asked[key]) for key in asked):
            return None
        return _format_finished(self.path, record)

    def finish(self, summary: str = "") -> None:
        """Mark the run as finished as far as the configuration asks; the last thing a command does."""
        if self.writes:
            record = {"summary": summary, "extent": self._extent(), "overrides": self.overrides, "commit": get_commit()}
            write_json(self.path / FINISHED, record)

    def __enter__(self) -> RunFolder:
        if not self.writes:
            return self
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        try:
            self.check()
            self.resumed = (self.path / "config.json").exists()
            write_json(self.path / "config.json", self.config)
            self._record_start()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None and self.writes and not self._has_work():
            shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _has_work(self) -> bool:
        """Whether the folder holds a file, not empty, that is not written for every run."""
        own = [self.path / name for name in OWN]
        return any(path.is_file() and path.stat().st_size for path in self.path.rglob("*") if path not in own)

    def _extent(self) -> dict[str, Any]:
        """Values of the keys that set how far the run goes, those inside a mapping included."""
        stems = tuple(f"{key}." for key in self.grows)
        values = flatten(to_json_value(self.config))
        return {key: value for key, value in values.items() if key in self.grows or key.startswith(stems)}

    def _acquire(self) -> None:
        path = self.path / ".lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text().strip() or "unknown"
            self._release()
            raise RunError(f"{self.path} is in use by process {owner}: wait for it, or give another name=") from None
        except OSError:
            return  # a file system without locks (some network mounts): go on without one
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _record_start(self) -> None:
        path = self.path / "run.json"
        record = read_json(path) if path.exists() else {"command": self.command, "seed": self.seed, "starts": []}
        start = {"commit": get_commit(), "versions": list_versions(), "argv": sys.argv[1:]}
        if start not in record["starts"]:
            record["starts"].append(start)
            write_json(path, record)


def find_finished(command: str, overrides: Sequence[str]) -> str | None:
    """Return a line about a run that the same overrides have finished with the same commit, else None.

    It reads JSON alone, so that a finished run exits before anything is imported. None does not mean unfinished: other
    overrides may lead to the same configuration, and edited or installed code has no commit.
    """
    runs = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("runs=")), "runs")
    for path in Path(runs).expanduser().joinpath(command).glob(f"*/{FINISHED}"):
        record = read_json(path)
        code = record.get("commit")
        if record.get("overrides") == list(overrides) and code and "+" not in code and code == get_commit():
            return _format_finished(path.parent, record)
    return None


def _format_finished(path: Path, record: Mapping[str, Any]) -> str:
    summary = record.get("summary")
    return f"{path} is finished{': ' if summary else ''}{summary or ''}"


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose change may change a result."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def get_commit() -> str | None:
    """Return the commit of the source tree this package lies in, with "+changes" if edited; None outside
    git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return (head + ("+changes" if git("status", "--porcelain") else "")) if head else None
    except (OSError, subprocess.TimeoutExpired):
        return None


def _reaches(went: Any, asked: Any) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (went, asked))
    return went >= asked if numbers else went == asked
