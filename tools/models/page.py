"""The page docs/models.md: model types of transformers, the laws of their tensors, and the comparison."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

__all__ = ["law_of", "page_of"]

#: The laws in the order of the table, with the heads of its columns.
LAWS = {
    "constant": "constant",
    "uniform": "uniform",
    "normal": "normal",
    "truncated_normal": "truncated",
    "orthogonal": "orthogonal",
    "boxes": "boxes",
    "values": "values",
    "program": "program",
    "tied": "tied",
}

HEAD = """# Models of transformers

`tools/models/validate.py` writes this page. It builds each model type of transformers {transformers}
(torch {torch}) from its default configuration with small settings. It compares {seeds} initialisations by the
model's own code with {seeds} that initium draws from the recording ([own.md](own.md)). Parameters and buffers
count, also those that a checkpoint does not hold.

Constants and tables must be equal. Random tensors must pass two-sample tests of values, mean and spread. The
tests of mean and spread are repeated for each index and block of each axis. Copies must be copies, and other
tensors independent. There were {verdicts:,} verdicts. If all laws were right, one of them or more would fail
with a probability of at most {alarm:.1e}.

Negative controls must fail: a std that is 3 % off, ones in place of zeros, a padding row that is not zero. Of
{controls:,} controls, {noticed:,} failed.

Of {types} types, {built} can be built here. Of these, {right} agree ({share:.1%}), and {refused} are refused
with an error that names a tensor.

| Model type | Tensors | {laws} | Result |
|---|---|{rules}---|
"""


def law_of(start: Any) -> str:
    """Return the column of a tensor's law."""
    if start.tied_to is not None:
        return "tied"
    if start.program is not None:
        return "program" if start.program.is_random else "values"
    if len(start.pieces) > 1:
        return "boxes"
    return re.match(r"\w+", str(start))[0] if start.pieces else "values"  # type: ignore[index]


def page_of(results: dict[str, Any], *, seeds: int) -> str:
    """Return the page for the results of all types."""
    built = {name: r for name, r in results.items() if "error" not in r}
    compared = [r for r in built.values() if "kinds" in r]
    right = sum(not r["rejected"] for r in compared)
    verdicts = sum(sum(r["kinds"].values()) for r in compared)
    controls = [noticed for r in compared for noticed in r["controls"].values()]
    head = HEAD.format(
        transformers=metadata.version("transformers"),
        torch=metadata.version("torch").partition("+")[0],
        seeds=seeds,
        verdicts=verdicts,
        alarm=verdicts * 1e-8,
        controls=len(controls),
        noticed=sum(controls),
        types=len(results),
        built=len(built),
        right=right,
        share=right / len(built),
        refused=sum("refused" in r for r in built.values()),
        laws=" | ".join(LAWS.values()),
        rules="---|" * len(LAWS),
    )
    return head + "".join(_row(name, result) for name, result in results.items())


def _row(name: str, result: dict[str, Any]) -> str:
    laws = result.get("laws", {})
    others = sum(count for law, count in laws.items() if law not in LAWS)
    assert not others, laws
    cells = [str(laws.get(law, "")) for law in LAWS]
    return f"| {name} | {result.get('tensors', '')} | {' | '.join(cells)} | {_result(result)} |\n"


def _result(result: dict[str, Any]) -> str:
    if "error" in result:
        missing = re.search(r"requires the (\w+) library", result["error"])
        return f"not built: needs {missing[1]}" if missing else "not built"
    if "refused" in result:
        return "refused: without values" if "without values" in result["refused"] else "refused"
    rejected = result["rejected"]
    return f"differs: {len(rejected)} verdicts" if rejected else "equal laws"
