"""The catalogue: every initializer by name, with formula, layout, source and peers, read off the code.

``python -m initium.initializers.catalogue`` prints it as Markdown; ``docs/catalogue.md`` is that text.

What a function says of itself stands in its docstring: the formula in the first line, then ``Source:`` and
``Peers:``. Classes say more than that, and so their lines stand here.
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
        What recipes and tables call it.
    maker
        Function or class that makes it.
    section
        Heading in the table.
    formula, source, peers
        What is drawn, who says so, and who else has it; empty where there is nothing to say.
    layout
        Name of the layout that fans or rows are read off by default; empty if there is none.
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


#: Classes without a function of their own: formula, source, peers.
_CLASSES: Mapping[type, tuple[str, str, str]] = {
    basic.Uniform: (
        "U[low, high)",
        "",
        "torch uniform_; Caffe UniformFiller; JAX uniform(scale) on [0, scale)",
    ),
    basic.Normal: ("N(mean, std^2)", "", "torch normal_; JAX normal (std 0.01); Caffe GaussianFiller"),
    basic.TruncatedNormal: (
        "N(mean, std^2), conditioned on mean + [lower std, upper std], or on [lower, upper] if `absolute`",
        "",
        "JAX truncated_normal; torch trunc_normal_ (absolute bounds)",
    ),
    scaling.VarianceScaling: (
        "variance scale / n: U(+-sqrt(3 scale / n)), N(0, scale / n), or that cut at 2 sigmas and corrected",
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
    identities.Dirac: ("1 where a convolution passes a channel on, else 0", "", "torch dirac_"),
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
    """Return the layout that shapes are read by where neither the user nor the tensor says another."""
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

#: Makers of initializers by every name, aliases included.
MAKERS: Mapping[str, Callable[..., Initializer]] = MappingProxyType(
    {name: entry.maker for entry in CATALOGUE.values() for name in (entry.name, *entry.aliases)}
)

# --- as a document ------------------------------------------------------------------------------------------

_HEAD = """\
# The catalogue of initializers

Written by `python -m initium.initializers.catalogue` from the code; do not edit.

n_in (fan_in) and n_out (fan_out) are inputs and outputs per unit times the receptive field, n is the one that
`mode` names, N(m, v) is the normal distribution of mean m and **variance** v, U(+-b) the uniform one on
[-b, b). Layout `out_in` is that of torch, (out, in, ...); `in_out` is that of Keras, JAX and TensorFlow,
(..., in, out); any other is a `Layout` of explicit axes. "Corrected" means that the std is divided by
0.87962566103423978, so that it is what the formula says **after** truncation.

Names are functions of `initium`, or, in CapWords there, its classes. `initium.torch.init`,
`initium.jax.initializers` and `initium.keras` mirror their libraries' own names and conventions: there,
`kaiming_normal_` is not truncated, while `HeNormal` is.
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
    lines += ["## Gains", "", "`calculate_gain(nonlinearity, param)`, factors of the std:", ""]
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
