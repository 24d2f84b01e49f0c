"""`jepa export`: a trained model, or trajectories, in a format that others read.

A format is an entry of FORMATS: which key gives what it takes (`model=` or `data=`), and what writes it. Folders with a
model card can also go to the Hugging Face hub (`to=hf://owner/name`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium

import envs
from commands.config.keys import Files
from commands.shared.console import Console
from commands.shared.errors import DISTRIBUTION, RunError, UsageError, describe_choices
from commands.shared.hub import SCHEME, HubName, parse_hub_name, upload_model
from commands.training.model_folders import ModelParts, load_parts
from commands.training.trajectory_files import open_reader
from commands.transfer.model_card import CARD, CardOptions, format_card
from commands.transfer.model_record import ModelRecord, find_results, read_record, write_model_folder
from data.formats.lerobot_writer import write_lerobot
from data.formats.minari import write_minari
from data.formats.ogbench import derive_val_path, write_ogbench
from data.formats.parquet import import_pyarrow
from data.formats.robomimic import write_robomimic
from data.store import Reader
from world_model.interop.export import export_huggingface, export_official
from world_model.masked_predictor import MaskedPredictor

Pictures = Literal["lossless", "lossy", "images"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of `jepa export`."""

    model: str | None = None
    """run folder of jepa pretrain or posttrain, weights made elsewhere (.pt file or directory), or owner/name on the
    Hugging Face hub"""
    data: Files | None = None
    """trajectories: run folder of jepa collect or import, its file, or several"""
    format: str
    """of a model: jepa (this project's folder), huggingface, official (V-JEPA 2's .pt). Of data: robomimic, ogbench,
    minari, lerobot"""
    to: str
    """file (official, robomimic, ogbench) or directory (the others) to write; or hf://owner/name (jepa, huggingface),
    which uploads a directory"""
    private: bool = True
    """whether a repository that to=hf:// makes is private"""
    license: str | None = None
    """licence of the weights in the model card (jepa, huggingface), as mit or cc-by-4.0; null: none is stated"""
    results: str | None = None
    """run folder of jepa plan whose success rates the model card shows; null: those beside the model, if any"""
    pictures: Pictures = "lossless"
    """of data in lerobot: lossless video, lossy video (a fraction of the size), or images (PNG)"""


@dataclass(frozen=True)
class ExportFormat:
    """source: key of SOURCES, what is exported. write(source, path, configuration, console) returns how to read the
    result back. check(configuration) refuses what cannot be written. beside: a further file that is written. read: what
    reads the source; None: as SOURCES. has_card: whether it is a directory with a model card."""

    source: str
    write: Callable[[Any, Path, Config, Console], str]
    check: Callable[[Config], None] = lambda config: None
    beside: Callable[[Path], Path] = lambda path: path
    read: Callable[[Any], Any] | None = None
    has_card: bool = False


@dataclass(frozen=True)
class ExportSource:
    """Episodes of trajectory files."""

    reader: Reader

    @property
    def summary(self) -> str:
        """Frames, episodes and task, in words."""
        episodes = self.reader.episodes()
        return f"{self.reader.lengths(episodes).sum()} frames in {len(episodes)} episodes of {self.reader.info.env_id}"

    @property
    def gym_id(self) -> str:
        """Gymnasium's id of the environment; the recorded name where it is not one of ours."""
        env_id = self.reader.info.env_id
        return envs.get_gym_id(env_id) if env_id in envs.TASKS else env_id


# --- models


def write_official(parts: ModelParts, path: Path, config: Config, console: Console) -> str:
    """V-JEPA 2's `.pt` file."""
    export_official(path, parts.encoder, parts.predictor, parts.online_encoder)
    return f"jepa posttrain encoder=pretrained path={path} reads it"


def write_huggingface(parts: ModelParts, path: Path, config: Config, console: Console) -> str:
    """A VJEPA2 directory. It has no place for an action-conditioned predictor."""
    masked = parts.predictor if isinstance(parts.predictor, MaskedPredictor) else None
    export_huggingface(path, parts.encoder, masked)
    write_card(read_record(str(config.model)), path, config, "transformers")
    return f"transformers.VJEPA2Model.from_pretrained('{path}') reads it, and so does encoder=pretrained path={path}"


def read_described_model(model: str) -> ModelRecord:
    """What is known of a model of this project, whose weights are read once, so that a damaged one is not published."""
    record = read_record(model)
    if record.folder is None:
        raise UsageError(f"model={model} was made elsewhere: format=jepa is for run folders; choose format=huggingface")
    load_parts(model)
    return record


def write_jepa(record: ModelRecord, path: Path, config: Config, console: Console) -> str:
    """A model folder of this project."""
    write_model_folder(record, path)
    write_card(record, path, config, "jepa-lab")
    if record.kind == "dynamics":
        return f"jepa.Agent.from_pretrained('{path}') loads it, and so does jepa plan model={path}"
    return f"jepa.load_encoder('{path}') loads it, and so does jepa posttrain encoder={path}"


def write_card(record: ModelRecord, path: Path, config: Config, library: str) -> None:
    """The model card of a folder, with the results of `results=` or beside the model."""
    target = find_repository(config)
    results = find_results(config.results, record)
    options = CardOptions(path.name if target is None else target.repo, library, config.license, results)
    (path / CARD).write_text(format_card(record, options), encoding="utf-8")


# --- trajectories


def open_trajectories(data: Any) -> ExportSource:
    """The episodes of our files; RunError where there is none."""
    reader = open_reader(data)
    if not reader.episodes().size:
        raise RunError(f"{data} holds no complete episode: the command that wrote it resumes it")
    return ExportSource(reader)


def export_episodes(
    write: Callable[[ExportSource, Path, Config, Callable[[], None]], str],
    source: ExportSource,
    path: Path,
    config: Config,
    console: Console,
) -> str:
    """Write episodes with a progress bar; print how to read them back, and what the format loses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with console.progress("export", len(source.reader.episodes()), "episodes") as progress:
        lost = write(source, path, config, progress.advance)
    back = f"jepa import format={config.format} path={path} reads it back"
    return f"{back}; lost: {lost}" if lost else f"{back}, every number as it was"


def write_robomimic_episodes(source: ExportSource, path: Path, config: Config, tick: Callable[[], None]) -> str:
    """One HDF5 file."""
    return write_robomimic(source.reader, path, source.gym_id, tick)


def write_ogbench_episodes(source: ExportSource, path: Path, config: Config, tick: Callable[[], None]) -> str:
    """NAME.npz, and NAME-val.npz beside it."""
    return write_ogbench(source.reader, path, tick)


def write_minari_episodes(source: ExportSource, path: Path, config: Config, tick: Callable[[], None]) -> str:
    """A data set's folder."""
    return write_minari(source.reader, path, describe_environments(source), tick)


def describe_environments(source: ExportSource) -> dict[str, Any]:
    """Minari's facts of the environment, by which `recover_environment` makes it; none for one that is not ours.

    The recorded episodes were not cut at the task's budget: `env_spec` has their length as its limit. `eval_env_spec`
    has the budget.
    """
    info, reader = source.reader.info, source.reader
    if info.env_id not in envs.TASKS:
        return {}
    registered = gymnasium.spec(source.gym_id)
    budgeted = replace(registered, kwargs={**registered.kwargs, **info.env_kwargs})
    recorded = replace(budgeted, max_episode_steps=int(reader.lengths(reader.episodes()).max()) - 1)
    return {
        "env_spec": recorded.to_json(),
        "eval_env_spec": budgeted.to_json(),
        "requirements": [DISTRIBUTION],
    }


def write_lerobot_episodes(source: ExportSource, path: Path, config: Config, tick: Callable[[], None]) -> str:
    """A data set's folder."""
    task = f"reach a goal image in {source.reader.info.env_id}"
    return write_lerobot(source.reader, path, config.pictures, task, tick)


def check_arrow(config: Config) -> None:
    """The package that writes tables is installed."""
    import_pyarrow()


def check_npz(config: Config) -> None:
    """The name, which the second file's follows from."""
    derive_val_path(Path(config.to))


SOURCES: dict[str, Callable[[Any], Any]] = {"model": load_parts, "data": open_trajectories}
FORMATS = {
    "jepa": ExportFormat("model", write_jepa, read=read_described_model, has_card=True),
    "huggingface": ExportFormat("model", write_huggingface, has_card=True),
    "official": ExportFormat("model", write_official),
    "robomimic": ExportFormat("data", partial(export_episodes, write_robomimic_episodes)),
    "ogbench": ExportFormat("data", partial(export_episodes, write_ogbench_episodes), check_npz, derive_val_path),
    "minari": ExportFormat("data", partial(export_episodes, write_minari_episodes)),
    "lerobot": ExportFormat("data", partial(export_episodes, write_lerobot_episodes), check_arrow),
}


def find_format(config: Config) -> ExportFormat:
    """The format of `format=`; UsageError for one that is unknown, or whose source is not given."""
    name = config.format
    if name not in FORMATS:
        raise UsageError(f"format={name}: there is no such format{describe_choices(name, FORMATS)}")
    source = FORMATS[name].source
    for other in SOURCES.keys() - {source}:
        if getattr(config, other) is not None:
            raise UsageError(
                f"{other}={getattr(config, other)}: format={name} exports {source}= alone; leave {other}= out, or "
                f"choose a format of {'trajectories' if other == 'data' else 'models'}"
            )
    if getattr(config, source) is None:
        raise UsageError(f"format={name} exports {'a model' if source == 'model' else source}: give {source}=...")
    return FORMATS[name]


def find_repository(config: Config) -> HubName | None:
    """The repository of `to=hf://owner/name`; None for a path."""
    return parse_hub_name(config.to) if config.to.startswith(SCHEME) else None


def find_place(config: Config) -> Path:
    """The file or folder that is written here, which is uploaded and then removed with `to=hf://`."""
    target = find_repository(config)
    return Path(config.to) if target is None else Path(target.repo.replace("/", "--"))


def check_card(config: Config, form: ExportFormat) -> None:
    """Raise UsageError for keys of the model card and the hub that a format does not have, or that cannot be."""
    keys = ("license", "results")
    given = [f"{key}={getattr(config, key)}" for key in keys if getattr(config, key) is not None]
    target = find_repository(config)
    given += [f"to={config.to}"] if target is not None else []
    if given and not form.has_card:
        cards = " or ".join(f"format={name}" for name, other in FORMATS.items() if other.has_card)
        raise UsageError(f"{given[0]} is for a directory with a model card: choose {cards}, not format={config.format}")
    if target is not None and target.revision is not None:
        raise UsageError(f"to={config.to}: an upload becomes the newest revision; give to={SCHEME}{target.repo}")
    if config.results is not None and not Path(config.results).exists():
        raise UsageError(f"results={config.results}: there is no such folder; give runs/plan/NAME")


def check(config: Config) -> None:
    """What can be known before anything is read."""
    form, to = find_format(config), find_place(config)
    form.check(config)
    check_card(config, form)
    for path in (to, form.beside(to)):
        if path.exists():
            written = f"to={path}" if find_repository(config) is None else f"the folder {path}, which is uploaded,"
            raise UsageError(f"{written} exists and is not overwritten: give another, or move it away")


def run(config: Config, folder: None, console: Console) -> None:
    """Read the source, write the format, and upload it where `to=hf://` says so."""
    form, to = find_format(config), find_place(config)
    source = (form.read or SOURCES[form.source])(getattr(config, form.source))
    with remove_on_failure(to, form.beside(to)):
        note = form.write(source, to, config, console)
    target = find_repository(config)
    if target is None:
        console.say(f"wrote {to} ({source.summary}); {note}")
        return
    page = upload_model(to, target.repo, config.private)
    shutil.rmtree(to)
    console.say(f"uploaded {page} ({source.summary}); {note.replace(str(to), target.repo)}")


@contextmanager
def remove_on_failure(*paths: Path) -> Iterator[None]:
    """Remove files that were begun where writing them fails."""
    try:
        yield
    except BaseException:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        raise
