"""The model card of the Hugging Face hub: README.md with facts for its search in front, and the same in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import yaml

from commands.shared.hub import SCHEME
from commands.shared.runs import flatten
from commands.training.model_folders import read_preprocessing
from commands.transfer.model_record import ModelRecord

CARD = "README.md"
METHODS = ("model", "random", "zero action", "oracle")  # rows of the table of results
SIZES = ("image_px", "patch_px", "width", "depth", "heads")


@dataclass(frozen=True)
class CardOptions:
    """name: what the reader loads: owner/name, or a folder. library: jepa-lab, or transformers for a directory in its
    format. license: of the weights, as the hub spells it. results: of `jepa plan`."""

    name: str
    library: str
    license: str | None = None
    results: dict[str, Any] | None = None


def format_card(record: ModelRecord, options: CardOptions) -> str:
    """The whole card."""
    sections = [
        f"# {options.name}",
        describe_model(record, options.library),
        "## How to load it",
        format_loading(record, options),
        "## Training data",
        describe_data(record),
        "## Recipe",
        describe_recipe(record),
        *(["## Results", format_results(options.results)] if options.results else []),
        "## Preprocessing",
        describe_preprocessing(record),
        "## Licence",
        f"The weights have the licence `{options.license}`." if options.license else "No licence is stated.",
    ]
    front = yaml.safe_dump(collect_metadata(record, options), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def collect_metadata(record: ModelRecord, options: CardOptions) -> dict[str, Any]:
    """The facts that the hub reads."""
    is_dynamics = record.kind == "dynamics" and options.library != "transformers"
    env, base = record.about.get("env"), str(record.about.get("pretrained", "")).removeprefix(SCHEME)
    tags = ["world-model", "jepa", *(["planning"] if is_dynamics else ["video"]), *([str(env)] if env else [])]
    metadata: dict[str, Any] = {"library_name": options.library}
    if options.license:
        metadata["license"] = options.license
    metadata["pipeline_tag"] = "reinforcement-learning" if is_dynamics else "image-feature-extraction"
    metadata["tags"] = tags
    if base.count("/") == 1 and not base.endswith((".pt", ".pth")):
        metadata["base_model"] = base.partition("@")[0]
    if options.results:
        metadata["model-index"] = [{"name": options.name, "results": [collect_result(options.results)]}]
    return metadata


def collect_result(results: dict[str, Any]) -> dict[str, Any]:
    """Success rates at every threshold in the form of the hub's model-index."""
    judge, model = results["protocol"]["judge"], results["methods"]["model"]
    metrics = []
    for threshold, rate in model[judge].items():
        low, high = model[f"{judge}_ci95"][threshold]
        name = f"success rate within {threshold} {results['unit']} (95 % interval {low:.3f} to {high:.3f})"
        metrics.append({"type": "success_rate", "value": rate, "name": name})
    return {
        "task": {"type": "reinforcement-learning", "name": "reaching goal images"},
        "dataset": {"name": results["task"], "type": results["task"]},
        "metrics": metrics,
    }


def describe_model(record: ModelRecord, library: str) -> str:
    """What it is, and its sizes."""
    if record.folder is None:
        return "A video encoder of the V-JEPA 2 family, converted into Hugging Face's format."
    if library == "transformers":
        text = "A video encoder in Hugging Face's VJEPA2 format."
    elif record.kind == "dynamics":
        text = (
            "A latent world model: a frozen encoder of camera frames, and dynamics that predict its features from "
            "actions. A planner reaches goals given as images with it."
        )
    else:
        text = "A video encoder, whose features a latent world model can be trained on."
    sizes = {f"encoder.{key}": record.config["encoder"].get(key) for key in ("timm", *SIZES)}
    if record.kind == "dynamics" and library != "transformers":
        dynamics, actions = record.config["dynamics"], record.config["actions"]
        sizes |= {f"dynamics.{key}": dynamics.get(key) for key in ("space", "history", "horizon")}
        sizes |= {f"dynamics.predictor.{key}": dynamics["predictor"].get(key) for key in ("width", "depth", "heads")}
        sizes |= {"numbers per action": len(actions["low"]), "environment steps per action": actions["frame_skip"]}
    return f"{text}\n\n{_format_rows(('size', 'value'), [(key, value) for key, value in sizes.items() if value])}"


def format_loading(record: ModelRecord, options: CardOptions) -> str:
    """The lines of Python that load it."""
    if options.library == "transformers":
        lines = [
            "from transformers import AutoVideoProcessor, VJEPA2Model",
            "",
            f'processor = AutoVideoProcessor.from_pretrained("{options.name}")',
            f'model = VJEPA2Model.from_pretrained("{options.name}")',
        ]
    elif record.kind == "dynamics":
        lines = [
            "from jepa import Agent",
            "",
            f'agent = Agent.from_pretrained("{options.name}")',
            "action = agent.act(frame, goal_image)  # both uint8 [height, width, 3], of any size",
        ]
    else:
        kind = "pooled" if record.config["encoder"].get("pool") else "tokens"
        lines = [
            "from jepa import extract_features, load_encoder",
            "",
            f'encoder, about = load_encoder("{options.name}")',
            f'features = extract_features(encoder, frames, "{kind}")  # uint8 [T, height, width, 3], preprocessed',
        ]
    package = "the package `transformers`" if options.library == "transformers" else "the package `jepa-lab`"
    code = "\n".join(lines)
    return f"With {package} installed:\n\n```python\n{code}\n```"


def describe_data(record: ModelRecord) -> str:
    """Environment, episodes, what varied, and the checksum."""
    about = record.about
    if not about:
        return "Not known: the weights were made elsewhere."
    rows = [
        ("environment", about.get("env") or "none: plain video"),
        ("episodes", record.episodes),
        *(
            (f"environment.{key}", value)
            for key, value in flatten(about.get("env_kwargs") or {}).items()
            if not key.endswith("_folder")  # a path of this machine
        ),
        *((f"video.{key}", value) for key, value in flatten(about.get("video") or {}).items()),
        ("checksum of the data", about.get("data")),
        ("encoder from", about.get("pretrained") or about.get("timm")),
    ]
    return _format_rows(("fact", "value"), [row for row in rows if row[1] not in (None, "", [])])


def describe_recipe(record: ModelRecord) -> str:
    """The commands, and the settings of the training."""
    objective = record.about.get("objective") or {}
    settings = {"objective": objective.get("family"), "commit": record.commit, **record.settings}
    rows = [(key, value) for key, value in settings.items() if value is not None]
    parts = [f"```sh\n{chr(10).join(record.commands)}\n```"] if record.commands else []
    parts += [_format_rows(("setting", "value"), rows)] if rows else []
    return "\n\n".join(parts) or "Not known."


def format_results(results: dict[str, Any]) -> str:
    """The success rates of the model and of the baselines, with 95 % intervals, and how they were measured."""
    protocol, unit = results["protocol"], results["unit"]
    judge = protocol["judge"]
    rows = []
    for name in (name for name in METHODS if name in results["methods"]):
        outcome = results["methods"][name]
        rates = [_format_rate(rate, outcome[f"{judge}_ci95"][limit]) for limit, rate in outcome[judge].items()]
        rows.append((name, *rates, outcome["episodes"]))
    head = ("method", *(f"within {limit} {unit}" for limit in results["methods"]["model"][judge]), "episodes")
    scenes = protocol.get("variation") or "as in the training data"
    text = (
        f"Goal images of `{results['task']}` reached by `jepa plan` (success: {judge}; 95 % intervals in brackets). "
        f"Planner {results['planner'].get('name')}, {protocol['budget']} environment steps an episode, goals "
        f"{protocol['goal_offset']} steps ahead, split {protocol['split']}, scenes: {scenes}."
    )
    return f"{text}\n\n{_format_rows(head, rows)}"


def _format_rate(rate: float, interval: list[float]) -> str:
    return f"{rate:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"


def describe_preprocessing(record: ModelRecord) -> str:
    """How pictures become frames of the model."""
    if not record.config:
        return "As `video_preprocessor_config.json` states."
    height, width = record.config["encoder"]["image_px"]
    stated = asdict(read_preprocessing(record.about, (height, width)))
    rows = [(key, value) for key, value in stated.items() if value is not None]
    return (
        "Pictures are uint8, red, green and blue. `Agent` and `jepa plan` bring them to the model's frames by these "
        f"settings, and the model normalises the pixels itself.\n\n{_format_rows(('setting', 'value'), rows)}"
    )


def _format_rows(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(_format_cell(cell) for cell in line)} |" for line in lines)


def _format_cell(value: Any) -> str:
    text = " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
