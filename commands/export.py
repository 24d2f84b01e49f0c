"""`jepa export`: a trained model in a format that others read.

A format is an entry of FORMATS: which key gives what it takes, and what writes it. A format of something other than a
model (trajectories) is one more entry, with a source of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.console import Console
from commands.errors import UsageError, listed, nearest
from commands.models import Parts, model_parts
from world_model.export import export_huggingface, export_official
from world_model.predictor import MaskedPredictor


@dataclass(frozen=True)
class Format:
    """source: the key of SOURCES that says what is exported. write(what was read, path) returns how it is read back."""

    source: str
    write: Callable[[Any, Path], str]


def official(parts: Parts, path: Path) -> str:
    """V-JEPA 2's `.pt` file."""
    export_official(path, parts.encoder, parts.predictor, parts.student)
    return f"jepa posttrain encoder=pretrained path={path} reads it"


def huggingface(parts: Parts, path: Path) -> str:
    """A VJEPA2 directory. It has no place for an action-conditioned predictor."""
    masked = parts.predictor if isinstance(parts.predictor, MaskedPredictor) else None
    export_huggingface(path, parts.encoder, masked)
    return f"transformers.VJEPA2Model.from_pretrained('{path}') reads it, and so does encoder=pretrained path={path}"


SOURCES: dict[str, Callable[[Any], Any]] = {"model": model_parts}
FORMATS = {"official": Format("model", official), "huggingface": Format("model", huggingface)}


def chosen(config: dict[str, Any]) -> Format:
    """The format of `format=`; UsageError for one that is unknown, or whose source is not given."""
    name = str(config["format"])
    if name not in FORMATS:
        raise UsageError(f"format={name}: there is no such format{nearest(name, FORMATS)} (choices: {listed(FORMATS)})")
    source = FORMATS[name].source
    if config[source] is None:
        raise UsageError(f"format={name} exports a {source}: give {source}=...")
    return FORMATS[name]


def check(config: dict[str, Any]) -> None:
    """What can be known before anything is read."""
    chosen(config)
    if Path(str(config["to"])).exists():
        raise UsageError(f"to={config['to']} exists and is not overwritten: give another, or move it away")


def run(config: dict[str, Any], folder: None, console: Console) -> None:
    """Read the source, write the format."""
    made, to = chosen(config), Path(str(config["to"]))
    source = SOURCES[made.source](config[made.source])
    said = made.write(source, to)
    console.say(f"wrote {to} ({source.said}); {said}")
