"""The claims about orthogonal matrices: medians of ratios, with both sides measured alternately in one run.

Run ``python benchmarks/orthogonal.py``; it takes about a minute. With ``--write`` the table goes to
``benchmarks/results/orthogonal.json`` in the form of `ratios.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import click
import numpy as np
import torch
from ratios import Row, Run, compare, cores, save, show

import initium as ini

# (longer side, shorter side, least ratio to torch)
LARGE = [(1024, 1024, ">= 3"), (2048, 2048, ">= 3"), (4096, 4096, ">= 2"), (8192, 1024, ">= 2")]


def drawer(shape: tuple[int, ...], **options: Any) -> Run:
    """Return a function that fills the same memory at each call."""
    out = ini.orthogonal(shape, seed=1, name="w", **options)
    return lambda: ini.orthogonal(shape, seed=1, name="w", out=out, **options)


def torch_loop(count: int, n: int) -> Run:
    """Return a function that draws many matrices with torch, one after the other."""
    tensors = [torch.empty(n, n) for _ in range(count)]
    return lambda: [torch.nn.init.orthogonal_(tensor) for tensor in tensors]


def large(rounds: int) -> list[Row]:
    """Compare single matrices with torch."""
    rows = []
    for long, short, goal in LARGE:
        size = long * short
        peer = partial(torch.nn.init.orthogonal_, torch.empty(long, short))
        claim = f"{long} x {short}: times torch"
        rows.append(compare(claim, goal, drawer((long, short)), peer, size, size, rounds))
    return rows


def product(rounds: int) -> list[Row]:
    """Compare with one product of float32 matrices by NumPy's BLAS on all threads."""
    n = 4096
    a, out = ini.normal((n, n), seed=1), np.empty((n, n), np.float32)
    peer = partial(np.matmul, a, a, out=out)
    return [compare("4096: product / ours", ">= 1", drawer((n, n)), peer, n * n, n * n, rounds)]


def slices(rounds: int) -> list[Row]:
    """Compare quarters of a matrix with the whole: the most expensive columns, and rows."""
    n = 4096
    quarters = {"last columns": np.s_[:, 3 * n // 4 :], "rows": np.s_[n // 4 : n // 2]}
    return [
        compare(
            f"4096: whole / quarter, {name}", ">= 2.5", drawer((n, n), box=box), drawer((n, n)), 1, 1, rounds
        )
        for name, box in quarters.items()
    ]


def batches(rounds: int) -> list[Row]:
    """Compare stacks with torch in a loop."""
    rows = []
    for count, n, goal in ((8192, 16, ">= 10"), (64, 512, "")):
        size = count * n * n
        ours = drawer((count, n, n), batch_axis=0)
        claim = f"{count} of {n} x {n}: times torch in a loop"
        rows.append(compare(claim, goal, ours, torch_loop(count, n), size, size, rounds))
    return rows


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Pairs of runs per claim.")
@click.option("--write/--no-write", default=False, help="Write results/orthogonal.json.")
def main(rounds: int, write: bool) -> None:
    """Measure the claims."""
    torch.set_num_threads(cores())
    rows = [row for group in (large, product, slices, batches) for row in group(rounds)]
    show(rows)
    if write:
        save(rows, "orthogonal.json")


if __name__ == "__main__":
    main()
