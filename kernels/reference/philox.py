"""Bits: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), by blocks of four words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels.stream import PHILOX_M0, PHILOX_M1, PHILOX_ROUNDS, PHILOX_W0, PHILOX_W1, WORDS_PER_BLOCK

__all__ = ["philox4x32", "philox_words"]

_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(PHILOX_M0), np.uint64(PHILOX_M1)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the blocks for an array of counters.

    Parameters
    ----------
    counter
        Shape (n, 4).
    key
        Shape (2,).

    Returns
    -------
    ndarray of uint32, shape (n, 4)
    """
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(PHILOX_ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _WORD,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _WORD,
        )
        k0, k1 = (k0 + PHILOX_W0) % 2**32, (k1 + PHILOX_W1) % 2**32
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _blocks(block: NDArray[np.uint64], stream: int, seed: int) -> NDArray[np.uint32]:
    # Counter = (block low, block high, stream low, stream high), key = (seed low, seed high).
    counter = np.empty((block.size, 4), np.uint32)
    counter[:, 0], counter[:, 1] = block & _WORD, block >> _HALF
    counter[:, 2], counter[:, 3] = stream % 2**32, stream >> 32
    return philox4x32(counter, np.array([seed % 2**32, seed >> 32], np.uint32))


def philox_words(
    index: NDArray[np.uint64], stream: int, seed: int, first_block: int = 0
) -> NDArray[np.uint32]:
    """Return word ``i % 4`` of block ``first_block + i // 4`` of a stream, for each 64-bit index i."""
    block, place = np.divmod(index, np.uint64(WORDS_PER_BLOCK))
    blocks, where = np.unique(block, return_inverse=True)
    words: Any = _blocks(blocks + np.uint64(first_block), stream, seed)
    return words[where.reshape(block.shape), place.astype(np.intp)]  # type: ignore[no-any-return]
