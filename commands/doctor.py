"""`jepa doctor`: is everything here that the other commands need, and which command mends what is not.

With `golden=FOLDER` it compares the networks with the reference's numbers instead (commands/benchmarks/golden.py), with
`fingerprint=FILE` two machines (commands/benchmarks/fingerprint.py), and with `env=TASK` it lists what may differ
between that task's episodes. Each check is a function that returns a
`Finding`. The renderer is tried in a process of its own, because OpenGL libraries that do not fit can end a process,
and because the backend must be chosen before MuJoCo is imported.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from commands.shared.console import Console
from commands.shared.devices import resolve_device
from commands.shared.errors import DISTRIBUTION, PACKAGES, RunError, UserError, find_shadow, join_lines
from commands.shared.torch_versions import PINNED, TESTED, is_tested

Status = Literal["ok", "broken", "optional"]
HOME = Path(__file__).resolve().parent.parent
GIB = 2**30
SUITE = "dm-control<2,>=1.0.50"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Keys of `jepa doctor`."""

    runs: str = "runs"
    """folder whose disk is checked"""
    device: str = "auto"
    """device that must work: auto, cpu, cuda, cuda:1 or mps"""
    disk_gib: Annotated[float, Ge(0)] = 2.0
    """free space that a run needs, GiB"""
    render_timeout_s: Annotated[float, Gt(0)] = 120.0
    """time limit for drawing the first picture, seconds"""
    golden: str | None = None
    """folder (or file) of reference outputs to compare our networks with on the device, instead of these checks"""
    fingerprint: bool | str = False
    """whether to print hashes of reference outputs instead of these checks; or a file of another machine's to compare
    with, which is written if it does not exist"""
    env: str | None = None
    """task whose factors of variation are listed, as two_rooms or dmc/cheetah, instead of these checks"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `broken` is needed and fails, `optional` is missing and not needed."""

    name: str
    status: Status
    detail: str
    mend: str = ""


def run(config: Config, folder: None, console: Console) -> int:
    """Print one line a check and the commands that mend; 1 if something needed is broken."""
    if config.golden is not None:
        from commands.benchmarks.golden import check_golden

        return check_golden(config.golden, resolve_device(config.device), console)
    if config.fingerprint:
        from commands.benchmarks.fingerprint import print_fingerprint

        file = None if config.fingerprint is True else str(config.fingerprint)
        return print_fingerprint(file, resolve_device(config.device), console)
    if config.env is not None:
        from commands.report.factors import print_factors

        print_factors(config.env, console)
        return 0
    findings = []
    for check in list_checks(config):
        for finding in check():
            findings.append(finding)
            console.say(f"{finding.status.ljust(8)}  {finding.name.ljust(11)} {finding.detail}")
    for title, status in (("to mend", "broken"), ("optional, to add if wanted", "optional")):
        mends = dict.fromkeys(item.mend for item in findings if item.mend and item.status == status)
        if mends:
            console.say("\n".join([f"\n{title}:", *(f"    {mend}" for mend in mends)]))
    broken = [finding.name for finding in findings if finding.status == "broken"]
    if broken:
        console.warn(f"jepa doctor: broken: {', '.join(broken)}")
        return 1
    console.say("\neverything that is needed works")
    return 0


def list_checks(settings: Config) -> list[Callable[[], list[Finding]]]:
    """Return the checks in the order of the report."""
    return [
        check_python,
        check_packages,
        lambda: check_torch(settings.device),
        check_bytecode,
        lambda: check_renderer(settings.render_timeout_s),
        check_video,
        lambda: check_disk(settings.runs, settings.disk_gib),
        check_names,
        check_extras,
    ]


def check_python() -> list[Finding]:
    """Python's version, the machine, its cores and memory."""
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {_count_cores()} cores"
    memory = _measure_memory_gib()
    if memory:
        detail += f", {memory:.1f} GiB memory"
    return [Finding("python", "ok", detail)]


def check_packages() -> list[Finding]:
    """Every dependency is installed in a version that pyproject.toml allows."""
    needed = list_requirements("")
    if not needed:
        detail = f"{DISTRIBUTION} is not installed, so its dependencies are unknown"
        return [Finding("packages", "optional", detail, f"{_get_pip()} install -e '{HOME}'")]
    findings = []
    if list_missing(SUITE):
        # Without its dependencies: one of them has no wheel for Python 3.13 (see pyproject.toml).
        mend = f"{_get_pip()} install --no-deps '{SUITE}'"
        findings.append(
            Finding("packages", "broken", f"{SUITE} is wanted, found {_get_installed_version(SUITE)}", mend)
        )
    wrong = [text for line in needed if _strip_marker(line) != SUITE for text in list_missing(line)]
    if wrong:
        names = ", ".join(f"{_strip_marker(text)} (found {_get_installed_version(text)})" for text in wrong)
        quoted = " ".join(f"'{_strip_marker(text)}'" for text in wrong)
        findings.append(Finding("packages", "broken", f"not as required: {names}", f"{_get_pip()} install {quoted}"))
    return findings or [Finding("packages", "ok", f"{len(needed)} dependencies as required")]


def check_torch(wanted: str) -> list[Finding]:
    """torch imports, torchvision fits it, and the device asked for computes."""
    try:
        import torch
        import torchvision
    except Exception as error:
        mend = f"{_get_pip()} install --force-reinstall torch torchvision"
        return [Finding("torch", "broken", join_lines(error), mend)]
    try:
        name = resolve_device(wanted)
        total = float(torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name)).sum())
        assert total == 512.0, f"8x8 matrix product gives {total} on {name}"
    except UserError as error:
        return [Finding("torch", "broken", join_lines(error), "jepa doctor device=auto")]
    except Exception as error:
        return [Finding("torch", "broken", f"{wanted}: {join_lines(error)}", "use device=cpu")]
    what = torch.cuda.get_device_name(name) if name.startswith("cuda") else f"{torch.get_num_threads()} threads"
    detail = f"{torch.__version__}, torchvision {torchvision.__version__}, device {name} ({what})"
    findings = [Finding("torch", "ok", detail), *check_pair(torch.__version__, torchvision.__version__)]
    if name == "cpu" and shutil.which("nvidia-smi"):
        hint = "there is an NVIDIA driver, but torch cannot use it (nvidia-smi shows its version)"
        findings.append(Finding("cuda", "optional", hint))
    return findings


def check_pair(torch: str, torchvision: str) -> list[Finding]:
    """A finding where this pair of versions was never tested."""
    if is_tested(torch, torchvision):
        return []
    pairs = ", ".join(f"{one} with {other}" for one, other in TESTED.items())
    detail = f"torch {torch} with torchvision {torchvision} was never tested; tested: {pairs}"
    mend = f"{_get_pip()} install torch=={PINNED} torchvision=={TESTED[PINNED]}"
    return [Finding("versions", "optional", detail, mend)]


def check_bytecode(package: str = "torch") -> list[Finding]:
    """A finding where Python compiles a package's sources anew in every process; nothing where it is not installed."""
    found = find_spec(package)
    if not sys.dont_write_bytecode or found is None or found.origin is None:
        return []
    if Path(cache_from_source(found.origin)).exists():
        return []
    detail = f"PYTHONDONTWRITEBYTECODE is set and {package} is not compiled: every command starts seconds later"
    return [Finding("bytecode", "optional", detail, f"{sys.executable} -m compileall -q {Path(found.origin).parent}")]


def check_renderer(timeout_s: float) -> list[Finding]:
    """A picture is drawn off-screen, in a process of its own; the renderer string names the driver."""
    from envs.rendering import get_install_command

    words = [sys.executable, "-P", "-c", "from commands.doctor import draw_scene; draw_scene()"]
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    asked = os.environ.get("MUJOCO_GL")
    mend = get_install_command() if not asked else f"unset MUJOCO_GL, or: {get_install_command()}"
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        return [Finding("renderer", "broken", f"no picture within {timeout_s:g} s", mend)]
    try:
        drawn = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
        return [Finding("renderer", "broken", last, mend)]
    detail = f"{drawn['renderer']} (MUJOCO_GL={drawn['backend']}{', set by you' if asked else ''})"
    return [Finding("renderer", "ok", detail)]


def draw_scene() -> None:
    """Draw a small scene and print {"backend", "renderer"}; raises where nothing can be drawn."""
    from envs import rendering

    backend = rendering.choose_backend()
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><camera name="top" pos="0 0 2"/>'
        '<geom type="sphere" size=".5" rgba="1 0 0 1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = rendering.Renderer(model, 32, 32, "top")
    frame = renderer.render(data)
    if frame[16, 16, 0] <= frame[0, 0, 0]:
        raise RunError(f"the renderer draws an empty picture (MUJOCO_GL={backend})")
    name = renderer.get_gl_renderer()
    renderer.close()
    print(json.dumps({"backend": backend, "renderer": name}))


def check_video() -> list[Finding]:
    """The writer of rollout videos finds its ffmpeg."""
    try:
        import imageio_ffmpeg

        return [Finding("video", "ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")]
    except Exception as error:
        mend = f"{_get_pip()} install --force-reinstall imageio-ffmpeg"
        return [Finding("video", "broken", join_lines(error), mend)]


def check_disk(runs: str, wanted_gib: float) -> list[Finding]:
    """The folder for runs can be written, and has room."""
    place = Path(runs).absolute()
    while not place.exists():
        place = place.parent
    free_gib = shutil.disk_usage(place).free / GIB
    detail = f"{free_gib:.1f} GiB free at {place}"
    if not place.is_dir() or not os.access(place, os.W_OK):
        return [Finding("disk", "broken", f"{place} cannot be written", "choose another folder with runs=FOLDER")]
    if free_gib < wanted_gib:
        detail += f", {wanted_gib:g} wanted"
        return [Finding("disk", "broken", detail, "free some space, or choose another folder with runs=FOLDER")]
    return [Finding("disk", "ok", detail)]


def check_names() -> list[Finding]:
    """No folder of the user's stands before one of our packages, and none in sight would from here."""
    if shadow := find_shadow():
        return [Finding("names", "broken", shadow, "rename that folder, or unset PYTHONPATH")]
    here = Path.cwd()
    alike = [name for name in PACKAGES if here != HOME and (here / name / "__init__.py").exists()]
    if alike:
        text = f"{', '.join(alike)} in {here}: `jepa` finds its own packages, a Python script there does not"
        return [Finding("names", "optional", text)]
    return [Finding("names", "ok", f"packages come from {HOME}")]


def check_extras() -> list[Finding]:
    """Each optional extra of pyproject.toml: installed or not."""
    findings = []
    for extra in list_extras():
        missing = [_strip_marker(text) for line in list_requirements(extra) for text in list_missing(line)]
        if missing:
            mend = f"{_get_pip()} install '{DISTRIBUTION}[{extra}]'" if not (HOME / "pyproject.toml").exists() else ""
            mend = mend or f"{_get_pip()} install -e '{HOME}[{extra}]'"
            findings.append(Finding(f"[{extra}]", "optional", f"not installed: {', '.join(missing)}", mend))
        else:
            findings.append(Finding(f"[{extra}]", "ok", f"{len(list_requirements(extra))} packages"))
    return findings


def list_extras() -> list[str]:
    try:
        return list(metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or [])
    except metadata.PackageNotFoundError:
        return []


def list_requirements(extra: str, distribution: str = "") -> list[str]:
    """Return the requirement lines of a distribution itself ("") or of one of its extras that hold on this machine.

    distribution: its name; "": jepa.
    """
    requirement = import_module("packaging.requirements").Requirement
    try:
        lines = metadata.requires(distribution or DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    selected = []
    for line in lines:
        marker = requirement(line).marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if not extra else (not always and marker.evaluate({"extra": extra})):
            selected.append(line)
    return selected


def list_missing(line: str) -> list[str]:
    """Return what of a requirement line is not installed as it asks: itself, and the requirements of its extras."""
    needed = import_module("packaging.requirements").Requirement(line)
    version = _get_installed_version(line)
    if version == "none" or not needed.specifier.contains(version, prereleases=True):
        return [line]
    inner = [text for extra in sorted(needed.extras) for text in list_requirements(extra, needed.name)]
    return [missing for text in inner for missing in list_missing(text)]


def _strip_marker(line: str) -> str:
    return line.partition(";")[0].strip()


def _get_installed_version(line: str) -> str:
    name = import_module("packaging.requirements").Requirement(line).name
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _get_pip() -> str:
    return f"{Path(sys.executable)} -m pip"


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure_memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    except (ValueError, OSError, AttributeError):
        return 0.0
