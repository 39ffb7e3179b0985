"""Compare each model's own initialisation with itself, by other seeds: no verdict may reject.

Run ``python tools/models/validate.py FOLDER``. It writes one JSON file a model type to the folder, and
skips those that are there, so that a run can be continued. ``--types llama,bert`` takes these types alone.
At the end it prints a summary.

A file holds the verdicts that reject, the smallest p-value, the tensors that the model's own code never
writes, and whether the model uses the generators of numpy or Python. Where a type builds no model, it holds
the error.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import compare
import numpy as np
import shrink
import torch

SEEDS = 5
SECONDS = 120


def validate(model_type: str) -> dict[str, Any]:
    """Compare a model type with itself, and return what the file holds."""
    begun = time.perf_counter()
    config = shrink.shrunk(model_type)
    shrunk = time.perf_counter()
    first = compare.truth(config, range(SEEDS))
    built = time.perf_counter()
    second = compare.truth(config, range(SEEDS, 2 * SEEDS))
    compared = time.perf_counter()
    verdicts = compare.compare(first, second)
    model = compare.build(config, 0)
    return {
        "seconds": {
            "shrink": round(shrunk - begun, 3),
            "build": round((built - shrunk) / SEEDS, 3),
            "compare": round(time.perf_counter() - compared, 3),
        },
        "tensors": len(first),
        "values": sum(values[0].size for values in first.values()),
        "kinds": collections.Counter(verdict.kind for verdict in verdicts),
        "smallest_p": min(verdict.p for verdict in verdicts),
        "rejected": [vars(verdict) for verdict in verdicts if not verdict.passed],
        "unwritten": sorted(name for name, values in first.items() if np.isnan(values[0]).any()),
        "dtypes": collections.Counter(
            f"{'parameter' if isinstance(t, torch.nn.Parameter) else 'buffer'} {t.dtype}"
            for _, t in compare.tensors(model)
        ),
        "foreign": foreign_generators(config),
    }


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
                result = validate(model_type)
            except Exception as error:  # noqa: BLE001 - it is recorded
                result = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            finally:
                signal.alarm(0)
            path.write_text(json.dumps(result, indent=1))
        results[model_type] = json.loads(path.read_text())
    summarise(results)


def summarise(results: dict[str, Any]) -> None:
    """Print what was seen over all types."""
    good = {name: result for name, result in results.items() if "error" not in result}
    verdicts = sum(sum(result["kinds"].values()) for result in good.values())
    print(f"{len(results)} types, {len(good)} build; {verdicts} verdicts, a false alarm in all of them with")
    print(f"probability {verdicts * compare.LEVEL:.1e} at most")
    for name, result in results.items():
        for line in [result["error"]] if "error" in result else result["rejected"]:
            print(name, line)
    for what in ("unwritten", "foreign"):
        print(what, {name: result[what] for name, result in good.items() if result[what]})


if __name__ == "__main__":
    main()
