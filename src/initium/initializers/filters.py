"""Fixed filters as weights: an array, bilinear interpolation, and the short-time Fourier transform."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.checks import check_choice
from initium.dtypes import DType
from initium.fills.base import Fill
from initium.fills.patterns import Draw, PatternFill
from initium.layouts import Layout

__all__ = ["STFT", "Bilinear", "ConstantArray", "bilinear", "caffe_bilinear", "stft"]


@dataclass(frozen=True)
class _FilterFill(PatternFill):
    """Values from an array that broadcasts to the global shape; they do not depend on the stream."""

    shape: tuple[int, ...]

    @property
    @abstractmethod
    def values(self) -> NDArray[np.float64]:
        """The array; its axes are the last axes of the shape, and axes of one element repeat."""

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return float(self.values.mean()) if self.values.size else 0.0

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        return float(self.values.std()) if self.values.size else 0.0

    @property
    def reach(self) -> float:
        """Largest finite magnitude."""
        finite = np.abs(self.values[np.isfinite(self.values)])
        return float(finite.max(initial=0.0))

    def array(self, index: tuple[range, ...], dtype: DType, draw: Draw) -> NDArray[Any]:
        """Return the values, rounded to float32 as in the kernels, except for float64."""
        values = self.values if dtype.word_bits == 64 else self.values.astype(np.float32)
        inner = index[len(index) - values.ndim :]
        picked = [
            np.zeros(len(along), np.intp) if extent == 1 else np.array(along, np.intp)
            for along, extent in zip(inner, values.shape, strict=True)
        ]
        return np.broadcast_to(values[np.ix_(*picked)], tuple(map(len, index)))


# --- an array -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ArrayFill(_FilterFill):
    given: ConstantArray

    def __str__(self) -> str:
        return f"array of shape {self.given.values.shape}"

    @property
    def values(self) -> NDArray[np.float64]:
        """The array that was given."""
        return self.given.values


@dataclass(frozen=True, eq=False)
class ConstantArray:
    """The elements of an array that broadcasts to the shape of the weight, as in NumPy.

    Parameters
    ----------
    values
        Real numbers; infinities are allowed, NaN is not. The array is copied.
    """

    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        try:
            values = np.array(self.values, np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"values={self.values!r} is not an array of real numbers") from None
        if np.isnan(values).any():
            raise ValueError("values holds NaN; expected numbers")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` if the array does not broadcast to the shape."""
        try:
            np.broadcast_to(np.empty(self.values.shape, np.bool_), tuple(shape))
        except ValueError:
            raise ValueError(
                f"values of shape {self.values.shape} do not broadcast to shape={tuple(shape)}"
            ) from None
        return _ArrayFill(tuple(shape), self)


# --- bilinear interpolation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _BilinearFill(_FilterFill):
    def __str__(self) -> str:
        return "bilinear interpolation"

    @property
    def values(self) -> NDArray[np.float64]:
        """The filter over the last two axes."""
        return _bilinear(self.shape[-1])


@lru_cache(maxsize=16)
def _bilinear(width: int) -> NDArray[np.float64]:
    half = -(-width // 2)
    centre = (2 * half - 1 - half % 2) / (2 * half) if half else 0.0
    line = 1 - np.abs(np.arange(width) / max(half, 1) - centre)
    return np.outer(line, line)


@dataclass(frozen=True)
class Bilinear:
    """The filter of bilinear upsampling, the same for all channels of a transposed 2-D convolution.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.Bilinear(), (1, 1, 4, 4), seed=0)[0, 0, 0]
    array([0.0625, 0.1875, 0.1875, 0.0625], dtype=float32)
    """

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` unless the shape is (..., width, width) of four axes."""
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(
                f"shape={tuple(shape)} is not a square 2-D filter; expected (n, m, width, width)"
            )
        return _BilinearFill(tuple(shape))


def bilinear() -> Bilinear:
    """(1 - |x / f - c|) (1 - |y / f - c|), f = ceil(width / 2), c = (2 f - 1 - f % 2) / (2 f).

    Source: Caffe, include/caffe/filler.hpp (there f % 2 shifts the centre for odd f).
    Peers: Caffe BilinearFiller; mxnet.initializer.Bilinear.
    """
    return Bilinear()


caffe_bilinear = bilinear

# --- short-time Fourier transform ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _STFTFill(_FilterFill):
    settings: STFT

    def __str__(self) -> str:
        return f"stft({self.settings.side}, {self.settings.window}, {self.settings.scaling})"

    @property
    def values(self) -> NDArray[np.float64]:
        """The filter bank."""
        return _stft(self.settings, self.shape[0], self.shape[2])


@lru_cache(maxsize=16)
def _stft(settings: STFT, frame: int, bins: int) -> NDArray[np.float64]:
    time, frequency = np.arange(frame)[:, None, None], np.arange(bins)
    # The angle is a multiple of 2 pi / length: reduce it exactly, in integers.
    length = max(2 * (bins - 1), 1)
    angle = -2.0 * math.pi * (time * frequency % length) / length
    bank = np.cos(angle) if settings.side == "real" else np.sin(angle)
    if settings.window is None:
        return bank
    window = _window(settings.window, frame, settings.periodic)
    if settings.scaling is not None:
        window = window / (
            np.sqrt((window**2).sum()) if settings.scaling == "density" else np.abs(window).sum()
        )
    return bank * window[:, None, None]


def _window(name: str, frame: int, periodic: bool) -> NDArray[np.float64]:
    try:
        from scipy.signal import get_window
    except ImportError as error:
        raise ImportError(f"window={name!r} needs SciPy: {error}; install scipy") from error
    try:
        return np.asarray(get_window(name, frame, fftbins=periodic), np.float64)
    except ValueError as error:
        raise ValueError(f"window={name!r} is unknown; expected a window of scipy.signal: {error}") from None


@dataclass(frozen=True)
class STFT:
    """The filter bank of a short-time Fourier transform, as a convolution of shape (frame, 1, bins).

    Parameters
    ----------
    side
        ``"real"`` (cosines) or ``"imag"`` (minus sines).
    window
        Name of a window of `scipy.signal.windows`, or None.
    scaling
        ``"density"`` divides the window by its root sum of squares, ``"spectrum"`` by the sum of its
        magnitudes; None does neither. Without a window there is no scaling, as in Keras.
    periodic
        Whether the window is periodic rather than symmetric.

    Examples
    --------
    >>> import initium as ini
    >>> ini.initialize(ini.STFT(window=None), (4, 1, 3), seed=0)[:, 0].round(6) + 0.0
    array([[ 1.,  1.,  1.],
           [ 1.,  0., -1.],
           [ 1., -1.,  1.],
           [ 1.,  0., -1.]], dtype=float32)
    """

    side: str = "real"
    window: str | None = "hann"
    scaling: str | None = "density"
    periodic: bool = False

    def __post_init__(self) -> None:
        check_choice("side", self.side, ("real", "imag"))
        if self.scaling is not None:
            check_choice("scaling", self.scaling, ("density", "spectrum"))
        if self.window is not None and not isinstance(self.window, str):
            raise TypeError(f"window={self.window!r}; expected the name of a window or None")

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill; raise `ValueError` unless the shape is (frame, 1, bins)."""
        if len(shape) != 3 or shape[1] != 1:
            raise ValueError(f"shape={tuple(shape)} is not a filter bank; expected (frame, 1, bins)")
        if self.window is not None:
            _window(self.window, 1, self.periodic)  # raises here if SciPy is missing
        return _STFTFill(tuple(shape), self)


def stft(
    side: str = "real", window: str | None = "hann", scaling: str | None = "density", periodic: bool = False
) -> STFT:
    """w[t] cos(2 pi t f / (2 (bins - 1))), or - sin for the imaginary side; w normalised by its scaling.

    Source: Keras, keras/src/initializers/constant_initializers.py.
    Peers: Keras STFT.
    """
    return STFT(side, window, scaling, periodic)
