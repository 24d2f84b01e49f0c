"""What is known of a trained model, from its model folder and the run folders that made it, fit to be published.

Paths of the machine and the name of its user are left out: a path keeps what follows `runs`, or else its last part.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands.shared.errors import UsageError, UserError
from commands.shared.hub import resolve_model
from commands.shared.runs import FINISHED, flatten, read_json, write_json
from commands.training.model_folders import MODEL, find_model_folder
from commands.training.trajectory_files import open_reader
from world_model.interop.huggingface import holds_weights

# Words of a command line that say where it ran, not what.
PLACES = ("runs", "device", "workers", "env_workers", "logger")
# Keys of a run whose values are run folders, in the order in which these are made.
PARENTS = ("data", "start", "encoder")
# A path within a text, which is neither the middle of a name nor the address of a page.
PATH = re.compile(r"(?<![\w.:/~])(?:file:/+|/|~|\.\./)[^\s,;'\"\[\]{}()]+")
RESULTS = "results.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelRecord:
    """Facts about a model. folder: its model folder; None for weights made elsewhere, of which nothing is known.
    kind: encoder or dynamics. config: of its model.json. commands: that made it, in order. settings: of its training.
    episodes: of its data, in words; "" where the file is gone. commit: of the code that trained it."""

    folder: Path | None = None
    kind: str = "encoder"
    config: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    episodes: str = ""
    commit: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The record of its training."""
        return self.config.get("about", {})

    @property
    def summary(self) -> str:
        """What it is, in words."""
        return "latent dynamics with their encoder" if self.kind == "dynamics" else "an encoder"


# --- names of this machine


def scrub_paths(value: Any) -> Any:
    """A nested value of JSON without paths of this machine and the name of its user."""
    if isinstance(value, Mapping):
        return {key: scrub_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_paths(item) for item in value]
    return scrub_text(value) if isinstance(value, str) else value


def scrub_text(text: str) -> str:
    """A text with every path of this machine cut down to its end."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(rf"(?<![\w.]){re.escape(home)}/", "~/", text)
    if re.match(r"/|~|\.\./|file:", text) or _get_user() in Path(text).parts[:-1]:
        return _cut_path(text)
    return PATH.sub(lambda found: _cut_path(found[0]), text)


def _cut_path(path: str) -> str:
    """What follows the last `runs` of a path, with it; else the last part."""
    parts = Path(path).parts
    if "runs" in parts[:-1]:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("runs") :])
    return Path(path).name


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return ""


# --- run folders


def read_record(model: str | Path) -> ModelRecord:
    """The record of a run folder or model folder, or of weights made elsewhere."""
    path = resolve_model(model)
    if path.is_file() or holds_weights(path) and not (path / "model.json").exists():
        return ModelRecord()
    folder = find_model_folder(model)
    described = read_json(folder / "model.json")
    config = scrub_paths(described["config"])
    run = next((place for place in _list_places(folder) if (place / "run.json").exists()), None)
    if run is None:
        return ModelRecord(folder, described["kind"], config)
    trained = read_json(run / "config.json")
    starts = read_json(run / "run.json").get("starts") or [{}]
    return ModelRecord(
        folder,
        described["kind"],
        config,
        tuple(dict.fromkeys(list_commands(run))),
        select_settings(trained),
        describe_episodes(_find_data(run, trained), config.get("about", {}).get("data")),
        starts[-1].get("commit"),
    )


def _list_places(folder: Path) -> list[Path]:
    """Folders that may hold what goes with a model folder: the stage's own, and that of a pipeline of several."""
    stage = folder.resolve().parent if folder.name == MODEL else folder.resolve()
    return [stage, stage.parent]


def list_commands(run: Path) -> Iterator[str]:
    """The command lines that lead to a run folder, those of the runs it was made from first."""
    trained, finished = read_json(run / "config.json"), run / FINISHED
    for value in (trained.get(key) for key in PARENTS):
        if isinstance(value, str) and (Path(value) / "run.json").exists():
            yield from list_commands(Path(value))
    if finished.exists():
        command = read_json(run / "run.json").get("command")
        words = [str(word) for word in read_json(finished).get("overrides", [])]
        kept = [_scrub_word(word) for word in words if word.partition("=")[0] not in PLACES]
        yield shlex.join(["jepa", str(command), *kept])


def _scrub_word(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{key}{equals}{scrub_text(value)}"


def select_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Seed and optimisation, of a stage or of a pipeline, with dotted keys."""
    names = ("trainer", "pretrain", "posttrain")
    wanted = ("steps", "batch_size", "lr", "weight_decay", "precision")
    values = flatten({name: config[name] for name in names if isinstance(config.get(name), dict)})
    kept = {key: value for key, value in values.items() if key.partition(".")[2] in wanted}
    return {"seed": config.get("seed"), **kept}


def _find_data(run: Path, config: dict[str, Any]) -> Any:
    """The trajectory files of a run: those of its key data, or those that a pipeline collected itself."""
    data = config.get("data")
    return str(run / "collect") if isinstance(data, dict) else data


def describe_episodes(data: Any, checksum: Any) -> str:
    """Frames and episodes of a trajectory file; "" where it is gone or another one now."""
    if not isinstance(data, str | list):
        return ""
    try:
        reader = open_reader(data)
    except (OSError, ValueError, UserError):
        return ""
    episodes = reader.episodes()
    if reader.file_checksum != checksum:
        return ""
    return f"{reader.lengths(episodes).sum()} frames in {len(episodes)} episodes"


# --- results


def find_results(given: str | None, record: ModelRecord) -> dict[str, Any] | None:
    """The results of `jepa plan` with a model: those given, else those beside it, else None.

    given: a run folder of jepa plan, or its results.json. UsageError where it holds none, or another model's.
    """
    if given is not None:
        path = Path(given) / RESULTS if Path(given).is_dir() else Path(given)
        results = read_json(path) if path.is_file() else None
        if not _are_results(results):
            raise UsageError(f"results={given} holds no results of jepa plan: give runs/plan/NAME")
        if other := _find_difference(results, record):
            raise UsageError(f"results={given} are of another model, of another {other}: plan with this one")
        return results
    for place in _list_places(record.folder) if record.folder else []:
        for path in (place / RESULTS, place / "plan" / RESULTS):
            results = read_json(path) if path.is_file() else None
            if _are_results(results) and _find_difference(results, record) is None:
                return results
    return None


def _are_results(results: Any) -> bool:
    return isinstance(results, dict) and {"success_rate", "methods", "protocol", "thresholds"} <= results.keys()


def _find_difference(results: Any, record: ModelRecord) -> str | None:
    """The first fact of its training that the model of results has otherwise than a record. An encoder lacks what was
    trained on it."""
    theirs = scrub_paths(results.get("model", {}))
    return next((key for key, value in theirs.items() if key != "folder" and record.about.get(key) != value), None)


# --- the folder


def write_model_folder(record: ModelRecord, path: Path) -> None:
    """Copy the model folder of a record, without names of this machine."""
    assert record.folder is not None, "weights made elsewhere have no model folder"
    path.mkdir(parents=True)
    described = read_json(record.folder / "model.json")
    write_json(path / "model.json", {**described, "config": record.config})
    shutil.copyfile(record.folder / WEIGHTS, path / WEIGHTS)
