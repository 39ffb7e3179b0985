"""Fuzzers: whatever a file says, whatever box and memory a caller names, ends in a result or in its error.

Each runs for a moment by default, always on the same examples. With ``--exhaustive`` each runs on new ones
for as many seconds as ``INITIUM_FUZZ_SECONDS`` says.
"""

import faulthandler
import json
import logging
import math
import os
import re
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from cases import DISTRIBUTIONS, DTYPES
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import initium as ini
from initium import dtypes
from initium.io import CheckpointError, read_checkpoint
from initium.models.architecture import Architecture
from initium.models.hugging_face import from_config
from initium.models.on_disk import from_checkpoint
from initium.recipes.named import NAMED
from initium.recipes.reader import load
from initium.recipes.recipe import INITIALIZERS, RecipeError
from initium.specs import TensorSpec

SECONDS = float(os.environ.get("INITIUM_FUZZ_SECONDS", "600"))
#: An example that takes longer than this hangs.
HANGS = 120
NO_CHECKS = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fuzzer:
    """What is tried, on which cases; `examples` are those that failed once."""

    check: Callable[[Any, Any], None]
    cases: st.SearchStrategy[Any]
    quick: int
    examples: tuple[Any, ...] = ()


def result_or_error(kinds, call, *arguments, **options):
    """Return what a call returns, and the message of its error; those of other kinds are a test's failure."""
    try:
        return call(*arguments, **options), None
    except kinds as error:
        return None, str(error)


# --- bytes that were well-formed once -----------------------------------------------------------------------

TOKENS = [
    *(b"null", b"true", b"NaN", b"-1", b"0", b"1e999", b"1e400", b"1.5", b"-0.0", b"''", b'""', b"{}", b"[]"),
    *(b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"4294967296", b"1" * 5000),
    *(b"[" * 600, b"[" * 5000, b'{"a":' * 600, b"[" * 400 + b"]" * 400, b'{"a":' * 400 + b"1" + b"}" * 400),
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"\n", b"\r", b" ", b'"', b"'", b"\\", b","),
    *(b":", b".", b"=", b"-", b"{", b"}", b"[", b"]", b"(", b")", b"#", b"*", b"1"),
]


@st.composite
def mangled(draw, whole, most=4):
    """Change a text of bytes at a few places."""
    data = draw(whole)
    for _ in range(draw(st.integers(0, most))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 12))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "twice", "token", "token", "swap"]))
        before, part, after = data[:place], data[place : place + length], data[place + length :]
        if kind == "flip":
            flips = draw(st.integers(1, 255))
            data = before + bytes(byte ^ flips for byte in part[:1]) + part[1:] + after
        elif kind == "cut":
            data = before
        elif kind == "drop":
            data = before + after
        elif kind == "twice":
            data = before + part + part + after
        elif kind == "token":
            data = before + draw(st.sampled_from(TOKENS)) + after
        else:
            data = before + part[::-1] + after
    return data


numbers = st.one_of(
    st.integers(-3, 8),
    st.sampled_from([2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(),
)
words = st.one_of(
    st.sampled_from(["", "a", "w", "0", "../x", "float32", "\x00", "\x1b[2J", "é"]), st.text(max_size=5)
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def nested(depth):
    """Return a list in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# --- recipes ------------------------------------------------------------------------------------------------

MODEL = Architecture(
    "small",
    "gpt2",
    tuple(
        TensorSpec(name, shape, dtype)
        for dtype, tensors in {
            "float32": {"wte.weight": (8, 4), "h.0.ln_1.weight": (4,), "h.0.attn.c_proj.weight": (4, 4)},
            "bfloat16": {
                "h.1.mlp.c_proj.weight": (4, 4),
                "h.1.mlp.c_proj.bias": (4,),
                "conv.weight": (4, 2, 3, 3),
            },
            "float8_e4m3fn": {"scalar": (), "empty.weight": (0, 4)},
        }.items()
        for name, shape in tensors.items()
    ),
    depth=2,
    width=4,
)
FORMULAS = [
    *(
        "0.02",
        "1",
        "0.02 / sqrt(2 * depth)",
        "width ** -0.5",
        "c",
        "c / depth",
        "sqrt(layer + 1)",
        "1 / layer",
    ),
    *(
        "fan_in ** -0.5",
        "fan_in - fan_out",
        "1 / (fan_in - 4)",
        "sqrt(-1)",
        "9 ** 9 ** 9",
        "1 / 0",
        "(((",
        "1or 2",
    ),
    *(
        "0x",
        "1_0",
        "True",
        "'a'",
        "1j",
        "...",
        "x",
        "sqrt",
        "sqrt(1, 2)",
        "sqrt(*a)",
        "lambda: 1",
        "1 if 1 else 2",
    ),
    *(
        "-" * 190 + "1",
        "(" * 90 + "1" + ")" * 90,
        "(1)(2)",
        "1 is 1",
        "'\\d'",
        "f'{1}'",
        "\ud7ff",
        "1\n2",
        "  1",
    ),
    *(
        "1e308 * 10",
        "1e-400",
        "0 ** -1",
        "fan_in ** 400",
        "1" * 190,
        "c := 2",
        "not 1",
        "~1",
        "a.b",
        "[1][0]",
    ),
]
toml_text = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8)
literal = st.one_of(
    st.sampled_from(FORMULAS).map(json.dumps),
    st.sampled_from(
        [
            *(
                "1",
                "0.5",
                "-1",
                "0",
                "inf",
                "nan",
                "true",
                "1979-05-27",
                "07:32:00",
                "1979-05-27T07:32:00Z",
                "0xff",
            ),
            *(
                "[]",
                "[1, 2]",
                "[[1], 'a']",
                "{}",
                "{a = 1}",
                "[0, 1]",
                "[-1]",
                "9223372036854775808",
                "1e400",
                "''",
            ),
            *('"float32"', '"bfloat16"', '"<f4"', '"f4,f4"', '"(1,"', '"O"', '"(2,)f4"', '"V8"', '"out_in"'),
            *(
                '"in_out"',
                '"oihw"',
                '"fan_in"',
                '"fan_avg"',
                '"normal"',
                '"truncated_normal"',
                '"relu"',
                '"qr"',
            ),
            *("1" + "0" * 400, "[" * 300 + "]" * 300, "[" * 60 + "]" * 60, "{a = " * 60 + "1" + "}" * 60),
        ]
    ),
    toml_text.map(json.dumps),
    numbers.filter(lambda n: abs(n) < 10**30).map(repr),
)
KEYS = sorted(
    {
        *("mean", "std", "low", "high", "gain", "scale", "mode", "distribution", "layout", "lower", "upper"),
        *(
            "value",
            "axis",
            "batch_axis",
            "method",
            "sparsity",
            "match",
            "regex",
            "init",
            "skip",
            "seed",
            "dtype",
        ),
        *("nonlinearity", "groups", "a", "fan", "column_axis", "number", "c", "description", "constants"),
    }
)
PATTERNS = ["*", "*.weight", "h.*", "*.bias", "[", "[a-", "wte.weight", "", "[!a]*", "?*", "[z-a]"]
REGEXES = [
    "weight",
    "",
    ".*",
    r"h\.\d+",
    "(",
    "[[a]",
    "(?i)W",
    "a(?i)",
    "(?P<a>w)(?P=a)",
    r"\q",
    "a{9999999999}",
    "[a--b]",
]


def setting(key, values=literal):
    return st.builds("{} = {}".format, st.just(key) if isinstance(key, str) else key, values)


def optional(one):
    return st.just("") | one


rule = st.builds(
    lambda *lines: "\n".join(["[[rules]]", *filter(None, lines)]),
    st.one_of(
        setting("match", st.sampled_from(PATTERNS).map(json.dumps)),
        setting("match", st.lists(st.sampled_from(PATTERNS), max_size=3).map(json.dumps)),
        setting("regex", st.sampled_from(REGEXES).map(lambda text: f"'{text}'")),
        setting(st.sampled_from(["match", "regex"])),
    ),
    setting("init", st.sampled_from(sorted(INITIALIZERS)).map(json.dumps))
    | st.just("skip = true")
    | setting("init"),
    optional(setting(st.sampled_from(KEYS))),
    optional(setting(st.sampled_from(KEYS))),
)


@st.composite
def fitting_rule(draw):
    """Return a rule that gives an initializer some of its own parameters."""
    from initium.recipes.recipe import signature_of

    init = draw(st.sampled_from(sorted(INITIALIZERS)))
    keys = draw(st.lists(st.sampled_from([*signature_of(init), "layout"]), max_size=3, unique=True))
    pattern = draw(st.sampled_from(["*", "*.weight", "h.*"]))
    return "\n".join(
        ["[[rules]]", f"match = '{pattern}'", f"init = '{init}'", *(draw(setting(key)) for key in keys)]
    )


odd_dtypes = st.one_of(
    st.sampled_from(
        ["<f4", "single", "f4,f4", "(2,)f4", "(", "f4,,", "{'names': 1}", "m8[x]", "O", "V0", "\0"]
    ),
    st.text("fVOSUm0248,()[]{}<>=|' ", max_size=8),
)
documents = st.builds(
    lambda *parts: "\n".join(filter(None, [*parts[:-1], *parts[-1]])) + "\n",
    optional(setting("extends", st.sampled_from(sorted(NAMED)).map(json.dumps) | literal)),
    optional(setting("seed")),
    optional(setting("dtype") | setting("dtype", odd_dtypes.map(json.dumps))),
    optional(setting(st.sampled_from(["description", "source", "a.b", "rules", '"a b"', "rules.a"]))),
    optional(
        setting(st.sampled_from(["c", "std", "depth", "sqrt", '"a b"', "constants"])).map(
            "[constants]\n{}".format
        )
    ),
    st.lists(rule | fitting_rule(), max_size=4),
)
FALLBACK = "\n[[rules]]\nmatch = '*'\ninit = 'normal'\n"
recipes = st.one_of(
    documents.map(lambda text: (text + FALLBACK).encode(errors="replace")),
    documents.map(lambda text: text.encode(errors="replace")),
    mangled(st.sampled_from([text.encode() for text in NAMED.values()])),
    mangled(documents.map(lambda text: text.encode(errors="replace"))),
)


def check_recipe(data, folder):
    path = folder / "r.toml"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of re, about the user's regular expression
        recipe, error = result_or_error(RecipeError, load, path)
    if error is not None:
        assert re.match(re.escape(str(path)) + r"(:\d+)?: ", error)
        return
    for known in ({}, {"depth": 2, "width": 4}):
        _, error = result_or_error(RecipeError, recipe.resolve, **known)
        assert error is None or error.startswith((str(path), *NAMED))
    _, error = result_or_error(ValueError, recipe.assign, MODEL)
    if error is not None:
        return
    json.dumps([rule.describe({"depth": 2, "width": 4}) for rule in recipe.rules])


# --- safetensors --------------------------------------------------------------------------------------------

SIZES = {"F32": 4, "F64": 8, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "BOOL": 1, "U8": 1}
tensor_names = st.sampled_from(
    ["a", "b.weight", "h.0.w", "h.1.w", "", "é", "\x00", "\x1b", "__metadata__", "a/b"]
)


def framed(header, body, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


@st.composite
def headers(draw):
    """Return a header and as many bytes as it speaks of; names may come twice."""
    pairs, end = [], 0
    for _ in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(sorted(SIZES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + SIZES[dtype] * math.prod(shape)
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        if draw(st.integers(0, 3)) == 0:
            key = draw(st.sampled_from([*entry, "more"]))
            odd = [
                *(st.sampled_from(["C64", "F4", "F6_E2M3", "F8_E8M0", "f32", "F128", "I4"]), anything),
                *(
                    st.lists(numbers, max_size=4),
                    st.just([1] * 33),
                    st.just([0, 2**63]),
                    st.just([0, 2**64 - 1]),
                ),
                *(st.just([2**32, 2**32]), st.just(nested(100)), st.just([0, 0, 2**62, 2**62])),
            ]
            entry[key] = draw(st.one_of(odd))
        pairs.append((draw(tensor_names), entry))
    if draw(st.booleans()):
        texts = st.dictionaries(words, words, max_size=2) | anything
        pairs.insert(draw(st.integers(0, len(pairs))), ("__metadata__", draw(texts)))
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in pairs) + "}"
    text += " " * draw(st.sampled_from([0, 0, 1, 8]))
    return text.encode(), bytes(end)


@st.composite
def safetensors_files(draw):
    header, body = draw(headers())
    header = draw(mangled(st.just(header), most=2))
    lengths = st.sampled_from([0, 1, len(header) - 1, len(header) + 1, 2**31, 2**63, 2**64 - 1, 100_000_001])
    length = draw(st.none() | lengths) if draw(st.booleans()) else None
    data = framed(header, body, max(length, 0) if length is not None else None)
    return draw(mangled(st.just(data), most=2)) if draw(st.booleans()) else data


def check_checkpoint(path):
    checkpoint, error = result_or_error((CheckpointError, OSError), read_checkpoint, path)
    if error is not None:
        assert str(path.parent) in error
        return
    assert all(math.prod(tensor.shape) < 2**63 for tensor in checkpoint.tensors)
    assert from_checkpoint(path).tensors == checkpoint.tensors


def check_safetensors(data, folder):
    path = folder / "w.safetensors"
    path.write_bytes(data)
    check_checkpoint(path)


# --- indexes ------------------------------------------------------------------------------------------------


def shard(*names):
    entries = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    return framed(json.dumps(entries).encode(), bytes(4 * len(names)))


SHARDS = {"1.safetensors": shard("a", "h.0.w"), "2.safetensors": shard("b.weight", "h.1.w")}
files = st.one_of(st.sampled_from([*SHARDS, "3.safetensors"]), words, anything)
indexes = st.one_of(
    st.fixed_dictionaries({"weight_map": st.dictionaries(tensor_names, files, max_size=5)}),
    st.fixed_dictionaries({"weight_map": anything}, optional={"metadata": anything}),
    anything,
).map(lambda index: json.dumps(index).encode())
VALID_INDEX = json.dumps(
    {"metadata": {}, "weight_map": {"a": "1.safetensors", "h.1.w": "2.safetensors"}}
).encode()


def check_index(case, folder):
    index, third = case
    for name, data in SHARDS.items():
        (folder / name).write_bytes(data)
    (folder / "3.safetensors").write_bytes(third)
    path = folder / "w.safetensors.index.json"
    path.write_bytes(index)
    check_checkpoint(path)


# --- configurations -----------------------------------------------------------------------------------------

USUAL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 16,
}
CONFIGS = {
    "llama": {**USUAL, "num_key_value_heads": 1, "rope_theta": 1e4, "architectures": ["LlamaForCausalLM"]},
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 16},
    "bert": {
        **USUAL,
        "max_position_embeddings": 8,
        "type_vocab_size": 2,
        "architectures": ["BertForMaskedLM"],
    },
    "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 16},
    "vit": {**USUAL, "image_size": 8, "patch_size": 4, "architectures": ["ViTForImageClassification"]},
    "mamba": {"hidden_size": 8, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 16, "expand": 2},
    "mixtral": {**USUAL, "num_key_value_heads": 1, "num_local_experts": 2, "num_experts_per_tok": 1},
}
OTHER_KEYS = [
    *(
        "num_labels",
        "id2label",
        "label2id",
        "architectures",
        "dtype",
        "torch_dtype",
        "hidden_act",
        "rope_scaling",
    ),
    *(
        "rope_parameters",
        "layer_types",
        "pad_token_id",
        "tie_word_embeddings",
        "text_config",
        "vision_config",
    ),
    *(
        "quantization_config",
        "auto_map",
        "is_decoder",
        "add_cross_attention",
        "attn_implementation",
        "model_type",
    ),
    *(
        "problem_type",
        "head_dim",
        "sliding_window",
        "use_cache",
        "return_dict",
        "pruned_heads",
        "name_or_path",
    ),
    *("transformers_version", "generation_config", "num_channels", "encoder", "decoder", "backbone", "dim"),
    *("backbone_config", "use_pretrained_backbone", "use_timm_backbone", "time_step_rank", "conv_kernel"),
    *("feed_forward_proj", "activation_function", "__class__", "to_dict", "_name_or_path", "base_config_key"),
]
config_values = st.one_of(
    anything,
    st.integers(-2, 64),
    st.sampled_from([10**9, 10**6, 100_001, 2**31, 2**40, 2**63, 10**30]),
    st.sampled_from(
        ["float32", "bfloat16", "float64", "int8", "float8_e4m3fn", "gelu", "owner/repo", "gpt2"]
    ),
    st.sampled_from(
        [["GPT2LMHeadModel"], ["LlamaModel"], ["PreTrainedModel"], [None], ["nope"], ["AutoModel"]]
    ),
    st.sampled_from(
        [{"model_type": "llama"}, {"rope_type": "yarn", "factor": 2.0}, {"quant_method": "gptq"}]
    ),
    st.sampled_from(["full_attention", ["full_attention"] * 2, ["sliding_attention", "x"]]),
)


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(sorted(CONFIGS)))
    config = {"model_type": kind, **CONFIGS[kind]}
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.one_of(st.sampled_from(sorted(config) or ["a"]), st.sampled_from(OTHER_KEYS), words))
        if draw(st.integers(0, 4)):
            config[key] = draw(config_values)
        else:
            config.pop(key, None)
    data = json.dumps(config).encode()
    return draw(mangled(st.just(data), most=2)) if draw(st.integers(0, 3)) == 0 else data


def _is_slow(config):
    """Tell of a number of layers that is allowed and takes many seconds to build."""
    if isinstance(config, list):
        return any(map(_is_slow, config))
    if not isinstance(config, dict):
        return False
    slow = [key for key, value in config.items() if isinstance(value, int) and 1000 < value <= 100_000]
    return bool(slow) or any(map(_is_slow, config.values()))


def check_config(data, folder):
    with suppress(ValueError, RecursionError):
        assume(not _is_slow(json.loads(data)))
    path = folder / "config.json"
    path.write_bytes(data)
    begin = time.monotonic()
    model, error = result_or_error(ValueError, from_config, path)
    assert error is not None or (isinstance(model, Architecture) and model.size >= 0)
    assert time.monotonic() - begin < 30


@pytest.fixture
def no_network(monkeypatch):
    """Fail what asks for the network, and end in an error of another kind than `ValueError`."""
    asked = []

    def ask(*given, **_):
        asked.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "connect", ask)
    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield
    assert asked == []


# --- boxes and strides --------------------------------------------------------------------------------------

GUARD = 64


@dataclass(frozen=True)
class Draw:
    """A box of a tensor, and where in memory it goes: bytes from a first one, and bytes per step."""

    initializer: Any
    dtype: str
    shape: tuple[int, ...]
    box: tuple[slice, ...]
    steps: tuple[int, ...] | None
    offset: int
    seed: int = 1
    threads: int | None = None


finite = st.floats(-100, 100, width=32)
initializers = st.one_of(
    st.sampled_from([*DISTRIBUTIONS.values()]),
    st.builds(ini.Normal, finite, st.floats(0, 10)),
    st.builds(lambda low, width: ini.Uniform(low, low + width), finite, st.floats(0.5, 100)),
    st.builds(
        lambda low, width: ini.TruncatedNormal(0.0, 1.0, low, low + width),
        st.sampled_from([-9.0, -3.0, -0.5, 0.25, 3.5]),  # few: each takes a table of its own
        st.sampled_from([0.5, 1.0, 7.0]),
    ),
    st.sampled_from([ini.Identity(), ini.Dirac()]),
)
SMALL = 10_000


@st.composite
def slices(draw, extent):
    """Return a slice of few elements, from one end of an axis or from anywhere."""
    if draw(st.integers(0, 5)) == 0 and extent <= 8:
        return slice(None, None, draw(st.sampled_from([None, 1, 2, -1, -3])))
    count = draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, 7)) if extent else 0
    most = max((extent - 1) // max(count - 1, 1), 1)
    step = draw(st.one_of(st.integers(1, min(most, 9)), st.integers(1, most)))
    count = min(count, (extent - 1) // step + 1 if extent else 0)
    if not count:
        return slice(0, 0)
    room = extent - 1 - (count - 1) * step
    low = draw(
        st.one_of(st.integers(0, min(room, 5)), st.integers(max(room - 5, 0), room), st.integers(0, room))
    )
    high = low + (count - 1) * step
    if draw(st.booleans()):
        return slice(low, high + 1, step)
    return slice(high, low - 1 if low else -extent - 1, -step)


@st.composite
def draws(draw):
    axes = draw(st.integers(0, 4))
    if draw(st.booleans()):
        shape = tuple(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, 7)) for _ in range(axes))
    else:
        bits = draw(st.lists(st.integers(0, 62), min_size=axes, max_size=axes))
        while sum(bits) > 62:
            bits[bits.index(max(bits))] //= 2
        shape = tuple((1 << b) - draw(st.integers(0, (1 << b) >> 1)) for b in bits)
    box = tuple(draw(slices(extent)) for extent in shape)
    extents = [len(range(*part.indices(n))) for part, n in zip(box, shape, strict=True)]
    dtype = draw(st.sampled_from(DTYPES))
    itemsize = dtypes.lookup(dtype).itemsize
    kind = draw(st.sampled_from(["new", "packed", "gaps", "gaps", "odd", "any"]))
    steps: list[int] | None = None
    if kind == "any":
        steps = [draw(st.integers(-80, 80)) for _ in extents]
    elif kind != "new":
        steps, clear = [0] * axes, itemsize
        for axis in draw(st.permutations(range(axes))):
            gap = 0 if kind == "packed" else draw(st.integers(0, 3)) * (1 if kind == "odd" else itemsize)
            steps[axis] = (clear + gap) * draw(st.sampled_from([1, 1, -1]))
            clear += abs(steps[axis]) * max(extents[axis] - 1, 0)
    # Each column of it takes a look at all of its values, whatever the box.
    sparse = st.just(ini.Sparse(0.5)) if math.prod(shape) < SMALL else st.nothing()
    return Draw(
        draw(initializers | sparse),
        dtype,
        shape,
        box,
        None if steps is None else tuple(steps),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.sampled_from([None, 1, 3])),
    )


def place_in_memory(extents, case):
    """Return a buffer of noise, an array in it, and the places of its elements in row-major order."""
    itemsize = dtypes.lookup(case.dtype).itemsize
    reach = [(n - 1) * step for n, step in zip(extents, case.steps, strict=True)] if 0 not in extents else []
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + itemsize
    buffer = np.random.default_rng(1).integers(0, 256, 2 * GUARD + case.offset + high - low, dtype=np.uint8)
    first = GUARD + case.offset - low
    array = np.ndarray(extents, dtypes.lookup(case.dtype).numpy, buffer, first, case.steps)
    places = np.full(1, first)
    for n, step in zip(extents, case.steps, strict=True):
        places = (places[:, None] + np.arange(n) * step).ravel()
    return buffer, array, places


def check_draw(case, _):
    extents = tuple(len(range(*part.indices(n))) for part, n in zip(case.box, case.shape, strict=True))
    options = {"seed": case.seed, "name": "w", "box": case.box, "threads": case.threads}
    try:
        expected = ini.initialize(case.initializer, case.shape, dtype=case.dtype, backend="numpy", **options)
    except ValueError:  # a shape or dtype that the initializer does not take
        with pytest.raises(ValueError, match=r"."):
            ini.initialize(case.initializer, case.shape, dtype=case.dtype, **options)
        return
    assert expected.shape == extents
    if math.prod(case.shape) < SMALL:
        whole = ini.initialize(
            case.initializer, case.shape, seed=case.seed, name="w", dtype=case.dtype, backend="numpy"
        )
        assert whole[case.box].tobytes() == expected.tobytes()
    if case.steps is None:
        assert (
            ini.initialize(case.initializer, case.shape, dtype=case.dtype, **options).tobytes()
            == expected.tobytes()
        )
        return
    for backend in ("numba", "numpy"):
        buffer, array, places = place_in_memory(extents, case)
        before = buffer.copy()
        touched = places[:, None] + np.arange(array.itemsize)
        shared = len(np.unique(touched)) < touched.size
        draw = partial(ini.initialize, case.initializer, case.shape, out=array, backend=backend, **options)
        made, error = result_or_error(ValueError, draw)
        if shared:
            assert error is not None
            assert "elements share memory" in error
            assert (buffer == before).all()
            continue
        assert error is None
        assert made is array
        assert buffer[touched].tobytes() == expected.tobytes()
        buffer[touched] = before[touched]
        assert (buffer == before).all()


# --- the runs -----------------------------------------------------------------------------------------------

# NumPy parsed it as Python, in an error of syntax.
DTYPES_IN_PYTHON = (b'dtype = "(1,"' + FALLBACK.encode(), b'dtype = "f4,,"' + FALLBACK.encode())
# Tensors that share a place came in any order.
EMPTY = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
NO_ELEMENTS = (framed(json.dumps({"a": EMPTY, "b": EMPTY, "c": EMPTY, "d": EMPTY}).encode(), b""),)
# A dictionary of a name per label: minutes, and all memory.
MANY_LABELS = (json.dumps({"model_type": "bert", **CONFIGS["bert"], "num_labels": 10**8}).encode(),)

FUZZERS = {
    "recipes": Fuzzer(check_recipe, recipes, 100, DTYPES_IN_PYTHON),
    "safetensors": Fuzzer(check_safetensors, safetensors_files(), 100, NO_ELEMENTS),
    "indexes": Fuzzer(
        check_index, st.tuples(mangled(st.just(VALID_INDEX)) | indexes, safetensors_files()), 100
    ),
    "configs": Fuzzer(check_config, configs(), 50, MANY_LABELS),
    "draws": Fuzzer(check_draw, draws(), 100),
}


@cache
def import_what_configurations_need():
    import transformers

    return transformers.PreTrainedModel


def run(fuzzer, folder, capfd, examples, derandomize):
    """Run a fuzzer and return how many cases it tried; one that hangs ends the process with all stacks."""
    tried = 0

    def body(case):
        nonlocal tried
        tried += 1
        faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.__stderr__)
        try:
            fuzzer.check(case, folder)
        finally:
            faulthandler.cancel_dump_traceback_later()

    test = settings(max_examples=examples, derandomize=derandomize, **NO_CHECKS)(given(fuzzer.cases)(body))
    for case in fuzzer.examples:
        test = example(case)(test)
    with capfd.disabled():
        test()
    return tried


every_fuzzer = pytest.mark.parametrize("name", FUZZERS)


@pytest.fixture(autouse=True)
def loaded(name, no_network):
    if name == "configs":
        import_what_configurations_need()


@every_fuzzer
def test_for_a_moment(name, tmp_path, capfd):
    fuzzer = FUZZERS[name]
    assert run(fuzzer, tmp_path, capfd, fuzzer.quick, derandomize=True) >= fuzzer.quick // 2


@pytest.mark.exhaustive
@pytest.mark.timeout(SECONDS + 600)
@every_fuzzer
def test_for_long(name, tmp_path, capfd):
    end, tried = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        tried += run(FUZZERS[name], tmp_path, capfd, 200, derandomize=False)
    log.info("%d examples in %d s", tried, SECONDS)
