"""Bits: Philox4x32-10 with one counter per lane."""

from __future__ import annotations

from typing import Any

import numpy as np

from initium.kernels.cpu.instructions import (
    high_word,
    interleave_words,
    iota,
    low_word,
    multiply_words,
    splat,
)
from initium.kernels.cpu.jit import inline
from initium.kernels.stream import PHILOX_M0, PHILOX_M1, PHILOX_ROUNDS, PHILOX_W0, PHILOX_W1

__all__ = ["philox_words"]

_M0, _M1 = np.uint64(PHILOX_M0), np.uint64(PHILOX_M1)
_W0, _W1 = np.uint64(PHILOX_W0), np.uint64(PHILOX_W1)
_ROUNDS = PHILOX_ROUNDS
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@inline
def _round(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    # The high halves of c1 and c3 are undefined. Only their low words are read, so no mask is needed.
    p0 = multiply_words(c0, _M0)
    p1 = multiply_words(c2, _M1)
    return high_word(p1) ^ c1 ^ k0, p1, high_word(p0) ^ c3 ^ k1, p0


@inline
def philox_words(block: Any, lanes: Any, stream: Any, key: Any) -> Any:
    """Return the words of blocks ``block, block + 1, ...`` (`lanes` of them) of a stream, in order."""
    counter = iota(block, lanes)
    c0, c1 = low_word(counter), high_word(counter)
    c2, c3 = splat(stream & _WORD, counter), splat(stream >> _HALF, counter)
    k0, k1 = key & _WORD, key >> _HALF
    for _ in range(_ROUNDS):
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return interleave_words(c0, c1, c2, c3)
