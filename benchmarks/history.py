"""The history of results: each measurement that is kept adds a line to ``results/history.jsonl``.

The other files hold the latest figures, from which the page is made. A line holds the date,
initium's version, the name of the file, and what was measured. Lines are never changed.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import initium

RESULTS = Path(__file__).parent / "results"


def append(name: str, data: Any, folder: Path = RESULTS) -> None:
    """Add what was measured for a file of results."""
    today = datetime.now(UTC).date().isoformat()
    line = {"date": today, "version": initium.__version__, "file": name, "data": data}
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    given = Path(sys.argv[1])
    append(given.name, json.loads(given.read_text("utf-8")))
