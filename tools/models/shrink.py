"""Small configurations of all model types of transformers.

``shrunk("llama")`` gives the default configuration of a type, with few layers, small widths and a small
vocabulary. A model of it builds in less than a second, and has every kind of tensor that the model type
has.

The rules are general. They look at names and values of settings, in a configuration and all that it
contains:

- Layers: of a stack of layers, two of each kind stay, and four layers at most. The kind of a layer is what
  the lists of the configuration say about it, for example ``layer_types``.
- Stages of a pyramid (``depths``) all stay, with two blocks each at most.
- Widths are divided by one power of two, the same in the whole configuration. So equal widths stay equal,
  and the product of a number of heads and a width stays a product. The numbers of heads do not change.
- Vocabularies, positions and experts have a largest number. An identifier of a token beyond a vocabulary
  moves into it.
- Images, patches, windows, kernels and strides do not change, for their sizes depend on one another.

The divisor begins with the largest power of two that leaves the smallest width at `WIDTH` or above. It is
halved until a model builds on the device ``meta``, and doubled if that model has more than `ELEMENTS`
values. `MISSING` and `EXCEPTIONS` hold what the rules cannot know.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

WIDTH = 48
VOCABULARY = 512
POSITIONS = 128
EXPERTS = 4
BLOCKS = 2
LAYERS = 4
MOST_DOUBLINGS = 5
ELEMENTS = 20_000_000

ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

_LAYERS = re.compile(
    r"^(.*_)?(num_hidden_layers|hidden_layers|n_layers?|num_layers|layers|num_encoder_layers|num_decoder_layers"
    r"|encoder_layers|decoder_layers|depth|num_blocks|num_layer|decoder_num_layers|resampler_depth"
    r"|num_self_attends_per_block)$"
)
_NOT_LAYERS = re.compile(
    r"(conv|feat_extract|adapter|postnet|predictor|lstm|residual|kv_shared|window_layers)"
)
_STAGES = re.compile(
    r"^(.*_)?(depths|blocks_per_stage|stage_num_blocks|block_sizes|layers_per_stage|num_block_repeats|num_blocks"
    r"|stage_numb_of_layers|depth|num_hidden_layers|layer_depths)$"
)
_VOCABULARY = re.compile(
    r"(vocab_size|codebook_size|num_embeddings|num_embeds|vocab_size_base|byte_group_vocab|hash_buckets)"
)
_TOKEN = re.compile(r"(^|_)(token_ids?|token_index|index|tokens?|lang_id|id)$")
_POSITIONS = re.compile(
    r"^(.*_)?(max_position_embeddings|n_positions|n_ctx|max_(source|target|sequence|seq|text)?_?"
    r"(positions|len|length)|context_length|block_size|max_relative_positions?|max_(2d|temporal)_.*embeddings)$"
)
_EXPERTS = re.compile(r"(num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_routed_experts)$")
_CHOSEN = re.compile(
    r"(num_experts_per_tok|experts_top_?k|moe_top_?k|moe_k|top_k_experts|num_experts_per_token|topk)$"
)
_WIDTH = re.compile(
    r"(hidden|embd?|emb_|dim|dims|intermediate|channels?|width|widths|d_model|d_ff|d_kv|d_head|d_inner|ffn|proj|rank"
    r"|units|planes|filters|feature_sizes?|kv_channels|dff|projection|pooler_output_size|expand_size|state_size"
    r"|inner|feat_size|spatial_tuning|linear_units|num_pos_feats|nhid|scale$|d_latents|upsample_groups)"
)
_MAIN = re.compile(
    r"^(hidden_size|d_model|n_embd|dim|embed_dim|hidden_sizes|embed_dims|dims|emb_dim|model_dim)$"
)
_NOT_WIDTH = re.compile(
    r"(layers?$|heads?$|image|patch_size|window|kernel|stride|ratio|rate|act|num_channels|in_chans|audio_channels|mel"
    r"|token|vocab|embeddings|pos_emb|(?<!upsample_)groups?$|factor|mult|expand$|id$|_ids|index|indices|dropout|drop|bins|buckets|types?$"
    r"|num_embeds|num_embeddings|_std|length|size_per_head$|label|num_hidden|hidden_layers|levels|bandwidth|prob)"
)
_INDICES = re.compile(r"(ind(ex|exes|ices)|idxs?|layers|layer_ids|hook_ids|return_idx|attn_layers)$")
_CAPS = {
    "first_k_dense_replace": 1,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "num_kv_shared_layers": 1,
    "num_nextn_predict_layers": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1,
    "mamba_n_groups": 1,
}

INTRACLASS = {
    "reduce_channel": [1, 1, 0],
    "return_channel": [1, 1, 0],
    "vertical_long_to_small_conv_longratio": [[7, 1], [1, 1], [3, 0]],
    "vertical_long_to_small_conv_midratio": [[5, 1], [1, 1], [2, 0]],
    "vertical_long_to_small_conv_shortratio": [[3, 1], [1, 1], [1, 0]],
    "horizontal_small_to_long_conv_longratio": [[1, 7], [1, 1], [0, 3]],
    "horizontal_small_to_long_conv_midratio": [[1, 5], [1, 1], [0, 2]],
    "horizontal_small_to_long_conv_shortratio": [[1, 3], [1, 1], [0, 1]],
    "symmetric_conv_long_longratio": [[7, 7], [1, 1], [3, 3]],
    "symmetric_conv_long_midratio": [[5, 5], [1, 1], [2, 2]],
    "symmetric_conv_long_shortratio": [[3, 3], [1, 1], [1, 1]],
}
INDEXER = {"budget": 1024, "compress_ratio": 16, "n_heads": 4, "kv_heads": 4, "head_dim": 128}

# Arguments without which the default configuration of a type does not pass its own checks.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
        }
    },
}

# Types whose base model takes another type's configuration.
CLASSES = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}

# Settings that the default configuration of a type lacks or has wrong, so that it builds no model. They come
# before the rules, and are of the full size.
MISSING: dict[str, dict[str, Any]] = {
    "autoformer": {"prediction_length": 24, "context_length": 24},
    "aya_vision": {"vision_config.num_attention_heads": 12},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "cohere_compass": {
        "text_config.rope_parameters": {"full_attention": dict(ROPE), "sliding_attention": dict(ROPE)}
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": dict(ROPE), "sliding_attention": dict(ROPE)}
    },
    "dbrx": {"attn_config.rope_theta": 10_000.0},
    "deepseek_ocr2": {
        "text_config.mlp_layer_types": ["dense"] + ["sparse"] * 31,
        "text_config.moe_intermediate_size": 1408,
        "text_config.num_experts_per_tok": 6,
        "text_config.n_group": 1,
        "text_config.topk_group": 1,
    },
    "diffusion_gemma": {
        "text_config.num_experts": 8,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 1024,
    },
    "dots1": {
        "n_routed_experts": 128,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
    },
    "emu3": {"vocabulary_map": {"<image>": 4, "<|extra_200|>": 5, "<|image token|>": 6}},
    "ernie4_5_vl_moe": {
        "text_config.hidden_size": 2048,
        "text_config.num_attention_heads": 1,
        "text_config.num_key_value_heads": 1,
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0], [-2, 1]], "downsample_rate": "4/8"},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 16, "moe_topk": 1},
    "hunyuan_vl": {"text_config.head_dim": 128},
    "hunyuan_vl_text": {"head_dim": 128},
    "informer": {"prediction_length": 24, "context_length": 24},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "ministral": {"head_dim": 128},
    "moonshine_streaming": {"num_key_value_heads": 8, "attention_dropout": 0.0, "attention_bias": False},
    "nemotron": {"num_key_value_heads": 8},
    "pp_ocrv5_server_det": {"intraclass_block_config": INTRACLASS, "kernel_list": [3, 2, 2]},
    "pp_ocrv6_medium_det": {"intraclass_block_config": INTRACLASS},
    "qwen3_omni_moe": {
        "talker_config.text_config.shared_expert_intermediate_size": 768,
        "talker_config.spatial_merge_size": 2,
    },
    "qwen4_exp": {f"text_config.indexer_{k}": v for k, v in INDEXER.items()},
    "qwen4_exp_text": {f"indexer_{k}": v for k, v in INDEXER.items()},
    "t5gemma2_encoder": {"text_config.dropout_rate": 0.0},
    "time_series_transformer": {"prediction_length": 24, "context_length": 24},
    "vitmatte": {"fusion_hidden_sizes": [256, 128, 64, 32], "convstream_hidden_sizes": [48, 96, 192]},
}

# Settings of single types that come after the rules.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "cvt": {"depth": (1, 2, 3)},
}


def model_types() -> list[str]:
    """Return every model type that an automatic class can build, sorted."""
    return sorted(set().union(*(names for names in _mappings())))


def model_class(model_type: str) -> type[transformers.PreTrainedModel]:
    """Return the class of a model type: of the base model, or else of the first mapping that has one."""
    for names in _mappings():
        if model_type in names:
            name = names[model_type] if isinstance(names[model_type], str) else names[model_type][0]
            name = CLASSES.get(model_type, name)
            if hasattr(transformers, name):
                return getattr(transformers, name)
            folder = model_type_to_module_name(model_type)
            return getattr(importlib.import_module(f"transformers.models.{folder}.modeling_{folder}"), name)
    raise ValueError(f"model_type={model_type!r} is unknown; expected one of `model_types()`")


def _mappings() -> Iterator[dict[str, Any]]:
    """Return all tables from a model type to names of classes, the base models first."""
    yield modeling_auto.MODEL_MAPPING_NAMES
    for name in sorted(vars(modeling_auto)):
        if re.fullmatch(r"MODEL_.*_MAPPING_NAMES", name):
            yield getattr(modeling_auto, name)


def shrunk(model_type: str) -> PreTrainedConfig:
    """Return the default configuration of a model type, with small settings.

    Parameters
    ----------
    model_type : str
        One of `model_types()`.

    Returns
    -------
    PreTrainedConfig
        The configuration. `model_class(model_type)._from_config(config)` builds its model.

    Raises
    ------
    Exception
        What the type's own code raises if no divisor gives a model, for example for a missing package.
    """
    with quiet():
        first = _first_divisor(_with_divisor(model_type, 1))
        halves = [first >> i for i in range(first.bit_length())]
        doubles = [first << i for i in range(1, MOST_DOUBLINGS + 1)]
        best: tuple[int, PreTrainedConfig] | None = None
        failure: Exception | None = None
        for divisor in halves + doubles:
            if divisor < first and best is not None:
                continue
            try:
                config = _with_divisor(model_type, divisor)
                elements = _elements(model_type, config)
            except Exception as error:  # noqa: BLE001 - any type's own code fails in any way
                failure = failure or error
                if divisor > first and best is None:
                    break
                continue
            if best is None or elements < best[0]:
                best = (elements, config)
            if best[0] <= ELEMENTS:
                break
        if best is None:
            assert failure is not None
            raise failure
        return best[1]


def _elements(model_type: str, config: PreTrainedConfig) -> int:
    """Return the number of values in all parameters of a model."""
    with torch.device("meta"):
        model = model_class(model_type)._from_config(config)
    return sum(p.numel() for p in model.parameters())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warnings of configurations and models."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def _with_divisor(model_type: str, divisor: int) -> PreTrainedConfig:
    """Return the default configuration, shrunk with a divisor of the widths."""
    config = AutoConfig.for_model(model_type, **copy.deepcopy(ARGUMENTS.get(model_type, {})))
    _set_all(config, MISSING.get(model_type, {}))
    for part in _parts(config):
        _shrink_part(part, divisor)
    _set_all(config, EXCEPTIONS.get(model_type, {}))
    return config


def _set_all(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Set settings that paths name, such as ``text_config.head_dim``."""
    for path, value in settings.items():
        *owners, name = path.split(".")
        part = config
        for owner in owners:
            part = getattr(part, owner)
        _set(part, name, copy.deepcopy(value))


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """Return a configuration and all configurations in it."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)


def _first_divisor(config: PreTrainedConfig) -> int:
    """Return the largest power of two that leaves the smallest main width at `WIDTH` or above."""
    widths = [
        w
        for part in _parts(config)
        for name, value in vars(part).items()
        if _MAIN.search(name)
        for w in (value if isinstance(value, list | tuple) else [value])
        if isinstance(w, int) and w >= 2 * WIDTH
    ]
    smallest = min(widths, default=WIDTH)
    return 1 << max(0, (smallest // WIDTH).bit_length() - 1)


def _shrink_part(part: PreTrainedConfig, divisor: int) -> None:
    """Shrink the settings of one configuration in place."""
    old = dict(vars(part))
    spec = vars(part).pop("_heterogeneity_spec", None)
    stages = {len(v) for k, v in old.items() if _STAGES.search(k) and isinstance(v, list | tuple)}
    kept = _kept_layers(old, stages)
    sizes = {k: v for k, v in old.items() if _VOCABULARY.search(k) and _is_int(v) and v > 2 * VOCABULARY}
    for name, value in old.items():
        if name == "_heterogeneity_spec" or isinstance(value, PreTrainedConfig):
            continue
        new = _new_setting(name, value, divisor, stages, kept, bool(sizes))
        if new != value:
            _set(part, name, new)
    if spec:
        layers = kept[old["num_hidden_layers"]]
        part.per_layer_config = {
            layers.index(layer): {
                k: _new_setting(k, v, divisor, stages, kept, bool(sizes)) for k, v in settings.items()
            }
            for layer, settings in spec.per_layer_overrides.items()
            if layer in layers
        }
    if old.get("stage_names"):
        _shrink_stage_names(part, old, stages)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kept_layers(old: dict[str, Any], stages: set[int]) -> dict[int, list[int]]:
    """Return, for each number of layers in a configuration, the layers that stay: two of each kind."""
    kept = {}
    spec = old.get("_heterogeneity_spec")
    overrides = spec.per_layer_overrides if spec else {}
    for name, count in old.items():
        if not (_is_layers(name, count) and count > BLOCKS and count not in stages):
            continue
        kinds: dict[str, list[int]] = {}
        for layer in range(count):
            said = []
            for k, v in old.items():
                if not isinstance(v, list | tuple):
                    continue
                if len(v) == count and not _is_indices(k, v):
                    said.append(repr(v[layer]))
                elif (
                    _is_indices(k, v) and "out_" not in k and k not in ("return_idx", "vision_feature_layer")
                ):
                    said.append(str(layer in v))
            said.append(repr(overrides.get(layer)))
            kinds.setdefault("|".join(said), []).append(layer)
        turns = [layers[turn] for turn in range(BLOCKS) for layers in kinds.values() if turn < len(layers)]
        kept[count] = sorted(turns[: max(LAYERS, BLOCKS)])
    return kept


def _is_layers(name: str, value: object) -> bool:
    return _is_int(value) and bool(_LAYERS.search(name)) and not _NOT_LAYERS.search(name)


def _is_indices(name: str, value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(_INDICES.search(name))
        and all(_is_int(v) for v in value)
        and len(set(value)) == len(value)
    )


def _new_setting(
    name: str, value: Any, divisor: int, stages: set[int], kept: dict[int, list[int]], vocabulary: bool
) -> Any:
    """Return the value of a setting after the rules."""
    if isinstance(value, list | tuple):
        return _new_list(name, value, divisor, stages, kept, vocabulary)
    if isinstance(value, dict):
        if name in ("id2label", "label2id"):
            return value
        new = {k: _new_setting(str(k), v, divisor, stages, kept, vocabulary) for k, v in value.items()}
        return value if name.startswith("rope") else new
    if not _is_int(value):
        return value
    if name in _CAPS:
        return min(value, _CAPS[name])
    if _is_layers(name, value):
        return value if value in stages else len(kept.get(value, range(value)))
    if _VOCABULARY.search(name):
        return VOCABULARY if value > 2 * VOCABULARY else value
    if _TOKEN.search(name) and value >= VOCABULARY and vocabulary:
        return VOCABULARY // 2 + value % (VOCABULARY // 2)
    if _POSITIONS.search(name):
        return min(value, POSITIONS)
    if _EXPERTS.search(name):
        return min(value, EXPERTS)
    if _CHOSEN.search(name):
        return min(value, 2)
    if name == "base_channels":  # the models norm in 32 groups
        return max(min(value, 32), value // divisor)
    if _WIDTH.search(name) and not _NOT_WIDTH.search(name):
        return _divided(value, divisor)
    return value


def _divided(value: int, divisor: int) -> int:
    """Return a width that is divided; small ones do not change."""
    return value // divisor if value >= 32 and value % divisor == 0 else value


def _new_list(
    name: str,
    value: Any,
    divisor: int,
    stages: set[int],
    kept: dict[int, list[int]],
    vocabulary: bool,
) -> Any:
    """Return the value of a setting that is a list or a tuple."""
    kind: Callable[[Any], Any] = type(value)
    if name in ("_out_features", "_out_indices", "stage_names"):
        return value
    if _STAGES.search(name) and all(_is_int(v) for v in value):
        return kind(min(v, BLOCKS) for v in value)
    if _is_indices(name, value) and kept:
        layers = max(kept.values(), key=len)
        places = [layers.index(v) for v in value if v in layers]
        negative = [v for v in value if v < 0]
        return (
            kind(places + [-1] * bool(negative))
            if places or negative or not value
            else kind([len(layers) - 1])
        )
    if len(value) in kept and not (_WIDTH.search(name) and len(value) in stages):
        value = kind(value[i] for i in kept[len(value)])
    return kind(_new_setting(name, v, divisor, stages, kept, vocabulary) for v in value)


def _shrink_stage_names(part: PreTrainedConfig, old: dict[str, Any], stages: set[int]) -> None:
    """Cut the names of a backbone's stages to the layers that are left."""
    names = old["stage_names"]
    if len(names) - 1 in stages:
        return
    layers = [v for k, v in vars(part).items() if _is_layers(k, v) and old[k] == len(names) - 1]
    if not layers:
        return
    left = names[: layers[0] + 1]
    indices = sorted({min(i, len(left) - 1) for i in (old.get("_out_indices") or [])})
    part.stage_names = left
    part._out_indices = indices
    part._out_features = [left[i] for i in indices]


def _set(part: PreTrainedConfig, name: str, value: Any) -> None:
    """Set a setting past the validation of single settings."""
    object.__setattr__(part, name, value)
