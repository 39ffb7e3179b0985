import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import save_file

from initium import dtypes
from initium.io import CheckpointError, write_checkpoint
from initium.layouts import IN_OUT, OUT_IN, TRANSPOSED
from initium.models.built_in import BUILT_IN, built_in
from initium.models.hugging_face import from_config
from initium.models.on_disk import from_checkpoint
from initium.models.resolve import resolve_model
from initium.specs import TensorSpec

SIZES = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
}


def zeros(pieces):
    for piece in pieces:
        piece.values[:] = 0


def save_config(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def on_meta(config):
    """Return transformers' own model of a configuration, without weights."""
    settings = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(config)
    with torch.device("meta"):
        return getattr(transformers, config["architectures"][0])(settings)


def test_every_built_in_architecture_is_tested():
    assert set(BUILT_IN) == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_built_in_equals_transformers(name):
    architecture = built_in(name)
    assert architecture.size == SIZES[name]
    assert architecture.name == name
    model = on_meta(architecture.config)
    # The published GPT-2 files hold the base model: no prefix, and the output weight is the embedding.
    theirs = {key.removeprefix("transformer."): tuple(value.shape) for key, value in model.named_parameters()}
    assert {tensor.name: tensor.shape for tensor in architecture.tensors} == theirs
    assert [tensor.name for tensor in architecture.tensors] == list(theirs)
    assert {tensor.dtype for tensor in architecture.tensors} == {architecture.config["dtype"]}
    assert architecture.config["dtype"] == ("float32" if name.startswith("gpt2") else "bfloat16")
    assert (architecture.depth, architecture.width) == (
        model.config.num_hidden_layers,
        model.config.hidden_size,
    )
    assert architecture.family == model.config.model_type


@pytest.mark.parametrize("name", SIZES)
def test_layouts_are_those_of_the_modules(name):
    architecture = built_in(name)
    model = on_meta(architecture.config)
    conv1d = {
        f"{key}.weight".removeprefix("transformer.")
        for key, module in model.named_modules()
        if isinstance(module, transformers.pytorch_utils.Conv1D)
    }
    assert {key for key in architecture.layouts if architecture.layout(key) == IN_OUT} == conv1d
    assert architecture.layout("wte.weight") == OUT_IN
    assert bool(conv1d) == name.startswith("gpt2")


@pytest.mark.parametrize("name", SIZES)
def test_from_config_equals_built_in(name, tmp_path):
    ours = built_in(name)
    path = save_config(tmp_path, ours.config)
    theirs = from_config(path)
    assert [tensor.name.removeprefix("transformer.") for tensor in theirs.tensors] == [
        tensor.name for tensor in ours.tensors
    ]
    assert [(t.shape, t.dtype) for t in theirs.tensors] == [(t.shape, t.dtype) for t in ours.tensors]
    assert {
        key.removeprefix("transformer."): layout for key, layout in theirs.layouts.items()
    } == ours.layouts
    assert (theirs.family, theirs.depth, theirs.width) == (ours.family, ours.depth, ours.width)
    assert theirs.config == ours.config
    assert theirs.left_out == ()


CONFIGS = {
    "bert": {"architectures": ["BertForPreTraining"]},
    "t5": {"architectures": ["T5ForConditionalGeneration"]},
    "whisper": {"architectures": ["WhisperForConditionalGeneration"], "torch_dtype": "float16"},
    "gpt_neox": {},
    "resnet": {"architectures": ["ResNetForImageClassification"]},
    "vits": {"architectures": ["VitsModel"]},
    "clip": {},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_from_config_knows_what_a_checkpoint_stores(kind, tmp_path):
    architecture = from_config(save_config(tmp_path, {"model_type": kind, **CONFIGS[kind]}))
    settings = transformers.CONFIG_MAPPING[kind].from_dict(CONFIGS[kind])
    default = {"gpt_neox": "GPTNeoXForCausalLM", "clip": "CLIPModel"}
    with torch.device("meta"):
        model = getattr(transformers, CONFIGS[kind].get("architectures", [default.get(kind)])[0])(settings)
    tied = getattr(model, "all_tied_weights_keys", {})
    stored = {key: value for key, value in model.state_dict().items() if key not in tied}
    floating = {key: tuple(value.shape) for key, value in stored.items() if value.is_floating_point()}
    assert {tensor.name: tensor.shape for tensor in architecture.tensors} == floating
    assert set(architecture.left_out) == set(stored) - set(floating)
    assert bool(architecture.left_out) == (kind == "resnet")
    assert {tensor.dtype for tensor in architecture.tensors} == {CONFIGS[kind].get("torch_dtype", "float32")}
    assert torch.get_default_dtype() == torch.float32


def test_transposed_convolutions_have_their_layout(tmp_path):
    architecture = from_config(save_config(tmp_path, {"model_type": "vits", **CONFIGS["vits"]}))
    (weight, *_) = [
        tensor for tensor in architecture.tensors if architecture.layout(tensor.name) == TRANSPOSED
    ]
    assert len(weight.shape) == 3
    fans = architecture.layout(weight.name).fans(weight.shape)
    assert fans == (weight.shape[0] * weight.shape[2], weight.shape[1] * weight.shape[2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{\n  nope", "not JSON.*line 2"),
        ("[]", "no model_type"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "no model_type"),
        ('{"model_type": "nope"}', "model_type='nope' is unknown to transformers"),
        ('{"model_type": "gpt2", "architectures": ["Nope"]}', r"architectures\[0\]='Nope' is not a model"),
        (
            '{"model_type": "gpt2", "architectures": ["GPT2Config"]}',
            r"architectures\[0\]='GPT2Config' is not a model",
        ),
        ('{"model_type": "gpt2", "n_head": 5}', "transformers cannot build this model: .*"),
        ('{"model_type": "gpt2", "dtype": "int8"}', "dtype='int8'"),
    ],
)
def test_bad_configs(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        from_config(tmp_path / "config.json")
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert torch.get_default_dtype() == torch.float32


def test_missing_transformers_is_named(tmp_path, monkeypatch):
    path = save_config(tmp_path, built_in("gpt2").config)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"config\.json: .*transformers.*pip install 'initium\[hf\]'"
    ):
        from_config(path)


def test_heavy_libraries_are_imported_when_used():
    script = (
        "import sys; from initium.models.built_in import built_in; built_in('llama-3-70b');"
        "print([m for m in ('torch', 'transformers', 'safetensors', 'numba') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script]).strip() == b"[]"


def test_from_checkpoint(tmp_path):
    tensors = (
        TensorSpec("h.0.ln_1.weight", (4,), "float32"),
        TensorSpec("h.0.mlp.experts.7.w", (4, 2), "bfloat16"),
        TensorSpec("h.1.ln_1.weight", (4,), "float32"),
        TensorSpec("wte.weight", (9, 4), "float8_e4m3fn"),
    )
    written = write_checkpoint(tmp_path / "w.safetensors", tensors, zeros, metadata={})
    architecture = from_checkpoint(written.files[0])
    assert set(architecture.tensors) == set(tensors)
    assert (architecture.family, architecture.depth, architecture.width) == ("", 2, None)
    assert architecture.config is None

    config = {"model_type": "gpt2", "n_layer": 5, "n_embd": 4}
    save_config(tmp_path, config)
    architecture = from_checkpoint(written.files[0])
    assert (architecture.family, architecture.depth, architecture.width) == ("gpt2", 5, 4)
    assert architecture.config == config

    save_config(tmp_path, config | {"n_layer": True, "n_embd": 4.0})
    architecture = from_checkpoint(written.files[0])
    assert (architecture.depth, architecture.width) == (None, None)


@pytest.mark.parametrize("config", [None, {"model_type": "resnet"}])
def test_from_checkpoint_leaves_integer_buffers_out(config, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model.register_buffer("mask", torch.ones(2, dtype=torch.bool))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    if config is not None:
        save_config(tmp_path, config)
    architecture = from_checkpoint(tmp_path / "w.safetensors")
    left_out = {"1.num_batches_tracked", "mask"}
    assert set(architecture.left_out) == left_out
    assert {tensor.name for tensor in architecture.tensors} == set(model.state_dict()) - left_out


def test_layouts_of_a_gpt2_checkpoint(tmp_path):
    ours = built_in("gpt2")
    small = tuple(
        TensorSpec(f"{prefix}{tensor.name}", (1,) * len(tensor.shape), tensor.dtype)
        for prefix in ("", "transformer.")
        for tensor in ours.tensors
    )
    written = write_checkpoint(
        tmp_path, small, zeros, metadata={}, companions={"config.json": json.dumps(ours.config)}
    )
    layouts = from_checkpoint(written.files[0]).layouts
    assert layouts == ours.layouts | {f"transformer.{name}": layout for name, layout in ours.layouts.items()}


def test_with_dtype():
    architecture = built_in("gpt2").with_dtype("BF16")
    assert architecture.nbytes == 2 * SIZES["gpt2"]
    assert {tensor.dtype for tensor in architecture.tensors} == {"bfloat16"}
    assert architecture.config["dtype"] == "bfloat16"
    assert built_in("gpt2").config["dtype"] == "float32"
    with pytest.raises(ValueError, match="int8"):
        architecture.with_dtype("int8")


# Command-line arguments


def test_resolve_model_finds_each_kind(tmp_path):
    assert resolve_model("gpt2-xl").size == SIZES["gpt2-xl"]

    config = save_config(tmp_path / "config", built_in("gpt2").config)
    assert resolve_model(str(config)).size == SIZES["gpt2"]
    assert resolve_model(str(config.parent)).size == SIZES["gpt2"]
    other = config.rename(config.with_name("mine.json"))
    assert resolve_model(str(other)).size == SIZES["gpt2"]

    tensors = tuple(TensorSpec(f"t{i}", (10,), "float32") for i in range(5))
    one = write_checkpoint(tmp_path / "one", tensors, zeros, metadata={})
    many = write_checkpoint(tmp_path / "many", tensors, zeros, metadata={}, shard_size=100)
    for path in (one.files[0], one.files[0].parent, many.index, many.index.parent):
        assert set(resolve_model(str(path)).tensors) == set(tensors)


@pytest.mark.parametrize("argument", ["gpt3", "", "x.bin", "gpt2/"])
def test_unknown_models_list_the_known_ones(argument):
    with pytest.raises(ValueError, match=r"gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-3-8b, llama-3-70b"):
        resolve_model(argument)


def test_bad_paths(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; expected one of config\.json"):
        resolve_model(str(tmp_path))
    for name in ("config.json", "w.safetensors", "model.safetensors.index.json"):
        with pytest.raises(FileNotFoundError, match=name):
            resolve_model(str(tmp_path / name))
    (tmp_path / "w.safetensors").write_bytes(b"garbage")
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        resolve_model(str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="not a built-in architecture"):
        built_in("gpt3")


def test_built_in_dtypes_are_known():
    assert all(tensor.dtype in dtypes.DTYPES for name in BUILT_IN for tensor in built_in(name).tensors)
