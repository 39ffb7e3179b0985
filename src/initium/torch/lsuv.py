"""LSUV for torch: orthonormal weights, scaled layer by layer to unit output variance on data.

Mishkin and Matas 2016, "All you need is a good init", algorithm 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from initium.checks import check_count, check_positive
from initium.initializers.orthogonal import Orthogonal
from initium.model import init_model

__all__ = ["LSUVReport", "LSUVWarning", "LayerReport", "lsuv"]


class LSUVWarning(UserWarning):
    """The output variance of a layer is not within the tolerance after all iterations."""


@dataclass(frozen=True)
class LayerReport:
    """The result for one layer.

    Attributes
    ----------
    name
        Name of the layer.
    shape
        Shape of its weight.
    before, after
        Variance of its output before the first and after the last rescaling; all earlier layers have their
        final weights.
    iterations
        Number of rescalings.
    converged
        Whether `after` is within the tolerance of 1.
    tied_to
        Name of an earlier layer with the same weight; the weight is not scaled again then.
    """

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    iterations: int
    converged: bool
    tied_to: str | None = None


@dataclass(frozen=True)
class LSUVReport:
    """The result for a module.

    Attributes
    ----------
    layers
        The layers, in the order of execution.
    unused
        Layers that were not executed; their weights are orthonormal.
    tolerance
        Tolerance of the variance.
    """

    layers: tuple[LayerReport, ...]
    unused: tuple[str, ...]
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the output variance of every layer is within the tolerance of 1."""
        return all(layer.converged for layer in self.layers)

    def __str__(self) -> str:
        lines = [f"{'layer':<24} {'shape':<20} {'before':>10} {'after':>10} {'rescaled':>9}"]
        for done in self.layers:
            cells = f"{done.name:<24} {done.shape!s:<20} {done.before:>10.4g} {done.after:>10.4g}"
            lines.append(f"{cells} {done.iterations:>9}{'' if done.converged else '  not within tolerance'}")
        return "\n".join([*lines, *(f"{name:<24} not reached" for name in self.unused)])


def lsuv(
    module: nn.Module,
    *inputs: Any,
    seed: int,
    tolerance: float = 0.1,
    max_iterations: int = 10,
    select: Callable[[str, nn.Module], bool] | None = None,
    **options: Any,
) -> LSUVReport:
    """Fill each layer with orthonormal weights, and scale them until the output has unit variance.

    Parameters
    ----------
    module
        A torch module.
    *inputs
        One batch: the arguments of the module.
    seed
        The seed of the orthonormal weights, in [0, 2**64).
    tolerance
        Largest allowed difference of a variance from 1, > 0.
    max_iterations
        Largest number of rescalings per layer. Without biases, one is enough, except for rounding.
    select
        ``select(name, layer)`` returns whether to use a Linear or Conv layer. Default: all of them.
    **options
        Keyword arguments of the module.

    Returns
    -------
    LSUVReport
        The variances of each layer.

    Raises
    ------
    ValueError
        If there is no layer to use, if the weight of a layer is not its own parameter, or if the variance of
        an output is not finite and positive (for example with a constant input). The message names the layer.

    Warns
    -----
    LSUVWarning
        If a layer is not within the tolerance after `max_iterations`.

    Notes
    -----
    The biases of the layers are set to 0. The module runs in evaluation mode and without gradients: dropout
    does not change the variances, and running statistics stay unchanged. The modes are restored. A layer that
    is executed several times is scaled by its first output.

    Examples
    --------
    >>> import torch
    >>> import initium as ini
    >>> from initium.torch.lsuv import lsuv
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> data = torch.from_numpy(ini.normal((64, 8), seed=1, name="data"))
    >>> report = lsuv(net, data, seed=7)
    >>> report.converged, [layer.name for layer in report.layers]
    (True, ['0', '2'])
    """
    tolerance, limit = check_positive("tolerance", tolerance), check_count("max_iterations", max_iterations)
    layers = _layers(module, select)
    with _evaluating(module), torch.no_grad():
        _start(layers, seed)
        order = _order(module, layers, inputs, options)
        done: list[LayerReport] = []
        first: dict[int, str] = {}
        for name in order:
            layer = layers[name]
            tied_to = first.setdefault(id(layer.weight), name)
            output = partial(_output, module, layer, inputs, options)
            if tied_to == name:
                done.append(_scale(name, layer, output, tolerance, limit))
            else:
                done.append(replace(_scale(name, layer, output, tolerance, 0), tied_to=tied_to))
    report = LSUVReport(tuple(done), tuple(name for name in layers if name not in order), tolerance)
    if not report.converged:
        off = ", ".join(f"{layer.name} ({layer.after:.4g})" for layer in done if not layer.converged)
        warnings.warn(f"output variances are not within {tolerance} of 1: {off}", LSUVWarning, stacklevel=2)
    return report


def _layers(module: nn.Module, select: Callable[[str, nn.Module], bool] | None) -> dict[str, Any]:
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, _ConvNd)) and (select is None or select(name, layer))
    }
    if not layers:
        raise ValueError("module has no Linear or Conv layer to use; expected at least one")
    for name, layer in layers.items():
        if "weight" not in layer._parameters:
            raise ValueError(f"layer {name!r}: its weight is not its own parameter; expected a plain layer")
    return layers


def _start(layers: Mapping[str, Any], seed: int) -> None:
    weights = {f"{name}.weight": layer.weight for name, layer in layers.items()}
    init_model(weights, Orthogonal(), seed=seed)
    for layer in layers.values():
        if layer.bias is not None:
            layer.bias.zero_()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _order(module: nn.Module, layers: Mapping[str, Any], inputs: Any, options: Any) -> list[str]:
    """Return the names of the executed layers, in order."""
    order: list[str] = []

    def hook(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name) if name not in order else None

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        module(*inputs, **options)
    finally:
        for handle in handles:
            handle.remove()
    return order


class _ReachedError(Exception):
    """The layer has been executed; the rest of the module need not run."""


def _output(module: nn.Module, layer: nn.Module, inputs: Any, options: Any) -> Tensor:
    """Return the first output of a layer."""
    found: list[Tensor] = []

    def hook(_: Any, __: Any, output: Tensor) -> None:
        found.append(output)
        raise _ReachedError

    handle = layer.register_forward_hook(hook)
    try:
        module(*inputs, **options)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return found[0]


def _scale(name: str, layer: Any, output: Callable[[], Tensor], tolerance: float, limit: int) -> LayerReport:
    before = variance = _variance(name, output())
    iterations = 0
    while abs(variance - 1) > tolerance and iterations < limit:
        layer.weight.div_(math.sqrt(variance))
        variance = _variance(name, output())
        iterations += 1
    converged = abs(variance - 1) <= tolerance
    return LayerReport(name, tuple(layer.weight.shape), before, variance, iterations, converged)


def _variance(name: str, output: Tensor) -> float:
    variance = float(output.double().var(correction=0))
    if not (math.isfinite(variance) and variance > 0):
        raise ValueError(
            f"layer {name!r}: the variance of its output is {variance}; expected a finite number > 0"
        )
    return variance
