"""The tests that depend most on torch pass with every tested pair of torch and torchvision.

Each pair is installed in a folder of its own, .torch/VERSION, that stands before this environment's packages and is
kept for the next run. All other dependencies, CUDA's libraries included, are this environment's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from commands.shared.torch_versions import PINNED, TESTED

ROOT = Path(__file__).resolve().parent.parent
FREE_GIB = 12
INSTALL_S, TEST_S = 300, 600
DEPENDENT_TESTS = (
    "tests/commands/shared/test_flops.py",
    "tests/planners",
    "tests/world_model/interop/test_golden.py",
    "tests/world_model/nn/test_layers.py",
    "tests/world_model/nn/test_stack.py",
)
SELECTION = ("-m", "not slow", "-k", "not compiled")  # compiling takes minutes


def test_the_oldest_pair_is_the_least_that_pyproject_allows_and_the_pinned_one_is_that_of_constraints():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = next(iter(TESTED.items()))
    for name, version in zip(("torch", "torchvision"), oldest, strict=True):
        assert f"{name}>={version.removesuffix('.0')}" in project["dependencies"], (name, version)
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.findall(r"^torch(?:vision)?==.*", constraints, re.M) == [
        f"torch=={PINNED}",
        f"torchvision=={TESTED[PINNED]}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("version", TESTED)
def test_what_depends_on_torch_passes_with_each_tested_version(version):
    if torch.__version__.partition("+")[0] == version:
        pytest.skip(f"torch {version} is the installed one: all other tests run with it")
    environment = {**os.environ, "PYTHONPATH": str(torch_folder(version)), "PYTEST_ADDOPTS": ""}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SELECTION, *DEPENDENT_TESTS]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TEST_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and imported_torch(environment) == version


def torch_folder(version: str) -> Path:
    """The folder with this version of torch and its torchvision, installed where it is missing. Skips the test where
    that is impossible."""
    folder = ROOT / ".torch" / version
    if folder.exists():
        return folder
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    if free_gib < FREE_GIB:
        pytest.skip(f"{free_gib:.0f} GiB of disk are free, {FREE_GIB} are needed to install torch {version}")
    unfinished = folder.with_name(f"{version}-{os.getpid()}")
    try:
        install(unfinished, [f"torch=={version}", f"torchvision=={TESTED[version]}"])
        if imported_torch({**os.environ, "PYTHONPATH": str(unfinished)}) is None:
            install(unfinished, nvidia_requirements(unfinished))
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def install(folder: Path, requirements: list[str]) -> None:
    """Install these packages without their dependencies. Skips the test where pip cannot."""
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *requirements]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not install {' '.join(requirements)} within {INSTALL_S} s")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [
            f"exit code {done.returncode}"
        ]
        pytest.skip(f"pip cannot install {' '.join(requirements)}: {errors[0]}")


def nvidia_requirements(folder: Path) -> list[str]:
    """The CUDA libraries that the torch in this folder pins: it may not load with those of another version."""
    (found,) = Distribution.discover(name="torch", path=[str(folder)])
    requirements = [Requirement(line) for line in found.requires or []]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [f"{r.name}{r.specifier}" for r in needed if r.name.startswith("nvidia-")]


def imported_torch(environment: dict[str, str]) -> str | None:
    """The release of torch that a new process imports, None where it cannot."""
    words = [sys.executable, "-c", "import torch, torchvision; print(torch.__version__.partition('+')[0])"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
