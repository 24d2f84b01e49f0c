"""Classes of other people, given as MODULE:CLASS."""

from __future__ import annotations

import importlib
import re
from typing import Any

from commands.shared.errors import UsageError, describe_choices

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_target(text: str) -> bool:
    """Whether this is MODULE:CLASS."""
    return _TARGET.fullmatch(text) is not None


def load_class(where: str, target: str) -> type:
    """Import a module that Python finds and return its class. where: the key and its value, for messages.

    Raises UsageError for a module or class that is not there.
    """
    module_name, _, name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{where}: {error}; put the folder of {module_name}.py on PYTHONPATH") from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UsageError(f"{where}: {module_name} has no class {name}{describe_choices(name, classes, 'classes')}")
    return cls


def require_members(where: str, instance: Any, members: tuple[str, ...], kind: str) -> None:
    """Raise UsageError unless the instance has these members. kind: what has them, as `planner`."""
    missing = [member for member in members if not hasattr(instance, member)]
    if missing:
        raise UsageError(f"{where}: {type(instance).__name__} lacks {' and '.join(missing)}, which every {kind} has")
