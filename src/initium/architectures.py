"""Models by their tensors: built-in architectures, Hugging Face configurations, existing checkpoints."""

from __future__ import annotations

import errno
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from initium import dtypes
from initium.fans import IN_OUT, OUT_IN, Layout
from initium.specs import TensorSpec

__all__ = [
    "BUILT_IN",
    "CONFIG_NAME",
    "Architecture",
    "built_in",
    "from_checkpoint",
    "from_config",
    "resolve_model",
]

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


def _gpt2(name: str, *, depth: int, width: int, heads: int) -> Architecture:
    """GPT-2 (Radford et al. 2019), as in ``openai-community/gpt2`` on the Hugging Face hub.

    The tied output weight is not stored, and neither are the masks that the published files still hold.
    """
    vocabulary, positions = 50257, 1024
    projections = {  # of class Conv1D: (in, out)
        "attn.c_attn": (width, 3 * width),
        "attn.c_proj": (width, width),
        "mlp.c_fc": (width, 4 * width),
        "mlp.c_proj": (4 * width, width),
    }

    def norm(prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{prefix}.weight", (width,)
        yield f"{prefix}.bias", (width,)

    def conv1d(prefix: str, projection: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{prefix}.{projection}.weight", projections[projection]
        yield f"{prefix}.{projection}.bias", projections[projection][1:]

    def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "wte.weight", (vocabulary, width)
        yield "wpe.weight", (positions, width)
        for layer in range(depth):
            block = f"h.{layer}"
            yield from norm(f"{block}.ln_1")
            yield from conv1d(block, "attn.c_attn")
            yield from conv1d(block, "attn.c_proj")
            yield from norm(f"{block}.ln_2")
            yield from conv1d(block, "mlp.c_fc")
            yield from conv1d(block, "mlp.c_proj")
        yield from norm("ln_f")

    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "n_positions": positions,
        "n_embd": width,
        "n_layer": depth,
        "n_head": heads,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "initializer_range": 0.02,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "tie_word_embeddings": True,
    }
    tensors = tuple(TensorSpec(tensor, shape, "float32") for tensor, shape in shapes())
    matrices = (f"h.{layer}.{projection}.weight" for layer in range(depth) for projection in projections)
    return Architecture(
        name,
        "gpt2",
        tensors,
        depth=depth,
        width=width,
        layouts=dict.fromkeys(matrices, IN_OUT),
        config=config,
    )


def _llama3(name: str, *, depth: int, width: int, hidden: int, heads: int) -> Architecture:
    """Llama 3 (Grattafiori et al. 2024), as in ``meta-llama/Meta-Llama-3-8B`` on the Hugging Face hub."""
    vocabulary, key_value_heads = 128256, 8
    narrow = width // heads * key_value_heads

    def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
        yield "model.embed_tokens.weight", (vocabulary, width)
        for layer in range(depth):
            block = f"model.layers.{layer}"
            yield f"{block}.self_attn.q_proj.weight", (width, width)
            yield f"{block}.self_attn.k_proj.weight", (narrow, width)
            yield f"{block}.self_attn.v_proj.weight", (narrow, width)
            yield f"{block}.self_attn.o_proj.weight", (width, width)
            yield f"{block}.mlp.gate_proj.weight", (hidden, width)
            yield f"{block}.mlp.up_proj.weight", (hidden, width)
            yield f"{block}.mlp.down_proj.weight", (width, hidden)
            yield f"{block}.input_layernorm.weight", (width,)
            yield f"{block}.post_attention_layernorm.weight", (width,)
        yield "model.norm.weight", (width,)
        yield "lm_head.weight", (vocabulary, width)

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-05,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "tie_word_embeddings": False,
    }
    tensors = tuple(TensorSpec(tensor, shape, "bfloat16") for tensor, shape in shapes())
    return Architecture(name, "llama", tensors, depth=depth, width=width, config=config)


#: Names of weights that are not (out, in), by family, for checkpoints: they do not tell a weight's class.
_IN_OUT_NAMES = {
    "gpt2": re.compile(r"(.*\.)?h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
}


def _layouts_by_name(family: str, tensors: Sequence[TensorSpec]) -> dict[str, Layout]:
    if family not in _IN_OUT_NAMES:
        return {}
    return {tensor.name: IN_OUT for tensor in tensors if _IN_OUT_NAMES[family].fullmatch(tensor.name)}


#: (in, out, *receptive): torch's ConvTranspose weights.
_TRANSPOSED = Layout(in_axis=0, out_axis=1, name="transposed")

#: Where configurations keep the number of layers and the width.
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")

#: What makes each built-in architecture, by its name.
BUILT_IN: Mapping[str, Callable[[str], Architecture]] = {
    "gpt2": partial(_gpt2, depth=12, width=768, heads=12),
    "gpt2-medium": partial(_gpt2, depth=24, width=1024, heads=16),
    "gpt2-large": partial(_gpt2, depth=36, width=1280, heads=20),
    "gpt2-xl": partial(_gpt2, depth=48, width=1600, heads=25),
    "llama-3-8b": partial(_llama3, depth=32, width=4096, hidden=14336, heads=32),
    "llama-3-70b": partial(_llama3, depth=80, width=8192, hidden=28672, heads=64),
}


def built_in(name: str) -> Architecture:
    """Return the built-in architecture of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in BUILT_IN:
        raise ValueError(f"model={name!r} is no built-in architecture; expected one of {', '.join(BUILT_IN)}")
    return BUILT_IN[name](name)


def from_config(path: str | Path) -> Architecture:
    """Return the architecture that a Hugging Face ``config.json`` describes.

    transformers builds the model on torch's meta device, so that no weights are made. The class is the
    first of ``architectures``; without such an entry, the causal language model of the type, or its base
    model if it has none. No code from outside transformers is run.

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
        If the file is no configuration that the installed transformers knows.
    """
    path = Path(path)
    config = _read_config(path)
    try:
        import torch
        import transformers
        from transformers.pytorch_utils import Conv1D
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: reading a configuration needs {error.name}; install it with: pip install 'initium[hf]'",
            name=error.name,
        ) from error

    model = _on_meta_device(path, config, torch, transformers)
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

    transposed = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    layouts: dict[str, Layout] = {}
    for prefix, module in model.named_modules():
        if isinstance(module, Conv1D):
            layouts[f"{prefix}.weight"] = IN_OUT
        elif isinstance(module, transposed):
            layouts[f"{prefix}.weight"] = _TRANSPOSED
    return Architecture(
        str(path),
        config["model_type"],
        tuple(tensors),
        depth=_first(config, _DEPTH_KEYS),
        width=_first(config, _WIDTH_KEYS),
        layouts=layouts,
        config=config,
        left_out=tuple(left_out),
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{path}: no model_type; expected the configuration of a Hugging Face model")
    return config


def _on_meta_device(path: Path, config: dict[str, Any], torch: Any, transformers: Any) -> Any:
    kind, known = config["model_type"], transformers.CONFIG_MAPPING
    if kind not in known:
        raise ValueError(f"{path}: model_type={kind!r} is unknown to transformers {transformers.__version__}")
    usual = torch.get_default_dtype()
    try:
        dtype = dtypes.lookup(config.get("dtype") or config.get("torch_dtype") or "float32").name
        torch.set_default_dtype(getattr(torch, dtype))
        with torch.device("meta"):
            settings = known[kind].from_dict(config)
            return _model_class(settings, transformers)(settings)
    except Exception as error:
        # Whatever a model's constructor trips over, it is the configuration that is at fault.
        raise ValueError(f"{path}: transformers makes no model of it: {error}") from error
    finally:
        torch.set_default_dtype(usual)


def _model_class(settings: Any, transformers: Any) -> Callable[[Any], Any]:
    if not settings.architectures:
        causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        family = causal if type(settings) in causal else transformers.MODEL_MAPPING
        return family[type(settings)]  # type: ignore[no-any-return]
    name = settings.architectures[0]
    found = getattr(transformers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ValueError(f"architectures[0]={name!r} is no model of transformers {transformers.__version__}")
    return found


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """Return the first of these entries that is an integer."""
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def from_checkpoint(path: str | Path) -> Architecture:
    """Return the architecture that an existing checkpoint has; no weights are read.

    A ``config.json`` beside it tells family, width and depth. Without one the depth is the number of
    layers that the names count, as in ``h.0.ln_1.weight``, ``h.1.ln_1.weight``.

    Parameters
    ----------
    path
        A ``.safetensors`` file or the index of shards.

    Raises
    ------
    FileNotFoundError
        If the file, or a shard that the index names, does not exist.
    initium.io.CheckpointError
        If the checkpoint is malformed or holds tensors of dtypes that initium does not write, other than
        integers and booleans.
    """
    from initium.io import read_checkpoint

    path = Path(path)
    checkpoint = read_checkpoint(path)
    tensors, left_out = checkpoint.tensors, checkpoint.left_out
    beside = path.with_name(CONFIG_NAME)
    if not beside.is_file():
        return Architecture(str(path), "", tensors, depth=_counted_layers(tensors), left_out=left_out)
    config = _read_config(beside)
    return Architecture(
        str(path),
        config["model_type"],
        tensors,
        depth=_first(config, _DEPTH_KEYS),
        width=_first(config, _WIDTH_KEYS),
        layouts=_layouts_by_name(config["model_type"], tensors),
        config=config,
        left_out=left_out,
    )


def _counted_layers(tensors: Sequence[TensorSpec]) -> int | None:
    """Return how many values the first number in the names takes, with all else the same."""
    layers = {match.groups() for tensor in tensors if (match := re.match(r"(.*?\.)(\d+)\.", tensor.name))}
    counts = Counter(prefix for prefix, _ in layers)
    return max(counts.values(), default=None)


def resolve_model(argument: str) -> Architecture:
    """Return the architecture that a command-line argument names.

    Parameters
    ----------
    argument
        A built-in name, a ``config.json`` or another ``.json`` file with a configuration, a
        ``.safetensors`` file, an index of shards, or a folder that holds one of these.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if argument in BUILT_IN:
        return built_in(argument)
    path = Path(argument)
    if argument and path.is_dir():
        names = (CONFIG_NAME, "model.safetensors.index.json", "model.safetensors")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise ValueError(f"model={argument!r} is a folder without any of {', '.join(names)}")
        path = found[0]
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        return from_checkpoint(path)
    if path.name.endswith(".json"):
        return from_config(path)
    raise ValueError(
        f"model={argument!r} is unknown; expected one of {', '.join(BUILT_IN)}, a config.json or its folder, "
        "a .safetensors file or a .safetensors.index.json"
    )
