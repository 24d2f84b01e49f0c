"""Models of the Hugging Face hub: `owner/name`, `owner/name@revision` or `hf://owner/name` in the place of a folder.

A local path always wins over a name of the hub. Only JSON and safetensors are downloaded, into huggingface_hub's own
cache (HF_HOME), and nothing in them is executed. HF_HUB_OFFLINE=1 reads the cache alone. `jepa export` uploads.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from commands.shared.errors import RunError, UsageError, is_disk_full, join_names
from data.checks import shorten

SCHEME = "hf://"
NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.][\w./-]*))?", re.ASCII)
RUNS = "runs"  # first folder of a run folder, never taken for an owner
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# A name that ends so is a local file that is missing.
FILE_SUFFIXES = (*PICKLES, ".h5", ".hdf5", ".json", ".npz", ".safetensors", ".tar", ".zip")
# What is downloaded, of the top folder alone: descriptions, preprocessing and weights.
DESCRIPTIONS = ("model.json", "config.json")
WANTED = ("*.json", "*.safetensors")
SUBFOLDERS = "*/*"
MAIN = "main"  # the revision of a name without one
REQUEST_S = 10.0  # time limit of a question that only makes a message better


@dataclass(frozen=True)
class HubName:
    """A model on the hub. text: as the user wrote it."""

    text: str
    repo: str
    revision: str | None = None

    @property
    def is_explicit(self) -> bool:
        """Whether it cannot be meant as a path."""
        return self.text.startswith(SCHEME)


def parse_hub_name(text: str) -> HubName | None:
    """The model that a text names; None for a text that is a path. UsageError for hf:// without owner/name."""
    bare = text.removeprefix(SCHEME)
    match = NAME.fullmatch(bare)
    valid = match is not None and _is_repo(match["repo"])
    if text.startswith(SCHEME):
        if match is None or not valid:
            raise UsageError(f"{text} names no model: write {SCHEME}owner/name, or {SCHEME}owner/name@revision")
        return HubName(text, match["repo"], match["revision"])
    if match is None or not valid:
        return None
    owner = bare.partition("/")[0]
    is_local = owner == RUNS or os.path.isdir(owner) or bare.lower().endswith(FILE_SUFFIXES)
    return None if is_local else HubName(text, match["repo"], match["revision"])


def _is_repo(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def resolve_model(name: str | Path) -> Path:
    """The path of a model: a local path as it is, whether it exists or not; a name of the hub as its folder in the
    local cache, after downloading what is missing there.

    Raises UsageError with one sentence for a model of the hub that is not there or cannot be read.
    """
    if isinstance(name, Path) or os.path.exists(name):
        return Path(name)
    hub = parse_hub_name(name)
    return Path(name) if hub is None else download_model(hub)


@cache
def download_model(name: HubName) -> Path:
    """The folder of a model in the local cache, brought up to date once a process where the hub can be reached."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                name.repo, revision=name.revision, allow_patterns=list(WANTED), ignore_patterns=[SUBFOLDERS]
            )
        )
    except Exception as error:  # of the hub, of its client's HTTP library, of the file system
        if is_disk_full(error):
            raise
        raise UsageError(_describe_missing(name, error)) from error
    described = any((folder / file).is_file() for file in DESCRIPTIONS)
    if not described or not any(folder.glob("*.safetensors")):
        raise UsageError(_describe_content(name, folder))
    return folder


def _describe_missing(name: HubName, error: Exception) -> str:
    """Why a model of the hub could not be downloaded, as one sentence with what helps."""
    from huggingface_hub import errors

    here = ""
    if not name.is_explicit:
        here = f"there is no file or folder {name.text} here (a run folder is named as runs/posttrain/NAME), and "
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"{here}{name.repo} on the Hugging Face hub has no revision {name.revision or MAIN}"
    if sentence := _describe_refusal(name.repo, cause):
        return f"{here}{sentence}"
    if (reason := _describe_network(cause)) is None:
        return f"{here}{name.repo} could not be downloaded from the Hugging Face hub: {shorten(cause)}"
    revision = f" --revision {name.revision}" if name.revision else ""
    return (
        f"{here}{name.repo} of the Hugging Face hub is not complete in the local cache and {reason}: with a network "
        f"run hf download {name.repo}{revision} --local-dir FOLDER, and give FOLDER in place of {name.text}"
    )


def _describe_network(error: BaseException) -> str | None:
    """Why the hub did not answer, as a clause; None for an error of another kind."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    is_other = isinstance(error, errors.HfHubHTTPError) or isinstance(error, OSError) and error.errno
    return None if is_other else "the hub cannot be reached"


def _describe_refusal(repo: str, error: BaseException | None) -> str | None:
    """Who may not read or write a repository and what helps, as one sentence; None for an error of another kind."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} on the Hugging Face hub is gated: ask for access on its page, https://huggingface.co/{repo}, and "
            "log in with hf auth login"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the Hugging Face hub has no model {repo}, or it is private: mend it, or log in with hf auth login"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the Hugging Face hub does not let you use {repo}: log in with hf auth login, with a token that may"
    return None


def _describe_content(name: HubName, folder: Path) -> str:
    """What a repository lacks that could be read here, as one sentence."""
    from huggingface_hub import HfApi

    try:
        siblings = HfApi().model_info(name.repo, revision=name.revision or MAIN, timeout=REQUEST_S).siblings or []
    except Exception as error:  # the folder is what the cache had without a network
        return _describe_missing(name, error)
    pickles = sorted(file.rfilename for file in siblings if file.rfilename.endswith(PICKLES))
    if pickles and not any(folder.glob("*.safetensors")):
        return (
            f"{name.repo} on the Hugging Face hub has weights as pickles alone ({join_names(pickles, 3)}), which are "
            f"not downloaded: look for a repository with safetensors, or fetch a file that you trust with "
            f"hf download {name.repo} {pickles[0]} --local-dir FOLDER and give path=FOLDER/{pickles[0]}"
        )
    return (
        f"{name.repo} on the Hugging Face hub holds no model that can be read: {' or '.join(DESCRIPTIONS)} with "
        "*.safetensors is needed in its top folder"
    )


def upload_model(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder into a repository, made where it is missing; the address of its page.

    private: whether a repository that is made is seen by its owner alone. Raises RunError with one sentence that names
    the folder and the command that uploads it later.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        page = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a model of jepa")
    except Exception as error:  # of the hub, of its client's HTTP library, of the file system
        reason = _describe_refusal(repo, error) or _describe_network(error) or shorten(error)
        option = " --private" if private else ""
        raise RunError(
            f"{repo} was not uploaded: {reason}; the folder {folder} is kept, and later hf upload "
            f"{repo} {folder} .{option} uploads it"
        ) from error
    return str(page)
