"""The tools that test recorded models: small configurations, and the comparison of two samplers.

A verdict of `compare` is a false alarm with probability 1e-8; about 2000 verdicts here give 2e-5 in all.
The seeds are fixed, so that an alarm either stays or never comes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "models"))
import compare
import page
import shrink
import validate

TYPES = ("gpt2", "llama", "bert", "mamba", "mixtral", "wav2vec2", "vit", "t5", "whisper", "opt", "gemma4")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bert():
    config = shrink.shrunk("bert")
    return compare.truth(config, range(5)), compare.truth(config, range(5, 10))


def rejected(verdicts):
    return {verdict.name for verdict in verdicts if not verdict.passed}


def test_all_types_have_a_class():
    types = shrink.model_types()
    assert len(types) > 600
    assert {"bert", "vitmatte", "encoder-decoder"} <= set(types)
    assert types == sorted(types)
    assert shrink.model_class("bert").__name__ == "BertModel"
    with pytest.raises(ValueError, match="model_type='nothing' is unknown"):
        shrink.model_class("nothing")


@pytest.mark.parametrize("model_type", TYPES)
def test_shrunk_models_are_small_and_still_useful(model_type):
    config = shrink.shrunk(model_type)
    assert config.model_type == model_type
    with torch.device("meta"):
        model = shrink.model_class(model_type)._from_config(config)
    assert 50_000 < sum(p.numel() for p in model.parameters()) <= shrink.ELEMENTS
    assert max(p.numel() for p in model.parameters()) >= 4096


def test_shrinking_keeps_one_layer_of_each_kind():
    config = shrink.shrunk("gemma3_text")
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert config.num_hidden_layers == len(config.layer_types) <= shrink.LAYERS


def test_identifiers_of_tokens_stay_in_the_vocabulary():
    config = shrink.shrunk("roberta")
    assert config.pad_token_id == 1
    config = shrink.shrunk("kosmos-2")
    assert config.text_config.vocab_size == shrink.VOCABULARY
    assert config.text_config.pad_token_id < shrink.VOCABULARY


def test_no_type_is_changed_by_shrinking_another():
    assert shrink.AutoConfig.for_model("bert").hidden_size == 768


@pytest.mark.parametrize("model_type", TYPES)
def test_truth_agrees_with_itself(model_type):
    config = shrink.shrunk(model_type)
    verdicts = compare.compare(compare.truth(config, range(5)), compare.truth(config, range(5, 9)))
    assert not rejected(verdicts)
    assert any(verdict.kind == compare.RANDOM for verdict in verdicts)


def test_truth_has_all_tensors_under_all_names():
    samples = compare.truth(shrink.shrunk("bert"), [0, 1])
    assert "embeddings.position_ids" in samples  # a buffer that no checkpoint holds
    with shrink.quiet():
        model = compare.build(shrink.shrunk("t5"), 0)
    names = {name for name, _ in compare.tensors(model)}
    assert {"shared.weight", "encoder.embed_tokens.weight"} <= names


def test_truth_is_what_the_model_gives():
    config = shrink.shrunk("gpt2")
    samples = compare.truth(config, [3, 4])
    torch.manual_seed(4)
    model = shrink.model_class("gpt2")._from_config(config)
    for name, tensor in model.named_parameters():
        assert np.array_equal(samples[name][1], tensor.detach().double().numpy())


def test_what_is_never_written_shows(monkeypatch):
    class Model(nn.Module):
        @classmethod
        def _from_config(cls, config):
            return cls()

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 8))
            self.part = nn.Parameter(torch.empty(8, 8))
            nn.init.normal_(self.part.data[:4])
            self.register_buffer("count", torch.empty(3, dtype=torch.int64))
            self.register_buffer("waves", torch.polar(torch.ones(5), torch.arange(5.0)), persistent=False)

    monkeypatch.setattr(compare, "model_class", lambda name: Model)
    samples = compare.truth(shrink.AutoConfig.for_model("gpt2"), range(5))
    kinds = {verdict.name: verdict.kind for verdict in compare.compare(samples, samples)}
    assert kinds["weight"] == kinds["count"] == compare.UNINITIALISED
    assert kinds["part"] == compare.RANDOM
    assert kinds["waves"] == compare.DETERMINISTIC
    assert samples["waves"][0].shape == (5, 2)
    assert np.isnan(samples["part"][0]).sum() == 32


# ----------------------------------------------------------------------------------------------------
# Negative controls


WORDS = "embeddings.word_embeddings.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"
KEY = "encoder.layer.0.attention.self.key.weight"


def test_control_scale_three_percent_off(bert):
    theirs, ours = bert
    assert theirs[WORDS][0].size > compare.smallest(5, power=0.99)
    assert rejected(compare.compare(theirs, compare.with_scale(ours, WORDS))) == {WORDS}


def test_control_scale_three_percent_off_in_all_layers():
    """Each matrix is too small to show an error that a group of many shows."""
    rng = np.random.default_rng(1)

    def draw(scale):
        return {f"h.{i}.w": [scale * rng.normal(size=(64, 64)) for _ in range(5)] for i in range(8)}

    assert 64 * 64 < compare.smallest(5) < 8 * 64 * 64
    assert "h.#.w" in rejected(compare.compare(draw(1.0), draw(1.03)))
    assert not rejected(compare.compare(draw(1.0), draw(1.0)))


def test_control_ones_for_zeros(bert):
    theirs, ours = bert
    name = "encoder.layer.0.attention.self.query.bias"
    assert rejected(compare.compare(theirs, compare.with_ones(ours, name))) == {name}


def test_control_missing_zero_row(bert):
    theirs, ours = bert
    assert not theirs[WORDS][0][0].any()
    assert rejected(compare.compare(theirs, compare.without_zero_row(ours, WORDS, 0))) == {WORDS}


def test_control_zero_row_too_many(bert):
    theirs, ours = bert
    changed = {**ours, WORDS: [np.where(np.arange(len(v))[:, None] == 7, 0.0, v) for v in ours[WORDS]]}
    assert rejected(compare.compare(theirs, changed)) == {WORDS}


def test_control_normal_for_uniform():
    rng = np.random.default_rng(2)
    theirs, ours = ({"w": [rng.uniform(-1, 1, (64, 64)) for _ in range(5)]} for _ in range(2))
    assert not rejected(compare.compare(theirs, ours))
    assert rejected(compare.compare(theirs, compare.with_other_law(ours, "w"))) == {"w"}


def test_control_one_value_for_all_seeds(bert):
    theirs, ours = bert
    assert QUERY in rejected(compare.compare(theirs, compare.with_one_seed(ours, QUERY)))


def test_control_two_tensors_of_one_stream(bert):
    theirs, ours = bert
    assert "copies" in rejected(compare.compare(theirs, compare.with_values_of(ours, QUERY, KEY)))
    mixed = {**ours, QUERY: [0.6 * a + 0.8 * b for a, b in zip(ours[QUERY], ours[KEY], strict=True)]}
    assert "independence" in rejected(compare.compare(theirs, mixed))


def test_control_copies_that_are_not():
    rng = np.random.default_rng(3)

    def draw(copies):
        first = [rng.normal(size=(32, 32)) for _ in range(5)]
        second = [rng.normal(size=(32, 32)) for _ in range(5)]
        second = [rng.normal(size=(32, 32)) for _ in range(5)]
        return {"layers.0.w": first, "layers.1.w": first if copies else second}

    assert not rejected(compare.compare(draw(True), draw(True)))
    assert rejected(compare.compare(draw(True), draw(False))) == {"copies"}
    assert "copies" in rejected(compare.compare(draw(False), draw(True)))


def test_control_one_law_for_a_fused_matrix():
    """The standard deviation of the whole is right, that of the parts is not."""
    rng = np.random.default_rng(4)
    scales = np.repeat([0.8, 1.0, 1.2], 32)[:, None]

    def draw(scales):
        return {"qkv": [scales * rng.normal(size=(96, 64)) for _ in range(5)]}

    assert not rejected(compare.compare(draw(scales), draw(scales)))
    assert rejected(compare.compare(draw(scales), draw(scales[::-1]))) == {"qkv"}


def test_control_a_table_of_other_frequencies():
    theirs = {"inv_freq": [1e4 ** -(np.arange(32) / 32)] * 5}
    ours = {"inv_freq": [v * (1 + 1e-7) for v in theirs["inv_freq"]]}
    assert rejected(compare.compare(theirs, ours)) == {"inv_freq"}
    assert not rejected(compare.compare(theirs, ours, rtol=2e-7))


def test_infinities_of_a_mask():
    theirs = {"mask": [np.triu(np.full((8, 8), -np.inf), 1)] * 5}
    assert not rejected(compare.compare(theirs, theirs, rtol=1e-6))
    ours = {"mask": [np.tril(values) for values in theirs["mask"]]}
    assert rejected(compare.compare(theirs, ours, rtol=1e-6)) == {"mask"}


def test_control_a_norm_that_is_none():
    rng = np.random.default_rng(5)

    def draw():
        v = [rng.normal(size=(64, 32, 3)) for _ in range(5)]
        return {"weight_g": [np.sqrt((x * x).sum((1, 2), keepdims=True)) for x in v], "weight_v": v}

    theirs, ours = draw(), draw()
    assert not rejected(compare.compare(theirs, ours))
    assert rejected(compare.compare(theirs, {**ours, "weight_g": draw()["weight_g"]})) == {"norms"}


def test_control_names_and_shapes(bert):
    theirs, ours = bert
    less = {name: values for name, values in ours.items() if name != KEY}
    assert "names" in rejected(compare.compare(theirs, less))
    turned = {**ours, WORDS: [values.T for values in ours[WORDS]]}
    assert WORDS in rejected(compare.compare(theirs, turned))


def test_detectable_tensors(bert):
    theirs, _ = bert
    shows = compare.detectable(theirs, 5)
    assert shows[WORDS] and not shows[QUERY]  # two small matrices are not enough
    assert compare.detectable(theirs, 20)[QUERY]
    assert not any(name.endswith("bias") for name in shows)


@pytest.mark.parametrize("law", ["normal", "uniform"])
def test_smallest_tensor_that_shows_three_percent(law):
    """At 99 % power, more than three of 20 draws miss in fewer than 1 in 10,000 runs."""
    rng = np.random.default_rng(6)
    size = compare.smallest(5, power=0.99, law=law)
    draw = {"normal": rng.normal, "uniform": lambda size: rng.uniform(-1, 1, size)}[law]
    caught = 0
    for _ in range(20):
        theirs, ours = ({"w": [draw(size=size) for _ in range(5)]} for _ in range(2))
        caught += rejected(compare.compare(theirs, compare.with_scale(ours, "w"))) == {"w"}
    assert caught >= 17


# --- what initium draws -------------------------------------------------------------------------------------

#: A sample of all types, which `tools/models/validate.py` compares: dense, experts, encoders and decoders,
#: state spaces, vision, speech, multimodal.
SAMPLE = (
    *(
        "gpt2",
        "llama",
        "gpt_neo",
        "falcon",
        "gemma3_text",
        "mixtral",
        "qwen3_moe",
        "gpt_oss",
        "jamba",
        "bert",
    ),
    *("deberta-v2", "albert", "esm", "t5", "bart", "whisper", "mamba", "mamba2", "rwkv", "vit", "swin"),
    *("convnext", "resnet", "hubert", "clip", "granite"),
)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_initium_draws_as_the_model_does(model_type):
    result = validate.validate(model_type)
    assert result["rejected"] == [] and not result["unwritten"] and not result["foreign"]
    assert all(result["controls"].values())


def test_what_the_model_does_not_write_is_refused():
    result = validate.validate("qwen3_omni_moe")
    assert len(result["unwritten"]) == 4
    assert all(name in result["refused"] for name in result["unwritten"])


def test_page():
    results = {name: json.loads(json.dumps(validate.validate(name))) for name in ("bert", "mamba")}
    results |= {"detr": {"error": "ImportError: DetrModel requires the timm library but"}}
    results |= {"other": {"refused": "w: the model's own code leaves it without values", "tensors": 3}}
    text = page.page_of(results, seeds=5)
    assert "| bert | 41 | 23 |  | 15 |  |  | 1 | 2 |  |  | equal laws |" in text
    assert "| mamba | 22 | 7 | 6 | 5 |  |  |  | 2 | 2 |  | equal laws |" in text
    assert "not built: needs timm" in text and "| refused: without values |" in text
    assert "Of 4 types, 3 can be built here. Of these, 2 agree (66.7%), and 1 are refused" in text
