"""Recipes of large models: the std of every role worked by hand, layer by layer."""

import json
import math
from math import sqrt

import numpy as np
import pytest

import initium as ini
from initium.fills.elementwise import ConstantFill, TruncatedNormalFill, UniformFill, normal_fill
from initium.layouts import IN_OUT
from initium.models.architecture import Architecture
from initium.models.built_in import built_in
from initium.recipes.named import NAMED
from initium.recipes.reader import load, parse
from initium.recipes.recipe import ByFans, RecipeError
from initium.specs import TensorSpec

L, D, F = 32, 4096, 14336  # Llama 3 8B: depth, width, hidden


def assigned(recipe, model):
    return {a.name: a.fill for a in load(recipe).assign(model).assignments}


@pytest.fixture(scope="module")
def llama():
    return built_in("llama-3-8b")


def block(layer, name):
    return f"model.layers.{layer}.{name}.weight"


ROLES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "query": block(5, "self_attn.q_proj"),
    "value": block(5, "self_attn.v_proj"),
    "attention out": block(5, "self_attn.o_proj"),
    "gate": block(5, "mlp.gate_proj"),
    "up": block(5, "mlp.up_proj"),
    "down": block(5, "mlp.down_proj"),
}


def normal(std):
    return normal_fill(0.0, std)


def cut(std):
    return TruncatedNormalFill(0.0, std, -3.0, 3.0)


def xavier(gain, out, into):
    return normal(gain * sqrt(2 / (out + into)))


BETA = (8 * L) ** -0.25
FIXUP = (9 * L) ** -0.25


def xavier_uniform(gain, out, into):
    bound = gain * sqrt(6 / (out + into))
    return UniformFill(-bound, bound)


EXPECTED = {
    "gpt2": dict.fromkeys(ROLES, normal(0.02)),  # no name of GPT-2's projections is in a Llama
    "llama": dict.fromkeys(ROLES, normal(0.02)),
    "megatron": {
        **dict.fromkeys(ROLES, normal(0.02)),
        **dict.fromkeys(("attention out", "down"), normal(0.02 / sqrt(64))),
    },
    "megatron-mup": {
        **dict.fromkeys(ROLES, normal(0.02 / sqrt(16))),
        "embedding": normal(0.02),
        **dict.fromkeys(("attention out", "down"), normal(0.02 / sqrt(64) / sqrt(16))),
    },
    "torchtitan": {
        **dict.fromkeys(("query", "value", "gate"), normal(0.02)),
        **dict.fromkeys(("attention out", "up", "down"), normal(0.02 / sqrt(12))),
        "embedding": normal(1.0),
        "head": cut(1 / 64),
    },
    "olmo-mitchell": {
        **dict.fromkeys(("embedding", "head", "query", "value", "gate", "up"), cut(1 / 64)),
        "attention out": cut(1 / sqrt(12 * D)),
        "down": cut(1 / sqrt(12 * F)),
    },
    "neox": {
        **dict.fromkeys(ROLES, normal(sqrt(2 / (5 * D)))),
        **dict.fromkeys(("attention out", "down"), normal(2 / L / 64)),
    },
    "small-init": dict.fromkeys(ROLES, normal(sqrt(2 / (5 * D)))),
    "mup": {
        **dict.fromkeys(("query", "value", "attention out", "gate", "up"), normal(1 / 64)),
        "embedding": normal(1.0),
        "head": ConstantFill(0.0),
        "down": normal(1 / sqrt(F)),
    },
    "deepnorm": {
        "embedding": normal(1.0),
        "head": xavier(1, 128256, D),
        "query": xavier(1, D, D),
        "value": xavier(BETA, D // 4, D),
        "attention out": xavier(BETA, D, D),
        "gate": xavier(BETA, F, D),
        "up": xavier(BETA, F, D),
        "down": xavier(BETA, D, F),
    },
    "t-fixup": {
        "embedding": normal(FIXUP / 64),
        "head": xavier_uniform(1, 128256, D),
        "query": xavier_uniform(1, D, D),
        "value": xavier_uniform(FIXUP, D // 4, D),
        "attention out": xavier_uniform(FIXUP, D, D),
        "gate": xavier_uniform(FIXUP, F, D),
        "up": xavier_uniform(FIXUP, F, D),
        "down": xavier_uniform(FIXUP, D, F),
    },
    "fixup": {
        "embedding": normal(0.02),
        "head": ConstantFill(0.0),
        "query": normal(sqrt(2 / D)),
        "value": normal(sqrt(2 / D)),
        "attention out": ConstantFill(0.0),
        "gate": normal(sqrt(2 / D) / sqrt(L)),
        "up": normal(sqrt(2 / D) / sqrt(L)),
        "down": ConstantFill(0.0),
    },
    "rezero": {
        "embedding": normal(0.02),
        "head": xavier_uniform(1, 128256, D),
        "query": xavier_uniform(1, D, D),
        "value": xavier_uniform(1, D // 4, D),
        "attention out": xavier_uniform(1, D, D),
        "gate": xavier_uniform(1, F, D),
        "up": xavier_uniform(1, F, D),
        "down": xavier_uniform(1, D, F),
    },
    "skipinit": {
        "embedding": normal(0.02),
        **dict.fromkeys(("head", "query", "value", "attention out", "gate", "up"), normal(sqrt(2 / D))),
        "down": normal(sqrt(2 / F)),
    },
}


def numbers(fill):
    return list(vars(fill).values())


@pytest.mark.parametrize("recipe", EXPECTED)
def test_every_role_by_hand(recipe, llama):
    fills = assigned(recipe, llama)
    for role, name in ROLES.items():
        assert type(fills[name]) is type(EXPECTED[recipe][role]), role
        assert numbers(fills[name]) == pytest.approx(numbers(EXPECTED[recipe][role]), rel=1e-14), role
    norms = [fill for name, fill in fills.items() if name.endswith("norm.weight")]
    assert len(norms) == 65
    assert set(norms) == {ConstantFill(1.0)}


def test_all_recipes_have_a_test():
    assert set(EXPECTED) | {"norms-and-biases", "normal", "own"} == set(NAMED)  # own: test_own_models


@pytest.mark.parametrize("recipe", [name for name in NAMED if name not in ("norms-and-biases", "own")])
@pytest.mark.parametrize("model", ["gpt2", "llama-3-8b"])
def test_every_tensor_of_the_built_in_models_is_matched(recipe, model):
    fills = assigned(recipe, built_in(model))
    assert all(fill is not None for fill in fills.values())
    biases = {fill for name, fill in fills.items() if name.endswith("bias")}
    assert biases <= {ConstantFill(0.0)}


@pytest.mark.parametrize(
    ("recipe", "layer", "std"),
    [
        *(("torchtitan", layer, 0.02 / sqrt(2 * (layer + 1))) for layer in (0, 1, 3, 10, 31)),
        *(("olmo-mitchell", layer, 1 / sqrt(2 * F * (layer + 1))) for layer in (0, 1, 3, 10, 31)),
    ],
)
def test_depth_scaling_counts_layers(recipe, layer, std, llama):
    assert assigned(recipe, llama)[block(layer, "mlp.down_proj")].scale == pytest.approx(std, rel=1e-14)


def test_fans_follow_the_layout_of_the_model():
    """GPT-2's Conv1D weights are (in, out)."""
    fills = assigned("mup", built_in("gpt2"))
    assert fills["h.3.mlp.c_fc.weight"].scale == pytest.approx(1 / sqrt(768))
    assert fills["h.3.mlp.c_proj.weight"].scale == pytest.approx(1 / sqrt(3072))
    fills = assigned("olmo-mitchell", built_in("gpt2"))
    assert fills["h.3.mlp.c_proj.weight"].scale == pytest.approx(1 / sqrt(2 * 3072 * 4))


def test_values_follow_the_recipe():
    """What init_model draws by a recipe has the stds of its layers."""
    names = {f"h.{layer}.o_proj.weight": (200, 300) for layer in range(3)}
    report = ini.init_model(names, load("olmo-mitchell").resolve(depth=3, width=64), seed=1)
    for layer, weight in enumerate(report.weights.values()):
        std = 0.98658 / sqrt(2 * 300 * (layer + 1))  # what 3 sigmas leave
        assert weight.std() == pytest.approx(std, rel=0.02)
        assert np.abs(weight).max() <= 3 / sqrt(2 * 300 * (layer + 1))


def test_gates_of_residual_branches_are_zero():
    tensors = {"b.0.resweight": (), "b.1.alpha": (1,), "b.2.skip_gain": (1,), "b.0.weight": (4, 4)}
    for recipe in ("rezero", "skipinit"):
        report = ini.init_model(tensors, load(recipe).resolve(), seed=1)
        assert [bool(weight.any()) for weight in report.weights.values()] == [False, False, False, True]


def test_fixup_of_a_residual_network():
    names = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.weight": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.0.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer1.0.scale": (1,),
        "layer1.0.bias1a.bias": (1,),
        "fc.weight": (10, 64),
        "fc.bias": (10,),
    }
    report = ini.init_model(names, load("fixup").resolve(depth=8), seed=1)
    drawn = {done.name: done.distribution for done in report.parameters}
    assert drawn == {
        "conv1.weight": f"normal(0, {sqrt(2 / 147):g})",
        "bn1.weight": "constant(1)",
        "layer1.0.conv1.weight": f"normal(0, {sqrt(2 / 576 / 8):g})",
        "layer1.0.conv2.weight": "constant(0)",
        "layer2.0.downsample.0.weight": f"normal(0, {sqrt(2 / 64):g})",
        "layer1.0.scale": "constant(1)",
        "layer1.0.bias1a.bias": "constant(0)",
        "fc.weight": "constant(0)",
        "fc.bias": "constant(0)",
    }


# --- extends, constants, layers, fans -----------------------------------------------------------------------


def model(*tensors, **facts):
    return Architecture("test", "", tuple(TensorSpec(n, s, "float32") for n, s in tensors), **facts)


def test_a_recipe_extends_another_and_overrides_rules():
    recipe = parse(
        """
        extends = "megatron-mup"
        description = "mine"
        seed = 7
        [constants]
        base_width = 1024
        [[rules]]
        match = "lm_head.weight"
        init = "zeros"
        """,
        "mine.toml",
    )
    assert (recipe.seed, recipe.description) == (7, "mine")
    assert recipe.source == load("megatron-mup").source
    fills = {a.name: a.fill for a in recipe.assign(built_in("llama-3-8b")).assignments}
    assert fills["lm_head.weight"] == ConstantFill(0.0)
    assert fills[ROLES["query"]] == normal(0.02 / sqrt(4))
    assert fills[ROLES["embedding"]] == normal(0.02)


def test_a_file_extends_a_file(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.toml").write_text(
        "dtype = 'bfloat16'\nseed = 3\n[constants]\ns = 0.5\n"
        "[[rules]]\nmatch = '*'\ninit = 'normal'\nstd = 's / 2'\n"
    )
    (tmp_path / "b.toml").write_text("extends = 'base/a.toml'\n[constants]\ns = 1\n")
    recipe = load(tmp_path / "b.toml")
    assert (recipe.seed, recipe.dtype) == (3, "bfloat16")
    (assignment,) = recipe.assign(model(("w", (3,)))).assignments
    assert assignment.fill == normal(0.5)


def test_rules_of_the_extended_named_recipe_may_match_nothing():
    recipe = parse("extends = 'gpt2'\n[[rules]]\nmatch = 'x'\ninit = 'ones'\n", "r.toml")
    assert [rule.pattern for rule in recipe.assign(model(("w.weight", (3,)), depth=2)).unused] == ["x"]


@pytest.mark.parametrize("pattern", ["match = '*.w'", "regex = 'w$'", "regex = '^[a-z].*\\.w'"])
def test_rules_of_layers_match_numbered_tensors_only(pattern):
    recipe = parse(
        f"[[rules]]\n{pattern}\ninit = 'normal'\nstd = '1 / (layer + 1)'\n"
        "[[rules]]\nmatch='*'\ninit='ones'\n",
        "r.toml",
    )
    names = ["h.0.w", "h.1.w", "h.10.w", "h.1.mlp.2.w", "h.w", "h1.w", "h.1.b", "h.12.w"]
    fills = {a.name: a.fill for a in recipe.assign(model(*((n, (3,)) for n in names), depth=12)).assignments}
    one = ConstantFill(1.0)
    assert list(fills.values()) == [
        normal(1),
        normal(1 / 2),
        normal(1 / 11),
        normal(1 / 2),
        one,
        one,
        one,
        one,
    ]


def test_formulas_of_fans():
    text = "[[rules]]\nmatch = '*'\ninit = 'uniform'\nlow = '-1 / fan_out'\nhigh = '1 / fan_in'\n"
    tensors = [("a", (10, 4)), ("b", (10, 4, 3))]
    first, second = parse(text, "r").assign(model(*tensors, layouts={"b": IN_OUT})).assignments
    assert first.fill == UniformFill(-1 / 10, 1 / 4)
    assert first.fans == (4.0, 10.0)
    assert second.fill == UniformFill(-1 / 30, 1 / 40)
    (given,) = parse(text + "layout = 'in_out'", "r").assign(model(tensors[0])).assignments
    assert given.fill == UniformFill(-1 / 4, 1 / 10)
    scaled = parse("[[rules]]\nmatch = '*'\ninit = 'variance_scaling'\nscale = 'fan_in / fan_out'\n", "r")
    (assignment,) = scaled.assign(model(tensors[0])).assignments
    assert assignment.fill == ini.VarianceScaling(4 / 10).resolve((10, 4))
    assert hash(ByFans("normal", (("std", "fan_in"),))) is not None


def test_descriptions_leave_what_belongs_to_tensors():
    """What a checkpoint's metadata says of the rules is a recipe of the same values."""
    facts = {"depth": 32, "width": 4096}
    for name in ("torchtitan", "olmo-mitchell", "mup"):
        described = [rule.describe(facts) for rule in load(name).rules]
        text = "\n".join(
            "[[rules]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in rule.items())
            for rule in described
        )
        llama = built_in("llama-3-8b")
        again = {a.name: a.fill for a in parse(text, "r.toml").assign(llama).assignments}
        assert again == assigned(name, llama)
    (out,) = [rule for rule in load("olmo-mitchell").rules if rule.pattern == "*o_proj.weight"]
    assert out.describe(facts)["std"] == "1 / sqrt(2 * fan_in * (layer + 1))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends = 'gpt3'", r"r.toml:1: extends='gpt3': recipe='gpt3' is unknown"),
        ("extends = 'gone.toml'", r"r.toml:1: extends='gone.toml': .*No such file"),
        ("extends = 'r.toml'", r"r.toml:1: extends='r.toml' is a cycle: r.toml -> r.toml"),
        ("extends = 3", "r.toml:1: extends=3; expected a string"),
        ("seed = 1", "r.toml: no rules; expected at least one"),
        ("extends = 'gpt2'\nconstants = 3", "r.toml:2: constants=3; expected a table of numbers"),
        ("extends = 'gpt2'\n[constants]\ns = 'a'", r"r.toml:3: constant s='a'; expected a finite number"),
        ("extends = 'gpt2'\n[constants]\ns = true", "constant s=True; expected a finite number"),
        ("extends = 'gpt2'\n[constants]\ns = inf", "constant s=inf"),
        (
            "extends = 'gpt2'\n[constants]\ndepth = 3",
            "r.toml:3: constant 'depth' is not allowed; expected a name",
        ),
        ("extends = 'gpt2'\n[constants]\nsqrt = 3", "constant 'sqrt' is not allowed; expected a name"),
        ("extends = 'gpt2'\n[constants]\n'a b' = 3", "constant 'a b' is not allowed; expected a name"),
        (
            "[[rules]]\nmatch = '*'\ninit = 'normal'\nlayout = 'in_out'",
            "init 'normal' has no parameter 'layout'",
        ),
    ],
)
def test_malformed_recipes(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text, "r.toml")


@pytest.mark.parametrize(
    ("std", "message"),
    [
        ("1 / sqrt(fan_inn)", "r.toml:1: formula .*'fan_inn' is not allowed; expected .*depth, width"),
        ("-fan_in", "r.toml:1: std=-1.0 is negative"),
        ("layer + depth", "r.toml:1: a formula uses layer, but the depth of this model is not known"),
        ("fan_in *", "r.toml:1: formula"),
    ],
)
def test_formulas_that_fail(std, message):
    recipe = parse(f"[[rules]]\nmatch = '*'\ninit = 'normal'\nstd = '{std}'\n", "r.toml")
    with pytest.raises(RecipeError, match=message):
        recipe.assign(model(("w", (3, 3))))


def test_fans_of_vectors_name_the_tensor():
    with pytest.raises(ValueError, match=r"tensor 'b.weight' of shape \(3,\).*fans of shape"):
        load("mup").assign(model(("b.weight", (3,)), width=4))
    assert math.isfinite(load("mup").resolve(width=4).rules[0].initializer.resolve((3,)).mean)
