"""The catalogue: every initializer by name, with formula, layout, source and peers, collected from the code.

``python -m initium.initializers.catalogue`` prints it as Markdown; ``docs/catalogue.md`` is this text.

The entry of a function comes from its docstring: the formula is the first line; ``Source:`` and ``Peers:``
follow. The entries of classes are in this file.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

from initium.initializers import basic, filters, identities, orthogonal, peers, scaling, sparse, unit_ball
from initium.initializers.basic import Initializer
from initium.initializers.gains import GAINS, calculate_gain
from initium.layouts import OUT_IN, Layout

__all__ = ["CATALOGUE", "MAKERS", "Entry", "markdown"]


@dataclass(frozen=True)
class Entry:
    """One initializer.

    Attributes
    ----------
    name
        The name in recipes and tables.
    maker
        The function or class that makes it.
    section
        The heading in the table.
    formula, source, peers
        The distribution, its paper or library, and equivalents in other libraries; empty if unknown.
    layout
        Name of the default layout for fans or rows; empty if there is none.
    aliases
        Other names of the same function.
    """

    name: str
    maker: Callable[..., Initializer]
    section: str
    formula: str
    source: str
    peers: str
    layout: str
    aliases: tuple[str, ...] = ()


#: Entries of classes that have no function: formula, source, peers.
_CLASSES: Mapping[type, tuple[str, str, str]] = {
    basic.Uniform: (
        "U[low, high)",
        "",
        "torch uniform_; Caffe UniformFiller; JAX uniform(scale) on [0, scale)",
    ),
    basic.Normal: ("N(mean, std^2)", "", "torch normal_; JAX normal (std 0.01); Caffe GaussianFiller"),
    basic.TruncatedNormal: (
        "N(mean, std^2), truncated to mean + [lower std, upper std], or to [lower, upper] if `absolute`",
        "",
        "JAX truncated_normal; torch trunc_normal_ (absolute bounds)",
    ),
    scaling.VarianceScaling: (
        "U(+-sqrt(3 scale / n)), or N(0, scale / n), also truncated at 2 sigma with the std corrected",
        "",
        "Keras VarianceScaling; JAX variance_scaling",
    ),
    orthogonal.Orthogonal: (
        "gain Q, Q by Haar measure on the (semi-)orthogonal matrices",
        "Saxe et al. 2014; Stewart 1980",
        "torch orthogonal_; Keras Orthogonal; JAX orthogonal",
    ),
    orthogonal.DeltaOrthogonal: (
        "gain Q at the centre tap of a convolution, 0 elsewhere",
        "Xiao et al. 2018",
        "JAX delta_orthogonal",
    ),
    identities.Identity: ("gain I", "", "torch eye_; Keras Identity"),
    identities.Dirac: ("1 at the centre tap for equal channels, else 0", "", "torch dirac_"),
}

#: Sections of the table, each with its names in order.
_SECTIONS: tuple[tuple[str, tuple[tuple[ModuleType, tuple[str, ...]], ...]], ...] = (
    (
        "Basics",
        (
            (basic, ("zeros", "ones", "constant", "Uniform", "Normal", "TruncatedNormal")),
            (identities, ("Identity", "Dirac")),
            (orthogonal, ("Orthogonal", "DeltaOrthogonal")),
            (sparse, ("sparse",)),
        ),
    ),
    (
        "Variance scaling",
        (
            (
                scaling,
                (
                    *("VarianceScaling", "lecun_uniform", "lecun_normal", "glorot_uniform", "glorot_normal"),
                    *("he_uniform", "he_normal"),
                ),
            ),
        ),
    ),
    (
        "Rules of thumb and papers",
        (
            (
                peers,
                (
                    *("one_over_sqrt_uniform", "one_over_sqrt_normal", "xavier_tanh", "xavier_logistic"),
                    *("kwon_logistic", "kwon_tanh"),
                ),
            ),
        ),
    ),
    (
        "Caffe, Lasagne, TensorFlow 1, MXNet",
        (
            (peers, ("caffe_xavier", "caffe_msra")),
            (sparse, ("caffe_gaussian",)),
            (unit_ball, ("caffe_positive_unitball",)),
            (filters, ("bilinear",)),
            (sparse, ("lasagne_sparse",)),
            (peers, ("tf_variance_scaling", "tf_xavier", "mxnet_xavier", "mxnet_msra_prelu")),
        ),
    ),
    (
        "Keras",
        (
            (peers, ("keras_random_normal", "keras_random_uniform", "keras_truncated_normal")),
            (filters, ("stft",)),
        ),
    ),
    ("torch's layers", ((peers, ("torch_linear", "torch_bias", "torch_rnn", "torch_embedding")),)),
)


def _entries() -> Iterator[Entry]:
    for section, parts in _SECTIONS:
        for module, names in parts:
            for name in names:
                yield _entry(name, getattr(module, name), section)


def _entry(name: str, maker: Any, section: str) -> Entry:
    facts = _CLASSES[maker] if inspect.isclass(maker) else _read(maker)
    return Entry(_snake(name), maker, section, *facts, _layout(maker), tuple(_aliases(name, maker)))


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _read(function: Callable[..., Any]) -> tuple[str, str, str]:
    """Return formula, source and peers from a docstring."""
    text = inspect.getdoc(function) or ""
    formula = " ".join(text.split("\n\n")[0].split()).removesuffix(".")
    found = {}
    for label in ("Source", "Peers"):
        match = re.search(rf"^{label}: (.*?)(?=^\w+: |^$|\Z)", text, re.MULTILINE | re.DOTALL)
        found[label] = " ".join(match[1].split()).removesuffix(".") if match else ""
    return formula, found["Source"], found["Peers"]


def _layout(maker: Callable[..., Any]) -> str:
    """Return the name of the layout that is used if neither the user nor the tensor has one."""
    parameters = inspect.signature(maker).parameters
    if "layout" in parameters:
        return parameters["layout"].default or OUT_IN.name
    if any(p.default is p.empty for p in parameters.values()):
        return ""
    layout = getattr(maker(), "layout", "")
    return layout.name if isinstance(layout, Layout) else str(layout)


def _aliases(name: str, maker: Any) -> Iterator[str]:
    for module in (scaling, peers, filters):
        for other, value in vars(module).items():
            if value is maker and not inspect.isclass(maker) and other != name and not other.startswith("_"):
                yield other


#: All entries by name.
CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _entries()})

#: Functions and classes that make initializers, by all names and aliases.
MAKERS: Mapping[str, Callable[..., Initializer]] = MappingProxyType(
    {name: entry.maker for entry in CATALOGUE.values() for name in (entry.name, *entry.aliases)}
)

# --- as a document ------------------------------------------------------------------------------------------

_HEAD = """\
# The catalogue of initializers

`python -m initium.initializers.catalogue` writes this page from the code; do not edit it.

Notation:

- n_in (fan_in) and n_out (fan_out) are inputs and outputs per unit, times the receptive field.
- n is n_in, n_out or a mean of both; the argument `mode` selects it.
- N(m, v) is the normal distribution with mean m and **variance** v.
- U(+-b) is the uniform distribution on [-b, b).
- "Corrected": the std is divided by 0.87962566103423978. So the formula gives the std **after** truncation at
  2 sigma.

The layout `out_in` is (out, in, ...), as in torch. The layout `in_out` is (..., in, out), as in Keras, JAX
and TensorFlow. Other layouts are `Layout` objects with explicit axes.

Lower-case names are functions of `initium`; names in CapWords are its classes.

`initium.torch.init`, `initium.jax.initializers` and `initium.keras` have the names and conventions of their
libraries. For example, torch's `kaiming_normal_` is not truncated, and Keras's `HeNormal` is truncated.
"""


def markdown() -> str:
    """Return the catalogue as Markdown."""
    lines = [_HEAD]
    for section, _ in _SECTIONS:
        lines += [
            f"## {section}",
            "",
            "| name | formula | layout | source | peers |",
            "|---|---|---|---|---|",
        ]
        lines += [_line(entry) for entry in CATALOGUE.values() if entry.section == section]
        lines.append("")
    lines += ["## Gains", "", "A gain is a factor of the std: `calculate_gain(nonlinearity, param)`.", ""]
    lines += ["| nonlinearity | gain |", "|---|---|"]
    lines += [f"| {name} | {calculate_gain(name):.6g} |" for name in GAINS]
    lines += ["| leaky_relu | sqrt(2 / (1 + param^2)) |", ""]
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    name = entry.maker.__name__ if inspect.isclass(entry.maker) else entry.name
    names = ", ".join(f"`{n}`" for n in (name, *entry.aliases))
    cells = (names, entry.formula, entry.layout, entry.source, entry.peers)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(markdown(), end="")
