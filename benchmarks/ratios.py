"""The speed claims: medians of ratios, measured alternately (ours, peer, ours, peer, ...) in one run.

Run ``python benchmarks/ratios.py``; it takes about two minutes, prints the table and writes it as JSON
under ``benchmarks/results/``, from which ``benchmarks/render.py`` makes ``benchmarks/README.md``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import cpuinfo
import history
import llvmlite.binding
import numba
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import initium as ini
from initium.models.built_in import built_in

RESULTS = Path(__file__).parent / "results"
N = 1 << 26
Run = Callable[[], Any]
Row = dict[str, Any]


def seconds(run: Run) -> float:
    """Time one run, directly after a run that is not timed.

    So the memory is warm, also on systems that reclaim idle pages while a slow peer runs.
    """
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(ours: Run, peer: Run, rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of both, and the median of the ratios peer / ours, run by run."""
    pairs = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    a, b = zip(*pairs, strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(y / x for x, y in pairs)


def compare(claim: str, goal: str, ours: Run, peer: Run, values: int, peer_values: int, rounds: int) -> Row:
    """Measure one claim as a ratio of values per second."""
    mine, theirs, ratio = in_turns(ours, peer, rounds)
    return {
        "claim": claim,
        "goal": goal,
        "ratio": ratio * values / peer_values,
        "ours_values_per_s": values / mine,
        "peer_values_per_s": peer_values / theirs,
    }


def elementwise(rounds: int) -> list[Row]:
    """Compare float32, 2**26 values, warm memory, with torch and with its parallel fill."""
    out = np.empty(N, np.float32)
    half = ini.initialize(ini.zeros(), N, seed=0, dtype="bfloat16")
    tensor = torch.empty(N)
    kinds: dict[str, tuple[ini.Initializer, str, Run, int]] = {
        "uniform": (ini.Uniform(-0.1, 0.1), ">= 14", lambda: tensor.uniform_(-0.1, 0.1), rounds),
        "truncated normal": (
            ini.TruncatedNormal(0.0, 0.02),
            ">= 150",
            lambda: torch.nn.init.trunc_normal_(tensor, 0.0, 0.02, -0.04, 0.04),
            2,  # four seconds each
        ),
        "normal": (ini.Normal(0.0, 0.02), ">= 6", lambda: tensor.normal_(0.0, 0.02), rounds),
    }
    of_fill = {"uniform": ">= 0.35", "truncated normal": ">= 0.2", "normal": ""}
    rows = []
    for name, (initializer, goal, peer, peer_rounds) in kinds.items():

        def ours(initializer: ini.Initializer = initializer) -> Any:
            return ini.initialize(initializer, N, seed=1, out=out)

        def past_caches() -> Any:
            return ini.initialize(ini.ones(), N, seed=1, out=out)

        def narrow(initializer: ini.Initializer = initializer) -> Any:
            return ini.initialize(initializer, N, seed=1, out=half)

        rows += [
            compare(f"{name}: times torch", goal, ours, peer, N, N, peer_rounds),
            compare(f"{name}: of a fill", of_fill[name], ours, lambda: tensor.fill_(1.0), N, N, rounds),
            compare(f"{name}: of a fill past the caches", "", ours, past_caches, N, N, rounds),
            compare(f"{name}: bfloat16 over float32", ">= 1", narrow, ours, N, N, rounds),
        ]
    peers: dict[str, Run] = {
        "times torch": lambda: torch.empty(N).uniform_(-0.1, 0.1),
        "of a fill": lambda: torch.empty(N).fill_(1.0),
    }
    for name, peer in peers.items():
        fresh = partial(ini.uniform, N, -0.1, 0.1, seed=1)
        rows.append(compare(f"uniform, fresh memory: {name}", "", fresh, peer, N, N, rounds))
    return rows


def many_tensors(rounds: int) -> list[Row]:
    """Compare 10,000 tensors of 1,000 values in one call with one tensor of 10 M."""
    many = {f"layers.{i}.weight": np.empty(1000, np.float32) for i in range(10_000)}
    one = {"weight": np.empty(10_000_000, np.float32)}
    rules = ini.Normal(0.0, 0.02)
    plans = [ini.plan_model(params, rules, seed=1) for params in (many, one)]
    tensors = [torch.empty(1000) for _ in range(10_000)]
    values = 10_000_000
    drawing, whole = "10,000 tensors over one, run_plan", "10,000 tensors over one, init_model"
    rows = [
        compare(
            drawing,
            "<= 3 times the time",
            lambda: ini.run_plan(plans[1]),
            lambda: ini.run_plan(plans[0]),
            values,
            values,
            rounds,
        ),
        compare(
            whole,
            "<= 3 times the time",
            lambda: ini.init_model(one, rules, seed=1),
            lambda: ini.init_model(many, rules, seed=1),
            values,
            values,
            rounds,
        ),
        compare(
            "10,000 tensors, whole init_model: times torch in a loop",
            "",
            lambda: ini.init_model(many, rules, seed=1),
            lambda: [t.normal_(0.0, 0.02) for t in tensors],
            values,
            values,
            rounds,
        ),
    ]
    return rows


def others(rounds: int) -> list[Row]:
    """Compare raw words, calls for tiny tensors and sparse weights."""
    words, generator = N // 4, np.random.Generator(np.random.Philox(1))
    bias, out = torch.empty(256), np.empty(256, np.float32)
    matrix = torch.empty(2048, 2048)
    calls = 1000

    def repeated(call: Run) -> Run:
        return lambda: [call() for _ in range(calls)]

    return [
        compare(
            "bits: times NumPy's Philox",
            "",
            lambda: ini.bits(words, seed=1, name="w"),
            lambda: generator.integers(0, 1 << 32, words, np.uint32),
            words,
            words,
            rounds,
        ),
        compare(
            "256 normals in a call: times torch",
            "",
            repeated(lambda: ini.normal(256, 0.0, 0.02, seed=1, name="b", out=out)),
            repeated(lambda: bias.normal_(0.0, 0.02)),
            256 * calls,
            256 * calls,
            rounds,
        ),
        compare(
            "sparse, 2048 x 2048: times torch",
            "",
            lambda: ini.torch.init.sparse_(matrix, 0.1, seed=1),
            lambda: torch.nn.init.sparse_(matrix, 0.1),
            matrix.numel(),
            matrix.numel(),
            rounds,
        ),
    ]


def whole_model(rounds: int) -> list[Row]:
    """Compare GPT-2 XL in float32, one call, with torch.nn.init over the same tensors."""
    specs = built_in("gpt2-xl").tensors
    weights = {spec.name: torch.empty(spec.shape) for spec in specs}
    ours = {name: tensor.numpy() for name, tensor in weights.items()}
    rules = {"*.bias": ini.zeros(), "*ln_*.weight": ini.ones(), "*": ini.Normal(0.0, 0.02)}

    def peer() -> None:
        for name, tensor in weights.items():
            if name.endswith(".bias"):
                torch.nn.init.zeros_(tensor)
            elif ".ln_" in name or name.startswith("ln_"):
                torch.nn.init.ones_(tensor)
            else:
                torch.nn.init.normal_(tensor, 0.0, 0.02)

    values = sum(spec.size for spec in specs)
    claim = f"GPT-2 XL ({values / 1e9:.2f} B): times torch.nn.init"
    run = lambda: ini.init_model(ours, rules, seed=1)  # noqa: E731
    return [compare(claim, ">= 10", run, peer, values, values, max(2, rounds // 3))]


def start_up() -> list[Row]:
    """Time `import initium`, and the first call with a cold and a warm cache of compiled kernels."""

    def fresh_process(code: str, environment: dict[str, str]) -> float:
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
        )
        return float(out.stdout)

    timed = "import time; a = time.perf_counter(); {}; print(time.perf_counter() - a)"
    imported = timed.format("import initium")
    call = timed.format("import initium; initium.uniform(1000, seed=1)")
    with tempfile.TemporaryDirectory() as folder:
        cache = {"INITIUM_CACHE_DIR": folder}
        cold = fresh_process(call, cache)
        warm = statistics.median(fresh_process(call, cache) for _ in range(5))
    light = statistics.median(fresh_process(imported, {}) for _ in range(5))
    return [
        {"claim": "import initium", "goal": "< 0.15 s", "seconds": light},
        {"claim": "first call, warm cache", "goal": "< 1.5 s", "seconds": warm},
        {"claim": "first call, cold cache", "goal": "< 20 s", "seconds": cold},
    ]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Describe the machine."""
    return {
        "cpu": cpuinfo.get_cpu_info().get("brand_raw", platform.processor()),
        "llvm_cpu": llvmlite.binding.get_host_cpu_name(),
        "cores": cores(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def show(rows: list[Row]) -> None:
    """Print the rows as a table."""
    table = Table("claim", "goal", "measured", "ours, M/s", "peer, M/s")
    for row in rows:
        if "seconds" in row:
            table.add_row(row["claim"], row["goal"], f"{row['seconds']:.2f} s", "", "")
        else:
            rates = (f"{row[key] / 1e6:.0f}" for key in ("ours_values_per_s", "peer_values_per_s"))
            table.add_row(row["claim"], row["goal"], f"{row['ratio']:.2f}", *rates)
    Console().print(table)


def save(rows: list[Row], name: str) -> None:
    """Write the rows and the machine to a file of results, and append them to the history."""
    RESULTS.mkdir(exist_ok=True)
    data = {"machine": machine(), "rows": rows}
    (RESULTS / name).write_text(json.dumps(data, indent=1) + "\n")
    history.append(name, data)


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Pairs of runs per claim.")
@click.option("--write/--no-write", default=False, help="Write results/cpu.json.")
@click.option("--only", default="", help="Groups to run, comma-separated.")
def main(rounds: int, write: bool, only: str) -> None:
    """Measure the claims."""
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    groups = {
        "elementwise": lambda: elementwise(rounds),
        "many": lambda: many_tensors(rounds),
        "others": lambda: others(rounds),
        "model": lambda: whole_model(rounds),
        "start": start_up,
    }
    chosen = only.split(",") if only else list(groups)
    rows = [row for name in chosen for row in groups[name]()]
    show(rows)
    if write:
        save(rows, "cpu.json")


if __name__ == "__main__":
    main()
