"""Architectures that need no library and no file: GPT-2 and Llama 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from initium.layouts import IN_OUT
from initium.models.architecture import Architecture
from initium.specs import TensorSpec

__all__ = ["BUILT_IN", "built_in"]


def _gpt2(name: str, *, depth: int, width: int, heads: int) -> Architecture:
    """GPT-2 (Radford et al. 2019), as in ``openai-community/gpt2`` on the Hugging Face hub.

    The tied output weight and the masks of the published files are not included.
    """
    vocabulary, positions = 50257, 1024
    projections = {  # layers of the class Conv1D: (in, out)
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


#: The function that makes each built-in architecture, by its name.
BUILT_IN: Mapping[str, Callable[[str], Architecture]] = {
    "gpt2": partial(_gpt2, depth=12, width=768, heads=12),
    "gpt2-medium": partial(_gpt2, depth=24, width=1024, heads=16),
    "gpt2-large": partial(_gpt2, depth=36, width=1280, heads=20),
    "gpt2-xl": partial(_gpt2, depth=48, width=1600, heads=25),
    "llama-3-8b": partial(_llama3, depth=32, width=4096, hidden=14336, heads=32),
    "llama-3-70b": partial(_llama3, depth=80, width=8192, hidden=28672, heads=64),
}


def built_in(name: str) -> Architecture:
    """Return the built-in architecture with this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in BUILT_IN:
        raise ValueError(
            f"model={name!r} is not a built-in architecture; expected one of {', '.join(BUILT_IN)}"
        )
    return BUILT_IN[name](name)
