import inspect
import json
import math

import pytest
import torch
import transformers

import initium
from initium import dtypes
from initium.fills.elementwise import ConstantFill, UniformFill, normal_fill
from initium.initializers.scaling import VarianceScaling
from initium.layouts import IN_OUT, Fans
from initium.models.architecture import Architecture
from initium.models.built_in import built_in
from initium.models.hugging_face import from_config
from initium.recipes.named import DEFAULTS, NAMED
from initium.recipes.reader import load, parse
from initium.recipes.recipe import INITIALIZERS, RecipeError, formulas_of
from initium.recipes.rules import UnmatchedError
from initium.specs import TensorSpec


def model(*tensors, **facts):
    specs = tuple(TensorSpec(name, shape, "float32") for name, shape in tensors)
    return Architecture("test", "", specs, **facts)


def fills(assigned):
    return {assignment.name: assignment.fill for assignment in assigned.assignments}


# Named recipes

TINY = {
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 3,
        "n_embd": 64,
        "n_head": 4,
        "vocab_size": 500,
        "n_positions": 64,
    },
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 3,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 500,
        "attention_bias": True,
        "mlp_bias": True,
    },
}


@pytest.mark.parametrize("name", TINY)
def test_named_recipes_equal_transformers(name, tmp_path):
    """Means and standard deviations of transformers' own weights are those of the recipe.

    At 6 standard errors, for about 60 tensors and two moments: one false alarm in 4 million runs.
    """
    (tmp_path / "config.json").write_text(json.dumps(TINY[name]))
    architecture = from_config(tmp_path / "config.json")
    assigned = fills(load(name).assign(architecture))
    settings = transformers.CONFIG_MAPPING[name].from_dict(TINY[name])
    torch.manual_seed(0)
    theirs = getattr(transformers, TINY[name]["architectures"][0])(settings).state_dict()
    residual = 0
    for tensor in architecture.tensors:
        values, fill = theirs[tensor.name].double(), assigned[tensor.name]
        if isinstance(fill, ConstantFill):
            assert torch.all(values == fill.value), tensor.name
            continue
        assert abs(values.mean()) < 6 * fill.std / math.sqrt(values.numel()), tensor.name
        assert abs(values.std() / fill.std - 1) < 6 / math.sqrt(2 * values.numel()), tensor.name
        # The control: the wrong depth would be seen.
        residual += fill.std != 0.02 and abs(values.std() / 0.02 - 1) > 6 / math.sqrt(2 * values.numel())
    assert residual == (6 if name == "gpt2" else 0)


def test_gpt2_recipe_by_hand():
    assigned = fills(load("gpt2").assign(built_in("gpt2-xl")))
    narrow = normal_fill(0.0, 0.02 / math.sqrt(96))
    assert assigned["wte.weight"] == assigned["wpe.weight"] == normal_fill(0.0, 0.02)
    assert assigned["h.47.attn.c_attn.weight"] == assigned["h.0.mlp.c_fc.weight"] == normal_fill(0.0, 0.02)
    assert assigned["h.0.attn.c_proj.weight"] == assigned["h.47.mlp.c_proj.weight"] == narrow
    assert assigned["h.9.attn.c_proj.bias"] == assigned["ln_f.bias"] == ConstantFill(0.0)
    assert assigned["h.3.ln_1.weight"] == assigned["ln_f.weight"] == ConstantFill(1.0)


def test_llama_recipe_by_hand():
    assigned = fills(load("llama").assign(built_in("llama-3-8b")))
    norms = {name for name, fill in assigned.items() if fill == ConstantFill(1.0)}
    assert norms == {name for name in assigned if name.endswith("norm.weight")}
    assert len(norms) == 65
    assert {assigned[name] for name in assigned if name not in norms} == {normal_fill(0.0, 0.02)}


@pytest.mark.parametrize("name", NAMED)
def test_named_recipes_say_what_they_are(name):
    recipe = load(name)
    assert recipe.is_named
    assert recipe.description
    assert recipe.source
    assert parse(recipe.text, name, is_named=True) == recipe


def test_defaults_are_named_recipes():
    assert set(DEFAULTS.values()) <= set(NAMED)
    for architecture in map(built_in, ("gpt2", "llama-3-8b")):
        assert load(DEFAULTS[architecture.family]).assign(architecture).unused == ()


def test_a_named_recipe_works_with_init_model():
    rules = load("gpt2").resolve(depth=3, width=8)
    report = initium.init_model(
        {"a.c_proj.weight": (8, 8), "a.ln_1.weight": 8, "a.bias": 8, "b.weight": 8}, rules, seed=1
    )
    assert [p.distribution for p in report.parameters] == [
        f"normal(0, {0.02 / math.sqrt(6):g})",
        "constant(1)",
        "constant(0)",
        "normal(0, 0.02)",
    ]


# Files


def test_a_file_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        description = "mine"
        source = "me"
        seed = 18446744073709551615
        dtype = "BF16"
        [[rules]]
        match = ["*.a", "*.b"]
        init = "uniform"
        low = "-1 / sqrt(width)"
        high = "1 / sqrt(width)"
        [[rules]]
        regex = '\\.(c|d)$'
        init = "constant"
        value = 3
        [[rules]]
        match = "*.mask"
        skip = true
        """,
        encoding="utf-8",
    )
    recipe = load(path)
    assert (recipe.name, recipe.description, recipe.source) == (str(path), "mine", "me")
    assert (recipe.seed, recipe.dtype, recipe.is_named) == (2**64 - 1, "bfloat16", False)
    assigned = recipe.assign(
        model(("x.a", (4,)), ("x.b", ()), ("x.c", (0, 3)), ("x.d", (1,)), ("x.mask", (2,)), width=16)
    )
    bounds = UniformFill(-0.25, 0.25)
    assert fills(assigned) == {
        "x.a": bounds,
        "x.b": bounds,
        "x.c": ConstantFill(3.0),
        "x.d": ConstantFill(3.0),
        "x.mask": None,
    }
    assert assigned.unused == ()


def test_the_first_rule_that_matches_wins():
    recipe = parse(
        "[[rules]]\nmatch = 'a.*'\ninit = 'ones'\n[[rules]]\nmatch = '*'\ninit = 'zeros'\n", "r.toml"
    )
    assert fills(recipe.assign(model(("a.x", (1,)), ("b.x", (1,))))) == {
        "a.x": ConstantFill(1.0),
        "b.x": ConstantFill(0.0),
    }


def test_unused_rules_of_files_are_told_and_those_of_named_recipes_are_not():
    recipe = parse(
        "\n[[rules]]\nmatch = ['*', 'a']\ninit = 'ones'\n[[rules]]\nregex = 'b'\ninit = 'zeros'\n", "r.toml"
    )
    unused = recipe.assign(model(("a", (1,)))).unused
    assert [(rule.where, rule.init) for rule in unused] == [("r.toml:2", "ones"), ("r.toml:5", "zeros")]
    assert load("llama").assign(model(("norm.weight", (1,)))).unused == ()


def test_unmatched_tensors_are_listed():
    with pytest.raises(UnmatchedError, match=r"'a', 'b'"):
        parse("[[rules]]\nmatch = 'c'\ninit = 'ones'", "r.toml").assign(
            model(("a", (1,)), ("b", (1,)), ("c", (1,)))
        )


def test_fans_follow_the_layout_of_each_tensor():
    recipe = parse("[[rules]]\nmatch = '*'\ninit = 'variance_scaling'\nscale = 2\nmode = 'fan_in'", "r.toml")
    architecture = model(("a", (6, 24)), ("b", (6, 24)), layouts={"b": IN_OUT})
    a, b = recipe.assign(architecture).assignments
    assert (a.fans, b.fans) == (Fans(24, 6), Fans(6, 24))
    assert a.fill == VarianceScaling(2.0).resolve((6, 24))
    assert b.fill == VarianceScaling(2.0, layout="in_out").resolve((6, 24))
    assert a.fill.std / b.fill.std == pytest.approx(0.5)


@pytest.mark.parametrize("layout", ["in_out", "out_in"])
def test_a_rule_may_give_the_layout_itself(layout):
    recipe = parse(f"[[rules]]\nmatch = '*'\ninit = 'he_normal'\nlayout = '{layout}'", "r.toml")
    architecture = model(("a", (6, 24)), ("b", (6, 24)), layouts={"b": IN_OUT})
    expected = Fans(6, 24) if layout == "in_out" else Fans(24, 6)
    assert [assignment.fans for assignment in recipe.assign(architecture).assignments] == [expected] * 2


def test_every_initializer_can_be_named():
    assert {"normal", "uniform", "truncated_normal", "variance_scaling", "zeros", "he_normal"} <= set(
        INITIALIZERS
    )
    required = {
        "constant": "value = 1",
        "sparse": "sparsity = 0.5",
        "torch_bias": "fan_in = 3",
        "torch_rnn": "hidden_size = 4",
    }
    shapes = dict.fromkeys(("dirac", "delta_orthogonal"), (5, 4, 3)) | {"stft": (8, 1, 5)}
    shapes |= dict.fromkeys(("bilinear", "caffe_bilinear"), (1, 1, 4, 4))
    for name in INITIALIZERS:
        recipe = parse(f"[[rules]]\nmatch = '*'\ninit = '{name}'\n{required.get(name, '')}", "r.toml")
        (assignment,) = recipe.assign(model(("a", shapes.get(name, (3, 4))))).assignments
        assert assignment.fill is not None


def test_rules_can_be_described_and_read_again():
    recipe = load("gpt2")
    described = [rule.describe({"depth": 12, "width": 768}) for rule in recipe.rules]
    assert described[0] == {"match": "*.c_proj.weight", "init": "normal", "std": 0.02 / math.sqrt(24)}
    text = "\n".join(
        "[[rules]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in rule.items())
        for rule in described
    )
    again = parse(text, "r.toml")
    resolved = again.resolve().rules, recipe.resolve(depth=12, width=768).rules
    assert [(r.pattern, r.initializer) for r in resolved[0]] == [
        (r.pattern, r.initializer) for r in resolved[1]
    ]
    skipping = parse("[[rules]]\nregex = 'a'\nskip = true", "r.toml")
    assert skipping.rules[0].describe({}) == {"regex": "a", "skip": True}


# Errors

RULE = "[[rules]]\nmatch = '*'\ninit = 'normal'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = \n", r"Invalid value \(at line 1"),
        ("[[rules]\n", r"line 1"),
        ("a = 1\na = 2\n", "line 2"),
        ("", "^r.toml: no rules"),
        ("\nrules = 3\n", "^r.toml:2: no rules"),
        ("rules = []\n", "^r.toml:1: no rules"),
        ("rules = [1]\n", "^r.toml:1: no rules"),
        (
            "\nextend = 'gpt2'\n" + RULE,
            "^r.toml:2: 'extend' is unknown; expected description, source, extends",
        ),
        ("seed = -1\n" + RULE, "^r.toml:1: seed=-1 is out of range"),
        ("seed = 18446744073709551616\n" + RULE, "^r.toml:1: seed=18446744073709551616 is out of range"),
        ("seed = '1'\n" + RULE, "^r.toml:1: seed='1' is not an integer"),
        ("seed = true\n" + RULE, "^r.toml:1: seed=True is a bool"),
        ("\n\ndtype = 'int8'\n" + RULE, "^r.toml:3: dtype='int8'.*expected one of float32"),
        ("dtype = 8\n" + RULE, "^r.toml:1: dtype=8"),
        ("source = 1\n" + RULE, "^r.toml:1: source=1; expected a string"),
        ("[[rules]]\ninit = 'ones'", "^r.toml:1: expected either match or regex"),
        (
            RULE + "\n[[rules]]\nmatch='*'\nregex='a'\ninit='ones'",
            "^r.toml:7: expected either match or regex",
        ),
        (RULE + "[[rules]]\nmatch = '*'", "^r.toml:4: a rule without init"),
        (
            RULE + "[[rules]]\nmatch = '*'\ninit = 'nrmal'",
            "^r.toml:6: init='nrmal' is unknown; .*normal, .*ones",
        ),
        (RULE + "[[rules]]\nmatch = '*'\ninit = 3", "^r.toml:6: init=3 is unknown"),
        (
            RULE + "[[rules]]\nmatch = '*'\ninit = 'normal'\nskip = true",
            "^r.toml:7: expected either init, skip = true or own",
        ),
        (
            RULE + "[[rules]]\nmatch = '*'\nskip = false",
            "^r.toml:6: expected either init, skip = true or own",
        ),
        (RULE + "[[rules]]\nmatch = '*'\nskip = true\nstd = 1", "^r.toml:7: skip has no parameter 'std'"),
        (RULE + "sigma = 1", "^r.toml:4: init 'normal' has no parameter 'sigma'; expected mean, std"),
        (
            "[[rules]]\nmatch = '*'\ninit = 'zeros'\nstd = 1",
            "^r.toml:4: init 'zeros' has no parameter 'std'; expected n",
        ),
        ("[[rules]]\nmatch = 3\ninit = 'ones'", "^r.toml:2: match=3; expected a string or a list"),
        ("[[rules]]\nmatch = []\ninit = 'ones'", r"^r.toml:2: match=\[\]; expected"),
        ("[[rules]]\nregex = '('\ninit = 'ones'", r"^r.toml:2: regex='\('"),
        ("[[ rules ]]\n 'match' = '*'\n \"init\" = 'x'", "^r.toml:3: init='x'"),
        ("rules = [{match = '*', init = 'x'}]", "^r.toml:1: init='x'"),
    ],
)
def test_malformed_recipes(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text, "r.toml")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("init = 'normal'\nstd = -1", "std=-1.* is negative"),
        ("init = 'normal'\nstd = nan", "std is NaN"),
        ("init = 'normal'\nstd = inf", "std=inf is not finite"),
        ("init = 'normal'\nstd = true", "std=True is not a number"),
        ("init = 'normal'\nstd = [1]", "std=.* is not a number"),
        (
            "init = 'normal'\nstd = '0.02 / sqrt(2 * depht)'",
            "'depht' is not allowed; expected .* depth, width",
        ),
        ("init = 'normal'\nstd = '1 / depth'", "the depth of this model is not known"),
        ("init = 'normal'\nstd = '1 / 0'", "division by zero"),
        ("init = 'uniform'\nlow = 1\nhigh = 1", "low"),
        ("init = 'truncated_normal'\nlower = 2\nupper = -2", "lower"),
        ("init = 'variance_scaling'\nmode = 'fan'", "mode='fan' is unknown"),
        ("init = 'he_normal'\nlayout = 'io'", "layout='io' is unknown"),
        ("init = 'constant'", "missing 1 required positional argument: 'value'"),
    ],
)
def test_unfit_parameters_name_the_rule(rule, message):
    recipe = parse(RULE.replace("*", "b") + f"\n[[rules]]\nmatch = 'a'\n{rule}\n", "r.toml")
    with pytest.raises(RecipeError, match=rf"^r\.toml:5: .*{message}"):
        recipe.resolve()


def test_what_does_not_fit_a_tensor_names_it():
    recipe = parse("[[rules]]\nmatch = '*'\ninit = 'constant'\nvalue = 1e6", "r.toml")
    with pytest.raises(ValueError, match=r"tensor 'a', rule '\*': .*overflow"):
        recipe.assign(model(("a", (2,))).with_dtype("float16"))
    recipe = parse("[[rules]]\nmatch = '*'\ninit = 'he_normal'", "r.toml")
    with pytest.raises(ValueError, match=r"'a' of shape \(2,\).*fans"):
        recipe.assign(model(("a", (2,))))


def test_missing_and_unknown_recipes(tmp_path):
    with pytest.raises(ValueError, match=r"recipe='gpt3' is unknown; expected one of deepnorm, fixup"):
        load("gpt3")
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"source = '\xff'")
    with pytest.raises(RecipeError, match=r"latin\.toml: .*utf-8"):
        load(tmp_path / "latin.toml")


def test_every_dtype_takes_the_named_recipes():
    for dtype in dtypes.DTYPES:
        assert load("gpt2").assign(built_in("gpt2").with_dtype(dtype)).assignments


def test_formulas_are_the_texts_of_numbers():
    numbers = {
        "normal": {"mean", "std"},
        "truncated_normal": {"mean", "std", "lower", "upper"},
        "variance_scaling": {"scale"},
        "he_normal": {"a"},
        "orthogonal": {"gain"},
        "sparse": {"sparsity", "std"},
        "constant": {"value"},
    }
    for init, expected in numbers.items():
        given = dict.fromkeys(inspect.signature(INITIALIZERS[init]).parameters, "1 / 2")
        assert set(formulas_of(init, given)) == expected
        assert formulas_of(init, dict.fromkeys(given, 0.5)) == []
