"""Compare how each model type of transformers starts by its own code with what initium draws for it.

Run ``python tools/models/validate.py FOLDER``. It writes one JSON file a model type to the folder, and skips
those that are there, so that a run can be continued. ``--types llama,bert`` takes these types alone.
``--self`` compares each model with itself, by other seeds: no verdict may reject then.
``--page docs/models.md`` writes the page. At the end it prints a summary.

A file holds the verdicts that reject, the smallest p-value, the laws of the tensors, the tensors that the
model's own code never writes, whether the model uses the generators of numpy or Python, and whether the
negative controls were rejected. Where a type builds no model, or initium refuses it, it holds the error.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import compare
import numpy as np
import page
import shrink
import torch

import initium as ini
from initium.torch import RecordingError, own_starts, recording

SEEDS = 5
SECONDS = 240


def recorded(config: Any) -> torch.nn.Module:
    """Return a model of a configuration, recorded without memory."""
    with shrink.quiet(), recording():
        return shrink.model_class(config.model_type)._from_config(config)


def drawn(model: torch.nn.Module, seeds: Iterable[int]) -> compare.Samples:
    """Return all tensors of a recorded model for several seeds, as initium draws them."""
    samples: compare.Samples = collections.defaultdict(list)
    for seed in seeds:
        ini.init_model(model, "own", seed=seed)
        for name, tensor in compare.tensors(model):
            samples[name].append(compare.as_floats(tensor))
    return dict(samples)


def validate(model_type: str, *, with_itself: bool = False) -> dict[str, Any]:
    """Compare a model type with what initium draws (or with itself), and return what the file holds."""
    config = shrink.shrunk(model_type)
    theirs = compare.truth(config, range(SEEDS))
    unwritten = sorted(name for name, values in theirs.items() if np.isnan(values[0]).any())
    result = {
        "tensors": len(theirs),
        "values": sum(values[0].size for values in theirs.values()),
        "unwritten": unwritten,
        "foreign": foreign_generators(config),
    }
    begun = time.perf_counter()
    if with_itself:
        ours = compare.truth(config, range(SEEDS, 2 * SEEDS))
    else:
        model = recorded(config)
        try:
            starts = own_starts(model)
        except RecordingError as error:
            return result | {"refused": str(error)}
        result["laws"] = collections.Counter(page.law_of(start) for start in starts.values())
        ours = drawn(model, range(SEEDS))
    verdicts = compare.compare(theirs, ours)
    return result | {
        "seconds": round(time.perf_counter() - begun, 3),
        "kinds": collections.Counter(verdict.kind for verdict in verdicts),
        "smallest_p": min(verdict.p for verdict in verdicts),
        "rejected": [vars(verdict) for verdict in verdicts if not verdict.passed],
        "controls": controls(theirs, ours),
    }


def controls(theirs: compare.Samples, ours: compare.Samples) -> dict[str, bool]:
    """Return for each negative control whether it was rejected; only those that the model's tensors allow."""
    found: dict[str, tuple[str, compare.Samples]] = {}
    fixed = {name: v for name, v in theirs.items() if all(np.array_equal(v[0], w) for w in v)}
    drawn_ones = {name: v for name, v in theirs.items() if name not in fixed}
    zeros = next((name for name, v in fixed.items() if v[0].size and not v[0].any()), None)
    if zeros is not None:
        found["ones for zeros"] = zeros, compare.with_ones(ours, zeros)
    large = max(drawn_ones, key=lambda name: drawn_ones[name][0].size, default=None)
    if large is not None and compare.detectable({large: drawn_ones[large]}, SEEDS).get(large):
        found["std 3 % off"] = large, compare.with_scale(ours, large)
    padded = next((name for name, v in drawn_ones.items() if v[0].ndim == 2 and _zero_rows(v[0])), None)
    if padded is not None:
        row = _zero_rows(drawn_ones[padded][0])[0]
        found["a missing zero row"] = padded, compare.without_zero_row(ours, padded, row)
    return {
        what: any(not v.passed for v in compare.compare({name: theirs[name]}, {name: wrong[name]}))
        for what, (name, wrong) in found.items()
    }


def _zero_rows(values: compare.Floats) -> list[int]:
    return [int(row) for row in np.flatnonzero(~values.any(axis=1))]


def foreign_generators(config: Any) -> list[str]:
    """Return the generators besides torch's that a model's construction uses, of numpy and Python."""
    compare.set_seed(0)
    before = _generators()
    compare.build(config, 0)
    after = _generators()
    return [name for name in before if before[name] != after[name]]


def _generators() -> dict[str, str]:
    """Return a digest of the state of each generator."""
    states = {"numpy": np.random.get_state(), "random": random.getstate()}  # noqa: NPY002
    return {name: hashlib.sha256(repr(state).encode()).hexdigest() for name, state in states.items()}


def _alarm(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main() -> None:
    """Validate all types and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--types", type=lambda text: text.split(","), default=shrink.model_types())
    parser.add_argument("--self", action="store_true", dest="with_itself")
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _alarm)
    results = {}
    for model_type in arguments.types:
        path = arguments.folder / f"{model_type}.json"
        if not path.exists():
            signal.alarm(SECONDS)
            try:
                result = validate(model_type, with_itself=arguments.with_itself)
            except Exception as error:  # noqa: BLE001 - it is recorded
                result = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            finally:
                signal.alarm(0)
            path.write_text(json.dumps(result, indent=1))
        results[model_type] = json.loads(path.read_text())
    summarise(results)
    if arguments.page is not None:
        arguments.page.write_text(page.page_of(results, seeds=SEEDS), encoding="utf-8")


def summarise(results: dict[str, Any]) -> None:
    """Print what was seen over all types."""
    good = {name: result for name, result in results.items() if "kinds" in result}
    verdicts = sum(sum(result["kinds"].values()) for result in good.values())
    alarm = verdicts * compare.LEVEL
    print(
        f"{len(results)} types, {len(good)} compared; {verdicts} verdicts, false alarms at most {alarm:.1e}"
    )
    for name, result in results.items():
        for line in [result[key] for key in ("error", "refused") if key in result] or result["rejected"]:
            print(name, line)
        for what, noticed in result.get("controls", {}).items():
            if not noticed:
                print(name, "the negative control was not noticed:", what)
    for what in ("unwritten", "foreign"):
        print(what, {name: result[what] for name, result in results.items() if result.get(what)})


if __name__ == "__main__":
    main()
