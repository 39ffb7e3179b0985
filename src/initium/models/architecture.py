"""What recipes need to know of a model: its tensors, depth, width and layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from initium import dtypes
from initium.layouts import OUT_IN, Layout
from initium.specs import TensorSpec

__all__ = ["CONFIG_NAME", "Architecture"]

#: Where Hugging Face's libraries look for the configuration of a model.
CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Architecture:
    """The tensors of a model and what recipes need to know of it.

    Attributes
    ----------
    name
        What the model was asked for by: a built-in name or a path.
    family
        Hugging Face's ``model_type``, such as ``"llama"``; empty if unknown.
    tensors
        As they stand in a checkpoint, tied weights once.
    depth
        Number of residual layers; None if unknown.
    width
        Size of the residual stream; None if unknown.
    layouts
        Layouts of weights by name, where they differ from (out, in).
    config
        What a ``config.json`` for transformers holds; None if unknown.
    left_out
        Tensors that a checkpoint may hold but initium does not fill: buffers of integers or booleans.
    """

    name: str
    family: str
    tensors: tuple[TensorSpec, ...]
    depth: int | None = None
    width: int | None = None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def layout(self, tensor: str) -> Layout:
        """Return the layout of the tensor of that name."""
        return self.layouts.get(tensor, OUT_IN)

    def with_dtype(self, dtype: Any) -> Architecture:
        """Return the same model with all tensors, and the configuration, in another dtype."""
        name = dtypes.lookup(dtype).name
        tensors = tuple(replace(tensor, dtype=name) for tensor in self.tensors)
        if self.config is None:
            return replace(self, tensors=tensors)
        config = {key: value for key, value in self.config.items() if key != "torch_dtype"}  # its older name
        return replace(self, tensors=tensors, config={**config, "dtype": name})
