"""The description of a model for recipes: its tensors, depth, width and layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from initium import dtypes
from initium.layouts import OUT_IN, Layout
from initium.specs import TensorSpec

__all__ = ["CONFIG_NAME", "Architecture", "Parametrized"]

#: File name of the configuration of a model in Hugging Face's libraries.
CONFIG_NAME = "config.json"


class Parametrized(NamedTuple):
    """The weight that a parametrization of torch computes from a stored tensor.

    Attributes
    ----------
    weight
        Name of the weight, such as ``"conv.weight"`` for the tensor ``"conv.weight_v"``.
    method
        The parametrization, such as ``"WeightNorm"``.
    """

    weight: str
    method: str


@dataclass(frozen=True)
class Architecture:
    """The tensors of a model, and the properties that recipes use.

    Attributes
    ----------
    name
        The built-in name or the path of the model.
    family
        Hugging Face's ``model_type``, such as ``"llama"``; empty if unknown.
    tensors
        The tensors of a checkpoint, in order; tied weights occur once.
    depth
        Number of residual layers; None if unknown.
    width
        Size of the residual stream; None if unknown.
    layouts
        Layouts by name, for the weights that are not (out, in).
    config
        The content of a ``config.json`` for transformers; None if unknown.
    left_out
        Tensors of a checkpoint that initium does not fill: buffers of integers or booleans.
    is_of_config
        Whether transformers has built the model from `config`.
    roles
        Roles by name (`initium.models.torch_modules.Role`), if the modules of the model are known.
    parametrized
        By name of a tensor: the weight that a parametrization computes from it.
    """

    name: str
    family: str
    tensors: tuple[TensorSpec, ...]
    depth: int | None = None
    width: int | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    left_out: tuple[str, ...] = ()
    is_of_config: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    parametrized: Mapping[str, Parametrized] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def layout(self, tensor: str) -> Layout:
        """Return the layout of the tensor with this name."""
        return self.layouts.get(tensor, OUT_IN)

    def with_dtype(self, dtype: Any) -> Architecture:
        """Return the same model with another dtype of all tensors and of the configuration."""
        name = dtypes.lookup(dtype).name
        tensors = tuple(replace(tensor, dtype=name) for tensor in self.tensors)
        if self.config is None:
            return replace(self, tensors=tensors)
        config = {key: value for key, value in self.config.items() if key != "torch_dtype"}  # the older name
        return replace(self, tensors=tensors, config={**config, "dtype": name})
