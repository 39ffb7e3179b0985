"""Keep of pytest's JUnit report what ran, how it ended, how long it took, and on which commit.

A run of some tests replaces their records and leaves those of the others.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent


def outcome(case: ET.Element) -> str:
    """Return how a test ended."""
    ends = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    return ends[0] if ends else "passed"


def said(case: ET.Element) -> str:
    """Return what a test printed, without pytest's heads."""
    lines = (case.findtext("system-out") or "").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith("-----"))


def commit() -> str:
    """Return the commit that ran, marked where files that git tracks had changed."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def report(path: Path) -> dict[str, dict[str, object]]:
    """Return the record of each test of a JUnit report, by its name."""
    suite = next(ET.parse(path).iter("testsuite"))
    where = {
        "date": (suite.get("timestamp") or "")[:10],
        "commit": commit(),
        "machine": platform.machine(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("initium", "numpy", "numba")},
        },
    }
    tests = {}
    for case in suite.iter("testcase"):
        name = f"{case.get('file')}::{case.get('name')}"
        seconds = round(float(case.get("time", 0)))
        tests[name] = {"outcome": outcome(case), "seconds": seconds, "said": said(case), **where}
    return tests


def merged(before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> dict[str, object]:
    """Return the record of all tests; what has run now replaces what ran before."""
    tests = dict(sorted((before | now).items()))
    failed = [name for name, test in tests.items() if test["outcome"] != "passed"]
    return {"outcome": "failed" if failed or not tests else "passed", "failed": failed, "tests": tests}


if __name__ == "__main__":
    kept = Path(sys.argv[2])
    before = json.loads(kept.read_text("utf-8"))["tests"] if kept.exists() else {}
    kept.write_text(json.dumps(merged(before, report(Path(sys.argv[1]))), indent=1) + "\n", "utf-8")
