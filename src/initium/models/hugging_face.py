"""Architectures from Hugging Face configurations."""

from __future__ import annotations

import errno
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from initium import dtypes
from initium.kernels.forks import hold_over_forks
from initium.layouts import IN_OUT, OUT_IN, Layout
from initium.models.architecture import Architecture
from initium.models.torch_modules import parameters_of
from initium.specs import TensorSpec

__all__ = [
    "architecture_of",
    "build",
    "depth_of",
    "from_config",
    "layouts_by_name",
    "read_config",
    "width_of",
]

#: Names of the weights that are not (out, in), by family. A checkpoint does not state the class of a layer.
_IN_OUT_NAMES = {
    "gpt2": re.compile(r"(.*\.)?h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
}


def layouts_by_name(family: str, tensors: Sequence[TensorSpec]) -> dict[str, Layout]:
    """Return the layouts that differ from (out, in) in a checkpoint of a family, by the tensors' names."""
    if family not in _IN_OUT_NAMES:
        return {}
    return {tensor.name: IN_OUT for tensor in tensors if _IN_OUT_NAMES[family].fullmatch(tensor.name)}


#: Keys of the number of layers and of the width in configurations.
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")

_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")


def from_config(path: str | Path) -> Architecture:
    """Return the architecture that a Hugging Face ``config.json`` describes.

    transformers builds the model on torch's meta device, without weights. The class is the first entry of
    ``architectures``. Without this entry it is the causal language model of the type, else its base model.
    A configuration is data: nothing is downloaded, and only code of transformers is run. Entries that ask for
    a download or for other code are ignored.

    Parameters
    ----------
    path
        The ``config.json``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If transformers or torch is missing.
    ValueError
        If the file is not a configuration, or the installed transformers does not know it.
    """
    path = Path(path)
    config = read_config(path)
    return architecture_of(path, config, build(path, config))


def architecture_of(path: Path, config: dict[str, Any], model: Any) -> Architecture:
    """Return the architecture of a model of transformers that was built from a configuration."""
    tensors: list[TensorSpec] = []
    left_out: list[str] = []
    seen: set[int] = set()  # tied weights are one object under several names
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if tensor.dtype.is_floating_point:
            tensors.append(TensorSpec(name, tuple(tensor.shape), tensor.dtype))
        else:
            left_out.append(name)

    names = {tensor.name for tensor in tensors}
    known = {name: parameter for name, parameter in parameters_of(model).items() if name in names}
    return Architecture(
        str(path),
        config["model_type"],
        tuple(tensors),
        depth=depth_of(config),
        width=width_of(config),
        layouts={n: p.layout for n, p in known.items() if p.layout not in (None, OUT_IN)},
        config=config,
        left_out=tuple(left_out),
        is_of_config=True,
        roles={name: parameter.role for name, parameter in known.items()},
        parametrized={n: p.parametrized for n, p in known.items() if p.parametrized is not None},
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration in a file; raise `ValueError` if there is none."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{path}: no model_type; expected the configuration of a Hugging Face model")
    return config


def build(
    path: Path, config: dict[str, Any], within: Callable[[], AbstractContextManager[Any]] | None = None
) -> Any:
    """Return the model of transformers that a configuration describes, without memory.

    Parameters
    ----------
    path, config
        The configuration, and where it comes from.
    within
        Returns the context in which the model is built. Default: torch's meta device.

    Raises
    ------
    ModuleNotFoundError, ValueError
        See `from_config`.
    """
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: reading a configuration needs {error.name}; install it with: pip install 'initium[hf]'",
            name=error.name,
        ) from error
    kind = config["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise ValueError(f"{path}: model_type={kind!r} is unknown to transformers {transformers.__version__}")
    try:
        _check_sizes(path, config)
    except RecursionError as error:
        raise ValueError(f"{path}: {error}; expected tables within fewer tables") from None
    with _building:
        return _built(path, config, torch, transformers, within or (lambda: torch.device("meta")))


def _built(
    path: Path,
    config: dict[str, Any],
    torch: Any,
    transformers: Any,
    within: Callable[[], AbstractContextManager[Any]],
) -> Any:
    usual = torch.get_default_dtype()
    try:
        dtype = dtypes.lookup(config.get("dtype") or config.get("torch_dtype") or "float32").name
        torch.set_default_dtype(getattr(torch, dtype))
        with _offline(), _bounded(torch), within():
            settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_harmless(config))
            return _model_class(settings, transformers)(settings)
    except Exception as error:
        # The constructor of a model can raise any exception for a wrong configuration.
        raise ValueError(f"{path}: transformers cannot build this model: {error}") from error
    finally:
        torch.set_default_dtype(usual)


# --- a configuration is data --------------------------------------------------------------------------------

# Keys with which transformers downloads code or weights; they do not change the shape of a tensor.
_FETCHING = re.compile(r"_?\w*_implementation(_internal)?|auto_map")
_MOST_LAYERS = 100_000
_MOST_TENSORS = 300_000
_guarded = threading.local()
#: Held while a model is built, since torch's default dtype and the Hub's switch are global to the process.
_building = threading.RLock()
hold_over_forks(_building)


def _harmless(config: Any) -> Any:
    """Return a configuration without entries that ask for downloads or other code, at any depth."""
    if isinstance(config, list):
        return [_harmless(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    kept = {key: _harmless(entry) for key, entry in config.items() if not _FETCHING.fullmatch(key)}
    return kept | {key: False for key in kept if key == "use_pretrained_backbone"}


def _check_sizes(path: Path, config: Any) -> None:
    """Raise for unrealistic numbers of layers, experts or labels, whose model would take hours to build."""
    for key, entry in config.items():
        if isinstance(entry, dict):
            _check_sizes(path, entry)
        counts = any(word in key for word in ("layer", "block", "depth", "expert", "label"))
        if counts and isinstance(entry, int) and entry > _MOST_LAYERS:
            shown = entry if entry < 10**20 else "a number of more than 20 digits"
            raise ValueError(f"{path}: {key}={shown} is too large; expected at most {_MOST_LAYERS:,}")


@contextmanager
def _bounded(torch: Any) -> Iterator[None]:
    """Stop a constructor that makes too many tensors."""
    count = 0

    def counted(module: Any, name: str, parameter: Any) -> None:
        nonlocal count
        count += 1
        if count > _MOST_TENSORS:
            raise ValueError(f"it has more than {_MOST_TENSORS:,} tensors")

    hook = torch.nn.modules.module.register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _offline() -> Iterator[None]:
    """Block network access of this thread, in any library."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    _install_guard()
    _guarded.active = True
    try:
        yield
    finally:
        _guarded.active = False
        constants.HF_HUB_OFFLINE = before


@cache
def _install_guard() -> None:
    """Add an audit hook, which cannot be removed; it acts only in a thread that `_offline` guards."""

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo") and getattr(_guarded, "active", False):
            raise PermissionError(f"a configuration asks for the network ({event}); it is read offline")

    sys.addaudithook(guard)


def _model_class(settings: Any, transformers: Any) -> Callable[[Any], Any]:
    if not settings.architectures:
        causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        family = causal if type(settings) in causal else transformers.MODEL_MAPPING
        return family[type(settings)]  # type: ignore[no-any-return]
    name = settings.architectures[0]
    found = getattr(transformers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ValueError(
            f"architectures[0]={name!r} is not a model of transformers {transformers.__version__}"
        )
    return found


def depth_of(config: Mapping[str, Any]) -> int | None:
    """Return the number of layers in a configuration; None if it is not given."""
    return _first(config, _DEPTH_KEYS)


def width_of(config: Mapping[str, Any]) -> int | None:
    """Return the width of the residual stream in a configuration; None if it is not given."""
    return _first(config, _WIDTH_KEYS)


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """Return the first entry of `keys` that is an integer (``true`` is none), else None."""
    return next((config[key] for key in keys if type(config.get(key)) is int), None)
