"""Streams: the number that Philox4x32-10 gets for the name of a tensor."""

from __future__ import annotations

from functools import partial
from hashlib import blake2b

from initium.checks import check_name

__all__ = ["stream_id"]

_hash8 = partial(blake2b, digest_size=8)


def stream_id(name: str) -> int:
    """Return the 64-bit stream number of a tensor's name.

    It is the 8-byte BLAKE2b digest of the UTF-8 name, read as a little-endian integer. It is the upper two
    counter words of every Philox block of the tensor.

    Parameters
    ----------
    name
        The tensor's name, such as ``"h.0.attn.c_attn.weight"``. The empty string is allowed.

    Returns
    -------
    int
        A number in [0, 2**64).

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        If `name` has no UTF-8 form (a lone surrogate).

    Examples
    --------
    >>> import initium as ini
    >>> hex(ini.stream_id("fc.weight"))
    '0x73d2d3db05ba26ca'
    """
    return int.from_bytes(_hash8(check_name(name)).digest(), "little")
