"""Checkpoints streamed from Python: the same files as the command line's, each matrix made once."""

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import initium as ini
from initium import checkpoint as module
from initium import io
from initium.checkpoint import NoRecipeError, init_checkpoint, plan_checkpoint, run_checkpoint
from initium.cli.main import main
from initium.layouts import IN_OUT, TRANSPOSED
from initium.models.architecture import Architecture
from initium.models.built_in import built_in
from initium.recipes.reader import parse
from initium.recipes.rules import UnusedRuleWarning
from initium.specs import TensorSpec

RULES = """
[[rules]]
match = "*.bias"
init = "zeros"

[[rules]]
match = "*experts*"
init = "orthogonal"
batch_axis = [0]
gain = "0.5 * depth"

[[rules]]
match = "*qr*"
init = "orthogonal"
method = "qr"

[[rules]]
match = "*conv*"
init = "delta_orthogonal"

[[rules]]
match = "*"
init = "orthogonal"
"""
INITIALIZERS = {
    "square": ini.Orthogonal(),
    "tall": ini.Orthogonal(),
    "wide": ini.Orthogonal(),
    "experts": ini.Orthogonal(1.0, batch_axis=(0,)),
    "qr": ini.Orthogonal(method="qr"),
    "conv": ini.DeltaOrthogonal(),
}
SHAPES = {
    "square": (60, 60),
    "tall": (90, 40),
    "wide": (3, 700),
    "experts": (5, 33, 20),
    "qr": (50, 30),
    "conv": (20, 10, 3),
}


def model(dtype="float32", layouts=None, **shapes):
    tensors = [TensorSpec(f"{name}.weight", shape, dtype) for name, shape in (shapes or SHAPES).items()]
    return Architecture("model", "", (*tensors, TensorSpec("x.bias", (7,), dtype)), 2, 8, layouts or {})


@pytest.fixture
def chunks(monkeypatch):
    """Return a function that sets the size of a buffer."""
    return lambda size: monkeypatch.setitem(io.write_checkpoint.__kwdefaults__, "chunk_bytes", size)


def test_the_command_line_writes_the_same_bytes(tmp_path):
    made = init_checkpoint("gpt2", tmp_path / "a.safetensors", seed=3, dtype="bfloat16")
    arguments = ["init", "gpt2", "-o", str(tmp_path / "b.safetensors"), "--seed", "3", "--dtype", "bfloat16"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert made.written.files == (tmp_path / "a.safetensors",)
    assert (made.seed, made.plan.recipe.name, len(made.plan.drawn)) == (3, "gpt2", 148)


def test_models_recipes_and_progress_as_objects(tmp_path):
    seen = []
    made = init_checkpoint(
        built_in("gpt2"), tmp_path / "out", parse("[[rules]]\nmatch = '*'\ninit = 'zeros'\n", "r.toml"),
        shard_size=200_000_000, progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(made.written.files) == 3 and made.written.index is not None
    assert seen == sorted(seen) and seen[-1] == (made.written.nbytes, made.written.nbytes)
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("chunk_bytes", [64, 1000, 4096, 1 << 20])
def test_orthogonal_weights_are_those_of_one_call(tmp_path, chunks, dtype, chunk_bytes):
    chunks(chunk_bytes)
    made = init_checkpoint(model(dtype), tmp_path / "w.safetensors", parse(RULES, "r.toml"), seed=5)
    loaded = load_file(made.written.files[0])
    for name, shape in SHAPES.items():
        full = f"{name}.weight"
        expected = ini.initialize(INITIALIZERS[name], shape, seed=5, name=full, dtype=dtype)
        found = loaded[full].view(expected.dtype) if dtype == "bfloat16" else loaded[full]
        close = 1e-2 if dtype == "bfloat16" else 2e-6
        np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=0, atol=close)
    assert not loaded["x.bias"].any()


def test_each_matrix_is_made_once_and_then_forgotten(tmp_path, chunks, monkeypatch):
    chunks(1000)
    plans, fillers = [], []
    planned, filler = module.plan, module._Filler
    monkeypatch.setattr(module, "plan", lambda jobs, seed: plans.append(planned(jobs, seed)) or plans[-1])
    monkeypatch.setattr(module, "_Filler", lambda *given: fillers.append(filler(*given)) or fillers[-1])
    init_checkpoint(model(), tmp_path / "w.safetensors", parse(RULES, "r.toml"))
    made = [(job.name, int(start)) for plan in plans for job in plan.matrices for start in job.starts]
    assert len(made) == len(set(made)) == len(SHAPES) + SHAPES["experts"][0] - 1
    assert fillers[0]._matrices == {}


@pytest.mark.parametrize("init", ["dirac", "delta_orthogonal", "orthogonal", "he_normal"])
@pytest.mark.parametrize("layout", [TRANSPOSED, IN_OUT])
def test_recipes_take_the_layout_of_the_tensor(init, layout):
    """A transposed convolution was refused, or judged by the axes of a plain one."""
    shape = (4, 12, 3) if layout is TRANSPOSED else (3, 4, 12)
    recipe = parse(f"[[rules]]\nmatch = '*'\ninit = '{init}'\n", "r.toml")
    architecture = Architecture(
        "m", "", (TensorSpec("up.weight", shape, "float32"),), layouts={"up.weight": layout}
    )
    (assignment,) = plan_checkpoint(architecture, recipe).assignments
    assert assignment.fill == recipe.resolve().rules[0].initializer.resolve(shape, layout)
    values = ini.initialize(_Resolved(assignment.fill), shape, seed=1, name="up.weight")
    matrix = values.transpose(1, 0, 2) if layout is TRANSPOSED else values.transpose(2, 1, 0)  # (out, in, k)
    if init in ("dirac", "delta_orthogonal"):
        products = matrix[:, :, 1].T @ matrix[:, :, 1]
        np.testing.assert_allclose(products, np.eye(4), atol=1e-5)
        assert not matrix[:, :, ::2].any()
    if init == "he_normal":
        assert assignment.fans == (12.0, 36.0)


class _Resolved:
    def __init__(self, fill):
        self.fill = fill

    def resolve(self, shape, layout=None):
        return self.fill


def test_bad_input_is_named_before_anything_is_written(tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        NoRecipeError, match=r"an unknown family has no default recipe; choose a recipe: deepnorm"
    ):
        init_checkpoint(model(), out)
    with pytest.raises(ValueError, match="seed=-1"):
        init_checkpoint("gpt2", out, seed=-1)
    with pytest.raises(ValueError, match="model='gpt7' is unknown"):
        init_checkpoint("gpt7", out)
    with pytest.raises(ValueError, match="skips all tensors"):
        init_checkpoint("gpt2", out, parse("[[rules]]\nmatch = '*'\nskip = true\n", "r.toml"))
    with pytest.raises(ValueError, match="device='tpu' is unknown"):
        run_checkpoint(plan_checkpoint("gpt2"), out, device="tpu")
    rules = "[[rules]]\nmatch = '*'\ninit = 'ones'\n[[rules]]\nmatch = 'none'\ninit = 'ones'\n"
    with pytest.warns(UnusedRuleWarning, match=r"r\.toml:4: no remaining tensor matches"):
        init_checkpoint(model(), tmp_path / "w.safetensors", parse(rules, "r.toml"))
    assert not out.exists()
