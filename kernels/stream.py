"""Stream version 1: the counter-based RNG Philox4x32-10, the source of all random values.

Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3". The kernels of all backends import these
constants; the CUDA prelude is generated from them.
"""

from __future__ import annotations

from typing import Final

STREAM_VERSION: Final = 1

PHILOX_ROUNDS: Final = 10
PHILOX_M0: Final = 0xD2511F53
PHILOX_M1: Final = 0xCD9E8D57
PHILOX_W0: Final = 0x9E3779B9
PHILOX_W1: Final = 0xBB67AE85
WORDS_PER_BLOCK: Final = 4
