"""The recipes that come with initium, as TOML; see `initium.recipes` for what it means.

Formulas speak of ``depth`` (residual layers L), ``width`` (residual stream d), ``layer`` (a tensor's layer,
from 0), ``fan_in`` and ``fan_out`` of the tensor, and of a recipe's constants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["DEFAULTS", "NAMED"]

# Names of weights by role, in the checkpoints of Hugging Face, Megatron, torchtitan and GPT-NeoX.
_NORMS = ["*norm.weight", "*norm[0-9].weight", "*norm?[0-9].weight", "*ln_*.weight", "*ln[0-9].weight"]
_EMBEDDINGS = ["*wte.weight", "*wpe.weight", "*embed*.weight"]
_HEAD = ["*lm_head.weight", "*embed_out.weight", "output.weight", "*output_layer.weight"]
_ATTENTION_OUT = [
    *["*attn.c_proj.weight", "*o_proj.weight", "*attention.dense.weight", "*attn*.out_proj.weight"],
    *["*attention.wo.weight", "*attention.linear_proj.weight"],
]
_MLP_IN = [
    *["*mlp.c_fc.weight", "*gate_proj.weight", "*up_proj.weight", "*dense_h_to_4h.weight", "*fc1.weight"],
    *["*feed_forward.w1.weight", "*feed_forward.w3.weight", "*linear_fc1.weight"],
]
_MLP_OUT = [
    *["*mlp.c_proj.weight", "*down_proj.weight", "*dense_4h_to_h.weight", "*fc2.weight"],
    *["*feed_forward.w2.weight", "*linear_fc2.weight"],
]
_VALUE = ["*v_proj.weight", "*attention.wv.weight"]
_QUERY_KEY = ["*q_proj.weight", "*k_proj.weight", "*attention.wq.weight", "*attention.wk.weight"]
_RESIDUAL_OUT = _ATTENTION_OUT + _MLP_OUT
_ALL = ["*.weight"]


def _rule(match: list[str], init: str, **parameters: float | str) -> str:
    """Return one ``[[rules]]`` entry."""
    patterns = ",\n".join(f"    {json.dumps(pattern)}" for pattern in match)
    listed = json.dumps(match[0]) if len(match) == 1 else f"[\n{patterns},\n]"
    values = "".join(f"{key} = {json.dumps(value)}\n" for key, value in parameters.items())
    return f'[[rules]]\nmatch = {listed}\ninit = "{init}"\n{values}'


def _recipe(
    description: str,
    source: str,
    *rules: str,
    extends: str = "norms-and-biases",
    constants: Mapping[str, float] | None = None,
) -> str:
    """Return a recipe; by default it ends with the rules for norms and biases."""
    head = f"description = {json.dumps(description)}\nsource = {json.dumps(source)}\n"
    head += f"extends = {json.dumps(extends)}\n" if extends else ""
    named = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (constants or {}).items())
    return "\n".join([head, *([f"[constants]\n{named}"] if named else []), *rules])


_THREE_SIGMAS = {"lower": -3.0, "upper": 3.0}

#: Named recipes.
NAMED: Mapping[str, str] = MappingProxyType(
    {
        "gpt2": _recipe(
            "N(0, 0.02^2), projections into the residual stream 0.02 / sqrt(2 L)",
            "Radford et al. 2019, section 2.3, as in transformers' GPT2PreTrainedModel",
            _rule(["*.c_proj.weight"], "normal", std="std / sqrt(2 * depth)"),
            extends="normal",
        ),
        "llama": _recipe(
            "N(0, 0.02^2), no residual scaling",
            "Touvron et al. 2023, as in transformers' LlamaPreTrainedModel",
            extends="normal",
        ),
        "megatron": _recipe(
            "N(0, 0.02^2), projections into the residual stream 0.02 / sqrt(2 L)",
            "Shoeybi et al. 2019; Megatron-LM, megatron/core/utils.py, scaled_init_method_normal",
            _rule(_RESIDUAL_OUT, "normal", std="std / sqrt(2 * depth)"),
            extends="normal",
        ),
        "megatron-mup": _recipe(
            "m = d / base_width: embeddings N(0, 0.02^2), hidden 0.02 / sqrt(m), "
            "residual projections 0.02 / sqrt(2 L m)",
            "Megatron-LM, megatron/core/utils.py, mup_scaled_init_method_normal (use_mup)",
            _rule(_NORMS, "ones"),
            _rule(_EMBEDDINGS, "normal", std="std"),
            _rule(_RESIDUAL_OUT, "normal", std="std / sqrt(2 * depth * width / base_width)"),
            _rule(_ALL, "normal", std="std / sqrt(width / base_width)"),
            constants={"std": 0.02, "base_width": 256},
        ),
        "torchtitan": _recipe(
            "N(0, 0.02^2); attention output, up and down projections 0.02 / sqrt(2 (layer + 1)); "
            "embeddings N(0, 1); output N(0, 1 / d) cut at 3 sigmas",
            "torchtitan, models/llama3, init_weights with depth_init "
            "(its absolute bounds of +-2 are 100 sigmas out, and are left out)",
            _rule(_NORMS, "ones"),
            # The output first: in GPT-NeoX its name begins like an embedding's.
            _rule(_HEAD, "truncated_normal", std="1 / sqrt(width)", **_THREE_SIGMAS),
            _rule(_EMBEDDINGS, "normal", std=1.0),
            _rule(
                [*_RESIDUAL_OUT, "*up_proj.weight", "*feed_forward.w3.weight"],
                "normal",
                std="0.02 / sqrt(2 * (layer + 1))",
            ),
            _rule(_ALL, "normal", std=0.02),
        ),
        "olmo-mitchell": _recipe(
            "N(0, 1 / d) cut at 3 sigmas; residual projections N(0, 1 / (2 n_in (layer + 1)))",
            "OLMo, olmo/model.py and olmo/initialization.py, init_fn mitchell",
            _rule(_NORMS, "ones"),
            _rule(
                _RESIDUAL_OUT, "truncated_normal", std="1 / sqrt(2 * fan_in * (layer + 1))", **_THREE_SIGMAS
            ),
            _rule(_ALL, "truncated_normal", std="1 / sqrt(width)", **_THREE_SIGMAS),
        ),
        "neox": _recipe(
            "small_init N(0, 2 / (5 d)); wang_init, residual projections N(0, (2 / L)^2 / d)",
            "Nguyen and Salazar 2019; Wang and Komatsuzaki 2021; GPT-NeoX, megatron/model/init_functions.py",
            _rule(_NORMS, "ones"),
            _rule(_RESIDUAL_OUT, "normal", std="2 / depth / sqrt(width)"),
            _rule(_ALL, "normal", std="sqrt(2 / (5 * width))"),
        ),
        "small-init": _recipe(
            "N(0, 2 / (5 d)) everywhere",
            "Nguyen and Salazar 2019; GPT-NeoX, small_init_init_method",
            _rule(_NORMS, "ones"),
            _rule(_ALL, "normal", std="sqrt(2 / (5 * width))"),
        ),
        "mup": _recipe(
            "embeddings N(0, 1), hidden N(0, 1 / n_in), output 0",
            "Yang et al. 2022 (Tensor Programs V), table 3 and appendix D.2; muP sets learning rates, too",
            _rule(_NORMS, "ones"),
            _rule(_HEAD, "zeros"),
            _rule(_EMBEDDINGS, "normal", std=1.0),
            _rule(_ALL, "normal", std="1 / sqrt(fan_in)"),
        ),
        "deepnorm": _recipe(
            "Xavier normal; value, output and MLP projections times (8 L)^(-1/4); "
            "the model must scale its residuals by (2 L)^(1/4)",
            "Wang et al. 2022 (DeepNet), figure 2, decoder-only; embeddings as in torch's Embedding",
            _rule(_NORMS, "ones"),
            _rule(_HEAD, "xavier_normal", truncated=False),
            _rule(_EMBEDDINGS, "normal", std=1.0),
            _rule(
                [*_VALUE, *_ATTENTION_OUT, *_MLP_IN, *_MLP_OUT],
                "xavier_normal",
                gain="(8 * depth) ** (-1 / 4)",
                truncated=False,
            ),
            _rule(_ALL, "xavier_normal", gain=1.0, truncated=False),
        ),
        "t-fixup": _recipe(
            "Xavier uniform, embeddings N(0, 1 / d); value, output and MLP projections and embeddings "
            "times (9 L)^(-1/4); for models without norms and warmup",
            "Huang et al. 2020, section 3.3, decoder",
            _rule(_NORMS, "ones"),
            _rule(_HEAD, "xavier_uniform"),
            _rule(_EMBEDDINGS, "normal", std="(9 * depth) ** (-1 / 4) / sqrt(width)"),
            _rule(
                [*_VALUE, *_ATTENTION_OUT, *_MLP_IN, *_MLP_OUT],
                "xavier_uniform",
                gain="(9 * depth) ** (-1 / 4)",
            ),
            _rule(_ALL, "xavier_uniform"),
        ),
        "fixup": _recipe(
            "B residual branches of m layers: He normal times B^(-1 / (2 m - 2)), their last layer 0; "
            "output 0, scales 1, biases 0",
            "Zhang, Dauphin and Ma 2019, section 2; names as in torchvision's ResNet (basic blocks, m = 2)",
            _rule(["*scale*", *_NORMS, "*bn*.weight", "*downsample.1.weight"], "ones"),
            _rule(["fc.weight", *_HEAD, "layer*.conv2.weight", *_RESIDUAL_OUT], "zeros"),
            _rule(
                ["layer*.conv1.weight", *_MLP_IN],
                "variance_scaling",
                scale="2 * (depth * branches) ** (-1 / (branch_layers - 1))",
                mode="fan_in",
                distribution="normal",
            ),
            _rule(_EMBEDDINGS, "normal", std=0.02),
            _rule(_ALL, "kaiming_normal", truncated=False),
            constants={"branch_layers": 2, "branches": 1},
        ),
        "rezero": _recipe(
            "gates of residual branches 0, Xavier uniform elsewhere",
            "Bachlechner et al. 2021; gates are resweight there, alpha or skip_gain elsewhere",
            _rule(["*resweight*", "*rezero*", "*alpha", "*skip_gain*"], "zeros"),
            _rule(_NORMS, "ones"),
            _rule(_EMBEDDINGS, "normal", std=0.02),
            _rule(_ALL, "xavier_uniform"),
        ),
        "skipinit": _recipe(
            "gates of residual branches 0, He normal elsewhere",
            "De and Smith 2020",
            _rule(["*resweight*", "*rezero*", "*alpha", "*skip_gain*"], "zeros"),
            _rule([*_NORMS, "*bn*.weight", "*downsample.1.weight"], "ones"),
            _rule(_EMBEDDINGS, "normal", std=0.02),
            _rule(_ALL, "kaiming_normal", truncated=False),
        ),
        "norms-and-biases": _recipe(
            "norms 1, biases 0, nothing else; for other recipes to extend",
            "all of the programs named here",
            _rule(_NORMS, "ones"),
            _rule(["*.bias", "*_bias"], "zeros"),
            extends="",
        ),
        "normal": _recipe(
            "N(0, 0.02^2)",
            "Radford et al. 2018; transformers' initializer_range",
            _rule(_NORMS, "ones"),
            _rule(_ALL, "normal", std="std"),
            constants={"std": 0.02},
        ),
    }
)

#: The recipe of a family of models, where none is asked for.
DEFAULTS: Mapping[str, str] = MappingProxyType({"gpt2": "gpt2", "llama": "llama"})
