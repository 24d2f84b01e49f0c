"""The choices that the groups of `pkg://configs` offer, read through Hydra's own loader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

CONFIGS = "configs"
HYDRA_VERSION = "1.3"


@contextmanager
def open_loader() -> Iterator[Any]:
    """Give Hydra's config loader over `pkg://configs`, and take Hydra's global state away again."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_module(config_module=CONFIGS, version_base=HYDRA_VERSION):
        yield GlobalHydra.instance().config_loader()


def list_options(loader: Any, group: str) -> list[str]:
    """The choices of a group: its files, but for those that only others take in (_shared.yaml), and those in folders of
    it as "folder/choice"."""
    from hydra.core.object_type import ObjectType

    group = group.partition("@")[0]
    inner = [
        f"{folder}/{choice}"
        for folder in loader.get_group_options(group, ObjectType.GROUP)
        for choice in loader.get_group_options(f"{group}/{folder}")
    ]
    return sorted(name for name in loader.get_group_options(group) if not name.startswith("_")) + sorted(inner)


def list_offered(loader: Any, group: str, groups: dict[str, str]) -> list[str]:
    """Return the choices of a group that a command with these groups has: a recipe that sets another group is for
    another command."""
    folder = group.partition("@")[0]
    return [name for name in list_options(loader, group) if read_overridden(f"{folder}/{name}") <= groups.keys()]


@cache
def read_overridden(file: str) -> frozenset[str]:
    """Return the groups that a file, or a file it takes in whole, chooses itself ("override /GROUP: choice")."""
    import yaml

    text = resources.files(CONFIGS).joinpath(f"{file}.yaml").read_text(encoding="utf-8")
    if "defaults:" not in text:
        return frozenset()
    found: set[str] = set()
    for item in yaml.safe_load(text)["defaults"]:
        if isinstance(item, dict):
            found |= {str(key).removeprefix("override /") for key in item if str(key).startswith("override /")}
        elif item != "_self_":
            found |= read_overridden(f"{file.rpartition('/')[0]}/{item}")
    return frozenset(found)


def list_choices(group: str) -> list[str]:
    """Return the names that `group=` may be given."""
    with open_loader() as loader:
        return list_options(loader, group)
