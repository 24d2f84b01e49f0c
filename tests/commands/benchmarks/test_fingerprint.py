"""Reference outputs of this machine beside those of another."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from commands.benchmarks import fingerprint
from commands.cli.main import main
from commands.shared.console import Console
from commands.shared.errors import RunError

OUTPUTS = {"frame": np.arange(300, dtype=np.uint8), "loss": np.array([7.0, 5.0])}


def compare(monkeypatch, file, outputs):
    monkeypatch.setattr(fingerprint, "compute_outputs", lambda device: outputs)
    out, err = io.StringIO(), io.StringIO()
    code = fingerprint.print_fingerprint(str(file), "cpu", Console(out, err))
    return code, out.getvalue(), err.getvalue()


def test_the_first_machine_writes_the_file_and_the_next_compares(monkeypatch, tmp_path):
    file = tmp_path / "here.json"
    code, out, _ = compare(monkeypatch, file, OUTPUTS)
    assert (
        code == 0 and f"jepa doctor fingerprint={file}" in out and "torch" in json.loads(file.read_text())["versions"]
    )
    code, out, _ = compare(monkeypatch, file, OUTPUTS)
    assert code == 0 and out.count("equal") == 2


def test_last_digits_may_differ_and_more_may_not(monkeypatch, tmp_path):
    file = tmp_path / "here.json"
    compare(monkeypatch, file, OUTPUTS)
    code, out, err = compare(monkeypatch, file, OUTPUTS | {"loss": np.array([7.0, 5.0 + 1e-6])})
    assert code == 0 and "differs by up to 1.0e-06 of 7" in out and not err
    code, _, err = compare(monkeypatch, file, OUTPUTS | {"loss": np.array([7.0, 5.1]), "plan": np.ones(3)})
    assert code == 1 and f"differs from {file}: loss, plan" in err


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"outputs": {"frame": {"hash": 1, "numbers": ["x"]}}}'])
def test_another_file_is_refused(monkeypatch, tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(RunError, match="other.json is no fingerprint of jepa doctor"):
        compare(monkeypatch, tmp_path / "other.json", OUTPUTS)


def test_this_machine_computes_the_same_twice(capsys):
    lines = []
    for _ in range(2):
        assert main(["doctor", "fingerprint=true"]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] and "frame of reacher" in lines[0] and "plan" in lines[0]
