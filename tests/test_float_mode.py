"""The caller's floating-point mode: no value depends on it, and it is left as it was."""

import ctypes
import os
import platform
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from cases import DISTRIBUTIONS, DTYPES, same_bits

import initium as ini
from initium.backends import threads as threads_module
from initium.checkpoint import init_checkpoint
from initium.dtypes import DTYPES as TABLE
from initium.fills import elementwise
from initium.kernels import float_mode
from initium.models.architecture import Architecture
from initium.recipes.reader import parse
from initium.specs import TensorSpec

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sets modes by fenv.h")

_libm = ctypes.CDLL(None)
_Environment = ctypes.c_char * 64

if platform.machine() == "x86_64" and sys.platform == "linux":
    # Bits of MXCSR, which flushes operands and results apart; glibc and musl keep it in the same place.
    MODES = {
        "flush": 0x8040,
        "operands": 0x0040,
        "results": 0x8000,
        "up": 0x4000,
        "down": 0x2000,
        "zero": 0x6000,
    }
    _FIELDS, _PLACE = 0xE040, 28

    def _read():
        environment = _Environment()
        _libm.fegetenv(environment)
        return environment

    def current():
        """Return the mode of this thread."""
        return int.from_bytes(_read().raw[_PLACE : _PLACE + 4], "little") & _FIELDS

    def change(mode):
        """Set the mode of this thread."""
        environment = _read()
        other = int.from_bytes(environment.raw[_PLACE : _PLACE + 4], "little") & ~_FIELDS
        ctypes.memmove(ctypes.addressof(environment) + _PLACE, (other | mode).to_bytes(4, "little"), 4)
        _libm.fesetenv(environment)

else:
    # Bit 24 of FPCR flushes, bits 22 and 23 are what fenv.h calls directions.
    MODES = {"flush": 1 << 24, "up": 1 << 22, "down": 2 << 22, "zero": 3 << 22}

    def current():
        """Return the mode of this thread."""
        flushes = np.float64(sys.float_info.min) / 2 == 0
        return _libm.fegetround() | flushes << 24

    def change(mode):
        """Set the mode of this thread."""
        torch.set_flush_denormal(bool(mode >> 24))
        _libm.fesetround(mode & 3 << 22)


DEFAULT = current()


@pytest.fixture(autouse=True)
def default_before_and_after():
    assert current() == DEFAULT
    yield
    assert current() == DEFAULT


@contextmanager
def mode_of(mode):
    """Set a mode, and check that it is still set afterwards."""
    change(MODES[mode])
    try:
        assert current() == MODES[mode]
        yield
        assert current() == MODES[mode]
    finally:
        change(DEFAULT)


SMALL = (
    ini.constant,
    lambda size: ini.Normal(0.0, size),
    lambda size: ini.Normal(size, size / 3),
    lambda size: ini.TruncatedNormal(0.0, size, -2.0, 2.0),
    lambda size: ini.TruncatedNormal(0.0, size, -1.0, 3.0),
)
# Nearly as narrow as the arithmetic allows.
NARROW = {32: ini.Uniform(-1e-28, 2e-28), 64: ini.Uniform(-1e-288, 2e-288)}


def forget():
    """Forget what is known of fills, so that it is found out in the mode that is set."""
    remembered = [*vars(elementwise).values(), *vars(elementwise.normal_tails).values()]
    forgotten = [function.cache_clear() for function in remembered if hasattr(function, "cache_clear")]
    assert len(forgotten) > 8


#: So small that results, parameters or both are subnormal numbers, besides all other kinds.
TINY = {
    "float32": (1e-38, 1e-41),
    "bfloat16": (1e-38, 1e-40),
    "float64": (1e-308, 1e-310),
    "float16": (1e-5, 1e-7),
    "float8_e4m3fn": (1e-2, 3e-3),
    "float8_e5m2": (1e-4, 3e-5),
}


def initializers(dtype):
    """Return every kind of fill, also such as have subnormal numbers among values or parameters."""
    small = [make(size) for make in SMALL for size in TINY[dtype]]
    return [*DISTRIBUTIONS.values(), *small, NARROW[TABLE[dtype].word_bits]]


def drawn(initializer, dtype, backend, shape=(7, 41)):
    """Draw, or tell why not: an overflow is one in every mode."""
    try:
        return ini.initialize(initializer, shape, seed=5, name="w", dtype=dtype, backend=backend)
    except ValueError as error:
        return str(error)


def alike(a, b):
    return a == b if isinstance(a, str) or isinstance(b, str) else same_bits(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_and_dtype(dtype, backend, mode):
    wanted = initializers(dtype)
    forget()
    expected = [drawn(initializer, dtype, backend) for initializer in wanted]
    assert sum(not isinstance(made, str) for made in expected) > len(expected) / 2
    forget()
    with mode_of(mode):
        made = [drawn(initializer, dtype, backend) for initializer in wanted]
    assert [str(i) for i, a, b in zip(wanted, made, expected, strict=True) if not alike(a, b)] == []


def test_the_reference_agrees_on_small_values():
    # The tests above compare what is right: without subnormal numbers these values would be zeros.
    for dtype in ("float32", "bfloat16", "float64"):
        for size in TINY[dtype]:
            made, judge = (drawn(ini.Normal(0.0, size), dtype, backend) for backend in ("numba", "numpy"))
            assert same_bits(made, judge)
            assert 0.5 * size < np.abs(made.astype(np.float64)).mean() < size


#: Patterns, matrices, and words.
OTHERS = {
    "sparse": (ini.Sparse(0.3, 1e-38), (30, 20), "float32"),
    "lasagne_sparse": (ini.lasagne_sparse(0.3), (10, 20), "float32"),
    "sparse_gaussian": (ini.SparseGaussian(5, 0.0, 1e-38), (30, 20), "float32"),
    "stft": (ini.STFT(), (34, 1, 32), "float32"),
    "bilinear": (ini.bilinear(), (2, 2, 5, 5), "float64"),
    "unit_ball": (ini.PositiveUnitball(), (20, 30), "float32"),
    "identity": (ini.Identity(1e-41), (5, 5), "float32"),
    "dirac": (ini.Dirac(), (4, 4, 3), "bfloat16"),
    "orthogonal_small": (ini.Orthogonal(1.0), (9, 9), "float32"),
    "orthogonal_tiny": (ini.Orthogonal(1e-38), (40, 9), "float32"),
    "orthogonal_large": (ini.Orthogonal(0.3), (300, 200), "float32"),
    "orthogonal_float64": (ini.Orthogonal(1e-308), (9, 9), "float64"),
    "orthogonal_qr": (ini.Orthogonal(1.0, "qr"), (40, 40), "float32"),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("name", OTHERS)
def test_patterns_and_matrices(name, backend, mode):
    initializer, shape, dtype = OTHERS[name]
    options = {"seed": 1, "name": name, "dtype": dtype, "backend": backend}
    expected = ini.initialize(initializer, shape, **options)
    forget()
    with mode_of(mode):
        made = ini.initialize(initializer, shape, **options)
    assert same_bits(made, expected)


@pytest.fixture
def own_pool(monkeypatch):
    """Let a test have the pool's threads to itself, from their birth on."""
    monkeypatch.setattr(threads_module, "_pool", threads_module._Pool())
    yield
    threads_module._pool._executor.shutdown()


SHAPE = (700, 1000)
SUBNORMAL = ini.Normal(0.0, 1e-38)


@pytest.mark.parametrize("mode", MODES)
def test_threads_that_are_born_in_a_mode(own_pool, mode):
    expected = ini.initialize(SUBNORMAL, SHAPE, seed=1, threads=1)
    with mode_of(mode):
        for _ in range(5):
            assert same_bits(ini.initialize(SUBNORMAL, SHAPE, seed=1, threads=3), expected)
    assert threads_module._pool._size == 2
    for _ in range(5):
        assert same_bits(ini.initialize(SUBNORMAL, SHAPE, seed=1, threads=3), expected)


@pytest.mark.parametrize("mode", MODES)
def test_threads_that_keep_a_mode(own_pool, mode):
    ini.normal(SHAPE, seed=1, threads=3)
    executor = threads_module._pool._executor
    expected = ini.initialize(SUBNORMAL, SHAPE, seed=1, threads=1)
    # Whatever runs in those threads may set a mode; it has it again after a call's work.
    entered = [executor.submit(change, MODES[mode]) for _ in range(20)]
    [future.result() for future in entered]
    assert same_bits(ini.initialize(SUBNORMAL, SHAPE, seed=1, threads=3), expected)


@pytest.mark.parametrize("mode", MODES)
def test_callers_in_other_threads(mode):
    expected = ini.initialize(SUBNORMAL, 1000, seed=1)
    forget()

    def draw():
        with mode_of(mode):
            return ini.initialize(SUBNORMAL, 1000, seed=1)

    with ThreadPoolExecutor(1) as pool:
        assert same_bits(pool.submit(draw).result(), expected)
    assert current() == DEFAULT


RECIPE = """
[[rules]]
match = "a"
init = "normal"
std = "1e-38 / sqrt(depth)"

[[rules]]
match = "*"
init = "orthogonal"
gain = "1 / 3"
"""
MODEL = Architecture("model", "", tuple(TensorSpec(name, (30, 20), "float32") for name in "ab"), 2, 8, {})


@pytest.mark.parametrize("mode", MODES)
def test_whole_models(mode, tmp_path):
    params = {"a": (300, 70), "b": ((50, 3), "bfloat16"), "c": (40, 40), "d": (3, 3)}
    rules = {"a": SUBNORMAL, "b": ini.he_normal(), "c": ini.Orthogonal(), "*": ini.glorot_uniform()}

    def outcome(path):
        report = ini.init_model(params, rules, seed=3, threads=3)
        planned = ini.plan_model(params, rules, seed=3)
        ini.run_plan(planned)
        init_checkpoint(MODEL, path, parse(RECIPE, "recipe"), seed=4)
        arrays = [*report.weights.values(), *(job.destination.owner for job in planned.jobs)]
        return [array.tobytes() for array in arrays], path.read_bytes()

    expected = outcome(tmp_path / "expected.safetensors")
    forget()
    with mode_of(mode):
        made = outcome(tmp_path / "made.safetensors")
    assert made == expected


@pytest.mark.parametrize("mode", MODES)
def test_words(mode):
    expected = ini.bits(1000, seed=1, name="w")
    with mode_of(mode):
        assert same_bits(ini.bits(1000, seed=1, name="w"), expected)


#: What is computed when an initializer is made, each with an argument that rounds.
MAKERS = (
    lambda: ini.calculate_gain("leaky_relu", 0.3),
    lambda: ini.calculate_gain("tanh"),
    lambda: ini.glorot_uniform(gain=1.1),
    lambda: ini.glorot_normal(gain=1.1),
    lambda: ini.he_normal(a=0.3),
    lambda: ini.he_uniform(nonlinearity="tanh"),
    lambda: ini.tf_variance_scaling(1.7),
    lambda: ini.mxnet_xavier(magnitude=1.7),
    lambda: ini.mxnet_msra_prelu(slope=0.3),
    lambda: ini.torch_bias(7),
    lambda: ini.torch_rnn(3),
)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_initializers(mode):
    expected = [repr(make()) for make in MAKERS]
    with mode_of(mode):
        made = [repr(make()) for make in MAKERS]
    assert made == expected


@pytest.mark.parametrize("mode", MODES)
def test_torch_tensors(mode):
    def drawn():
        tensor = torch.empty(30, 20)
        ini.torch.init.xavier_normal_(tensor, 1.1, seed=1, name="w")
        return (
            tensor.numpy().tobytes() + ini.torch.init.orthogonal_(tensor, seed=1, name="w").numpy().tobytes()
        )

    expected = drawn()
    with mode_of(mode):
        assert drawn() == expected


# --- the caller ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_the_callers_mode_is_left_after_errors_and_interrupts(mode):
    def interrupt(units, of):
        raise KeyboardInterrupt

    with mode_of(mode):
        with pytest.raises(ValueError, match="std"):
            ini.normal(3, 0, -1, seed=1)
        assert current() == MODES[mode]
        with pytest.raises(ValueError, match="overflows"):
            ini.initialize(ini.Normal(0, 1e38), 3, seed=1)
        assert current() == MODES[mode]
        with pytest.raises(KeyboardInterrupt):
            ini.init_model({"w": (300, 300)}, ini.Normal(), seed=1, progress=interrupt)


def fresh(script, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("mode", ["flush", "up"])
def test_an_import_in_a_mode(mode):
    # Tables and constants are made when modules are imported.
    script = """
        import ctypes, hashlib, sys
        mode, libm = sys.argv[1], ctypes.CDLL(None)
        if mode == "flush":
            import torch
            torch.set_flush_denormal(True)
        elif mode == "up":
            assert libm.fesetround(0x800 if "x86" in sys.argv[2] else 1 << 22) == 0
        import initium as ini
        digest = hashlib.blake2b()
        kinds = ini.Normal(0, 1e-38), ini.he_normal(), ini.Uniform(-0.3, 0.5)
        for kind in (*kinds, ini.TruncatedNormal(0, 1, -1, 3)):
            for dtype in ("float32", "bfloat16"):
                digest.update(ini.initialize(kind, (40, 30), seed=1, dtype=dtype).tobytes())
        digest.update(ini.orthogonal((20, 20), seed=1).tobytes())
        print(digest.hexdigest())
    """
    machine = platform.machine()
    assert fresh(script, mode, machine) == fresh(script, "none", machine)


def test_a_platform_without_such_functions(monkeypatch):
    monkeypatch.setattr(float_mode.ctypes, "CDLL", lambda name: object())
    switch = float_mode._switch()
    switch.leave(switch.enter())
