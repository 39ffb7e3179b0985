"""What the modules of a torch model know of its parameters: roles and layouts, by the classes of modules."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

from initium.layouts import IN_OUT, OUT_IN, TRANSPOSED, GroupedTransposed, Layout, UnknownLayout
from initium.models.architecture import Parametrized
from initium.models.stacks import stack_layouts

__all__ = ["ModuleParameter", "Role", "joined", "parameters_of"]

Role: TypeAlias = Literal[
    "matrix",
    "convolution",
    "transposed_convolution",
    "embedding",
    "norm_weight",
    "norm_bias",
    "bias",
    "expert_stack",
    "fused",
    "head",
    "other",
]


@dataclass(frozen=True)
class ModuleParameter:
    """What the owner of a parameter knows of it.

    Attributes
    ----------
    role
        What the parameter is for:

        - ``"matrix"``: of Linear, Bilinear, an RNN without gates, or GPT-2's Conv1D;
        - ``"fused"``: several matrices along the output axis, as in an LSTM or in MultiheadAttention;
        - ``"expert_stack"``: independent matrices along a batch axis;
        - ``"convolution"``, ``"transposed_convolution"``, ``"embedding"``;
        - ``"head"``: the output matrix of a language model, also if it is tied to the embedding;
        - ``"norm_weight"``, ``"norm_bias"``, ``"bias"``;
        - ``"other"``: all else, such as the parameters of classes that are not known.
    layout
        Its layout; an `UnknownLayout` with the reason if it is not known, None for vectors and scalars.
    parametrized
        The weight that a parametrization computes from this parameter; None without one.
    """

    role: Role
    layout: Layout | None
    parametrized: Parametrized | None = None


_Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_Roles: TypeAlias = Mapping[str, tuple[Role, Layout | None]]


def parameters_of(module: Any) -> dict[str, ModuleParameter]:
    """Return role and layout of each parameter of a torch module, from the class of the module that owns it.

    Names are not consulted, except those of a class's own parameters.

    Parameters
    ----------
    module
        A torch module, on any device.

    Returns
    -------
    dict
        By name, in the order of ``module.named_parameters(remove_duplicate=False)``.

    Notes
    -----
    - Linear, Conv, Embedding and RNNs have torch's layout (out, in, *receptive), by which
      ``torch.nn.init`` computes fans. A Conv with groups is (out, in / groups, *receptive): fan_in is exact,
      and fan_out counts the outputs of all groups. A ConvTranspose is (in, out / groups, *receptive), and has
      the fans of a Conv with the same channels, kernel and groups. The stride does not count, as in torch.
    - Embedding is (num, dim), so its fan_in is dim. Flax's Embed has the same fan_in. A row is looked up, not
      summed: a recipe should give embeddings a std.
    - The output axis of a fused weight counts as a whole, as in torch: for ``in_proj_weight`` of
      MultiheadAttention, fan_out is 3 dim.
    - Experts: see `initium.models.stacks`. Square ones also take the layout of other stacks of their class.
    - A class that is not known may state a convolution by its attributes ``in_channels``, ``out_channels``,
      ``kernel_size``, ``groups`` and ``transposed``, if the shape fits in one way only.
    - Another parameter with two axes is (out, in) by convention. With more axes its layout is unknown.

    Examples
    --------
    >>> import torch
    >>> from initium.models.torch_modules import parameters_of
    >>> model = torch.nn.Sequential(torch.nn.ConvTranspose1d(3, 4, 5), torch.nn.GroupNorm(2, 4))
    >>> for name, known in parameters_of(model).items():
    ...     print(name, known.role, known.layout.name if known.layout else None)
    0.weight transposed_convolution transposed
    0.bias bias None
    1.weight norm_weight None
    1.bias norm_bias None
    """
    heads = _heads(module)
    inherited: dict[int, dict[str, ModuleParameter]] = {}
    found: dict[str, ModuleParameter] = {}
    owners: dict[str, type] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        known = inherited.get(id(part)) or _own(part, prefix)
        if id(part) in heads:
            known = {
                name: replace(p, role="head") if p.role in ("matrix", "embedding") else p
                for name, p in known.items()
            }
        for tensor, parametrizations in _parametrizations(part):
            inherited |= _originals(part, prefix, tensor, parametrizations)
        for name, parameter in known.items():
            found[joined(prefix, name)] = parameter
            owners[joined(prefix, name)] = type(part)
    return _decided_by_class(found, owners)


def _decided_by_class(
    found: Mapping[str, ModuleParameter], owners: Mapping[str, type]
) -> dict[str, ModuleParameter]:
    """Return the parameters, where stacks that are square have the layout of other stacks of their class."""
    stacks = {name: p.layout for name, p in found.items() if p.role == "expert_stack"}
    known: dict[type, set[Layout | None]] = {}
    for name, layout in stacks.items():
        if not isinstance(layout, UnknownLayout):
            known.setdefault(owners[name], set()).add(layout)
    made = dict(found)
    for name, layout in stacks.items():
        of_class = known.get(owners[name], set())
        if isinstance(layout, UnknownLayout) and len(of_class) == 1:
            made[name] = replace(found[name], layout=next(iter(of_class)))
    return made


def joined(prefix: str, name: str) -> str:
    """Return the full name of a tensor in the module with the name `prefix`."""
    return f"{prefix}.{name}" if prefix else name


def _heads(module: Any) -> set[int]:
    """Return the output layers of transformers' models within a module, by id."""
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:
        return set()
    models = [part for part in module.modules() if isinstance(part, library.PreTrainedModel)]
    heads = [model.get_output_embeddings() for model in models]
    return {id(part) for head in heads if hasattr(head, "modules") for part in head.modules()}


# --- the parameters of one module ---------------------------------------------------------------------------


def _own(part: Any, prefix: str) -> dict[str, ModuleParameter]:
    """Return the parameters that a module owns itself."""
    shapes = _own_shapes(part)
    if not shapes:
        return {}
    hooked = _hooked(part)
    whole = {
        tensor: shapes[name] for name, (tensor, carries, _) in hooked.items() if carries and name in shapes
    }
    roles = _roles(part, {**whole, **shapes})
    made = {}
    for name in shapes:
        tensor, carries, method = hooked.get(name, (None, True, ""))
        role, layout = roles[tensor if tensor is not None and carries else name]
        parametrized = None if tensor is None else Parametrized(joined(prefix, tensor), method)
        made[name] = ModuleParameter(role, layout, parametrized)
    return made


def _own_shapes(part: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's own parameters; a lazy parameter has none yet."""
    from torch.nn.parameter import is_lazy

    own = part.named_parameters(recurse=False, remove_duplicate=False)
    return {name: () if is_lazy(parameter) else tuple(parameter.shape) for name, parameter in own}


def _roles(part: Any, shapes: _Shapes) -> _Roles:
    """Return role and layout of parameters of a module by its class; all others are "other"."""
    known: _Roles = {}
    for classes, roles in _classes():
        if isinstance(part, classes):
            known = roles(part, shapes)
            break
    else:
        has_more_axes = any(len(shape) > 2 for shape in shapes.values())
        ways = (_convolution_by_sizes, _stacks) if has_more_axes else (_norm_by_name,)
        for of_class in ways:
            known = known or of_class(part, shapes)
    others: _Roles = {name: ("other", _by_convention(part, shape)) for name, shape in shapes.items()}
    return {name: known.get(name, other) for name, other in others.items()}


def _by_convention(part: Any, shape: tuple[int, ...]) -> Layout | None:
    """Return the layout of a parameter of a class that is not known."""
    if len(shape) < 3:
        return OUT_IN if len(shape) == 2 else None
    return UnknownLayout(
        reason=f"the class {type(part).__name__}, which owns it, does not state its input and output axes; "
        "expected an initializer with layout=initium.Layout(in_axis=, out_axis=, batch_axis=)"
    )


def _stacks(part: Any, shapes: _Shapes) -> _Roles:
    """Return the stacks of matrices, and of biases, of a module such as the experts of a layer."""
    stacks: dict[str, tuple[Role, Layout | None]] = {
        name: ("expert_stack", layout) for name, layout in stack_layouts(part, shapes).items()
    }
    if stacks and getattr(part, "has_bias", None) is True:  # transformers' interface for experts
        reason = "it is a stack of biases, which have no inputs; expected a rule for biases"
        biases = [name for name, shape in shapes.items() if len(shape) == 2]
        stacks |= dict.fromkeys(biases, ("bias", UnknownLayout(reason=reason)))
    return stacks


def _norm_by_name(part: Any, shapes: _Shapes) -> _Roles:
    """Return the parameters of another library's norm: known by the name of its class, and as vectors."""
    is_named = any(re.search(r"Norm(Gated|\dd)?$", base.__name__) for base in type(part).__mro__)
    return _norm(part, shapes) if is_named and all(len(shape) <= 1 for shape in shapes.values()) else {}


def _convolution_by_sizes(part: Any, shapes: _Shapes) -> _Roles:
    """Return the weight of another library's convolution, or of a scripted one, if its sizes fit one way."""
    channels = [getattr(part, name, None) for name in ("in_channels", "out_channels")]
    kernel, shape = getattr(part, "kernel_size", None), shapes.get("weight", ())
    groups = getattr(part, "groups", 1)
    sizes = (*channels, groups, *kernel) if isinstance(kernel, (tuple, list)) else ()
    if len(shape) < 3 or not sizes or not all(type(size) is int and size > 0 for size in sizes):
        return {}
    inputs, outputs, _, *spatial = sizes
    fits = {
        False: shape == (outputs, inputs // groups, *spatial),
        True: shape == (inputs, outputs // groups, *spatial),
    }
    ways = [way for way, does in fits.items() if does and getattr(part, "transposed", way) == way]
    return _weight_of_convolution(ways[0], groups) if len(ways) == 1 else {}


# --- the classes of torch and transformers ------------------------------------------------------------------


def _classes() -> Iterator[tuple[tuple[type, ...], Callable[[Any, _Shapes], _Roles]]]:
    yield from _classes_of_torch()
    library = sys.modules.get("transformers.pytorch_utils")
    if library is not None:
        yield (library.Conv1D,), _conv1d


@cache
def _classes_of_torch() -> tuple[tuple[tuple[type, ...], Callable[[Any, _Shapes], _Roles]], ...]:
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.conv import _ConvNd

    return (
        ((nn.Linear, nn.Bilinear), _linear),
        ((_ConvNd,), _convolution),
        ((nn.Embedding, nn.EmbeddingBag), _embedding),
        ((nn.RNNBase, nn.RNNCellBase), _recurrent),
        ((nn.MultiheadAttention,), _attention),
        ((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase), _norm),
    )


def _with_axes(shapes: _Shapes, axes: int, role: Role, layout: Layout) -> _Roles:
    """Return the role of a weight; a subclass that keeps it in another shape states nothing by its class."""
    return {"weight": (role, layout)} if len(shapes.get("weight", ())) == axes else {}


def _linear(part: Any, shapes: _Shapes) -> _Roles:
    axes = 3 if hasattr(part, "in2_features") else 2
    return {**_with_axes(shapes, axes, "matrix", OUT_IN), "bias": ("bias", None)}


def _conv1d(part: Any, shapes: _Shapes) -> _Roles:
    return {**_with_axes(shapes, 2, "matrix", IN_OUT), "bias": ("bias", None)}


def _convolution(part: Any, shapes: _Shapes) -> _Roles:
    is_kept = len(shapes.get("weight", ())) == 2 + len(part.kernel_size)
    return {
        **(_weight_of_convolution(part.transposed, part.groups) if is_kept else {}),
        "bias": ("bias", None),
    }


def _weight_of_convolution(transposed: bool, groups: int) -> _Roles:
    if not transposed:
        return {"weight": ("convolution", OUT_IN)}
    return {"weight": ("transposed_convolution", TRANSPOSED if groups == 1 else _grouped(groups))}


@cache
def _grouped(groups: int) -> Layout:
    return GroupedTransposed(groups=groups, name=f"transposed, {groups} groups")


def _embedding(part: Any, shapes: _Shapes) -> _Roles:
    return _with_axes(shapes, 2, "embedding", OUT_IN)


def _recurrent(part: Any, shapes: _Shapes) -> _Roles:
    made: dict[str, tuple[Role, Layout | None]] = {}
    for name, shape in shapes.items():
        if name.startswith("bias"):
            made[name] = "bias", None
        elif name.startswith("weight") and len(shape) == 2:
            is_fused = shape[0] != part.hidden_size and not name.startswith("weight_hr")
            made[name] = "fused" if is_fused else "matrix", OUT_IN
    return made


def _attention(part: Any, shapes: _Shapes) -> _Roles:
    return {
        "in_proj_weight": ("fused", OUT_IN),
        "q_proj_weight": ("matrix", OUT_IN),
        "k_proj_weight": ("matrix", OUT_IN),
        "v_proj_weight": ("matrix", OUT_IN),
        "in_proj_bias": ("bias", None),
        # (1, 1, dim); torch's own initialization takes fans of it, as of a convolution.
        "bias_k": ("bias", OUT_IN),
        "bias_v": ("bias", OUT_IN),
    }


def _norm(part: Any, shapes: _Shapes) -> _Roles:
    roles: dict[str, Role] = {
        **dict.fromkeys(("weight", "scale", "gamma"), "norm_weight"),
        **dict.fromkeys(("bias", "beta"), "norm_bias"),
    }
    return {name: (roles[name], _by_convention(part, shapes[name])) for name in shapes if name in roles}


# --- parametrizations ---------------------------------------------------------------------------------------


def _parametrizations(part: Any) -> list[tuple[str, Any]]:
    """Return the names of the tensors with parametrizations (torch.nn.utils.parametrize), and these."""
    from torch.nn.utils import parametrize

    return list(part.parametrizations.items()) if parametrize.is_parametrized(part) else []


def _originals(
    part: Any, prefix: str, tensor: str, parametrizations: Any
) -> dict[int, dict[str, ModuleParameter]]:
    """Return the parameters from which parametrizations compute a tensor, by the id of their owner.

    The parameter that has the axes of the tensor also has its role and its layout.
    """
    method = " and ".join(type(one).__name__.lstrip("_") for one in parametrizations)
    axes = "original1" if method == "WeightNorm" else "original"
    parametrized = Parametrized(joined(prefix, tensor), method)
    made = {}
    for owner in parametrizations.modules():
        shapes = _own_shapes(owner)
        roles = dict(_roles(owner, shapes))
        if owner is parametrizations and axes in shapes:
            roles[axes] = _roles(part, {tensor: shapes[axes]})[tensor]
        made[id(owner)] = {name: ModuleParameter(*roles[name], parametrized) for name in shapes}
    return made


def _hooked(part: Any) -> dict[str, tuple[str, bool, str]]:
    """Return the parameters that older parametrizations of torch keep, which work by hooks before a call.

    Returns
    -------
    dict
        By name: the name of the tensor that is computed, whether the parameter has its axes, and the method.
    """
    found: dict[str, tuple[str, bool, str]] = {}
    for hook in part._forward_pre_hooks.values():
        bases = {f"{base.__module__}.{base.__name__}" for base in type(hook).__mro__}
        method = type(hook).__name__
        if "torch.nn.utils.weight_norm.WeightNorm" in bases:
            found[f"{hook.name}_g"] = hook.name, False, method
            found[f"{hook.name}_v"] = hook.name, True, method
        elif "torch.nn.utils.spectral_norm.SpectralNorm" in bases:
            found[f"{hook.name}_orig"] = hook.name, True, method
        elif "torch.nn.utils.prune.BasePruningMethod" in bases:
            found[f"{hook._tensor_name}_orig"] = hook._tensor_name, True, method
    return found
