"""The study runs, and its page says what the script says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return pytest.importorskip("training_effects")


def test_one_epoch_writes_everything(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / "training_effects.py",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--output",
        tmp_path,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    runs = json.loads((tmp_path / "training_effects.json").read_text())["runs"]
    assert {len(run["loss"]) for starts in runs.values() for tried in starts.values() for run in tried} == {2}
    assert (tmp_path / "training_effects.png").read_bytes().startswith(b"\x89PNG")
    assert "| He normal |" in (tmp_path / "training_effects.md").read_text(encoding="utf-8")


def test_the_page_that_is_kept(study):
    """The table shows what the remarks say of it."""
    page = (BENCHMARKS / "results" / "training_effects.md").read_text(encoding="utf-8")
    assert page.endswith(study.REMARKS)
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:-1]
        for line in page.splitlines()
        if line.startswith("| ")
    }
    assert set(rows) == {"start", *study.STARTS}
    epochs = {name: [cells[2].strip(), cells[5].strip()] for name, cells in rows.items()}
    for name in ("zeros", "ones", "uniform [0, 1]"):
        assert epochs[name] == ["never", "never"]
    assert epochs["uniform ±1/√n"][0] == "never"
    assert int(epochs["He normal"][0]) < int(epochs["Glorot uniform"][0])
    assert int(epochs["LSUV"][1]) <= int(epochs["He normal"][1])
