"""Seeds from the generators of torch."""

from __future__ import annotations

import torch
from torch import Generator

__all__ = ["fresh_seed"]


def fresh_seed(generator: Generator | None = None) -> int:
    """Return a seed of 64 bits, drawn from a torch generator (default: torch's default CPU generator)."""
    device = generator.device if generator is not None else "cpu"
    halves = torch.empty(2, dtype=torch.int64, device=device).random_(0, 2**32, generator=generator)
    low, high = halves.tolist()
    return int(high << 32 | low)
