import importlib.util
import inspect
import io as textio
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import initium
from initium import dtypes, io
from initium.cli import common, options
from initium.cli.main import main
from initium.io import read_checkpoint, write_checkpoint
from initium.kernels.stream import STREAM_VERSION
from initium.models.architecture import Architecture
from initium.models.built_in import built_in
from initium.recipes.named import NAMED
from initium.recipes.reader import load, parse
from initium.specs import TensorSpec

# A small GPT-2: its tensors are not aligned to anything, and longer than a buffer where that is made small.
CONFIG = {"model_type": "gpt2", "n_layer": 2, "n_embd": 33, "dtype": "float32"}


def small_tensors():
    shapes = {50257: 301, 1024: 7, 768: 33, 2304: 99, 3072: 132}
    return tuple(
        TensorSpec(tensor.name, tuple(shapes[n] for n in tensor.shape), "float32")
        for tensor in built_in("gpt2").tensors
        if not re.match(r"h\.([2-9]|1\d)\.", tensor.name)
    )


def small_model():
    return Architecture("small", "gpt2", small_tensors(), depth=2, width=33, config=CONFIG)


@pytest.fixture
def checkpoint(tmp_path):
    """Return the path of a GPT-2 checkpoint whose shapes can be taken."""

    def zeros(pieces):
        for piece in pieces:
            piece.values[:] = 0

    folder = tmp_path / "given"
    companions = {"config.json": json.dumps(CONFIG)}
    return write_checkpoint(folder, small_tensors(), zeros, metadata={}, companions=companions).files[0]


def run(*arguments, code=0):
    # Before click 8.2 the streams are apart only where this says so.
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    result = CliRunner(**apart).invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    if code:
        assert isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
    return result


def check_values(files, recipe, seed, model):
    """Every tensor equals what `initialize` draws for it, bit for bit."""
    loaded = {}
    for file in files:
        loaded |= load_file(file)
    assigned = recipe.assign(model).assignments
    drawn = {a.name: a for a in assigned if a.fill is not None}
    assert set(loaded) == set(drawn)
    for tensor in model.tensors:
        if tensor.name not in drawn:
            continue
        expected = initium.initialize(
            drawn[tensor.name].rule.initializer, tensor.shape, seed=seed, name=tensor.name, dtype=tensor.dtype
        )
        value = loaded[tensor.name]
        assert value.dtype == getattr(torch, tensor.dtype)
        assert tuple(value.shape) == tensor.shape
        assert value.view(torch.uint8).numpy().tobytes() == expected.tobytes(), tensor.name


# init


@pytest.mark.parametrize("chunk_bytes", [64, 4096, io.CHUNK_BYTES])
@pytest.mark.parametrize("dtype", dtypes.DTYPES)
def test_init_writes_what_initialize_draws(tmp_path, checkpoint, monkeypatch, dtype, chunk_bytes):
    monkeypatch.setitem(io.write_checkpoint.__kwdefaults__, "chunk_bytes", chunk_bytes)
    out = tmp_path / "out.safetensors"
    result = run("init", checkpoint, "-o", out, "--seed", 7, "--dtype", dtype)
    check_values([out], load("gpt2"), 7, small_model().with_dtype(dtype))
    size = sum(tensor.size for tensor in small_tensors())
    assert re.match(
        rf"{re.escape(str(out))}: 28 tensors, {size:,} parameters of {dtype}, .*; recipe gpt2, seed 7\n$",
        result.stdout,
    )
    assert result.stderr == ""


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_shards_change_no_value(tmp_path, checkpoint, threads):
    run("init", checkpoint, "-o", tmp_path / "out", "--threads", threads, "--shard-size", "30kB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    check_values(shards, load("gpt2"), 0, small_model())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == small_model().nbytes
    assert index["metadata"]["initium.seed"] == "0"


def test_metadata_tells_how_a_file_was_made(tmp_path, checkpoint):
    out = tmp_path / "out.safetensors"
    run("init", checkpoint, "-o", out, "--seed", 2**64 - 1)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    rules = metadata.pop("initium.rules")
    assert metadata == {
        "format": "pt",
        "initium.version": initium.__version__,
        "initium.stream_version": str(STREAM_VERSION),
        "initium.seed": str(2**64 - 1),
        "initium.recipe": "gpt2",
    }
    # The rules are enough to draw the same values again, without the recipe.
    text = "\n".join(
        "[[rules]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in rule.items())
        for rule in json.loads(rules)
    )
    check_values([out], parse(text, "metadata"), 2**64 - 1, small_model())


def test_a_recipe_file_gives_seed_dtype_and_rules(tmp_path, checkpoint):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        "seed = 5\ndtype = 'bfloat16'\n"
        "[[rules]]\nmatch = 'wpe.*'\nskip = true\n"
        "[[rules]]\nmatch = '*.weight'\ninit = 'uniform'\nlow = '-1 / width'\nhigh = '1 / width'\n"
        "[[rules]]\nmatch = '*.bias'\ninit = 'constant'\nvalue = 0.5\n"
        "[[rules]]\nmatch = '*.mask'\ninit = 'zeros'\n"
    )
    out = tmp_path / "out.safetensors"
    result = run("init", checkpoint, "-o", out, "--recipe", recipe)
    assert result.stderr == f"Warning: {recipe}:15: no remaining tensor matches this rule\n"
    assert result.stdout.endswith(f"recipe {recipe}, seed 5\nnot written: 1 tensor that the recipe skips\n")
    check_values([out], load(recipe), 5, small_model().with_dtype("bfloat16"))

    # The command line wins.
    run("init", checkpoint, "-o", out, "--recipe", recipe, "--seed", 6, "--dtype", "float16", "--overwrite")
    check_values([out], load(recipe), 6, small_model().with_dtype("float16"))


def test_fans_of_conv1d_weights(tmp_path, checkpoint):
    recipe = tmp_path / "he.toml"
    recipe.write_text(
        "[[rules]]\nmatch = ['*.c_*.weight', 'w*']\ninit = 'he_normal'\n"
        "[[rules]]\nmatch = '*'\ninit = 'ones'\n"
    )
    out = tmp_path / "out.safetensors"
    run("init", checkpoint, "-o", out, "--recipe", recipe)
    loaded = load_file(out)
    # Relative standard error below 0.02: 8 of them.
    assert loaded["h.0.mlp.c_proj.weight"].std().item() == pytest.approx((2 / 132) ** 0.5, rel=0.12)
    assert loaded["h.0.mlp.c_fc.weight"].std().item() == pytest.approx((2 / 33) ** 0.5, rel=0.12)
    assert loaded["wte.weight"].std().item() == pytest.approx((2 / 33) ** 0.5, rel=0.12)


def test_a_folder_gets_a_configuration_of_the_new_dtype(tmp_path, checkpoint):
    run("init", checkpoint, "-o", tmp_path / "out", "--dtype", "bfloat16")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**CONFIG, "dtype": "bfloat16"}


def test_init_from_a_configuration(tmp_path):
    config = {**CONFIG, "vocab_size": 50, "n_positions": 8, "n_head": 3, "architectures": ["GPT2LMHeadModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out.safetensors"
    run("init", tmp_path, "-o", out)
    assert {tensor.name for tensor in read_checkpoint(out).tensors} >= {"transformer.wte.weight"}
    assert load_file(out)["transformer.h.1.attn.c_proj.weight"].std() < 0.012


def test_an_output_is_not_overwritten_unless_asked(tmp_path, checkpoint):
    out = tmp_path / "out.safetensors"
    run("init", checkpoint, "-o", out)
    before = out.read_bytes()
    result = run("init", checkpoint, "-o", out, "--seed", 1, code=1)
    assert result.stderr == f"Error: {out}: Exists already\n"
    assert out.read_bytes() == before
    run("init", checkpoint, "-o", out, "--seed", 1, "--overwrite")
    assert out.read_bytes() != before


def test_progress_is_shown_on_a_terminal(tmp_path, checkpoint, monkeypatch):
    screen = textio.StringIO()
    terminal = partial(Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr("initium.cli.init.Console", lambda **_: terminal())
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal())
    run("init", checkpoint, "-o", tmp_path / "out.safetensors")
    assert "out.safetensors" in screen.getvalue()
    size = (tmp_path / "out.safetensors").stat().st_size / 1000
    assert re.search(rf"/{size:.1f} kB", screen.getvalue())


# plan


def test_plan_shows_every_tensor_and_makes_nothing(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    lines = run("plan", checkpoint, "--dtype", "bfloat16").stdout.splitlines()
    assert sorted(tmp_path.rglob("*")) == before
    rows = [re.split(r" {2,}", line.strip()) for line in lines]
    cells = {row[0]: row[1:] for row in rows[2:] if len(row) == 9}
    assert set(cells) == {tensor.name for tensor in small_tensors()}
    assert cells["h.1.mlp.c_proj.weight"] == [
        "132 x 33", "bfloat16", "*.c_proj.weight", "normal(0, 0.01)", "132", "33", "0.01", f"{132 * 33 * 2:,}"
    ]  # fmt: skip
    assert cells["wte.weight"][4:6] == ["33", "301"]
    assert cells["ln_f.bias"] == ["33", "bfloat16", "*.bias", "constant(0)", "-", "-", "0", "66"]
    size = sum(tensor.size for tensor in small_tensors())
    expected = f"28 tensors, {size:,} parameters of bfloat16, {2 * size:,} bytes; recipe gpt2"
    assert lines[-1] == f"{checkpoint}: {expected}"


def test_plan_tells_what_is_skipped(tmp_path, checkpoint):
    (tmp_path / "r.toml").write_text(
        "[[rules]]\nregex = '^h'\nskip = true\n[[rules]]\nmatch = '*'\ninit = 'ones'\n"
    )
    output = run("plan", checkpoint, "--recipe", tmp_path / "r.toml").stdout
    assert re.search(r"h\.0\.ln_1\.weight .* /\^h/ .* skip ", output)
    assert output.endswith("not written: 24 tensors that the recipe skips\n")


def test_integer_buffers_of_a_checkpoint_are_told(tmp_path):
    given, out = tmp_path / "given.safetensors", tmp_path / "out.safetensors"
    norm = torch.nn.BatchNorm1d(4).state_dict()
    save_file(norm, given)
    recipe = tmp_path / "r.toml"
    recipe.write_text("[[rules]]\nmatch = '*'\ninit = 'ones'\n")
    told = "not written: 1 integer buffer, such as num_batches_tracked\n"
    assert run("plan", given, "--recipe", recipe).stdout.endswith(told)
    assert run("init", given, "-o", out, "--recipe", recipe).stdout.endswith(told)
    assert set(load_file(out)) == set(norm) - {"num_batches_tracked"}


@pytest.mark.parametrize(
    ("model", "total"),
    [
        ("gpt2", "148 tensors, 124,439,808 parameters of float32, 497,759,232 bytes; recipe gpt2"),
        (
            "llama-3-70b",
            "723 tensors, 70,553,706,496 parameters of bfloat16, 141,107,412,992 bytes; recipe llama",
        ),
    ],
)
def test_plan_of_built_in_models(model, total):
    assert run("plan", model).stdout.splitlines()[-1] == f"{model}: {total}"


def test_tables_fold_on_a_terminal(monkeypatch):
    screen = textio.StringIO()
    monkeypatch.setattr(common, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    run("plan", "gpt2")
    text = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
    assert max(map(len, text.splitlines())) <= 80
    assert "154,389,504" in text


# recipes


def test_recipes_are_listed():
    output = run("recipes").stdout
    for name in NAMED:
        assert load(name).description in output
        assert load(name).source in output


@pytest.mark.parametrize("name", NAMED)
def test_a_printed_recipe_is_a_recipe(tmp_path, checkpoint, name):
    (tmp_path / "copy.toml").write_text(run("recipes", name).stdout)
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    recipe = tmp_path / "copy.toml"
    if name == "gpt2":
        run("init", checkpoint, "-o", one, "--recipe", name)
        run("init", checkpoint, "-o", other, "--recipe", recipe)
        assert all(torch.equal(value, load_file(other)[key]) for key, value in load_file(one).items())
    assert load(recipe).rules != ()


# The command itself


def test_version():
    assert run("--version").stdout == f"initium {initium.__version__}\n"


def test_without_arguments_the_help_is_shown():
    result = CliRunner().invoke(main, [])
    assert "Commands:" in result.output
    assert all(name in result.output for name in ("init", "plan", "recipes"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "No such option"),
        (["bogus"], "No such command"),
        (["init"], "Missing argument 'MODEL'"),
        (["init", "gpt2"], "Missing option '-o'"),
        (["init", "gpt3", "-o", "x"], "model='gpt3' is unknown; expected one of gpt2, gpt2-medium"),
        (["plan", "gpt3"], "model='gpt3' is unknown"),
        (["plan", "gpt2", "--recipe", "gpt3"], "recipe='gpt3' is unknown; expected one of deepnorm, fixup"),
        (["plan", "gpt2", "--dtype", "int8"], "dtype='int8' .* expected one of float32"),
        (["plan", "gpt2", "extra"], "unexpected extra argument"),
        (
            ["init", "gpt2", "-o", "x", "--seed", "-1"],
            r"seed=-1 is out of range; expected an integer in \[0, 2",
        ),
        (["init", "gpt2", "-o", "x", "--seed", str(2**64)], "seed=18446744073709551616 is out of range"),
        (["init", "gpt2", "-o", "x", "--seed", "1.5"], "'1.5' is not a valid integer"),
        (["init", "gpt2", "-o", "x", "--threads", "0"], "0 is not in the range x>=1"),
        (["init", "gpt2", "-o", "x", "--device", "tpu"], "device='tpu'"),
        (["init", "gpt2", "-o", "x", "--shard-size", "5XB"], "'5XB' is not a size; expected"),
        (["init", "gpt2", "-o", "x", "--shard-size", "0.1B"], "less than one byte"),
        (["init", "gpt2", "-o", "x", "--shard-size", "-5GB"], "'-5GB' is not a size"),
        (["recipes", "gpt3"], "recipe='gpt3' is unknown"),
    ],
)
def test_wrong_use_ends_with_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, run(*arguments, code=2).stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_not_there_is_told_in_one_line(tmp_path):
    has_gpu = importlib.util.find_spec("cupy") is not None and _has_gpu()
    if has_gpu:
        pytest.skip("this machine has a GPU")
    result = run("init", "gpt2", "-o", tmp_path / "x.safetensors", "--device", "cuda", code=1)
    assert re.search("device='cuda' .*install", result.stderr)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def _has_gpu():
    from initium.memory import cuda

    try:
        cuda.cupy()
    except (ImportError, RuntimeError):
        return False
    return True


def test_a_model_of_unknown_family_needs_a_recipe(tmp_path, checkpoint):
    (checkpoint.parent / "config.json").write_text(json.dumps({**CONFIG, "model_type": "opt"}))
    message = run("plan", checkpoint, code=2).stderr
    assert "family 'opt' has no default recipe; choose a recipe: deepnorm, fixup" in message
    (checkpoint.parent / "config.json").unlink()
    assert "unknown family" in run("plan", checkpoint, code=2).stderr
    run("plan", checkpoint, "--recipe", "gpt2")


def test_failures_end_with_1(tmp_path, checkpoint):
    out = tmp_path / "out.safetensors"
    for name in ("w.safetensors", "config.json", "model.safetensors.index.json"):
        assert run("plan", tmp_path / name, code=1).stderr == f"Error: {tmp_path / name}: No such file\n"
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 100)
    assert "header too large" in run("plan", tmp_path / "bad.safetensors", code=1).stderr
    recipe = tmp_path / "bad.toml"
    recipe.write_text("[[rules]]\nmatch = '*'\ninit = 'nrmal'\n")
    message = run("init", checkpoint, "-o", out, "--recipe", recipe, code=1).stderr
    assert message.startswith(f"Error: {recipe}:3: init='nrmal' is unknown")
    recipe.write_text("[[rules]]\nmatch = 'a'\ninit = 'ones'\n")
    assert "no rule matches" in run("init", checkpoint, "-o", out, "--recipe", recipe, code=1).stderr
    recipe.write_text("[[rules]]\nmatch = '*'\nskip = true\n")
    assert "skips all tensors" in run("init", checkpoint, "-o", out, "--recipe", recipe, code=1).stderr
    (tmp_path / "file").write_text("")
    assert "Not a folder" in run("init", checkpoint, "-o", tmp_path / "file", code=1).stderr
    assert not out.exists()


def test_sizes():
    sizes = {
        "5GB": 5 * 10**9,
        "5gb": 5 * 10**9,
        "2 GiB": 2**31,
        "1.5kB": 1500,
        "7": 7,
        "8B": 8,
        "0.25TB": 25 * 10**10,
    }
    assert {text: options.size(text) for text in sizes} == sizes
    human = {
        0: "0 B",
        999: "999 B",
        999.7: "1 kB",
        1234: "1.23 kB",
        497759232: "498 MB",
        16.06e9: "16.1 GB",
        2e15: "2e+03 TB",
    }
    assert {number: common.human(number) for number in human} == human


# As a process


def initium_command(*arguments):
    script = Path(sys.executable).with_name("initium")
    return [str(script), *map(str, arguments)]


def test_as_a_process(tmp_path, checkpoint):
    out = tmp_path / "out.safetensors"
    done = subprocess.run(initium_command("init", checkpoint, "-o", out), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    check_values([out], load("gpt2"), 0, small_model())
    done = subprocess.run(initium_command("init", checkpoint, "-o", out), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {out}: Exists already\n")
    done = subprocess.run(initium_command("--version"), capture_output=True, text=True)
    assert done.stdout == f"initium {initium.__version__}\n"


def test_a_closed_pipe_is_no_error():
    process = subprocess.Popen(
        initium_command("plan", "llama-3-70b"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert errors == b""


def test_a_checkpoint_without_weights(tmp_path):
    path = tmp_path / "ids.safetensors"
    save_file({"ids": torch.arange(5), "mask": torch.zeros(3, dtype=torch.bool)}, path)
    for command in (("plan", path), ("init", path, "-o", tmp_path / "out.safetensors")):
        said = run(*command, "--recipe", "normal", code=1).stderr
        assert said == f"Error: {path} has no weights to draw, only integers and booleans such as 'ids'\n"
    assert not (tmp_path / "out.safetensors").exists()


@pytest.fixture
def not_in_the_background():
    """Undo, for child processes too, that shells ignore SIGINT in what they start in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_nothing_that_looks_whole(tmp_path, sent, not_in_the_background):
    out = tmp_path / "out"
    process = subprocess.Popen(
        initium_command(
            "init", "gpt2-medium", "-o", out, "--threads", 1, "--dtype", "float64", "--shard-size", "50GB"
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 60
    while not any(
        path.stat().st_size > 1 << 20 for path in tmp_path.glob("out/initium-partial-model/model*")
    ):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(sent)
    output, errors = process.communicate()
    assert output == b""
    left = [path.name for path in tmp_path.glob("out/*")]
    if sent == signal.SIGINT:
        assert (process.returncode, errors, left) == (130, b"\nAborted!\n", [])
        assert not out.exists()
    else:
        assert process.returncode == -signal.SIGKILL
        assert left == ["initium-partial-model"]
        done = subprocess.run(initium_command("init", "gpt2", "-o", out), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]


def test_what_is_missing_is_named():
    for module, name in (("click", "click"), ("rich.console", "rich"), ("safetensors", "safetensors")):
        script = f"import sys; sys.modules[{module!r}] = None; import initium.cli.main"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 1
        assert name in done.stderr
        assert done.stderr.endswith("install it with: pip install 'initium[cli]'\n")


def test_click_and_rich_are_imported_by_the_command_line_only():
    script = (
        "import sys, initium, initium.recipes.reader, initium.models.built_in, initium.io, initium.model;"
        "print([m for m in ('click', 'rich', 'torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", script]).strip() == b"[]"


def test_main_is_a_click_command():
    assert isinstance(main, click.Group)
