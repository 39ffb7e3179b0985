"""Results of benchmarks are appended to their history, never overwritten."""

import importlib.util
import json
from pathlib import Path

import initium

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load():
    spec = importlib.util.spec_from_file_location("history", BENCHMARKS / "history.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_result_adds_a_line(tmp_path):
    history = load()
    for data in ({"rows": [1]}, {"rows": [2]}):
        history.append("cpu.json", data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(line["file"], line["version"], line["data"]) for line in lines] == [
        ("cpu.json", initium.__version__, {"rows": [1]}),
        ("cpu.json", initium.__version__, {"rows": [2]}),
    ]


def test_the_history_holds_the_latest_figures():
    lines = [json.loads(line) for line in (BENCHMARKS / "results" / "history.jsonl").read_text().splitlines()]
    latest = {line["file"]: line["data"] for line in lines}
    for name, data in latest.items():
        assert data == json.loads((BENCHMARKS / "results" / name).read_text()), name
    assert [line["date"] for line in lines] == sorted(line["date"] for line in lines)
