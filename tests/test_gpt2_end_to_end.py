"""README's first command, then transformers' own loading."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY, WIDTH, LAYERS = 50257, 768, 12


def initium(*arguments):
    script = Path(sys.executable).with_name("initium")
    subprocess.run([str(script), *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2") / "gpt2"
    initium("init", "gpt2", "-o", path)
    return path


def load(folder):
    model, info = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def check_first_loss(model):
    """The first loss on random tokens is that of logits of the variance that the embedding gives them.

    Logits are x . w with layer-normed x (|x|^2 = WIDTH) and w ~ N(0, 0.02^2), so nearly normal of variance
    s = WIDTH 0.02^2, and the mean loss is ln V + s / 2: 0.15 above ln V, its standard error 0.02.
    """
    tokens = torch.randint(0, VOCABULARY, (4, 256), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            model(tokens[:, :-1]).logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        ).item()
    assert loss == pytest.approx(math.log(VOCABULARY) + WIDTH * 0.02**2 / 2, abs=0.1)
    assert abs(loss - math.log(VOCABULARY)) < 0.3


def test_transformers_loads_it_and_starts_at_chance(folder):
    model = load(folder)
    assert model.dtype == torch.float32
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    check_first_loss(model)


def test_untrained_control_is_far_from_chance(folder):
    model = load(folder)
    with torch.no_grad():
        model.transformer.wte.weight.mul_(10)
    with pytest.raises(AssertionError):
        check_first_loss(model)


def test_weights_have_the_published_moments(folder):
    """At 6 standard errors, two moments for 50 random tensors: one false alarm in 5 million seeds."""
    state = load_file(folder / "model.safetensors")
    for name, value in state.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif ".ln_" in name or name.startswith("ln_"):
            assert bool((value == 1).all()), name
        else:
            std = 0.02 / math.sqrt(2 * LAYERS) if "c_proj" in name else 0.02
            n = value.numel()
            assert abs(value.double().mean()) < 6 * std / math.sqrt(n), name
            assert abs(value.double().std() / std - 1) < 6 / math.sqrt(2 * n), name


def test_shards_and_bfloat16_load_too(folder, tmp_path):
    initium("init", "gpt2", "-o", tmp_path / "out", "--shard-size", "100MB", "--dtype", "bfloat16")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 3
    model = load(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    check_first_loss(model)
    # One rounding: bfloat16 weights are the float32 weights, rounded.
    single = load_file(folder / "model.safetensors")
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, single[name].bfloat16()), name


def test_a_single_file_is_the_same_and_loads_as_a_state_dict(folder, tmp_path):
    initium("init", "gpt2", "-o", tmp_path / "gpt2.safetensors")
    with safe_open(tmp_path / "gpt2.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    state = load_file(tmp_path / "gpt2.safetensors")
    assert all(
        torch.equal(value, state[name]) for name, value in load_file(folder / "model.safetensors").items()
    )
    GPT2LMHeadModel(GPT2Config()).transformer.load_state_dict(state, strict=True)
