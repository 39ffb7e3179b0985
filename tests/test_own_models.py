"""Models of transformers start as their own code says, in memory and in checkpoints."""

import json
import math

import numpy as np
import pytest
import torch

import initium as ini
from initium import io
from initium.checkpoint import CheckpointPlan, init_checkpoint, plan_checkpoint, run_checkpoint
from initium.models.architecture import Architecture
from initium.recipes.named import NAMED
from initium.recipes.reader import load
from initium.recipes.recipe import RecipeError
from initium.recipes.rules import Assignment, Rule, UnmatchedError
from initium.torch import own_starts, recording

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "intermediate_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}
SPEECH = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_mel_bins": 8,
}
WAVES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 30,
    "conv_dim": [32, 32],
    "conv_kernel": [4, 4],
    "conv_stride": [2, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
DEEPSEEK = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 64}
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": 300}
LLAVA = {
    "text_config": {"model_type": "llama", **TEXT},
    "vision_config": {"model_type": "clip_vision_model", **VISION},
    "image_token_index": 299,
}

#: Class and configuration by model type: dense, experts, vision, two stacks, state space, multimodal, speech.
FAMILIES = {
    "llama": ("LlamaForCausalLM", TEXT),
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "bert": ("BertForMaskedLM", TEXT),
    "gemma3_text": ("Gemma3ForCausalLM", {**TEXT, "head_dim": 16}),
    "mixtral": ("MixtralForCausalLM", {**TEXT, "num_local_experts": 4}),
    "gpt_oss": ("GptOssForCausalLM", {**TEXT, "num_local_experts": 4, "head_dim": 16}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {**TEXT, **DEEPSEEK}),
    "vit": ("ViTForImageClassification", VISION),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "mamba": ("MambaForCausalLM", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}),
    "llava": ("LlavaForConditionalGeneration", LLAVA),
    "whisper": ("WhisperForConditionalGeneration", SPEECH),
    "wav2vec2": ("Wav2Vec2ForCTC", WAVES),
}


def config_of(family, **settings):
    architecture, sizes = FAMILIES[family]
    config = transformers.AutoConfig.for_model(family, **{**sizes, **settings})
    config.architectures = [architecture]
    return config


def class_of(family):
    return getattr(transformers, FAMILIES[family][0])


def starts(family, **settings):
    with recording():
        model = class_of(family)(config_of(family, **settings))
    return {name: str(start) for name, start in own_starts(model).items()}


def tensors(model):
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained_loads_what_init_model_draws(family, tmp_path):
    dtype = torch.bfloat16 if family in ("llama", "mixtral", "t5", "mamba", "resnet") else torch.float32
    config = config_of(family, dtype=dtype)
    config.save_pretrained(tmp_path)
    made = init_checkpoint(tmp_path, tmp_path / "out", seed=5, shard_size=100_000)
    assert made.plan.recipe.name == "own" and not made.plan.model.left_out
    loaded, info = class_of(family).from_pretrained(tmp_path / "out", output_loading_info=True, dtype=dtype)
    assert not any(info.values()), info

    torch.set_default_dtype(dtype)
    try:
        with recording():
            module = class_of(family)(transformers.AutoConfig.from_pretrained(tmp_path))
    finally:
        torch.set_default_dtype(torch.float32)
    ini.init_model(module, "own", seed=5)
    expected, got = tensors(module), tensors(loaded)
    assert expected.keys() == got.keys()
    assert [k for k in got if got[k].dtype != expected[k].dtype or not torch.equal(got[k], expected[k])] == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "mamba"])
def test_models_run(family):
    with recording():
        model = class_of(family)(config_of(family))
    ini.init_model(model, "own", seed=5)
    tokens = torch.arange(3, 40)[None]
    loss = model(tokens, labels=tokens).loss.item()
    assert abs(loss - math.log(300)) < 1
    assert model.get_input_embeddings().weight.requires_grad


def test_a_model_that_exists_already():
    model = class_of("gpt2")(config_of("gpt2"))
    weight = model.transformer.wte.weight
    ini.init_model(model, "own", seed=5)
    assert model.transformer.wte.weight is weight is model.lm_head.weight
    expected = ini.normal(weight.shape, 0.0, 0.02, seed=5, name="transformer.wte.weight")
    assert np.array_equal(weight.detach().numpy(), expected)


def test_a_model_that_was_changed():
    model = class_of("gpt2")(config_of("gpt2"))
    model.transformer.h[1].mlp.c_fc.nf = 2
    model.transformer.h[1].mlp.c_fc.weight = torch.nn.Parameter(torch.zeros(64, 2))
    with pytest.raises(
        RuntimeError, match=r"transformer.h.1.mlp.c_fc.weight has shape \(64, 2\) in the model"
    ):
        ini.init_model(model, "own", seed=5)


# --- what named recipes got wrong, by guessing from names ---------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "deberta", "deberta-v2", "mpt", "esm", "electra", "bert"])
def test_norms_of_encoders_are_ones(family):
    sizes = {**TEXT, "n_layers": 2, "d_model": 64, "n_heads": 4, "max_position_embeddings": 64}
    config = transformers.AutoConfig.for_model(family, **sizes)
    with recording():
        model = transformers.AutoModel.from_config(config)
    found = {name: str(start) for name, start in own_starts(model).items() if "norm" in name.lower()}
    assert {law for name, law in found.items() if name.endswith("weight")} == {"constant(1)"}
    assert {law for name, law in found.items() if name.endswith("bias")} <= {"constant(0)"}


def test_norms_of_one_plus_weight_are_zeros():
    found = {law for name, law in starts("gemma3_text").items() if name.endswith("norm.weight")}
    assert found == {"constant(0)"}


def test_t5():
    found = starts("t5", tie_word_embeddings=False)
    assert found["encoder.block.0.layer.0.SelfAttention.q.weight"] == f"normal(0, {(64 * 16) ** -0.5:.6g})"
    assert found["encoder.block.0.layer.1.DenseReluDense.wi.weight"] == "normal(0, 0.125)"
    assert found["encoder.block.0.layer.0.layer_norm.weight"] == "constant(1)"


def test_experts():
    found = starts("mixtral")
    experts = {law for name, law in found.items() if ".experts." in name}
    assert experts == {"normal(0, 0.02)"}


def test_padding_rows():
    assert starts("llama")["model.embed_tokens.weight"] == "normal(0, 0.02) at [1:300]; constant(0) at [0]"
    embeddings = starts("bert", pad_token_id=7)["bert.embeddings.word_embeddings.weight"]
    assert embeddings == "normal(0, 0.02) at [0:7], [8:300]; constant(0) at [7]"


def test_sinusoids_and_state_spaces():
    assert starts("whisper")["model.encoder.embed_positions.weight"].startswith("values(")
    found = starts("mamba")
    assert found["backbone.layers.0.mixer.A_log"].startswith("values(arange")
    assert found["backbone.layers.0.mixer.dt_proj.bias"].startswith("program(")
    assert found["backbone.layers.0.mixer.D"] == "constant(1)"


def test_statistics_of_batches():
    found = starts("resnet")
    variances = {law for name, law in found.items() if name.endswith("running_var")}
    assert variances == {"constant(1)"}


def test_settings_of_the_configuration():
    found = starts("llama", initializer_range=0.5)
    assert found["model.layers.0.self_attn.q_proj.weight"] == "normal(0, 0.5)"


# --- checkpoints --------------------------------------------------------------------------------------------


def write_config(folder, **settings):
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **GPT2, **settings}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json"


def test_own_is_the_default_of_a_configuration(tmp_path):
    path = write_config(tmp_path, initializer_range=0.5)
    planned = plan_checkpoint(path)
    laws = {a.name: str(a.fill) for a in planned.assignments}
    assert planned.recipe.name == "own" and laws["transformer.wte.weight"] == "normal(0, 0.5)"
    assert plan_checkpoint(path, "own").assignments[0].name == "transformer.wte.weight"
    assert plan_checkpoint(path, "gpt2").recipe.name == "gpt2"
    assert plan_checkpoint("gpt2").recipe.name == "gpt2"


def test_own_of_the_built_in_models():
    """Under the names that transformers gives the model."""
    for name, tensor in {
        "gpt2": "transformer.h.0.attn.c_attn.weight",
        "llama-3-8b": "lm_head.weight",
    }.items():
        planned = plan_checkpoint(name, "own")
        laws = {a.name: str(a.fill) for a in planned.assignments}
        assert laws[tensor] == "normal(0, 0.02)" and not planned.model.left_out


def test_own_in_another_dtype(tmp_path):
    planned = plan_checkpoint(write_config(tmp_path), dtype="bfloat16")
    assert {tensor.dtype for tensor in planned.model.tensors} == {"bfloat16"}
    assert planned.model.config["dtype"] == "bfloat16"


def test_own_for_an_existing_file(tmp_path):
    path = write_config(tmp_path)
    first = init_checkpoint(path, tmp_path / "model.safetensors", "normal", seed=1).written.files[0]
    again = plan_checkpoint(first, "own")
    laws = {a.name: str(a.fill) for a in again.assignments}
    assert laws["transformer.ln_f.weight"] == "constant(1)"
    write_config(tmp_path, n_embd=32)
    with pytest.raises(ValueError, match=r"tensor 'transformer.wte.weight' has shape \(300, 64\)"):
        plan_checkpoint(first, "own")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="has no configuration"):
        plan_checkpoint(first, "own")


class Parts(torch.nn.Module):
    """Tensors of boxes: rows, matrices of their own, columns (no run of a file), programs, integers."""

    def __init__(self):
        super().__init__()
        self.gates = torch.nn.Parameter(torch.empty(64, 24))
        for gate in self.gates.chunk(4):
            torch.nn.init.orthogonal_(gate)
        self.table = torch.nn.Embedding(100, 8, padding_idx=3)
        self.columns = torch.nn.Parameter(torch.empty(40, 30))
        torch.nn.init.normal_(self.columns[:, :10])
        torch.nn.init.uniform_(self.columns[:, 10:])
        self.log = torch.nn.Parameter(torch.rand(500).add(1).log())
        self.register_buffer("steps", torch.arange(300))
        self.sparse = torch.nn.Parameter(torch.nn.init.sparse_(torch.empty(50, 20), 0.5))
        self.flags = torch.nn.Buffer(torch.tril(torch.ones(20, 20, dtype=torch.bool)))


@pytest.mark.parametrize("chunk", [256, 1000, 1 << 20])
def test_boxes_and_programs_in_files(tmp_path, monkeypatch, chunk):
    """Whatever the size of the buffers, a file has the values of init_model."""
    from safetensors.torch import load_file

    with recording():
        module = Parts()
    made = own_starts(module)
    specs = tuple(ini.TensorSpec(name, start.shape, start.dtype) for name, start in made.items())
    rule = Rule("*", ini.own)
    assignments = tuple(Assignment(s.name, s.shape, rule, ini.own, None, made[s.name]) for s in specs)
    planned = CheckpointPlan(Architecture("parts", "", specs), load("own"), assignments, ())
    monkeypatch.setitem(io.write_checkpoint.__kwdefaults__, "chunk_bytes", chunk)
    written = run_checkpoint(planned, tmp_path / "parts.safetensors", seed=5)
    ini.init_model(module, "own", seed=5)
    loaded, expected = load_file(written.written.files[0]), module.state_dict()
    assert loaded.keys() == expected.keys()
    assert [name for name in loaded if not torch.equal(loaded[name], expected[name])] == []
    assert loaded["steps"].dtype == torch.int64 and loaded["flags"].dtype == torch.bool


def test_a_recipe_that_leaves_the_rest_to_the_model(tmp_path):
    """Norms, biases and buffers start as the model's own code says."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    config_of("resnet").save_pretrained(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "own"\n[[rules]]\nmatch = "*convolution.weight"\ninit = "he_normal"\n')
    made = init_checkpoint(tmp_path / "config.json", tmp_path / "mine.safetensors", recipe, seed=5)
    laws = {a.name: (a.rule.label, str(a.fill)) for a in made.plan.assignments}
    convolution = "resnet.embedder.embedder.convolution.weight"
    assert laws[convolution][0] == "*convolution.weight"
    assert laws["classifier.1.bias"][0] == "*"
    whole = init_checkpoint(tmp_path / "config.json", tmp_path / "own.safetensors", seed=5)
    one, two = (load_file(m.written.files[0]) for m in (made, whole))
    assert one.keys() == two.keys()
    differing = {name for name in one if not np.array_equal(one[name], two[name])}
    assert differing == {name for name in one if name.endswith("convolution.weight")}
    with safe_open(made.written.files[0], "np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["initium.rules"])[-1] == {"match": "*", "own": True}
    norm = "resnet.embedder.embedder.normalization.weight"
    assert json.loads(metadata["initium.own"])[norm] == "constant(1)"


def test_recipe_rules_have_one_action(tmp_path):
    recipe = tmp_path / "r.toml"
    for text, message in {
        "own = true\nskip = true": "r.toml:3: expected either init, skip = true or own = true",
        "own = false": "r.toml:3: expected either init, skip = true or own = true",
        "own = true\nstd = 1": "own has no parameter 'std'; expected none",
    }.items():
        recipe.write_text(f'[[rules]]\nmatch = "*"\n{text}\n')
        with pytest.raises(ValueError, match=message):
            load(recipe)


# --- named recipes ------------------------------------------------------------------------------------------

RECIPES = [name for name in NAMED if name not in ("own", "norms-and-biases")]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "family", ["bert", "gemma3_text", "mixtral", "t5", "vit", "mamba", "whisper", "resnet"]
)
def test_named_recipes_change_matrices_only(tmp_path, family, recipe):
    """Before, norms were drawn as noise, and padding rows, sinusoids and state spaces were overwritten."""
    config_of(family).save_pretrained(tmp_path)
    try:
        plans = [plan_checkpoint(tmp_path, name) for name in ("own", recipe)]
    except (UnmatchedError, RecipeError) as error:  # names it does not know, or a depth that is not known
        assert (family, recipe) not in [("bert", "normal"), ("gemma3_text", "gpt2"), ("vit", "normal")]
        assert "experts" in str(error) or "of this model is not known" in str(error)
        return
    own, named = ({a.name: a for a in plan.assignments} for plan in plans)
    assert own.keys() == named.keys()
    changed = {name for name in own if str(own[name].fill) != str(named[name].fill)}
    random = {name for name, a in own.items() if a.fill.is_random}
    assert changed <= random and all(len(named[name].shape) > 1 for name in changed)
    roles = plans[1].model.roles
    norms = {name for name, role in roles.items() if role in ("norm_weight", "norm_bias", "bias")}
    assert norms and not norms & changed
    assert {named[name].rule.label for name in changed}.isdisjoint({"own"})


def test_padding_rows_stay_under_recipes(tmp_path):
    from safetensors.numpy import load_file

    config_of("llama", pad_token_id=7).save_pretrained(tmp_path)
    text = 'extends = "normal"\n[[rules]]\nmatch = "*embed_tokens.weight"\ninit = "orthogonal"\n'
    (tmp_path / "mine.toml").write_text(text)
    for recipe in ("normal", tmp_path / "mine.toml"):
        made = init_checkpoint(
            tmp_path / "config.json", tmp_path / "x.safetensors", recipe, seed=5, overwrite=True
        )
        table = load_file(made.written.files[0])["model.embed_tokens.weight"]
        assert not table[7].any() and table[6].any() and table[8].any()
        name = "model.embed_tokens.weight"
        if recipe == "normal":
            expected = ini.normal((300, 64), 0.0, 0.02, seed=5, name=name)
        else:
            expected = ini.orthogonal((300, 64), seed=5, name=name)
        expected[7] = 0
        assert np.abs(table - expected).max() <= 1e-5


def test_a_users_rule_applies_to_all_that_it_matches(tmp_path):
    config_of("bert").save_pretrained(tmp_path)
    (tmp_path / "mine.toml").write_text(
        'extends = "gpt2"\n[[rules]]\nmatch = "*LayerNorm.*"\ninit = "constant"\nvalue = 3\n'
    )
    planned = plan_checkpoint(tmp_path, tmp_path / "mine.toml")
    assert {str(a.fill) for a in planned.assignments if "LayerNorm" in a.name} == {"constant(3)"}
    assert planned.unused == ()
    (tmp_path / "mine.toml").write_text('extends = "gpt2"\n[[rules]]\nmatch = "no such"\ninit = "zeros"\n')
    assert len(plan_checkpoint(tmp_path, tmp_path / "mine.toml").unused) == 1
