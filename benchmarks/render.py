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
            rates = (row[key] / 1e6 for key in ("ours_values_per_s", "peer_values_per_s"))
            ours, peer = (f"{rate:.0f}" if rate >= 1 else "" for rate in rates)
            lines.append(f"| {row['claim']} | {row['goal']} | {row['ratio']:.2f} | {ours} | {peer} |")
    return "\n".join(lines)


def _matrix(data: dict[str, Any]) -> str:
    """Make the table of op x dtype, sizes side by side, from the JSON of ``test_fill.py``."""
    cells: dict[tuple[str, str, str], dict[str, float]] = {}
    for name, rate in data["values_per_second"].items():
        match = re.fullmatch(r"test_(\w+?)_(warm|fresh)\[(.*)\]", name)
        assert match is not None, name
        op, dtype, size = match[3].split("-") if "-" in match[3] else (match[3], "float32", "64Mi")
        cells.setdefault((op, dtype, f"{match[1]}, {match[2]}"), {})[size] = rate / 1e6
    lines = ["| op | dtype | library, memory | 64 Ki | 1 Mi | 64 Mi |", "|" + " --- |" * 6]
    for (op, dtype, library), rates in sorted(cells.items()):
        sizes = (f"{rates[size]:.0f}" if size in rates else "" for size in ("64Ki", "1Mi", "64Mi"))
        lines.append(f"| {op} | {dtype} | {library} | {' | '.join(sizes)} |")
    return "\n".join(lines)


RENDERERS = {
    "cpu": _cpu,
    "orthogonal": _cpu,
    "matrix": _matrix,
    "gpu": gpu.render,
    "instructions": gpu.render_instructions,
}


def main() -> None:
    """Replace the text between the markers of each result that exists."""
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
