"""Stacks of matrices in torch modules, such as experts: which axis is the input, by the module's own facts.

Models store experts as (experts, out, in) or as (experts, in, out). The shape alone does not state which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from initium.layouts import Layout, UnknownLayout

__all__ = ["STACK_IN_OUT", "STACK_OUT_IN", "stack_layouts"]

#: (stack, out, in): each matrix is used as in torch's Linear.
STACK_OUT_IN = Layout(in_axis=2, out_axis=1, batch_axis=(0,), name="stack_out_in")
#: (stack, in, out): each matrix is multiplied from the right.
STACK_IN_OUT = Layout(in_axis=1, out_axis=2, batch_axis=(0,), name="stack_in_out")

#: Attributes of modules with the number of matrices in a stack.
_COUNTS = (
    "moe_num_experts",
    "n_experts",
    "n_routed_experts",
    "num_experts",
    "num_groups",
    "num_local_experts",
    "num_routed_experts",
    "total_experts",
)
#: Pairs of attributes with the inputs and outputs of each matrix.
_SIZES = (
    ("group_in_dim", "group_out_dim"),
    ("in_features", "out_features"),
    ("input_dim", "output_dim"),
    ("input_size", "output_size"),
)
#: Attributes with the width of the model and with the hidden size of an expert.
_WIDTHS = ("d_model", "dim", "hidden_dim", "hidden_size")
_HIDDEN = ("expert_dim", "ffn_dim", "intermediate_dim", "intermediate_size", "moe_intermediate_size")


def stack_layouts(module: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layout]:
    """Return the layouts of the stacks of matrices among a module's own parameters.

    The axes are known from one of these facts, in this order:

    - The module follows transformers' interface for experts: its attribute ``is_transposed`` decides.
    - It has the sizes of each matrix as attributes, such as ``input_size`` and ``output_size``.
    - It has the width of the model and the hidden size of an expert as attributes, and one of its stacks
      gives both halves of a gated layer: 2 * hidden can only be the output. All stacks of a module have the
      same order of axes.

    Else each stack gets an `UnknownLayout` with the reason.

    Parameters
    ----------
    module
        A torch module.
    shapes
        Its own parameters by name, with their shapes.

    Returns
    -------
    dict
        Empty if the module has no stacks: parameters of three axes, the first of which is the number of
        experts or groups that the module has as an attribute.
    """
    counts = set(_sizes(module, _COUNTS))
    stacks = {name: shape for name, shape in shapes.items() if len(shape) == 3 and shape[0] in counts}
    if not stacks:
        return {}
    layout = _by_interface(module) or _by_sizes(module, stacks) or _by_halves(module, stacks)
    return {name: layout or _unknown(module, shape) for name, shape in stacks.items()}


def _sizes(module: Any, names: Sequence[str]) -> Iterator[int]:
    values = (getattr(module, name, None) for name in names)
    return (value for value in values if type(value) is int)


def _by_interface(module: Any) -> Layout | None:
    is_transposed = getattr(module, "is_transposed", None)
    if not isinstance(is_transposed, bool) or not hasattr(module, "has_gate"):
        return None
    return STACK_IN_OUT if is_transposed else STACK_OUT_IN


def _by_sizes(module: Any, stacks: Mapping[str, tuple[int, ...]]) -> Layout | None:
    pairs = [pair for names in _SIZES if len(pair := tuple(_sizes(module, names))) == 2]
    return _decided(stacks, pairs)


def _by_halves(module: Any, stacks: Mapping[str, tuple[int, ...]]) -> Layout | None:
    pairs = [(n, 2 * hidden) for n in _sizes(module, _WIDTHS) for hidden in _sizes(module, _HIDDEN)]
    return _decided(stacks, pairs)


def _decided(stacks: Mapping[str, tuple[int, ...]], pairs: Sequence[tuple[int, ...]]) -> Layout | None:
    """Return the layout by which a stack has one of the pairs (in, out); None if both layouts do, or none."""
    matrices = [shape[1:] for shape in stacks.values()]
    in_out = any(matrix == pair for matrix in matrices for pair in pairs)
    out_in = any(matrix == pair[::-1] for matrix in matrices for pair in pairs)
    if in_out == out_in:
        return None
    return STACK_IN_OUT if in_out else STACK_OUT_IN


def _unknown(module: Any, shape: tuple[int, ...]) -> UnknownLayout:
    a, b = shape[1:]
    return UnknownLayout(
        reason=f"the class {type(module).__name__} stacks {shape[0]} matrices of {a} x {b}, and does not "
        "state which axis is the input; expected an initializer with "
        "layout=initium.Layout(in_axis=2, out_axis=1, batch_axis=(0,)), or with in_axis=1, out_axis=2"
    )
