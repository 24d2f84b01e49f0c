"""The rules of the house that concern whole packages: who imports whom, how fast, with what side effects."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from commands.shared.errors import PACKAGES

HOME = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())
LIMIT = 0.6  # what importing a package may add to torch's own import, as a share of it: processors differ


def modules():
    """Return every module of ours by its dotted name."""
    files = [path for name in PACKAGES for path in (HOME / name).rglob("*.py")]
    names = [".".join(path.relative_to(HOME).with_suffix("").parts) for path in files]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


OURS = set(modules())


def test_the_import_contracts_hold():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as main; main()",
            "--no-cache",
        ],
        capture_output=True,
        text=True,
        cwd=HOME,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(PROJECT['tool']['importlinter']['contracts'])} kept, 0 broken." in done.stdout


def list_imports(name):
    """The modules of ours that a module imports anywhere: on top, in functions, or for types alone."""
    path = HOME / name.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in OURS else node.module for member in members}
    return found & OURS - {name}


def test_no_two_modules_import_one_another_nor_do_several_in_a_circle():
    graph = {name: list_imports(name) for name in OURS}
    assert "world_model.encoder" in graph["world_model.objectives.metric"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_every_folder_with_python_files_is_a_package_that_is_installed():
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert include == [pattern for name in PACKAGES for pattern in (name, f"{name}.*")]
    folders = {path.parent for name in PACKAGES for path in (HOME / name).rglob("*.py")}
    assert {HOME / name for name in PACKAGES} <= folders
    missing = sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists())
    assert not missing, f"no __init__.py in: {missing}"


def test_every_package_installs_its_data_and_its_type_marker():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for name in PACKAGES:
        installed = {path for pattern in patterns.get(name, []) + patterns["*"] for path in (HOME / name).glob(pattern)}
        wanted = {path for path in (HOME / name).rglob("*.*") if path.suffix not in (".py", ".pyc")}
        assert wanted <= installed, f"{name}: not in package-data: {sorted(wanted - installed)}"
        assert HOME / name / "py.typed" in installed, name
    assert resources.files("configs").joinpath("demo.yaml").is_file()


def test_importing_a_package_with_all_its_modules_takes_much_less_than_importing_torch():
    """Processor times of one process; the least of up to six runs, so that a busy machine does not fail it."""
    script = """
import importlib, json, sys, time
began_s = time.process_time()
import torch
torch_s = time.process_time() - began_s
spent_s = {}
for name in json.loads(sys.argv[1]):
    began_s = time.process_time()
    importlib.import_module(name)
    package = name.partition(".")[0]
    spent_s[package] = spent_s.get(package, 0.0) + time.process_time() - began_s
print(json.dumps({package: seconds / torch_s for package, seconds in spent_s.items()}))
"""
    slow: dict[str, float] = {"": LIMIT}
    for _ in range(6):  # a busy machine takes twice the processor time, too
        if slow:
            words = [sys.executable, "-c", script, json.dumps(modules())]
            done = subprocess.run(words, capture_output=True, text=True, cwd=HOME)
            assert done.returncode == 0, done.stderr
            slow = {name: share for name, share in json.loads(done.stdout).items() if share >= LIMIT}
    assert not slow, f"share of torch's own import: {slow}"


def test_importing_any_module_only_defines():
    """No variable of the environment, no folder, no output, no seed, no thread count changes; no GL is
    chosen."""
    script = """
import importlib, json, os, random, sys
import numpy, torch
before = dict(os.environ), sorted(os.listdir()), torch.get_num_threads(), torch.get_default_dtype()
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
drawn = random.random(), numpy.random.rand(), torch.rand(1).item()
random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = dict(os.environ), sorted(os.listdir()), torch.get_num_threads(), torch.get_default_dtype()
again = random.random(), numpy.random.rand(), torch.rand(1).item()
changed = {key for key in before[0].keys() | after[0].keys() if before[0].get(key) != after[0].get(key)}
# OpenCV-like libraries and matplotlib may set names of their own; ours, and the renderer's, must stay.
assert not changed & {"MUJOCO_GL", "PYOPENGL_PLATFORM", "OMP_NUM_THREADS", "LP_NUM_THREADS"}, changed
assert before[1:] == after[1:] and drawn == again, (before[1:], after[1:], drawn, again)
print(json.dumps(sorted({"mujoco", "dm_control"} & set(sys.modules))))
"""
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(modules())],
        capture_output=True,
        text=True,
        cwd=HOME,
        env={**environment, "PYTHONPATH": str(HOME)},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, f"a module prints while it is imported: {done.stdout}"


@pytest.mark.parametrize("name", ["envs", "envs.reacher.spec", "data", "planners", "world_model", "commands.cli.main"])
def test_these_import_without_a_simulator(name):
    script = f"import sys, {name}; found = {{'mujoco', 'dm_control'}} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=HOME)
    assert done.returncode == 0, done.stderr


def test_the_constraints_are_plain_and_name_every_dependency():
    """Packages that torch brings for its own build are left to it."""
    lines = (HOME / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)(; python_full_version >= \"[0-9.]+\")?", line)
        assert match, line
        pins[match[1]] = match[2]
    assert lines == sorted(lines) and len(pins) == len(lines)
    assert not [name for name in pins if name.startswith(("triton", "nvidia", "cuda", "setuptools"))]
    project = PROJECT["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[^A-Za-z0-9-]", text)[0].lower() for text in wanted} - {"setuptools"}
    assert not names - pins.keys(), sorted(names - pins.keys())


def test_every_pin_installs_on_the_oldest_python_allowed():
    """A pin that does not would end the installation there; a marker leaves the choice to the installer.

    Read from the packages that are installed here: a few pins serve other systems alone.
    """
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    installed = {found.name.lower().replace("_", "-"): found.metadata for found in importlib.metadata.distributions()}
    pins = [Requirement(line) for line in (HOME / "constraints.txt").read_text().splitlines()]
    ours = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_full_version": oldest})]
    known = [pin.name for pin in ours if pin.name in installed]
    assert len(known) > 0.9 * len(pins)
    refused = [name for name in known if oldest not in SpecifierSet(installed[name].get("Requires-Python", ""))]
    assert not refused


def test_ignored_files_are_named_from_the_top():
    """A bare `data/` in .gitignore would hide a package of ours."""
    for line in (HOME / ".gitignore").read_text().splitlines():
        folder = line.rstrip("/").split("/")[-1]
        assert line.startswith("/") or folder in ("__pycache__", "*.pyc", ".DS_Store"), line
        assert folder not in PACKAGES and folder not in ("tests", "docs"), line


def test_the_setup_script_imports_names_that_exist():
    imports = re.findall(r"from ([\w.]+) import (\w+)", (HOME / "tools/setup.sh").read_text(encoding="utf-8"))
    assert {module for module, _ in imports} == {"commands.doctor", "envs.rendering"}
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_the_design_names_every_package():
    """The list of packages in docs/design.md, with their folders below two levels of indentation."""
    block = (HOME / "docs/design.md").read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    named, root = set(), ""
    for line in block.splitlines():
        if found := re.match(r"( *)(\w+)/ ", line):
            root = root if found[1] else found[2]
            named.add(f"{root}/{found[2]}" if found[1] else root)
    folders = {path.parent.relative_to(HOME) for name in PACKAGES for path in (HOME / name).rglob("__init__.py")}
    tasks = {folder for folder in folders if folder.parts[0] == "envs"}  # one folder a task
    wanted = {folder.as_posix() for folder in folders - tasks if len(folder.parts) <= 2}
    assert wanted <= named, sorted(wanted - named)
