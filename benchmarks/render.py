"""Write the tables between the markers of ``benchmarks/README.md`` from ``benchmarks/results/*.json``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gpu

HERE = Path(__file__).parent


def _cpu(data: dict[str, Any]) -> str:
    machine = data["machine"]
    lines = [
        f"Measured on {machine['cpu']} ({machine['llvm_cpu']}), {machine['cores']} cores, Python "
        f"{machine['python']}, NumPy {machine['numpy']}, Numba {machine['numba']}, torch {machine['torch']}.",
        "",
        "| claim | goal | measured | ours, M values/s | peer, M values/s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in data["rows"]:
        if "seconds" in row:
            lines.append(f"| {row['claim']} | {row['goal']} | {row['seconds']:.2f} s | | |")
        else:
            ours, peer = (row[key] / 1e6 for key in ("ours_values_per_s", "peer_values_per_s"))
            lines.append(f"| {row['claim']} | {row['goal']} | {row['ratio']:.2f} | {ours:.0f} | {peer:.0f} |")
    return "\n".join(lines)


def _matrix(data: dict[str, Any]) -> str:
    """Make the table of op x dtype x size of a pytest-benchmark file."""
    lines = ["| benchmark | M values/s (median) |", "| --- | --- |"]
    for entry in sorted(data["benchmarks"], key=lambda b: b["name"]):
        rate = entry["extra_info"]["values_per_second"] / 1e6
        lines.append(f"| {entry['name'].removeprefix('test_')} | {rate:.0f} |")
    return "\n".join(lines)


RENDERERS = {"cpu": _cpu, "matrix": _matrix, "gpu": gpu.render, "instructions": gpu.render_instructions}


def main() -> None:
    """Replace what stands between the markers of each result that exists."""
    page = HERE / "README.md"
    text = page.read_text()
    for name, render in RENDERERS.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            body = render(json.loads(path.read_text()))
            pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
            text = re.sub(pattern, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S)  # type: ignore[misc]
    page.write_text(text)


if __name__ == "__main__":
    main()
