"""The tensors that a torch module holds: parameters, buffers, and attributes that are tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from initium.models.torch_modules import joined

__all__ = ["registered", "replace_tensors", "tensors_of"]


def registered(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module by name; tied ones under each name.

    Raises
    ------
    ValueError
        If a tensor has no shape yet (lazy modules), or is a wrapper of other tensors.
    """
    found = dict(module.named_parameters(remove_duplicate=False))
    found |= dict(module.named_buffers(remove_duplicate=False))
    for name, tensor in found.items():
        if is_lazy(tensor):
            raise ValueError(f"{name} is lazy and has no shape yet; call the module once before")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} has the layout {tensor.layout}; expected a dense tensor")
        if is_traceable_wrapper_subclass(tensor):
            raise ValueError(f"{name} is a {type(tensor).__qualname__}; expected a plain tensor")
    return found


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module by name; tied ones under each name.

    These are its parameters and buffers (see `registered`), and the tensors that are attributes of a module,
    or in lists, tuples and dictionaries that are.
    """
    found = registered(module)
    held = {id(tensor) for tensor in found.values()}
    for prefix, part in module.named_modules():
        for key, value in part.__dict__.items():
            for path, tensor in _within(value, joined(prefix, key)):
                if id(tensor) not in held and not is_traceable_wrapper_subclass(tensor):
                    found[path] = tensor
    return found


def replace_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors with memory in the places of those on the meta device.

    Parameters
    ----------
    module
        The module. Ties, classes of parameters, their attributes and ``requires_grad`` stay.
    tensors
        The new tensors, by the names of `tensors_of`.
    """
    made: dict[int, Any] = {}
    for name, old in tensors_of(module).items():
        if old.is_meta and id(old) not in made:
            made[id(old)] = _like(old, tensors[name])

    def new(tensor: Tensor) -> Any:
        return made.get(id(tensor), tensor)

    for part in module.modules():
        for registry in (part._parameters, part._buffers):
            for key, old in registry.items():
                if old is not None:
                    registry[key] = new(old)
        for key, value in part.__dict__.items():
            if key not in _REGISTRIES and any(tensor.is_meta for _, tensor in _within(value, key)):
                part.__dict__[key] = _mapped(new, value)


#: Attributes of a module that `named_parameters`, `named_buffers` and `named_modules` show.
_REGISTRIES = frozenset(("_parameters", "_buffers", "_modules"))


def _like(old: Tensor, new: Tensor) -> Tensor:
    if not isinstance(old, nn.Parameter):
        return new.requires_grad_(old.requires_grad)
    made: Tensor = torch.Tensor._make_subclass(type(old), new, old.requires_grad)
    made.__dict__.update(old.__dict__)
    for hooks, register in (
        (old._backward_hooks, made.register_hook),
        (old._post_accumulate_grad_hooks, made.register_post_accumulate_grad_hook),
    ):
        for hook in (hooks or {}).values():
            register(hook)
    return made


def _within(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value and in the lists, tuples and dictionaries that it holds."""
    if path.rpartition(".")[2] in _REGISTRIES:
        return
    if isinstance(value, Tensor):
        yield path, value
    elif type(value) in (list, tuple):
        for number, entry in enumerate(value):
            yield from _within(entry, f"{path}.{number}")
    elif type(value) is dict:
        for key, entry in value.items():
            yield from _within(entry, f"{path}.{key}")


def _mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return a value with its tensors replaced, in lists, tuples and dictionaries too."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(function, entry) for entry in value)
    if type(value) is dict:
        return {key: _mapped(function, entry) for key, entry in value.items()}
    return value
