"""The default initialisation of torch's layers, as rules; `reset_parameters` for a whole module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from initium.initializers.basic import Constant, Initializer, ones, zeros
from initium.initializers.peers import torch_bias, torch_embedding, torch_linear, torch_rnn
from initium.initializers.scaling import glorot_normal, glorot_uniform
from initium.model import Report, init_model
from initium.models.torch_modules import joined
from initium.recipes.rules import Rule, Rules

__all__ = ["default_rules", "reset_parameters"]

_Named = Mapping[str, Initializer]


def _linear(module: Any) -> _Named:
    # torch takes shape[1], the output axis, as the input axis of a transposed convolution, too.
    receptive = module.weight[0].numel()
    return {"weight": torch_linear("out_in"), "bias": torch_bias(receptive)}


def _bilinear(module: Any) -> _Named:
    drawn = torch_bias(module.in1_features)
    return {"weight": drawn, "bias": drawn}


def _recurrent(module: Any) -> _Named:
    drawn = torch_rnn(module.hidden_size)
    return {name: drawn for name, _ in module.named_parameters(recurse=False)}


def _attention(module: Any) -> _Named:
    weights = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {
        **dict.fromkeys(weights, glorot_uniform("out_in")),
        **dict.fromkeys(("bias_k", "bias_v"), glorot_normal("out_in", truncated=False)),
        "in_proj_bias": zeros(),
        "out_proj.bias": zeros(),  # overrides the default of its Linear
    }


def _norm(module: Any) -> _Named:
    return {"weight": ones(), "bias": zeros()}


#: The initializers of the parameters of each class, by their names within the module.
_DEFAULTS: tuple[tuple[tuple[type, ...], Callable[[Any], _Named]], ...] = (
    ((nn.Linear, _ConvNd), _linear),
    ((nn.Bilinear,), _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), lambda module: {"weight": torch_embedding()}),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
    ((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase), _norm),
    ((nn.PReLU,), lambda module: {"weight": Constant(module.init)}),
)


def default_rules(module: nn.Module) -> Rules:
    """Return rules with torch's default initialisation for each parameter of a torch module.

    Parameters
    ----------
    module
        A module that consists of Linear, Bilinear, Conv, ConvTranspose, Embedding, EmbeddingBag, RNN, LSTM,
        GRU and their cells, MultiheadAttention, norms and PReLU, in any nesting. A subclass of one of these
        gets the rules of its base class.

    Returns
    -------
    Rules
        One rule per distribution, for whole names, for `initium.init_model`.

    Raises
    ------
    ValueError
        If a module of another class has its own parameters; the message lists them.

    Notes
    -----
    The row of an embedding's ``padding_idx`` is drawn like the others; `reset_parameters` clears it.

    Examples
    --------
    >>> import torch
    >>> from initium.torch import default_rules
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    >>> [str(rule.initializer) for rule in default_rules(model).rules][2:]
    ['Constant(value=1.0)', 'Constant(value=0.0)']
    """
    found: dict[str, Initializer] = {}
    unknown: list[str] = []
    # Inner modules first, so that an outer module (attention) overrides the rules of its parts.
    for prefix, part in reversed(list(module.named_modules(remove_duplicate=False))):
        own = [name for name, _ in part.named_parameters(recurse=False)]
        defaults = next((make(part) for classes, make in _DEFAULTS if isinstance(part, classes)), None)
        if defaults is None:
            unknown += [joined(prefix, name) for name in own]
            continue
        unknown += [joined(prefix, name) for name in own if name not in defaults]
        found |= {joined(prefix, name): initializer for name, initializer in defaults.items()}
    if unknown:
        raise ValueError(
            f"parameters {', '.join(sorted(unknown))} belong to no layer of torch; expected rules for them"
        )
    return Rules(
        tuple(_grouped(found, [name for name, _ in module.named_parameters(remove_duplicate=False)]))
    )


def _grouped(found: Mapping[str, Initializer], names: list[str]) -> Iterator[Rule]:
    groups: dict[Initializer, list[str]] = {}
    for name in names:
        groups.setdefault(found[name], []).append(name)
    for initializer, members in groups.items():
        yield Rule(re.compile(rf"\A(?:{'|'.join(map(re.escape, members))})\Z"), initializer)


def reset_parameters(module: nn.Module, *, seed: int, **options: Any) -> Report:
    """Draw all parameters of a torch module from torch's default distributions, in one call.

    Parameters
    ----------
    module
        See `default_rules`.
    seed
        The Philox key, in [0, 2**64).
    **options
        See `initium.init_model`.

    Returns
    -------
    Report
        The weights, and a report for each parameter.

    Examples
    --------
    >>> import torch
    >>> from initium.torch import reset_parameters
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    >>> report = reset_parameters(model, seed=7)
    >>> model[0].bias.detach()
    tensor([-0.3688, -0.0131,  0.5733,  0.5598])
    """
    report = init_model(module, default_rules(module), seed=seed, **options)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.padding_idx is not None:
                part.weight[part.padding_idx].fill_(0)
    return report
