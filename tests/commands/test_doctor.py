"""`jepa doctor`: finds what is broken, says what mends it, and fails only for what is needed."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from commands import doctor
from commands.cli import main as cli
from commands.doctor import Finding
from commands.shared.console import Console
from envs.presets import PRESETS

CONFIG = doctor.Config(device="cpu", disk_gib=0.001)


def report(monkeypatch, *findings):
    monkeypatch.setattr(doctor, "list_checks", lambda settings: [lambda: list(findings)])
    out, err = io.StringIO(), io.StringIO()
    code = doctor.run(CONFIG, None, Console(out, err))
    return code, out.getvalue(), err.getvalue()


def test_something_needed_that_is_broken_fails_and_says_what_mends_it(monkeypatch):
    good, bad = (
        Finding("python", "ok", "3.12"),
        Finding("renderer", "broken", "no EGL", "apt-get install libegl1"),
    )
    code, out, err = report(monkeypatch, good, bad)
    assert code == 1 and "broken: renderer" in err
    assert "to mend:\n    apt-get install libegl1" in out and "no EGL" in out


def test_something_optional_that_is_missing_does_not_fail(monkeypatch):
    code, out, _ = report(monkeypatch, Finding("[dev]", "optional", "not installed: pytest", "pip install x"))
    assert code == 0 and "everything that is needed works" in out
    assert "optional, to add if wanted:\n    pip install x" in out and "to mend" not in out


def test_the_renderer_is_tried_for_real_and_named():
    (finding,) = doctor.check_renderer(120.0)
    assert finding.status == "ok", finding
    assert "MUJOCO_GL=" in finding.detail and len(finding.detail.split("(MUJOCO_GL")[0]) > 3, finding


def test_a_renderer_that_cannot_work_is_broken_with_the_install_command(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    (finding,) = doctor.check_renderer(120.0)
    assert finding.status == "broken" and "nonsense" in finding.detail, finding
    assert "unset MUJOCO_GL" in finding.mend and "install" in finding.mend


def test_a_renderer_that_hangs_is_broken(monkeypatch):
    def hang(*_, **words):
        raise subprocess.TimeoutExpired("python", words["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    (finding,) = doctor.check_renderer(3.0)
    assert finding.status == "broken" and "within 3 s" in finding.detail


def test_torch_is_tried_on_the_device_asked_for(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert doctor.check_torch("cpu")[0].status == "ok"
    finding = doctor.check_torch("cuda")[0]
    assert finding.status == "broken" and "device=auto" in finding.mend, finding


def test_a_torchvision_that_does_not_fit_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    finding = doctor.check_torch("cpu")[0]
    assert finding.status == "broken" and "torchvision" in finding.mend


def test_a_pair_of_torch_and_torchvision_that_was_never_tested_is_reported():
    assert not doctor.check_pair("2.14.1+cpu", "0.29.1+cpu") and not doctor.check_pair("2.11.0", "0.26.0")
    (finding,) = doctor.check_pair("2.14.1+cu130", "0.26.0")
    assert (
        finding.status == "optional" and "torch 2.14.1+cu130 with torchvision 0.26.0 was never tested" in finding.detail
    )
    assert "2.11.0 with 0.26.0" in finding.detail and finding.mend.endswith("install torch==2.14.1 torchvision==0.29.1")
    assert doctor.check_pair("2.12.0", "0.27.0") and doctor.check_pair("2.14.1", "0.29.1.dev1")


def test_sources_that_every_process_compiles_anew_are_reported(monkeypatch, tmp_path):
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package/__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert not doctor.check_bytecode("slow_package"), "the next process finds it compiled"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (finding,) = doctor.check_bytecode("slow_package")
    assert finding.status == "optional" and "PYTHONDONTWRITEBYTECODE is set" in finding.detail
    subprocess.run(finding.mend.split(), check=True)
    assert not doctor.check_bytecode("slow_package") and not doctor.check_bytecode("no_such_package")


def test_packages_are_compared_with_what_is_required(monkeypatch):
    monkeypatch.setattr(doctor, "list_requirements", lambda extra: ["numpy", doctor.SUITE])
    assert doctor.check_packages()[0].status == "ok", doctor.check_packages()
    monkeypatch.setattr(doctor, "list_requirements", lambda extra: ["mujoco<1", "no-such-package>=2", "numpy"])
    (finding,) = doctor.check_packages()
    assert finding.status == "broken"
    assert "mujoco<1 (found 3." in finding.detail and "no-such-package>=2 (found none)" in finding.detail
    assert "install 'mujoco<1' 'no-such-package>=2'" in finding.mend and "numpy" not in finding.mend


def test_a_checkout_that_is_not_installed_has_no_known_dependencies(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    (finding,) = doctor.check_packages()
    assert finding.status == "optional" and "no-such-distribution is not installed" in finding.detail
    assert "install -e" in finding.mend and doctor.check_extras() == []


def test_each_extra_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "list_extras", lambda: ["more"])
    monkeypatch.setattr(doctor, "list_requirements", lambda extra: ["no-such-package; extra == 'more'"])
    (finding,) = doctor.check_extras()
    assert finding.status == "optional" and "no-such-package" in finding.detail and "[more]" in finding.mend


def test_the_extras_of_an_extra_are_looked_up_too(monkeypatch):
    def list_requirements(extra, distribution=""):
        nested = distribution == "pytest" and extra == "speed"
        return ["no-such-package>=1"] if nested else ["pytest[speed]"] if extra == "more" else []

    monkeypatch.setattr(doctor, "list_extras", lambda: ["more"])
    monkeypatch.setattr(doctor, "list_requirements", list_requirements)
    (finding,) = doctor.check_extras()
    assert finding.status == "optional" and finding.detail == "not installed: no-such-package>=1"


def test_a_full_or_read_only_disk_is_broken(tmp_path):
    assert doctor.check_disk(str(tmp_path / "not" / "there"), 0.001)[0].status == "ok"
    assert "wanted" in doctor.check_disk(str(tmp_path), 1e9)[0].detail
    assert doctor.check_disk(str(tmp_path), 1e9)[0].status == "broken"
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        assert "cannot be written" in doctor.check_disk(str(tmp_path), 0.0)[0].detail


def test_folders_named_like_our_packages_are_mentioned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctor.check_names()[0].status == "ok"
    (tmp_path / "data").mkdir()
    assert doctor.check_names()[0].status == "ok", "Python passes over a folder without __init__.py"
    (tmp_path / "data" / "__init__.py").touch()
    (finding,) = doctor.check_names()
    assert finding.status == "optional" and str(tmp_path) in finding.detail


@pytest.mark.parametrize(("words", "code"), [([], 0), (["disk_gib=1e9"], 1), (["disk=3"], 2)])
def test_the_command_as_a_user_types_it(words, code, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    quick = [doctor.check_python, lambda: doctor.check_disk("runs", 1e9 if words else 0.001)]
    monkeypatch.setattr(doctor, "list_checks", lambda settings: quick)
    assert cli.main(["doctor", *words]) == code
    assert not list(tmp_path.iterdir()), "doctor writes nothing"
    capsys.readouterr()


def test_factors_and_presets_of_a_task_are_listed_with_unit_default_and_ranges(capsys):
    assert cli.main(["doctor", "env=two_rooms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0] + line[10:26].strip(): line for line in lines}
    assert lines[0].split() == ["group", "factor", "unit", "default", "seen", "unseen"]
    mass = "mass agent mass times 1 0.5 to 2 0.35 to 0.5, 2 to 3"
    assert any(" ".join(line.split()) == mass for line in lines), rows
    assert any("door_y" in line and "-0.6 to 0.6" in line and " m " in line for line in lines)
    assert any("0 own, 1 pattern" in line and "2 stripes, 3 leaves" in line for line in lines)
    assert any(" ".join(line.split()) == "motion shadow depth of full 0 0.2 to 0.4" for line in lines)
    for preset in PRESETS:
        assert any(line.startswith(f"{preset}  ") for line in lines), preset
    assert "env.factors=" in lines[-1]
    assert cli.main(["doctor", "env=two_room"]) != 0
    assert "did you mean two_rooms" in capsys.readouterr().err
