"""Conversion of float32 to the narrow dtypes, to nearest even, by integers and one exact float32 addition.

A hardware instruction rounds to bfloat16 if no subnormal number can occur, since it flushes them to zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from initium.kernels.cpu.instructions import (
    bits_of,
    float_of,
    hardware_bfloat16,
    high_half,
    low_byte,
    low_half,
    select,
)
from initium.kernels.cpu.jit import FEATURES, LANES, TagType, chosen_by_tag, inline

__all__ = ["convert"]


def convert(dtype: Any, x: Any, grain: Any) -> Any:
    """Return the bits of `x` in the dtype of a `Tag`; `x` must be within its range.

    Each nonzero `x` is a multiple of `grain` times 2**-24; `grain` is 0 if no such number is known.
    """
    raise NotImplementedError


def _small_float(mantissa: int, least_exponent: int) -> Any:
    """Return the constants of the conversion to `mantissa` bits; the least normal is 2**least_exponent."""
    shift = np.uint32(23 - mantissa)
    half = np.uint32((1 << (22 - mantissa)) - 1)
    rebias = np.uint32((least_exponent + 126) << 23)
    smallest_normal = np.uint32((least_exponent + 127) << 23)
    # Adding this power of two leaves a subnormal's integer, rounded to nearest even, in the low bits.
    magic_bits = np.uint32((least_exponent - mantissa + 23 + 127) << 23)
    magic = np.uint32(magic_bits).view(np.float32)
    sign_shift = np.uint32(31 - (7 if mantissa < 7 else 15))
    magnitude_mask, sign_mask, one = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(1)
    return shift, half, rebias, smallest_normal, magic_bits, magic, sign_shift, magnitude_mask, sign_mask, one


def _make(mantissa: int, least_exponent: int) -> Any:
    (shift, half, rebias, smallest_normal, magic_bits, magic, sign_shift, magnitude_mask, sign_mask, one) = (
        _small_float(mantissa, least_exponent)
    )

    @inline
    def small_float(x: Any) -> Any:
        bits = bits_of(x)
        magnitude = bits & magnitude_mask
        rounded = (magnitude - rebias + half + ((magnitude >> shift) & one)) >> shift
        subnormal = bits_of(float_of(magnitude) + magic) - magic_bits
        kept = select(magnitude < smallest_normal, subnormal, rounded)
        return kept | ((bits & sign_mask) >> sign_shift)

    return small_float


_float16 = _make(10, -14)
_float8_e4m3fn = _make(3, -6)
_float8_e5m2 = _make(2, -14)


@inline
def _integer_bfloat16(x: Any) -> Any:
    # bfloat16 has the exponents of float32: subnormal numbers are not special. The result is the upper half.
    bits = bits_of(x)
    return high_half(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))


# From this grain on, no float32 value is subnormal. A product of draw and scale is a multiple of 2**-124 and
# at least 2**-100. An offset with bits below 2**-126 is smaller than 2**-102 and cannot cancel this product.
_SAFE_GRAIN = np.float32(2.0**-100)


@inline
def _hardware_or_integer_bfloat16(x: Any, grain: Any) -> Any:
    if abs(grain) >= _SAFE_GRAIN:
        return hardware_bfloat16(x)
    return _integer_bfloat16(x)


@chosen_by_tag(convert)
def _convert(dtype: Any, x: Any, grain: Any) -> Any:
    if not isinstance(dtype, TagType):
        return None
    return _CONVERSIONS[dtype.label]


_CONVERSIONS: dict[str, Any] = {
    "float32": lambda dtype, x, grain: x,
    "bfloat16": lambda dtype, x, grain: _integer_bfloat16(x),
    "float16": lambda dtype, x, grain: low_half(_float16(x)),
    "float8_e4m3fn": lambda dtype, x, grain: low_byte(_float8_e4m3fn(x)),
    "float8_e5m2": lambda dtype, x, grain: low_byte(_float8_e5m2(x)),
}
if "+avx512bf16" in FEATURES and LANES >= 32:
    _CONVERSIONS["bfloat16"] = lambda dtype, x, grain: _hardware_or_integer_bfloat16(x, grain)
