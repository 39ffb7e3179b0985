"""Keep of pytest's JUnit report what ran, how it ended, how long it took, and on which commit."""

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


def report(path: Path) -> dict[str, object]:
    """Return the record of a JUnit report."""
    suite = next(ET.parse(path).iter("testsuite"))
    tests = [
        {
            "test": f"{case.get('file')}::{case.get('name')}",
            "outcome": outcome(case),
            "seconds": round(float(case.get("time", 0))),
            "said": said(case),
        }
        for case in suite.iter("testcase")
    ]
    packages = ("initium", "numpy", "numba")
    return {
        "date": (suite.get("timestamp") or "")[:10],
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "machine": platform.machine(),
        "outcome": "passed" if tests and all(test["outcome"] == "passed" for test in tests) else "failed",
        "seconds": round(float(suite.get("time", 0))),
        "tests": tests,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(report(Path(sys.argv[1])), indent=2) + "\n", "utf-8")
