"""From a seed and a tensor's name to the key and counter words of Philox4x32-10."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b

from initium.checks import check_name

__all__ = ["stream_id"]

_hash8 = partial(blake2b, digest_size=8)


def stream_id(name: str) -> int:
    """Return the 64-bit stream number of a tensor's name.

    The first eight bytes of BLAKE2b with an 8-byte digest over the UTF-8 name, little-endian. It fills
    the upper two counter words of every Philox block that the tensor draws.

    Parameters
    ----------
    name
        The tensor's name, such as ``"h.0.attn.c_attn.weight"``; the empty string is a name too.

    Returns
    -------
    int
        A number in [0, 2**64).

    Raises
    ------
    TypeError
        If `name` is no string.
    ValueError
        If `name` has no UTF-8 form (a lone surrogate).
    """
    return int.from_bytes(_hash8(check_name(name)).digest(), "little")
