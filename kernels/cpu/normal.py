"""Normal distributions, one word per value: bits to (x, h), the quantile, the affine map."""

from __future__ import annotations

from typing import Any

import numpy as np

from initium.kernels import table as T
from initium.kernels.cpu.instructions import (
    fma,
    pair_words,
    select,
    shift_signed,
    signed_to_float,
    splat,
    unsigned_to_float,
    widen,
)
from initium.kernels.cpu.jit import chosen_by_tag, inline
from initium.kernels.cpu.quantile import central_quantile32, quantile32, quantile64

__all__ = ["bounded_normal64", "central_normal32", "normal32"]

# --- symmetric, float32: the quantile of the signed word --------------------------------------------------

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIGN_BIT = np.uint32(31)
_SIGN = np.uint32(0x80000000)


@inline
def _centre_and_tail(words: Any, p: Any) -> Any:
    """Return (x, h) of the signed word, each from its own integer, so that both are accurate near zero."""
    x = fma(signed_to_float(words), p[T.X_STEP], p[T.X_START])
    complement = words ^ shift_signed(words, _SIGN_BIT) ^ _MAGNITUDE
    return x, fma(signed_to_float(complement), p[T.H_STEP], p[T.H_START])


@inline
def central_normal32(words: Any, p: Any) -> Any:
    """Draw normal values truncated symmetrically within 2 sigma."""
    x, h = _centre_and_tail(words, p)
    return fma(central_quantile32(x, h), p[T.SCALE], p[T.OFFSET])


@inline
def normal32(words: Any, p: Any) -> Any:
    """Draw normal values without bounds or with symmetric bounds."""
    x, h = _centre_and_tail(words, p)
    return fma(quantile32(x, h, words & _SIGN), p[T.SCALE], p[T.OFFSET])


# --- any bounds, float64: words up to `split` give values above the mean, the others below ----------------


def _full_words(output: Any, words: Any) -> Any:
    """Return (64-bit lanes, their largest value): pairs of words for float64, else single words."""
    raise NotImplementedError


@chosen_by_tag(_full_words)
def _choose_full_words(output: Any, words: Any) -> Any:
    if output.label == "float64":
        last = np.uint64(2**64 - 1)
        return lambda output, words: (pair_words(words), last)
    last32 = np.uint64(2**32 - 1)
    return lambda output, words: (widen(words), last32)


@inline
def bounded_normal64(output: Any, words: Any, split: Any, p: Any) -> Any:
    """Draw normal values between any two bounds, in float64."""
    w, last = _full_words(output, words)
    above = w <= split
    magnitude = unsigned_to_float(select(above, w, last - w))
    complement = unsigned_to_float(select(above, split - w, w - (split + np.uint64(1))))
    # Select the parameters of one of the two sides, lane by lane.
    positive, negative = p[T.POSITIVE : T.NEGATIVE], p[T.NEGATIVE : T.END]
    x_step = select(above, splat(positive[T.SIDE_X_STEP], magnitude), negative[T.SIDE_X_STEP])
    x_start = select(above, splat(positive[T.SIDE_X_START], magnitude), negative[T.SIDE_X_START])
    ratio_step = select(above, splat(positive[T.SIDE_RATIO_STEP], magnitude), negative[T.SIDE_RATIO_STEP])
    ratio_start = select(above, splat(positive[T.SIDE_RATIO_START], magnitude), negative[T.SIDE_RATIO_START])
    h_reference = select(above, splat(positive[T.SIDE_H_REFERENCE], magnitude), negative[T.SIDE_H_REFERENCE])
    w_reference = select(above, splat(positive[T.SIDE_W_REFERENCE], magnitude), negative[T.SIDE_W_REFERENCE])
    ratio = fma(complement, ratio_step, ratio_start)
    z = quantile64(fma(magnitude, x_step, x_start), ratio * h_reference, ratio, w_reference)
    return fma(select(above, z, -z), p[T.SCALE], p[T.OFFSET])
