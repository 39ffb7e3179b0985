"""Roles and layouts of parameters come from the modules that own them."""

import math
import re
import subprocess
import sys
import warnings

import jax
import keras
import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn.init import _calculate_fan_in_and_fan_out
from torch.nn.utils import parametrizations, parametrize, prune

import initium as ini
from initium.layouts import (
    IN_OUT,
    OUT_IN,
    TRANSPOSED,
    Fans,
    GroupedTransposed,
    Layout,
    UnknownLayout,
    UnknownLayoutError,
)
from initium.models.hugging_face import from_config
from initium.models.stacks import STACK_IN_OUT, STACK_OUT_IN
from initium.models.torch_modules import parameters_of
from initium.recipes.reader import load, parse
from initium.recipes.rules import Rule, Rules, match
from initium.torch import default_rules, reset_parameters

SEED = 7
REST = Rule("*", ini.skip, optional=True)


def fans_of(module, name="weight"):
    """Return the fans that initializers use for a parameter."""
    report = ini.init_model(module, [(name, ini.VarianceScaling()), REST], seed=SEED)
    return next(p.fans for p in report.parameters if p.name == name)


def drawn(module, rules=None):
    """Return all weights of a module after a draw with variance 1 / fan_in."""
    report = ini.init_model(module, rules or ini.VarianceScaling(distribution="uniform"), seed=SEED)
    return {name: weight.detach().numpy() for name, weight in report.weights.items()}


# --- torch's modules ----------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "1d": (1, 1),
    "2d": (2, 1),
    "3d": (3, 1),
    "grouped": (2, 4),
    "depthwise": (1, 8),
}


@pytest.mark.parametrize(("axes", "groups"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_fans_of_convolutions_are_those_of_torch(axes, groups):
    kernel = (3, 5, 2)[:axes]
    layer = getattr(nn, f"Conv{axes}d")(8, 16, kernel, groups=groups)
    assert fans_of(layer) == _calculate_fan_in_and_fan_out(layer.weight)
    assert fans_of(layer).fan_in == layer.weight[0].numel()  # the inputs of one output


@pytest.mark.parametrize(("axes", "groups"), CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_transposed_convolution_has_the_fans_of_the_convolution_with_its_channels(axes, groups):
    kernel = (3, 5, 2)[:axes]
    transposed = getattr(nn, f"ConvTranspose{axes}d")(8, 16, kernel, groups=groups)
    plain = getattr(nn, f"Conv{axes}d")(8, 16, kernel, groups=groups)
    assert fans_of(transposed) == _calculate_fan_in_and_fan_out(plain.weight)
    assert fans_of(transposed) != _calculate_fan_in_and_fan_out(transposed.weight)  # torch has no role here


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fan_in_of_a_transposed_convolution_keeps_the_variance(groups):
    # With a stride of 1 and inside the borders, each output sums fan_in products.
    layer = nn.ConvTranspose1d(64, 32, 5, groups=groups, bias=False)
    ini.init_model(layer, ini.VarianceScaling(1.0, "fan_in", "normal"), seed=SEED)
    signal = torch.from_numpy(ini.normal((64, 64, 64), seed=SEED, name="signal"))
    inner = layer(signal)[:, :, 8:-8]
    # 32 x 320 weights: the relative deviation of their variance is 1.4 %; false-alarm rate below 1e-9.
    assert inner.var().item() == pytest.approx(1.0, abs=0.09)


def test_linear_bilinear_embedding_and_attention_have_torch_s_fans():
    attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
    others = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
    for layer, name in (
        (nn.Linear(5, 3), "weight"), (nn.Bilinear(3, 4, 5), "weight"), (nn.Embedding(7, 3), "weight"),
        (nn.EmbeddingBag(7, 3), "weight"), (attention, "in_proj_weight"), (attention, "bias_k"),
        (others, "q_proj_weight"), (others, "k_proj_weight"), (others, "v_proj_weight"),
        (nn.LSTM(3, 4, proj_size=2), "weight_hr_l0"), (nn.GRUCell(3, 4), "weight_hh"),
    ):  # fmt: skip
        assert fans_of(layer, name) == _calculate_fan_in_and_fan_out(layer.get_parameter(name))


def test_fan_in_of_embeddings_is_that_of_flax():
    # flax.linen.Embed: variance_scaling(1.0, "fan_in", "normal", out_axis=0) for (num, features)
    values = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)(
        jax.random.key(0), (4000, 16), np.float32
    )
    ours = math.sqrt(1 / fans_of(nn.Embedding(4000, 16)).fan_in)
    assert float(values.std()) == pytest.approx(ours, rel=0.02)  # 64,000 values: 7 standard errors


@pytest.mark.parametrize("dimensions", [1, 2])
def test_fans_equal_those_of_keras_and_jax(dimensions):
    kernel = (3, 5)[:dimensions]
    for theirs, ours, axes in (
        (f"Conv{dimensions}D", f"Conv{dimensions}d", (-2, -1)),
        (f"Conv{dimensions}DTranspose", f"ConvTranspose{dimensions}d", (-1, -2)),
    ):
        layer = getattr(keras.layers, theirs)(16, kernel)
        layer.build((None, *(9 for _ in kernel), 8))
        fans = Layout(*axes).fans(tuple(layer.kernel.shape))
        assert fans_of(getattr(nn, ours)(8, 16, kernel)) == fans
        std = float(jax.nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=axes[0], out_axis=axes[1]
        )(jax.random.key(0), tuple(layer.kernel.shape), np.float32).std())  # fmt: skip
        assert std == pytest.approx(1 / math.sqrt(fans.fan_in), rel=0.2)


def test_roles_come_from_classes_whatever_the_names():
    class RootNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    module = nn.ModuleDict({
        "bias": nn.Linear(3, 4), "norm": nn.Conv2d(3, 4, 2), "head": nn.LayerNorm(4), "conv": RootNorm(),
        "up": nn.ConvTranspose2d(3, 4, 2), "table": nn.Embedding(5, 3), "cell": nn.LSTM(3, 4),
        "plain": nn.RNN(3, 4), "attention": nn.MultiheadAttention(4, 2), "act": nn.PReLU(),
    })  # fmt: skip
    roles = {name: known.role for name, known in parameters_of(module).items()}
    assert roles == {
        "bias.weight": "matrix", "bias.bias": "bias",
        "norm.weight": "convolution", "norm.bias": "bias",
        "head.weight": "norm_weight", "head.bias": "norm_bias", "conv.scale": "norm_weight",
        "up.weight": "transposed_convolution", "up.bias": "bias", "table.weight": "embedding",
        "cell.weight_ih_l0": "fused", "cell.weight_hh_l0": "fused",
        "cell.bias_ih_l0": "bias", "cell.bias_hh_l0": "bias",
        "plain.weight_ih_l0": "matrix", "plain.weight_hh_l0": "matrix",
        "plain.bias_ih_l0": "bias", "plain.bias_hh_l0": "bias",
        "attention.in_proj_weight": "fused", "attention.in_proj_bias": "bias",
        "attention.out_proj.weight": "matrix", "attention.out_proj.bias": "bias", "act.weight": "other",
    }  # fmt: skip


def test_tied_and_shared_modules_have_all_their_names():
    layer = nn.Linear(3, 4)
    module = nn.ModuleDict({"a": layer, "b": layer, "table": nn.Embedding(4, 3)})
    module["table"].weight = layer.weight
    layer.again = layer.weight
    known = parameters_of(module)
    assert list(known) == [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert [known[name].role for name in ("a.weight", "b.weight", "table.weight")] == [
        "matrix", "matrix", "embedding",
    ]  # fmt: skip


def test_lazy_parameters_are_no_obstacle():
    known = parameters_of(nn.LazyLinear(4))
    assert known["weight"].layout is None


def test_torch_s_own_defaults_keep_torch_s_fans():
    # reset_parameters of ConvTranspose takes the output axis as the input axis; so do the default rules.
    layer = nn.ConvTranspose2d(8, 6, 3)
    values = drawn(layer, default_rules(layer))["weight"]
    bound = 1 / math.sqrt(layer.weight[0].numel())
    assert 0.98 * bound < np.abs(values).max() <= bound
    reset_parameters(nn.MultiheadAttention(8, 2, add_bias_kv=True), seed=SEED)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_dirac_is_the_identity_of_grouped_convolutions(kind, groups):
    layer = kind(8, 8, 3, padding=1, groups=groups, bias=False)
    ini.init_model(layer, ini.Dirac(groups=groups), seed=SEED)
    signal = torch.from_numpy(ini.normal((2, 8, 5, 5), seed=SEED, name="signal"))
    assert torch.equal(layer(signal), signal)


def test_default_rules_name_the_parameters_that_torch_s_layers_do_not_have():
    for layer, names in ((old_weight_norm(nn.Linear(3, 4)), "weight_g, weight_v"), (Extended(3, 4), "extra")):
        with pytest.raises(ValueError, match=f"parameters {names} belong to no layer"):
            default_rules(layer)


# --- weights whose class is not known -----------------------------------------------------------------------


class Owner(nn.Module):
    """A user's module with a parameter."""

    def __init__(self, *shape, **attributes):
        super().__init__()
        self.w = nn.Parameter(torch.full(shape, 5.0))
        vars(self).update(attributes)


class Extended(nn.Linear):
    """A user's layer with one more parameter."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.extra = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "attributes", "expected"),
    [
        ((6, 4, 3, 5), {}, OUT_IN),
        ((4, 6, 3, 5), {}, TRANSPOSED),
        ((6, 2, 3, 5), {"groups": 2}, OUT_IN),
        ((4, 3, 3, 5), {"groups": 2}, GroupedTransposed(groups=2)),
        ((6, 6, 3, 5), {"in_channels": 6, "transposed": False}, OUT_IN),
        ((6, 6, 3, 5), {"in_channels": 6, "transposed": True}, TRANSPOSED),
        ((6, 6, 3, 5), {"in_channels": 6}, None),
        ((6, 4, 3, 5), {"transposed": True}, None),
        ((6, 4, 5, 3), {}, None),
        ((6, 4, 3, 5), {"kernel_size": 3}, None),
    ],
)
def test_convolutions_of_other_libraries_are_known_by_their_sizes(shape, attributes, expected):
    sizes = {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 5), **attributes}
    module = Owner(1, **sizes)
    module.weight = nn.Parameter(torch.empty(shape))
    layout = parameters_of(module)["weight"].layout
    assert isinstance(layout, UnknownLayout) if expected is None else layout == expected


def test_scripted_convolutions_keep_their_layouts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 6, 3)))
    known = parameters_of(scripted)
    assert known["0.weight"].layout == GroupedTransposed(groups=2)
    assert known["1.weight"].layout == OUT_IN


@pytest.mark.parametrize("shape", [(8, 4, 4), (3, 4, 5, 6)])
def test_unknown_layouts_are_errors_where_fans_are_needed(shape):
    module = nn.ModuleDict({"part": Owner(*shape)})
    for needs in (ini.he_normal(), ini.Orthogonal(), ini.DeltaOrthogonal(), ini.Dirac()):
        with pytest.raises(UnknownLayoutError, match=r"'part\.w'.*rule '\*'.*Owner.*layout=") as caught:
            ini.init_model(module, needs, seed=SEED)
        assert isinstance(caught.value, ValueError)
    text = '[[rules]]\nmatch = "*"\ninit = "normal"\nstd = "1 / sqrt(fan_in)"'
    with pytest.raises(UnknownLayoutError, match="Owner"):
        ini.init_model(module, parse(text, "r").resolve(), seed=SEED)
    with pytest.raises(UnknownLayoutError, match="Owner"):
        ini.plan_model(module, ini.he_normal(), seed=SEED)
    assert (module["part"].w == 5).all()
    for needless in (ini.Normal(0.0, 0.02), ini.zeros(), ini.skip, ini.he_normal("out_in")):
        ini.init_model(module, needless, seed=SEED)


def test_a_stated_layout_wins():
    module = Owner(8, 4, 6)
    stacked = Layout(in_axis=2, out_axis=1, batch_axis=(0,))
    report = ini.init_model(module, ini.he_normal(layout=stacked), seed=SEED)
    assert report.parameters[0].fans == Fans(6.0, 4.0)
    assert fans_of(nn.ConvTranspose1d(4, 6, 3)) == Fans(12.0, 18.0)
    report = ini.init_model(
        nn.ConvTranspose1d(4, 6, 3), [("weight", ini.he_normal("out_in")), ("*", ini.skip)], seed=SEED
    )
    assert report.parameters[0].fans == Fans(18.0, 12.0)


def test_the_batch_axis_of_orthogonal_states_a_stack_of_matrices():
    stack = drawn(Owner(8, 4, 6), ini.Orthogonal(batch_axis=0))["w"]
    assert np.allclose(stack @ stack.transpose(0, 2, 1), np.eye(4), atol=1e-5)
    assert np.array_equal(stack, ini.initialize(ini.Orthogonal(batch_axis=0), (8, 4, 6), seed=SEED, name="w"))
    with pytest.raises(UnknownLayoutError):
        drawn(Owner(8, 4, 6, 3), ini.Orthogonal(batch_axis=0))  # two ways to make matrices
    drawn(Owner(8, 4, 6, 3), ini.Orthogonal(batch_axis=0, column_axis=1))
    with pytest.raises(UnknownLayoutError):
        drawn(Owner(8, 4, 6), ini.Orthogonal(column_axis=1))  # whether the first axis is a stack is open


def test_matrices_of_unknown_classes_are_out_in():
    assert fans_of(Owner(4, 6), "w") == Fans(6.0, 4.0)
    assert parameters_of(Owner(4, 6))["w"].role == "other"


def test_a_subclass_with_another_shape_states_nothing():
    class Stacked(nn.Linear):
        def __init__(self):
            super().__init__(4, 6)
            self.weight = nn.Parameter(torch.empty(3, 6, 4))

    with pytest.raises(UnknownLayoutError, match="Stacked"):
        fans_of(Stacked())


# --- stacks of experts --------------------------------------------------------------------------------------

HALVES = {"hidden_size": 4, "intermediate_size": 6}


@pytest.mark.parametrize(
    ("shape", "attributes", "layout"),
    [
        ((3, 12, 4), {"num_experts": 3, **HALVES}, STACK_OUT_IN),
        ((3, 4, 12), {"num_experts": 3, **HALVES}, STACK_IN_OUT),
        ((3, 4, 12), {"num_local_experts": 3, "hidden_dim": 4, "expert_dim": 6}, STACK_IN_OUT),
        ((3, 6, 4), {"num_experts": 3, "input_size": 4, "output_size": 6}, STACK_OUT_IN),
        ((3, 4, 6), {"num_groups": 3, "group_in_dim": 4, "group_out_dim": 6}, STACK_IN_OUT),
        ((3, 4, 4), {"num_experts": 3, "has_gate": True, "is_transposed": True}, STACK_IN_OUT),
        ((3, 4, 4), {"num_experts": 3, "has_gate": True, "is_transposed": False}, STACK_OUT_IN),
        # down (out, in) or up (in, out); square; another number of experts; a flag of unknown meaning
        ((3, 4, 6), {"num_experts": 3, **HALVES}, None),
        ((3, 8, 8), {"num_experts": 3, "hidden_size": 8, "intermediate_size": 4}, None),
        ((3, 4, 4), {"num_experts": 3, "input_size": 4, "output_size": 4}, None),
        ((3, 12, 4), {"num_experts": 5, **HALVES}, None),
        ((3, 4, 4), {"num_experts": 3, "is_transposed": True}, None),
        ((3, 12, 4), {"num_experts": True, **HALVES}, None),
    ],
)
def test_the_orientation_of_stacks(shape, attributes, layout):
    module = Owner(*shape, **attributes)
    known = parameters_of(module)["w"]
    if layout is not None:
        assert (known.role, known.layout) == ("expert_stack", layout)
        assert fans_of(module, "w") == layout.fans(shape)
        return
    assert isinstance(known.layout, UnknownLayout)
    with pytest.raises(UnknownLayoutError, match=r"'w'.*Owner.*expected an initializer with layout="):
        fans_of(module, "w")


def test_one_stack_decides_for_its_neighbours():
    module = Owner(3, 4, 6, num_experts=3, **HALVES)
    module.gate_up = nn.Parameter(torch.empty(3, 12, 4))
    assert fans_of(module, "w") == Fans(6.0, 4.0)


def test_another_stack_of_the_class_decides_for_a_square_one():
    sizes = {"num_experts": 3, "input_size": 4}
    model = nn.ModuleList([Owner(3, 4, 4, **sizes, output_size=4), Owner(3, 6, 4, **sizes, output_size=6)])
    assert {known.layout for known in parameters_of(model).values()} == {STACK_OUT_IN}
    model.append(Owner(3, 4, 6, **sizes, output_size=6))  # a class that is used in two ways decides nothing
    assert isinstance(parameters_of(model)["0.w"].layout, UnknownLayout)


def test_orthogonal_experts_are_orthogonal_one_by_one():
    experts = Owner(3, 4, 12, num_experts=3, **HALVES)
    stack = drawn(experts, ini.Orthogonal())["w"]
    assert np.allclose(stack @ stack.transpose(0, 2, 1), np.eye(4), atol=1e-5)


# --- models of transformers ---------------------------------------------------------------------------------

WIDTH, INNER = 16, 24
COMMON = {
    "vocab_size": 32, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {
    **COMMON, "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER,
}  # fmt: skip
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
CONFIGS = {
    "gpt2": {
        "vocab_size": 32, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 8,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "llama": COMMON,
    "bert": {**COMMON, "is_decoder": True},
    "t5": {"vocab_size": 32, "d_model": WIDTH, "d_ff": INNER, "num_layers": 1, "num_heads": 2, "d_kv": 4},
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
    "gpt_oss": EXPERTS,
    "llama4_text": {**EXPERTS, "intermediate_size_mlp": INNER},
    "deepseek_v3": {**EXPERTS, **LATENT, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "jetmoe": EXPERTS,
    "longcat_flash": {**EXPERTS, "expert_ffn_hidden_size": INNER},
    "nemotron_h": {**EXPERTS, "layers_block_type": ["mamba", "moe"]},
    "mamba": {
        "vocab_size": 32, "hidden_size": WIDTH, "num_hidden_layers": 1, "state_size": 4,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    },
    "convnext": {"hidden_sizes": [8, WIDTH], "depths": [1, 1], "num_stages": 2},
    "vit": {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4,
    },
    "wav2vec2": {
        **COMMON, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "conv_dim": [8],
        "conv_stride": [2], "conv_kernel": [3], "num_feat_extract_layers": 1,
    },
}  # fmt: skip


def built(kind):
    settings = transformers.CONFIG_MAPPING[kind].from_dict(CONFIGS[kind])
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return (causal if type(settings) in causal else transformers.MODEL_MAPPING)[type(settings)](settings)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    return request.param, built(request.param)


def test_every_parameter_of_real_models_has_a_role(model):
    kind, module = model
    known = parameters_of(module)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters(remove_duplicate=False)}
    assert list(known) == list(shapes)
    roles = {p.role for p in known.values()}
    assert ("expert_stack" in roles) == ("num_experts" in CONFIGS[kind])
    head = module.get_output_embeddings()
    assert ("head" in roles) == (head is not None)
    for name, parameter in known.items():
        if parameter.role == "head":
            assert module.get_parameter(name) is head.weight
        if parameter.role in ("norm_weight", "norm_bias"):
            assert len(shapes[name]) == 1
            assert "norm" in type(module.get_submodule(name.rpartition(".")[0])).__name__.lower()
        if parameter.role == "other" and len(shapes[name]) > 2:
            assert isinstance(parameter.layout, UnknownLayout)


@pytest.mark.parametrize("kind", [kind for kind, config in CONFIGS.items() if "num_experts" in config])
def test_experts_of_real_models_have_the_fans_of_their_matrices(kind):
    module = built(kind)
    stacks = {name for name, known in parameters_of(module).items() if known.role == "expert_stack"}
    assert stacks
    report = ini.init_model(module, [*((name, ini.he_normal()) for name in stacks), REST], seed=SEED)
    for parameter in report.parameters:
        if parameter.name in stacks:
            owner = module.get_submodule(parameter.name.rpartition(".")[0])
            inputs = INNER if parameter.name.endswith("down_proj") else WIDTH
            inputs = getattr(owner, "input_size", inputs)
            outputs = math.prod(parameter.shape[1:]) / inputs
            assert parameter.fans == Fans(inputs, outputs), parameter.name


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_map_width_to_inner_and_back(kind):
    # The orientation that the forward pass uses: each expert's first matrix reads vectors of the width.
    module = built(kind)
    name, experts = next((n, m) for n, m in module.named_modules() if n.endswith("experts"))
    rows = torch.ones(1, WIDTH)
    layout = parameters_of(module)[f"{name}.gate_up_proj"].layout
    weight = experts.gate_up_proj[0]
    product = rows @ weight if layout is STACK_IN_OUT else nn.functional.linear(rows, weight)
    assert product.shape == (1, 2 * INNER)
    experts(rows, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1))


def test_gpt2_has_the_layout_of_conv1d():
    module = built("gpt2")
    name = "transformer.h.0.mlp.c_fc.weight"
    assert parameters_of(module)[name].layout is IN_OUT
    assert fans_of(module, name) == Fans(WIDTH, 4 * WIDTH)


def test_a_module_and_its_configuration_give_equal_plans(model, tmp_path):
    import json

    kind, module = model
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": kind, **CONFIGS[kind]}))
    architecture = from_config(path)
    known = parameters_of(module)
    for tensor in architecture.tensors:
        if tensor.name in known:
            layout = known[tensor.name].layout
            assert architecture.layout(tensor.name) == (OUT_IN if layout is None else layout)
            assert architecture.parametrized.get(tensor.name) == known[tensor.name].parametrized


RECIPES = ["gpt2", "llama", "megatron", "normal", "mup", "t-fixup", "rezero", "small-init", "torchtitan"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_named_recipes_draw_the_other_weights_of_real_models_as_before(model, recipe):
    _, module = model
    rest = Rule("*", ini.Normal(), optional=True)
    rules = Rules((*load(recipe).resolve(depth=2, width=WIDTH).rules, rest))
    changed = set()
    for name, known in parameters_of(module).items():
        shape = {name: tuple(module.get_parameter(name).shape)}
        fills = []
        for layouts in (None, {} if known.layout is None else {name: known.layout}):
            try:
                fills.append(match(shape, rules, layouts).assignments[0].fill)
            except ValueError as error:
                fills.append(type(error))
        if fills[0] != fills[1]:
            changed.add(known.layout if fills[1] is not UnknownLayoutError else UnknownLayout)
    assert changed <= {IN_OUT, STACK_IN_OUT, STACK_OUT_IN, UnknownLayout}


def test_mup_draws_experts_and_conv1d_by_their_inputs():
    rules = load("mup").resolve(depth=2, width=WIDTH)
    report = ini.init_model(built("gpt2"), rules, seed=SEED)
    stds = {p.name: p.fans and p.fans.fan_in for p in report.parameters}
    assert stds["transformer.h.0.mlp.c_fc.weight"] == WIDTH
    assert stds["transformer.h.0.mlp.c_proj.weight"] == 4 * WIDTH


# --- parametrizations ---------------------------------------------------------------------------------------


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class Doubled(nn.Module):
    """A user's parametrization, with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight):
        return self.gain * weight


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": old_weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 2),
    "a user's": doubled,
}


@pytest.mark.parametrize("apply", PARAMETRIZED.values(), ids=PARAMETRIZED)
@pytest.mark.parametrize(
    "wrap", [nn.Linear, lambda i, o: nn.ConvTranspose1d(i, o, 3)], ids=["matrix", "conv"]
)
def test_rules_for_weights_are_refused_for_what_computes_them(wrap, apply):
    module = nn.Sequential(apply(wrap(4, 6)))
    before = {name: p.clone() for name, p in module.named_parameters()}
    raw = [name for name in before if name != "0.bias"]
    assert {known.parametrized.weight for name, known in parameters_of(module).items() if name in raw} == {
        "0.weight"
    }
    for rules in (
        ini.Normal(), ini.zeros(), [("*bias", ini.zeros()), ("*weight*", ini.ones()), ("*", ini.ones())],
        [("*.weight", ini.he_normal()), ("*", ini.zeros())],
        {re.compile("weight"): ini.ones(), "*": ini.skip},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"tensor '0\.\S+', rule .* computes '0\.weight' .* expected"):
            ini.init_model(module, rules, seed=SEED)
        with pytest.raises(ValueError, match=r"computes '0\.weight'"):
            ini.plan_model(module, rules, seed=SEED)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("apply", PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_rules_for_the_stored_tensors_themselves_work(apply):
    module = apply(nn.Linear(4, 6))
    raw = [name for name, _ in module.named_parameters() if name != "bias"]
    rules = [*((name, ini.Normal()) for name in raw), ("bias", ini.zeros())]
    ini.init_model(module, rules, seed=SEED)
    for name in raw:
        parameter = module.get_parameter(name).detach().numpy()
        assert np.array_equal(parameter, ini.normal(parameter.shape, seed=SEED, name=name))
    ini.init_model(module, [*((name, ini.skip) for name in raw), ("*", ini.zeros())], seed=SEED)
    ini.init_model(module, ini.skip, seed=SEED)


def test_the_tensor_with_the_axes_of_the_weight_has_its_layout():
    for apply, name in (
        (parametrizations.weight_norm, "parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "parametrizations.weight.original"),
        (old_weight_norm, "weight_v"),
        (nn.utils.spectral_norm, "weight_orig"),
    ):
        plain = nn.ConvTranspose1d(4, 6, 3, groups=2)
        expected = parameters_of(plain)["weight"]
        known = parameters_of(apply(plain))[name]
        assert (known.role, known.layout) == (expected.role, expected.layout)
        assert isinstance(known.layout, GroupedTransposed)


def test_a_call_before_weight_norm_gives_the_weight_of_the_rule():
    rules = [("weight", ini.he_normal()), ("bias", ini.zeros())]
    weight = drawn(nn.ConvTranspose1d(4, 6, 3, groups=2), rules)["weight"]
    for apply in (parametrizations.weight_norm, old_weight_norm):
        layer = nn.ConvTranspose1d(4, 6, 3, groups=2)
        drawn(layer, rules)
        assert np.allclose(apply(layer).weight.detach().numpy(), weight, rtol=1e-6, atol=0)


def test_other_parameters_of_a_parametrized_module_are_drawn():
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2))
    report = ini.init_model(module, [("0.parametrizations.*", ini.skip), ("*", ini.Normal())], seed=SEED)
    assert [p.distribution for p in report.parameters].count("skip") == 2


# --- the package --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "unwanted"),
    [("{'w': (2, 3)}", "torch"), ("__import__('torch').nn.Linear(2, 3)", "transformers")],
)
def test_libraries_are_imported_only_for_their_modules(model, unwanted):
    script = (
        "import sys, initium as ini, initium.models.torch_modules\n"
        f"ini.init_model({model}, ini.Normal(), seed=1)\n"
        f"assert {unwanted!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
