"""Op x dtype x size, with warm and with fresh memory, for this library, other libraries and a plain fill.

Run ``python -m pytest benchmarks/test_fill.py --benchmark-json=out.json``. ``benchmarks/ratios.py`` measures
the claims that compare two of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import initium as ini

SIZES = {"64Ki": 1 << 16, "1Mi": 1 << 20, "64Mi": 1 << 26}
DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn")
OPS: dict[str, ini.Initializer] = {
    "uniform": ini.Uniform(-0.1, 0.1),
    "normal": ini.Normal(0.0, 0.02),
    "truncated_normal": ini.TruncatedNormal(0.0, 0.02),
    "constant": ini.Constant(1.0),
}
TORCH_OPS: dict[str, Callable[[torch.Tensor], Any]] = {
    "uniform": lambda t: t.uniform_(-0.1, 0.1),
    "normal": lambda t: t.normal_(0.0, 0.02),
    "truncated_normal": lambda t: torch.nn.init.trunc_normal_(t, 0.0, 0.02, -0.04, 0.04),
    "constant": lambda t: t.fill_(1.0),
}
Benchmark = Any


def _report(benchmark: Benchmark, size: int, run: Callable[[], Any]) -> None:
    run()  # compiles, and makes the memory warm
    benchmark.pedantic(run, rounds=5 if size >= 1 << 26 else 20, iterations=1)
    benchmark.extra_info["values_per_second"] = size / benchmark.stats.stats.median


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_initium_warm(benchmark: Benchmark, op: str, dtype: str, size: str) -> None:
    n = SIZES[size]
    out = ini.initialize(OPS[op], n, seed=1, dtype=dtype)
    _report(benchmark, n, lambda: ini.initialize(OPS[op], n, seed=1, out=out))


@pytest.mark.parametrize("op", OPS)
def test_initium_fresh(benchmark: Benchmark, op: str) -> None:
    n = SIZES["64Mi"]
    _report(benchmark, n, lambda: ini.initialize(OPS[op], n, seed=1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("op", TORCH_OPS)
def test_torch_warm(benchmark: Benchmark, op: str, dtype: str, size: str) -> None:
    n = SIZES[size]
    if op == "truncated_normal" and n > 1 << 24:
        n = 1 << 24  # seconds already; the rate does not depend on the size
    tensor = torch.empty(n, dtype=getattr(torch, dtype))
    _report(benchmark, n, lambda: TORCH_OPS[op](tensor))


@pytest.mark.parametrize("op", ("uniform", "normal", "constant"))
def test_torch_fresh(benchmark: Benchmark, op: str) -> None:
    n = SIZES["64Mi"]
    _report(benchmark, n, lambda: TORCH_OPS[op](torch.empty(n)))


NUMPY_OPS: dict[str, Callable[[NDArray[np.float32]], Any]] = {
    "uniform": lambda a: np.random.default_rng(1).random(out=a, dtype=np.float32),
    "normal": lambda a: np.random.default_rng(1).standard_normal(out=a, dtype=np.float32),
    "constant": lambda a: a.fill(1.0),
}


@pytest.mark.parametrize("op", NUMPY_OPS)
def test_numpy_warm(benchmark: Benchmark, op: str) -> None:
    n = SIZES["64Mi"]
    array = np.empty(n, np.float32)
    _report(benchmark, n, lambda: NUMPY_OPS[op](array))
