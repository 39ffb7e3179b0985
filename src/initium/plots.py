"""Plots of initializers: bounds against fan_in, histograms of weights, the signal through depth.

Each plot function returns a `matplotlib.figure.Figure`; no display is needed. Needs the extra ``plot``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from initium import tensor
from initium.checks import check_choice, check_count
from initium.fills.elementwise import TruncatedNormalFill, UniformFill
from initium.initializers.basic import Initializer
from initium.initializers.catalogue import MAKERS
from initium.layouts import lookup

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        f"plots need matplotlib: {error}; install it with: pip install 'initium[plot]'"
    ) from error

__all__ = [
    "ACTIVATIONS",
    "Signal",
    "plot_histograms",
    "plot_signal",
    "plot_spread",
    "signal",
]

# Okabe and Ito's colours, which colour-blind people can distinguish; black is last.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_COLUMNS = 3  # panels side by side
_PANEL = (3.6, 2.7)  # inches

Named = str | tuple[str, Initializer]


def _named(initializers: Iterable[Named]) -> dict[str, Initializer]:
    """Return initializers by label; a string is the name of an entry of the catalogue without arguments."""
    found: dict[str, Initializer] = {}
    for given in initializers:
        if isinstance(given, str):
            check_choice("initializer", given, tuple(MAKERS))
            found[given] = MAKERS[given]()
        else:
            label, initializer = given
            found[label] = initializer
    if not found:
        raise ValueError("initializers is empty; expected at least one")
    return found


def _panels(
    count: int, columns: int, panel: tuple[float, float] = _PANEL, **shared: Any
) -> tuple[Figure, list[Any]]:
    """Return a figure with `count` panels, and the panels."""
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    flat = list(axes.flat)
    for unused in flat[count:]:
        unused.remove()
    for axis in flat[max(0, count - columns) : count]:  # the lowest panels of the columns
        axis.tick_params(labelbottom=True)
    return figure, flat[:count]


# --- spread -------------------------------------------------------------------------------------------------


def plot_spread(
    initializers: Iterable[Named] = ("one_over_sqrt_uniform", "glorot_uniform", "he_uniform"),
    *,
    fan_in: Sequence[int] = range(1, 101),
    fan_out: int | None = None,
    quantity: str = "bounds",
) -> Figure:
    """Plot bounds or std against fan_in, as bars around zero.

    Parameters
    ----------
    initializers
        Names in the catalogue, or pairs of (label, initializer).
    fan_in
        Numbers of inputs, each >= 1.
    fan_out
        Number of outputs; equal to fan_in if None.
    quantity
        ``"bounds"``: the interval that holds all weights, or 3 std with a note in the title if there is no
        bound. ``"std"``: one standard deviation to each side.

    Examples
    --------
    >>> from initium.plots import plot_spread
    >>> figure = plot_spread(["glorot_uniform", "he_normal"], fan_in=range(1, 50))
    >>> [axis.get_title().splitlines() for axis in figure.axes]
    [['glorot_uniform', '(bounds)'], ['he_normal', '(bounds)']]
    """
    check_choice("quantity", quantity, ("bounds", "std"))
    inputs = [check_count("fan_in", n, minimum=1) for n in fan_in]
    if not inputs:
        raise ValueError("fan_in is empty; expected at least one number of inputs")
    named = _named(initializers)
    columns = 2 if len(named) == 4 else _COLUMNS
    figure, axes = _panels(len(named), columns, sharex=True, sharey=True)
    for index, (axis, (label, initializer)) in enumerate(zip(axes, named.items(), strict=True)):
        spreads = [_spread(initializer, n, n if fan_out is None else fan_out, quantity) for n in inputs]
        kind = spreads[0][1]
        axis.errorbar(
            inputs,
            np.zeros(len(inputs)),
            [reach for reach, _ in spreads],
            fmt="none",
            ecolor=_COLOURS[index % len(_COLOURS)],
            elinewidth=1,
            capsize=1.5,
        )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_title(f"{label}\n({kind})", fontsize="medium")
        axis.grid(alpha=0.3)
    _label_outer(figure, "fan_in (inputs per unit)", "weight (dimensionless)")
    return figure


def _spread(initializer: Initializer, n_in: int, n_out: int, quantity: str) -> tuple[float, str]:
    """Return the half-width to draw, and its description."""
    layout = lookup(getattr(initializer, "layout", None))
    shape = (n_in, n_out) if layout.fans((n_in, n_out)).fan_in == n_in else (n_out, n_in)
    fill: Any = initializer.resolve(shape)
    if quantity == "std":
        return fill.std, "± 1 std"
    if isinstance(fill, UniformFill):
        return max(abs(fill.low), abs(fill.high)), "bounds"
    if isinstance(fill, TruncatedNormalFill) and math.isfinite(fill.upper):
        return max(abs(float(b)) for b in fill.bounds), "bounds"
    return 3 * fill.std, "± 3 std: no bound"


def _label_outer(figure: Any, x: str, y: str) -> None:
    figure.supxlabel(x, fontsize="medium")
    figure.supylabel(y, fontsize="medium")


# --- histograms ---------------------------------------------------------------------------------------------


def plot_histograms(weights: Any, *, bins: int = 60, columns: int = 4) -> Figure:
    """Plot a histogram of each weight of a model.

    Parameters
    ----------
    weights
        Mapping of names to arrays or torch tensors, a `Report` of `initium.init_model`, or a torch module.
    bins
        Number of bars per histogram, >= 1.
    columns
        Number of panels per row, >= 1.

    Examples
    --------
    >>> import initium as ini
    >>> from initium.plots import plot_histograms
    >>> report = ini.init_model({"fc1.weight": (64, 64)}, ini.he_normal(), seed=7)
    >>> figure = plot_histograms(report)
    >>> figure.axes[0].get_title().splitlines()
    ['fc1.weight', 'mean ..., std ...']
    """
    check_count("bins", bins, minimum=1)
    check_count("columns", columns, minimum=1)
    arrays = {name: _as_array(value) for name, value in _weights_of(weights).items()}
    arrays = {name: array[np.isfinite(array)] for name, array in arrays.items() if array.size}
    if not arrays:
        raise ValueError("weights holds no values; expected at least one array")
    figure, axes = _panels(len(arrays), columns, panel=(3.2, 2.3))
    for axis, (name, array) in zip(axes, arrays.items(), strict=True):
        axis.hist(array, bins=bins, color=_COLOURS[0])
        axis.set_title(f"{_short(name)}\nmean {array.mean():.2g}, std {array.std():.3g}", fontsize="small")
        axis.tick_params(labelsize="small")
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 4))
        axis.yaxis.get_offset_text().set_fontsize("small")
        axis.xaxis.set_major_locator(_few_ticks())
    _label_outer(figure, "weight (dimensionless)", "number of weights per bin")
    return figure


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _weights_of(weights: Any) -> Mapping[str, Any]:
    if hasattr(weights, "weights"):
        weights = weights.weights
    if hasattr(weights, "named_parameters"):
        weights = dict(weights.named_parameters())
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights is a {type(weights).__name__}; expected a mapping of names to arrays, a report of "
            "init_model or a torch module"
        )
    return weights


def _as_array(value: Any) -> NDArray[np.float64]:
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    return np.asarray(value).astype(np.float64).ravel()


def _short(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


# --- the signal through depth -------------------------------------------------------------------------------


def _sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (1 + np.tanh(0.5 * z))


def _gelu(z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    # The tanh form of Hendrycks and Gimpel 2016, off by less than 1e-3, with its own derivative.
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    bend = np.tanh(inner)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    return 0.5 * z * (1 + bend), 0.5 * (1 + bend) + 0.5 * z * (1 - bend**2) * slope


def _silu(z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    gate = _sigmoid(z)
    return z * gate, gate * (1 + z * (1 - gate))


#: Value and derivative of each activation.
ACTIVATIONS: Mapping[str, Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]] = {
    "linear": lambda z: (z, np.ones_like(z)),
    "sigmoid": lambda z: (s := _sigmoid(z), s * (1 - s)),
    "tanh": lambda z: (t := np.tanh(z), 1 - t**2),
    "relu": lambda z: (np.maximum(z, 0), (z > 0).astype(z.dtype)),
    "leaky_relu": lambda z: (np.where(z > 0, z, 0.01 * z), np.where(z > 0, 1, 0.01).astype(z.dtype)),
    "gelu": _gelu,
    "silu": _silu,
}


class Signal(NamedTuple):
    """Variances through a chain of layers.

    Attributes
    ----------
    activations
        Variance of the input and of the output of each layer, shape (depth + 1,).
    gradients
        Variance of the gradient with respect to each of these, shape (depth + 1,). The gradient with respect
        to the last output has variance 1.
    """

    activations: NDArray[np.float64]
    gradients: NDArray[np.float64]


def signal(
    initializer: Initializer,
    activation: str,
    *,
    depth: int = 50,
    width: int = 256,
    batch: int = 128,
    seed: int = 0,
) -> Signal:
    """Propagate normal noise through equal layers, forward and backward, and return its variances.

    Parameters
    ----------
    initializer
        The initializer of the (width, width) weight of each layer; there are no biases.
    activation
        A name in `ACTIVATIONS`.
    depth
        Number of layers, >= 1.
    width
        Units per layer, >= 1.
    batch
        Number of inputs, >= 1.
    seed
        The seed of weights, inputs and gradients.

    Examples
    --------
    >>> import initium as ini
    >>> from initium.plots import signal
    >>> found = signal(ini.he_normal(), "relu", depth=3, width=64, batch=32)
    >>> found.activations.shape, found.gradients.shape
    ((4,), (4,))
    """
    check_choice("activation", activation, tuple(ACTIVATIONS))
    for argument, value in (("depth", depth), ("width", width), ("batch", batch)):
        check_count(argument, value, minimum=1)
    function = ACTIVATIONS[activation]
    x = tensor.normal((batch, width), seed=seed, name="inputs").astype(np.float64)
    states, slopes, weights = [x], [], []
    # If a signal explodes, the plot shows the overflow.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for layer in range(depth):
            weight = tensor.initialize(initializer, (width, width), seed=seed, name=f"layers.{layer}.weight")
            weights.append(weight.astype(np.float64))
            x, slope = function(x @ weights[-1].T)
            states.append(x)
            slopes.append(slope)
        gradient = tensor.normal((batch, width), seed=seed, name="gradients").astype(np.float64)
        gradients = [gradient]
        for weight, slope in zip(reversed(weights), reversed(slopes), strict=True):
            gradient = (gradient * slope) @ weight
            gradients.append(gradient)
        return Signal(
            np.array([state.var() for state in states]), np.array([g.var() for g in reversed(gradients)])
        )


def plot_signal(
    initializers: Iterable[Named] = ("one_over_sqrt_uniform", "glorot_uniform", "he_normal", "orthogonal"),
    activations: Sequence[str] = ("linear", "sigmoid", "tanh", "relu"),
    *,
    depth: int = 50,
    width: int = 256,
    batch: int = 128,
    seed: int = 0,
) -> Figure:
    """Plot the variance of activations and of gradients through depth, on a logarithmic scale.

    Parameters
    ----------
    initializers
        Names in the catalogue, or pairs of (label, initializer).
    activations
        Names in `ACTIVATIONS`.
    depth, width, batch, seed
        See `signal`.

    Examples
    --------
    >>> from initium.plots import plot_signal
    >>> figure = plot_signal(["he_normal"], ["relu"], depth=3, width=64, batch=32)
    >>> [axis.get_title() for axis in figure.axes]
    ['relu', '']
    """
    named = _named(initializers)
    if not activations:
        raise ValueError("activations is empty; expected at least one")
    runs = {
        (label, activation): signal(made, activation, depth=depth, width=width, batch=batch, seed=seed)
        for activation in activations
        for label, made in named.items()
    }
    columns = len(activations)
    figure, axes = _panels(2 * columns, columns, sharex=True, sharey="row")
    for column, activation in enumerate(activations):
        upper, lower = axes[column], axes[columns + column]
        for index, label in enumerate(named):
            run = runs[label, activation]
            # Later lines are thinner, so that equal lines stay visible.
            style = {
                "color": _COLOURS[index % len(_COLOURS)],
                "linewidth": 3.2 - 2.2 * index / max(1, len(named) - 1),
            }
            upper.plot(_visible(run.activations), label=label, **style)
            lower.plot(_visible(run.gradients), **style)
        upper.set_title(activation)
        for axis in (upper, lower):
            axis.set_yscale("log")
            axis.axhline(1, color="grey", linewidth=0.8, linestyle=":")
            axis.grid(alpha=0.3)
        lower.set_xlabel("layer")
    axes[0].set_ylabel("variance of activations\n(of the input: 1)")
    axes[columns].set_ylabel("variance of gradients\n(at the output: 1)")
    for row in (axes[:columns], axes[columns:]):
        _limit_scale(row)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(named), 4), frameon=False)
    return figure


def _visible(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variances, with NaN in place of values that a logarithmic scale cannot show."""
    return np.where(np.isfinite(variances) & (variances > 0), variances, np.nan)


#: Largest number of decades around 1 in a plot; training fails with larger or smaller variances.
_DECADES = 16


def _limit_scale(row: Sequence[Any]) -> None:
    low, high = row[0].get_ylim()
    row[0].set_ylim(max(low, 10.0**-_DECADES), min(high, 10.0**_DECADES))
