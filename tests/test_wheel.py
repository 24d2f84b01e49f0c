"""The wheel: what it holds, and that it runs in an empty folder and beside a user's own `envs/` and `data/`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from commands.shared.errors import PACKAGES
from envs.rendering import get_install_command

pytestmark = pytest.mark.slow

HOME = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
SMALLEST_DEMO = (
    "name=small",
    "device=cpu",
    "workers=1",
    "videos=0",
    "data=debug",
    "data.frames=25",
    "encoder=tiny",
    "trainer@pretrain=debug",
    "pretrain.steps=1",
    "pretrain.warmup=0",
    "trainer@posttrain=debug",
    "posttrain.steps=1",
    "posttrain.warmup=0",
    "planner.samples=8",
    "planner.elites=2",
    "planner.iterations=1",
    "protocol.episodes=1",
    "protocol.budget=2",
    "protocol.goal_offset=2",
    "protocol.min_goal_distance=0",
    "protocol.oracle=false",
    "protocol.oracle_cost.episodes=0",
)


def run(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a program that sees no variable of Python's path, and check its exit code."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=env, text=True, capture_output=True)
    assert done.returncode == code, (words, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done


def test_the_dockerfile_copies_what_the_wheel_is_made_of():
    text = (HOME / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.*) \S+$", text, re.M)
    assert copied == ["pyproject.toml constraints.txt README.md LICENSE", *PACKAGES]
    kept = {line[1:] for line in (HOME / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(" ".join(copied).split()) <= kept
    assert all(package in text for package in get_install_command().split() if package.startswith("lib"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of the tree, which also has folders that do not belong in it."""
    tree, built = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in (*PACKAGES, "tests", "tools", "docs"):
        shutil.copytree(HOME / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.gif"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, tree)
    (tree / "datasets").mkdir()
    (tree / "datasets" / "__init__.py").touch()
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", built, tree, cwd=tree)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """The folder of `python` and `jepa` of an environment with the wheel and this environment's dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    run(*PIP, "--python", scripts / "python", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # A path in a .pth file brings packages, but not the editable install that another .pth file there makes.
    (site_packages,) = folder.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return scripts


@pytest.fixture(scope="module", params=["empty", "bare folders", "packages"])
def place(request, tmp_path_factory, scripts) -> Path:
    """A folder to start from, after `jepa demo` has run there. It may hold `envs` and `data` of the user's own."""
    folder = tmp_path_factory.mktemp(request.param.replace(" ", "_"))
    if request.param != "empty":
        for name in ("envs", "data"):
            (folder / name).mkdir()
            (folder / name / "mine.py").write_text("MINE = True\n")
            if request.param == "packages":
                (folder / name / "__init__.py").touch()
    run(scripts / "jepa", "demo", *SMALLEST_DEMO, cwd=folder)
    return folder


def has_packages(place: Path) -> bool:
    return (place / "envs" / "__init__.py").exists()


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel):
    assert wheel.name.startswith("jepa_lab-")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [path for name in PACKAGES for path in (HOME / name).rglob("*.*") if path.suffix != ".pyc"]
    assert names == {path.relative_to(HOME).as_posix() for path in files}


def test_the_demo_ends_with_its_report(place):
    assert (place / "runs/demo/small/plan/report.html").stat().st_size > 10_000
    assert (place / "runs/demo/small/finished.json").exists()


def test_the_doctor_finds_everything_that_is_needed(place, scripts):
    out = run(scripts / "jepa", "doctor", "device=cpu", "runs=runs", cwd=place).stdout
    assert "everything that is needed works" in out
    assert re.search(r"^ok +packages +\d\d dependencies as required$", out, re.MULTILINE), out
    names = next(line for line in out.splitlines() if re.match(r"\w+ +names", line))
    status, where = ("optional", place) if has_packages(place) else ("ok", scripts.parent)
    assert names.startswith(status) and str(where) in names, names


def test_the_python_of_the_readme_runs_unless_packages_of_the_users_hide_ours(place, scripts):
    """Python puts a script's own folder first, so packages named `envs` or `data` there are found instead of ours."""
    (block,) = re.findall(r"^## In Python\n.*?```python\n(.*?)```", (HOME / "README.md").read_text(), re.S | re.M)
    for command, name in set(re.findall(r"runs/(\w+)/(\w+)", block)):
        made = place / "runs/demo/small" / ("" if command == "demo" else command)
        shutil.copytree(made, place / "runs" / command / name)
    (place / "script.py").write_text(block)
    if not has_packages(place):
        run(scripts / "python", "script.py", cwd=place)
        return
    done = run(scripts / "python", "script.py", cwd=place, code=1)
    sentence = f"ImportError: Python finds the package 'data' at {place / 'data'} instead of {scripts.parent}"
    assert done.stderr.splitlines()[-1].startswith(sentence), done.stderr
    done = run(scripts / "python", "-m", "commands", "doctor", cwd=place, code=1)
    assert done.stderr.startswith("jepa doctor: Python finds the package 'data'"), done.stderr
    assert len(done.stderr.splitlines()) == 1
