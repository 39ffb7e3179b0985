"""The engine around the kernels: threads, fork, bad input, odd shapes, and whole models in one call."""

import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from cases import DISTRIBUTIONS, DTYPES, INF, SEED, same_bits

import initium as ini
from initium import backends, dtypes
from initium.backends import threads as threads_module
from initium.backends.run import run
from initium.model import plan_model
from initium.recipes.rules import UnmatchedError, UnusedRuleWarning

NAN = float("nan")


def python(script, *arguments, **environment):
    """Run a script in a fresh interpreter; return what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


# --- threads and processes ----------------------------------------------------------------------------------


def test_several_python_threads_at_once():
    cases = [
        (name, dtype) for name in ("uniform", "normal", "truncated_2") for dtype in ("float32", "bfloat16")
    ]
    expected = {
        case: ini.initialize(DISTRIBUTIONS[case[0]], 200_001, seed=1, dtype=case[1]) for case in cases
    }
    start = threading.Barrier(8)

    def draw(i):
        start.wait()
        for turn in range(6):
            case = cases[(i + turn) % len(cases)]
            made = ini.initialize(
                DISTRIBUTIONS[case[0]], 200_001, seed=1, dtype=case[1], threads=1 + turn % 4
            )
            assert same_bits(made, expected[case])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(draw, range(8)))


def test_the_pool_is_kept_and_grows():
    ini.normal(1 << 19, seed=1, threads=2)
    before = threads_module._pool._executor
    for _ in range(5):
        ini.normal(1 << 19, seed=1, threads=2)
    assert threads_module._pool._executor is before
    alive = threading.active_count()
    for threads in (2, 7, 3, 7):
        ini.normal(1 << 20, seed=1, threads=threads)
    assert threading.active_count() <= alive + 8
    assert threads_module._pool._size >= 6


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        ini.init_model({"w": (3, 4)}, ini.Normal(), seed=1)
        assert gc.isenabled() == enabled
        plan_model({"w": (3, 4)}, ini.Normal(), seed=1)
        assert gc.isenabled() == enabled
        with pytest.raises(UnmatchedError):
            ini.init_model({"w": (3, 4)}, {"b": ini.Normal()}, seed=1)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("busy", [False, True])
def test_fork(busy):
    # In an interpreter of its own, so that the children inherit no threads but initium's.
    script = """
        import hashlib, os, sys, threading, warnings
        import initium as ini

        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on fork among threads
        draw = lambda: hashlib.blake2b(ini.normal(1 << 20, seed=1, name="w", threads=3)).digest()
        expected = draw()
        stop = threading.Event()
        if sys.argv[1] == "True":
            def work():
                while not stop.is_set():
                    draw()
            threading.Thread(target=work).start()
        children = []
        for _ in range(6):
            child = os.fork()
            if child == 0:
                os._exit(0 if draw() == expected and draw() == expected else 3)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stop.set()
        print(codes, draw() == expected)
    """
    assert python(script, str(busy)).split() == ["[0,", "0,", "0,", "0,", "0,", "0]", "True"]


def test_forked_worker_processes():
    # A child of a child, and a child that was never the first to draw.
    script = """
        import hashlib, multiprocessing
        import initium as ini

        def draw(seed):
            return hashlib.blake2b(ini.uniform(300_000, seed=seed, threads=2)).hexdigest()

        if __name__ == "__main__":
            method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
            with multiprocessing.get_context(method).Pool(3) as pool:
                made = pool.map(draw, range(12))
            print(made == [draw(seed) for seed in range(12)])
    """
    assert python(script, PYTHONWARNINGS="ignore").strip() == "True"


def test_import_is_light():
    script = """
        import sys
        import initium
        dir(initium)
        heavy = {"numba", "llvmlite", "torch", "cupy", "click", "rich", "safetensors", "transformers"}
        heavy |= {"scipy", "jax", "keras"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert python(script).strip() == "[]"
    script = """
        import sys
        import initium as ini
        ini.normal(10, seed=1)
        heavy = {"torch", "cupy", "click", "rich", "safetensors", "transformers", "jax", "keras"}
        print(sorted(heavy & set(sys.modules)))
    """
    assert python(script).strip() == "[]"


def test_every_public_name_exists():
    for name in ini.__all__:
        assert getattr(ini, name) is not None
    assert set(ini.__all__) <= set(dir(ini))
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = ini.nothing_of_that_name


# --- odd shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_zero_size_and_0_d(name, dtype, backend):
    fill = DISTRIBUTIONS[name]
    for shape in ((0,), (3, 0), (0, 0), (2, 0, 5)):
        made = ini.initialize(fill, shape, seed=1, dtype=dtype, backend=backend)
        assert made.shape == shape
        assert made.dtype == dtypes.lookup(dtype).numpy
    scalar = ini.initialize(fill, (), seed=1, dtype=dtype, backend=backend)
    assert scalar.shape == ()
    row = ini.initialize(fill, 5, seed=1, dtype=dtype, backend=backend)
    assert row.shape == (5,)
    assert scalar.tobytes() == row[:1].tobytes()
    empty = ini.initialize(fill, (5, 3), seed=1, dtype=dtype, backend=backend, box=(slice(2, 2),))
    assert empty.shape == (0, 3)


def test_out_of_0_d_and_of_no_elements():
    out = np.zeros((), np.float32)
    assert ini.normal((), seed=1, out=out) is out
    assert out != 0
    out = np.zeros((4, 0), np.float32)
    assert ini.normal((4, 0), seed=1, out=out) is out
    tensor = torch.zeros(())
    ini.normal((), seed=1, out=tensor)
    assert tensor.item() == float(ini.normal((), seed=1))


def test_shape_may_be_anything_that_is_a_shape():
    expected = ini.normal((2, 3), seed=1)
    for shape in ([2, 3], np.array([2, 3]), (np.int64(2), 3), torch.zeros(2, 3).shape, iter((2, 3))):
        assert same_bits(ini.normal(shape, seed=1), expected)


# --- bad input ----------------------------------------------------------------------------------------------


def refused(kind, pattern, function, *arguments, **options):
    """Check that a call is refused, and that it wrote nothing."""
    out = np.full((4, 6), 7, np.float32)
    with pytest.raises(kind, match=pattern):
        function((4, 6), *arguments, **{"seed": 1, "out": out, **options})
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "pattern"),
    [
        (ini.normal, (0, -1), ValueError, r"std=-1\.0 is negative; expected a number >= 0"),
        (ini.normal, (0, NAN), ValueError, "std is NaN"),
        (ini.normal, (0, INF), ValueError, "std=inf is not finite"),
        (ini.normal, (NAN, 1), ValueError, "mean is NaN"),
        (ini.normal, (-INF, 1), ValueError, "mean=-inf is not finite"),
        (ini.normal, ("0", 1), TypeError, "mean='0' is not a number"),
        (ini.normal, (None, 1), TypeError, "mean=None is not a number"),
        (ini.normal, (0, 1j), TypeError, "std=1j is not a number"),
        (ini.normal, (0, True), TypeError, "std=True is not a number"),
        (ini.uniform, (1, 1), ValueError, r"low=1\.0 is not below high=1\.0"),
        (ini.uniform, (2, 1), ValueError, r"low=2\.0 is not below high=1\.0"),
        (ini.uniform, (NAN, 1), ValueError, "low is NaN"),
        (ini.uniform, (0, NAN), ValueError, "high is NaN"),
        (ini.uniform, (0, INF), ValueError, "high=inf is not finite"),
        (ini.uniform, (-INF, 0), ValueError, "low=-inf is not finite"),
        (ini.truncated_normal, (0, -1), ValueError, r"std=-1\.0 is negative"),
        (ini.truncated_normal, (0, 1, 2, 2), ValueError, r"lower=2\.0 is not below upper=2\.0"),
        (ini.truncated_normal, (0, 1, 2, -2), ValueError, r"lower=2\.0 is not below upper=-2\.0"),
        (ini.truncated_normal, (0, 1, NAN, 2), ValueError, "lower is NaN"),
        (ini.truncated_normal, (0, 1, -2, NAN), ValueError, "upper is NaN"),
        (ini.truncated_normal, (0, 1, INF, INF), ValueError, "lower=inf is not below upper=inf"),
        (ini.truncated_normal, (0, 1, -INF, -INF), ValueError, "lower=-inf is not below upper=-inf"),
        (ini.truncated_normal, (NAN, 1), ValueError, "mean is NaN"),
        (ini.truncated_normal, (0, INF), ValueError, "std=inf is not finite"),
    ],
)
def test_bad_parameters(function, arguments, kind, pattern):
    refused(kind, pattern, function, *arguments)


@pytest.mark.parametrize(
    ("options", "kind", "pattern"),
    [
        ({"seed": -1}, ValueError, r"seed=-1 is out of range; expected an integer in \[0, 2\*\*64\)"),
        ({"seed": 2**64}, ValueError, "seed=18446744073709551616 is out of range"),
        ({"seed": 1.0}, TypeError, r"seed=1\.0 is not an integer"),
        ({"seed": "1"}, TypeError, "seed='1' is not an integer"),
        ({"seed": None}, TypeError, "seed=None is not an integer"),
        ({"seed": True}, TypeError, "seed=True is a bool"),
        ({"name": 3}, TypeError, "name=3 is not a string"),
        ({"name": None}, TypeError, "name=None is not a string"),
        ({"name": b"w"}, TypeError, "name=b'w' is not a string"),
        ({"name": "\ud800"}, ValueError, "has no UTF-8 form"),
        (
            {"dtype": "int8"},
            ValueError,
            "dtype='int8' is not a dtype that initium writes; expected one of float32",
        ),
        ({"dtype": "float31"}, ValueError, "dtype='float31'"),
        ({"dtype": np.int32}, ValueError, "int32.*is not a dtype"),
        ({"dtype": 3}, ValueError, "dtype=3 is not a dtype"),
        ({"dtype": []}, ValueError, r"dtype=\[\] is not a dtype"),
        ({"dtype": "float64"}, ValueError, "out has dtype float32; expected dtype=float64"),
        ({"box": (slice(0, 5),)}, ValueError, r"box\[0\].stop=5 is out of range; axis 0 has 4 elements"),
        ({"box": (slice(-5, None),)}, ValueError, r"box\[0\].start=-5 is out of range"),
        ({"box": (slice(None), slice(0, 7))}, ValueError, r"box\[1\].stop=7 is out of range"),
        ({"box": (slice(None, None, 0),)}, ValueError, r"box\[0\].step=0"),
        ({"box": (slice(0.0, 4),)}, TypeError, r"box\[0\].start=0\.0 is not an integer"),
        ({"box": (slice(None),) * 3}, ValueError, "expected at most 2, one per axis"),
        ({"box": (1,)}, TypeError, "expected slices only"),
        ({"box": (..., ...)}, ValueError, "two ellipses"),
        ({"box": (slice(0, 2),)}, ValueError, r"out has shape \(4, 6\); expected \(2, 6\)"),
        ({"threads": 0}, ValueError, "threads=0 is too small; expected an integer >= 1"),
        ({"threads": -2}, ValueError, "threads=-2 is too small"),
        ({"threads": 1.5}, TypeError, r"threads=1\.5 is not an integer"),
        ({"backend": "nope"}, ValueError, "backend='nope' is unknown"),
        ({"backend": 3}, ValueError, "backend=3 is unknown"),
    ],
)
@pytest.mark.parametrize("function", [ini.normal, ini.uniform, ini.truncated_normal])
def test_bad_options(function, options, kind, pattern):
    refused(kind, pattern, function, **options)


@pytest.mark.parametrize(
    ("shape", "kind", "pattern"),
    [
        ((-1,), ValueError, r"shape=\(-1,\) has the negative dimension -1"),
        (-3, ValueError, "negative dimension -3"),
        ((2, -2, 3), ValueError, "negative dimension -2"),
        ((2.0, 3), TypeError, r"shape=2\.0 is not an integer"),
        ("23", TypeError, "shape='23' is not a shape"),
        (None, TypeError, "shape=None is not an integer"),
        ((True, 2), TypeError, "shape=True is a bool"),
        ((2**32, 2**31), ValueError, "has 9223372036854775808 elements; expected fewer than 2\\*\\*63"),
        ((2, 3), ValueError, r"out has shape \(4, 6\); expected \(2, 3\)"),
        ((6, 4), ValueError, r"out has shape \(4, 6\); expected \(6, 4\)"),
    ],
)
def test_bad_shapes(shape, kind, pattern):
    out = np.full((4, 6), 7, np.float32)
    with pytest.raises(kind, match=pattern):
        ini.normal(shape, seed=1, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("initializer", "dtype"),
    [
        (ini.Normal(0, 20_000), "float16"),
        (ini.Normal(0, 100), "float8_e4m3fn"),
        (ini.Normal(60_000, 1_000), "float16"),
        (ini.Normal(0, 1e38), "float32"),
        (ini.Normal(0, 1e38), "bfloat16"),
        (ini.Normal(1e308, 1e308), "float64"),
        (ini.Uniform(0, 1e5), "float16"),
        (ini.Uniform(-449, 1), "float8_e4m3fn"),
        (ini.Uniform(0, 1e39), "float32"),
        (ini.TruncatedNormal(0, 300, -2, 2), "float8_e4m3fn"),
        (ini.TruncatedNormal(0, 1e5, 1, INF), "float16"),
        (ini.constant(1e5), "float16"),
        (ini.constant(-449), "float8_e4m3fn"),
        (ini.constant(1e39), "bfloat16"),
    ],
)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_overflow_of_the_dtype(initializer, dtype, backend):
    out = np.full(9, 7).astype(dtypes.lookup(dtype).numpy)
    with pytest.raises(ValueError, match=f"overflows dtype {dtype}; expected values of at most"):
        ini.initialize(initializer, 9, seed=1, out=out, backend=backend)
    assert (out.astype(float) == 7).all()
    with pytest.raises(ValueError, match=f"'w'.*overflows dtype {dtype}"):
        ini.init_model({"w": ((9,), dtype)}, initializer, seed=1)


@pytest.mark.parametrize("dtype", ["float16", "float8_e5m2", "float64"])
def test_infinite_and_nan_constants(dtype):
    # Masks are filled with minus infinity; NaN is never what anybody wants.
    made = ini.initialize(ini.constant(-INF), 5, seed=1, dtype=dtype)
    assert (made.astype(float) == -INF).all()
    with pytest.raises(ValueError, match="value is NaN"):
        ini.constant(NAN)


def test_an_infinite_constant_in_a_dtype_without_infinity():
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        ini.initialize(ini.constant(INF), 5, seed=1, dtype="float8_e4m3fn")


@pytest.mark.parametrize(
    ("initializer", "dtype"),
    [
        (ini.Uniform(0.30, 0.31), "float8_e4m3fn"),
        (ini.Uniform(1.0001, 1.0002), "bfloat16"),
        (ini.Uniform(1 + 2.0**-30, 1 + 2.0**-29), "float32"),
        (ini.TruncatedNormal(1.001, 1e-5, -1, 1), "float16"),
    ],
)
def test_an_interval_without_a_value_of_the_dtype(initializer, dtype):
    with pytest.raises(ValueError, match=f"holds no value of dtype {dtype}"):
        ini.initialize(initializer, 5, seed=1, dtype=dtype)


def test_read_only_and_overlapping_out():
    out = np.zeros((4, 6), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"out.*read-only"):
        ini.normal((4, 6), seed=1, out=out)
    base = np.full(20, 7, np.float32)
    for shape, steps in (
        ((4, 6), (0, 4)),
        ((4, 6), (4, 4)),
        ((4, 6), (8, 4)),
        ((2, 2), (2, 8)),
        ((5,), (0,)),
    ):
        view = np.lib.stride_tricks.as_strided(base, shape, steps)
        with pytest.raises(ValueError, match="share"):
            ini.normal(shape, seed=1, out=view)
    with pytest.raises(ValueError, match="share"):
        ini.normal((3, 4), seed=1, out=torch.zeros(4).expand(3, 4))
    assert (base == 7).all()
    broadcast = np.lib.stride_tricks.as_strided(base, (1, 6), (0, 4))  # one row: nothing is shared
    ini.normal((1, 6), seed=1, out=broadcast)


@pytest.mark.parametrize("out", [[1.0, 2.0], 3.0, "out", b"1234"])
def test_out_that_is_no_array(out):
    with pytest.raises(TypeError, match=r"out is a .*; expected an? .*array"):
        ini.normal(2, seed=1, out=out)


def test_out_of_an_unknown_dtype():
    for out in (np.zeros(3, np.int32), torch.zeros(3, dtype=torch.int8), np.zeros(3, complex)):
        with pytest.raises(ValueError, match=r"out: .*is not a dtype that initium writes"):
            ini.normal(3, seed=1, out=out)
    swapped = np.zeros(3, np.dtype(np.float32).newbyteorder())
    with pytest.raises(ValueError, match="out"):
        ini.normal(3, seed=1, out=swapped)


def test_what_is_no_initializer():
    for wrong in (None, "normal", 0.0, np.zeros):
        with pytest.raises(TypeError, match="expected an initializer"):
            ini.initialize(wrong, 3, seed=1)


def test_bad_counts_of_bits():
    for options, pattern in (
        ({"count": -1}, "count=-1 is too small"),
        ({"start": -1}, "start=-1 is too small"),
        ({"start": 2**66}, "exceed the stream"),
    ):
        with pytest.raises(ValueError, match=pattern):
            ini.bits(**{"count": 4, "seed": 1, "name": "w", **options})
    with pytest.raises(TypeError, match=r"count=4\.0 is not an integer"):
        ini.bits(4.0, seed=1, name="w")


def test_what_is_asked_for_and_missing_raises():
    with pytest.raises((ValueError, ImportError), match="cuda"):
        ini.normal(4, seed=1, backend="cuda", out=np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="backend='nope' is unknown; expected one of numba, numpy"):
        ini.normal(4, seed=1, backend="nope")
    with pytest.raises(ValueError, match="device='tpu'"):
        ini.normal(4, seed=1, device="tpu")
    with pytest.raises(ValueError, match="device='nope'"):
        ini.init_model({"w": (3,)}, ini.zeros(), seed=1, device="nope")


def test_a_backend_whose_library_is_missing_says_so():
    script = """
        import sys
        sys.modules["numba"] = None
        import initium as ini
        try:
            ini.normal(4, seed=1)
        except ImportError as error:
            print(error)
        print(ini.normal(4, seed=1, backend="numpy").shape)
    """
    message, shape = python(script).strip().splitlines()
    assert message.startswith("backend='numba' cannot be used")
    assert shape == "(4,)"


def test_backends_by_name():
    for name in ("numba", "numpy"):
        assert backends.lookup(name).name == name
        assert same_bits(ini.normal(99, seed=1, backend=name), ini.normal(99, seed=1))


# --- models -------------------------------------------------------------------------------------------------

RULES = [("*.bias", ini.zeros()), ("*norm*", ini.ones()), ("*.weight", ini.Normal(0.0, 0.02))]


def test_arrays_are_filled_in_place_by_the_first_rule_that_matches():
    params = {
        "a.weight": np.empty((30, 20), np.float32),
        "a.bias": np.full(30, np.nan, np.float32),
        "norm.weight": np.empty(30, ml_dtypes.bfloat16),
        "norm.bias": np.full(30, 5.0),
    }
    report = ini.init_model(params, RULES, seed=SEED)
    assert all(report.weights[name] is array for name, array in params.items())
    assert same_bits(params["a.weight"], ini.normal((30, 20), 0, 0.02, seed=SEED, name="a.weight"))
    assert (params["a.bias"] == 0).all()
    assert (params["norm.weight"] == 1).all()
    assert (params["norm.bias"] == 0).all()
    assert [p.rule for p in report.parameters] == ["*.weight", "*.bias", "*norm*", "*.bias"]
    with pytest.warns(UnusedRuleWarning, match=re.escape("'*.bias'")):
        ini.init_model(params, [("*", ini.zeros()), *RULES], seed=SEED)


def test_order_of_tensors_and_company_never_change_a_value():
    shapes = {f"layer.{i}.weight": (17, 3 + i) for i in range(20)}
    whole = ini.init_model(shapes, ini.he_normal(), seed=1).weights
    backwards = ini.init_model(dict(reversed(shapes.items())), ini.he_normal(), seed=1, threads=1).weights
    for name, shape in shapes.items():
        alone = ini.init_model({name: shape}, ini.he_normal(), seed=1).weights[name]
        assert same_bits(whole[name], alone)
        assert same_bits(whole[name], backwards[name])
        assert same_bits(whole[name], ini.initialize(ini.he_normal(), shape, seed=1, name=name))


def test_regular_expressions_mappings_and_single_initializers():
    shapes = {"h.0.w": (3, 4), "h.11.w": (3, 4), "x": (2,)}
    rules = {re.compile(r"h\.\d\.w"): ini.ones(), re.compile("h"): ini.constant(2), "x": ini.skip}
    weights = ini.init_model(shapes, rules, seed=1).weights
    assert (weights["h.0.w"] == 1).all()
    assert (weights["h.11.w"] == 2).all()
    assert (ini.init_model({"w": (3,)}, ini.constant(4), seed=1).weights["w"] == 4).all()
    for pattern in ("h.[0-9].w", "h.?.w"):
        with pytest.raises(UnmatchedError, match=r"h\.11\.w"):
            ini.init_model(shapes, [(pattern, ini.ones()), ("x", ini.ones())], seed=1)


def test_unmatched_parameters_are_listed_and_nothing_is_written():
    array = np.full(3, 7.0)
    params = {"a.weight": array, "odd": np.zeros(2), **{f"lost.{i}": (1,) for i in range(30)}}
    with pytest.raises(UnmatchedError, match=r"'odd', 'lost\.0'.*and 21 more") as caught:
        ini.init_model(params, [("*.weight", ini.ones())], seed=1)
    assert isinstance(caught.value, ValueError)
    assert (array == 7).all()


def test_unused_rules_warn():
    with pytest.warns(UnusedRuleWarning, match=r"'\*\.gamma', '/beta/'") as caught:
        ini.init_model(
            {"w": (3,)},
            [("*.gamma", ini.ones()), (re.compile("beta"), ini.ones()), ("w", ini.ones())],
            seed=1,
        )
    assert caught[0].filename == __file__


def test_skip_leaves_a_parameter_as_it_is():
    kept = np.full(4, 7.0, np.float32)
    report = ini.init_model({"kept": kept, "w": (3,)}, [("kept", ini.skip), ("w", ini.ones())], seed=1)
    assert (kept == 7).all()
    first, second = report.parameters
    assert (first.distribution, first.nbytes, first.fans) == ("skip", 0, None)
    assert second.nbytes == 12
    assert report.nbytes == 12


def test_tied_weights_are_filled_once_under_the_first_name():
    table = np.empty((10, 4), np.float32)
    report = ini.init_model({"wte": table, "norm": (4,), "head": table}, ini.Normal(), seed=1)
    assert same_bits(table, ini.normal((10, 4), seed=1, name="wte"))
    assert [p.distribution for p in report.parameters] == ["normal(0, 1)", "normal(0, 1)", "tied to wte"]
    assert [p.nbytes for p in report.parameters] == [160, 16, 0]
    view = table[:]
    ini.init_model({"head": view, "wte": table}, ini.Normal(), seed=1)
    assert same_bits(table, ini.normal((10, 4), seed=1, name="head"))


@pytest.mark.parametrize(
    "parts",
    [
        lambda base: (base, base[1:]),
        lambda base: (base[:6], base[5:]),
        lambda base: (base, base.T),
        lambda base: (base, base[::-1]),
        lambda base: (base, base.view(np.int32).view(np.float32).reshape(-1)),
        lambda base: (base[:, ::2], base[3:, 1:3]),
        lambda base: (base, base.view(ml_dtypes.bfloat16)),
    ],
)
def test_partial_overlap_is_refused(parts):
    base = np.full((10, 10), 7, np.float32)
    a, b = parts(base)
    with pytest.raises(ValueError, match=r"params\['.'\] and params\['.'\] overlap in part"):
        ini.init_model({"a": a, "b": b, "c": (3,)}, ini.Normal(), seed=1)
    assert (base == 7).all()


@pytest.mark.parametrize(
    "parts",
    [
        lambda base: (base[:5], base[5:]),
        lambda base: (base[:, ::2], base[:, 1::2]),
        lambda base: (base[::2].T, base[1::2, ::-1]),
    ],
)
def test_interleaved_parts_of_one_array(parts):
    base = np.full((10, 10), 7, np.float32)
    a, b = parts(base)
    ini.init_model({"a": a, "b": b}, ini.Normal(), seed=1)
    assert same_bits(np.ascontiguousarray(a), ini.normal(a.shape, seed=1, name="a"))
    assert same_bits(np.ascontiguousarray(b), ini.normal(b.shape, seed=1, name="b"))


def test_specs_of_all_sorts():
    specs = {
        "spec": ini.TensorSpec("spec", (3, 4), "bfloat16"),
        "shape": (3, 4),
        "pair": ((3, 4), "float16"),
        "list": [3, 4],
        "int": 5,
        "scalar": (),
        "dtype": ((2, 2), np.float64),
    }
    weights = ini.init_model(specs, ini.Normal(), seed=1).weights
    assert {name: (w.shape, w.dtype.name) for name, w in weights.items()} == {
        "spec": ((3, 4), "bfloat16"),
        "shape": ((3, 4), "float32"),
        "pair": ((3, 4), "float16"),
        "list": ((3, 4), "float32"),
        "int": ((5,), "float32"),
        "scalar": ((), "float32"),
        "dtype": ((2, 2), "float64"),
    }
    cast = ini.init_model(specs, ini.Normal(), seed=1, dtype="float8_e5m2").weights
    assert {w.dtype.name for w in cast.values()} == {"float8_e5m2"}
    assert same_bits(weights["pair"], ini.normal((3, 4), seed=1, name="pair", dtype="float16"))


@pytest.mark.parametrize(
    ("params", "kind", "pattern"),
    [
        ({"w": (3, -1)}, ValueError, r"params\['w'\]=\(3, -1\) has the negative dimension"),
        ({"w": ((3,), "int8")}, ValueError, r"params\['w'\]: dtype='int8' is not a dtype"),
        ({"w": "big"}, TypeError, r"params\['w'\]='big' is not a shape"),
        ({"w": None}, TypeError, r"params\['w'\]=None"),
        ({"w": np.zeros(3, np.int64)}, ValueError, r"params\['w'\].*is not a dtype"),
        ({3: (2,)}, TypeError, "name=3 is not a string"),
        ([("w", (3,))], TypeError, "params is a list; expected a mapping"),
        (3, TypeError, "params is a int; expected a mapping"),
    ],
)
def test_bad_params(params, kind, pattern):
    with pytest.raises(kind, match=pattern):
        ini.init_model(params, ini.Normal(), seed=1)


def test_bad_arrays_stop_everything_before_it_is_written():
    good, locked = np.full(5, 7.0), np.zeros(4)
    locked.flags.writeable = False
    shared = np.lib.stride_tricks.as_strided(np.zeros(4), (4, 4), (8, 8))
    for bad in (locked, shared, np.zeros(2, int)):
        with pytest.raises(ValueError, match=r"params\['bad'\]"):
            ini.init_model({"good": good, "bad": bad}, ini.Normal(), seed=1)
    with pytest.raises(ValueError, match=r"params\['good'\].*float64; expected dtype=float32"):
        ini.init_model({"good": good}, ini.Normal(), seed=1, dtype="float32")
    with pytest.raises(ValueError, match=r"tensor 'small'.*overflows dtype float8_e4m3fn"):
        ini.init_model({"good": good, "small": ((3,), "float8_e4m3fn")}, ini.Normal(0, 1000), seed=1)
    with pytest.raises(ValueError, match=r"tensor 'good' of shape \(5,\)"):
        ini.init_model({"w": (3, 4), "good": good}, ini.he_normal(), seed=1)
    with pytest.raises(ValueError, match="seed=-1"):
        ini.init_model({"good": good}, ini.Normal(), seed=-1)
    assert (good == 7).all()


def test_rules_that_share_an_initializer_are_all_used():
    shared = ini.Normal()
    ini.init_model({"a": (2, 2), "b": (2, 2)}, [("a", shared), ("b", shared)], seed=1)
    with pytest.warns(UnusedRuleWarning, match="'c'"):
        ini.init_model({"a": (2, 2), "b": (2, 2)}, [("a", shared), ("b", shared), ("c", shared)], seed=1)


@pytest.mark.parametrize(
    ("rules", "pattern"),
    [
        ([("*",)], "rules="),
        ([(3, ini.ones())], "pattern=3"),
        ([(re.compile(b"w"), ini.ones())], "bytes"),
        ([("*", "normal")], "initializer='normal' of pattern '\\*'"),
        ([("*", None)], "initializer=None"),
        (3, "rules"),
    ],
)
def test_bad_rules(rules, pattern):
    with pytest.raises(TypeError, match=pattern):
        ini.init_model({"w": (3,)}, rules, seed=1)


def test_reports():
    shapes = {"lin.weight": (6, 4), "lin.bias": (6,), "empty": (0, 3)}
    rules = [("*.weight", ini.he_uniform()), ("*.bias", ini.zeros()), ("*", ini.Normal())]
    report = ini.init_model(shapes, rules, seed=9)
    weight, bias, empty = report.parameters
    assert (weight.name, weight.shape, weight.dtype, weight.rule) == (
        "lin.weight",
        (6, 4),
        "float32",
        "*.weight",
    )
    assert tuple(weight.fans) == (4, 6)
    assert weight.distribution == "uniform(-1.22474, 1.22474)"
    assert (bias.distribution, bias.fans, bias.nbytes) == ("constant(0)", None, 24)
    assert empty.nbytes == 0
    assert report.nbytes == 96 + 24
    assert report.seed == 9
    assert report.seconds > 0
    assert sum(p.seconds for p in report.parameters) == pytest.approx(report.seconds)
    assert "lin.weight" in str(report)
    assert "seed 9" in str(report)


def test_an_empty_model():
    report = ini.init_model({}, [], seed=1)
    assert (report.weights, report.nbytes, report.parameters) == ({}, 0, ())
    ini.init_model({"a": (0,), "b": (3, 0)}, ini.Normal(), seed=1)


def test_a_plan_may_run_again():
    array = np.zeros(100_000, np.float32)
    made = plan_model({"w": array}, ini.Normal(), seed=1)
    for threads in (1, 2):
        array[:] = 0
        run(made, "numba", threads)
        assert same_bits(array, ini.normal(100_000, seed=1, name="w"))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_progress(backend):
    calls = []
    shapes = {"a": (300, 1000), "b": ((100, 1000), "bfloat16"), "c": (7,)}
    report = ini.init_model(
        shapes, ini.Normal(), seed=1, backend=backend, progress=lambda *done: calls.append(done)
    )
    assert calls[-1][0] == calls[-1][1] > 0
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    for name, array in report.weights.items():
        assert same_bits(array, ini.normal(array.shape, seed=1, name=name, dtype=array.dtype))


def test_progress_bar(capsys):
    ini.init_model({"a": (300, 1000)}, ini.Normal(), seed=1, progress=True)
    assert "weights" in capsys.readouterr().err


def test_nothing_is_written_after_a_call_that_was_interrupted():
    # By an error in `progress`, as by Ctrl-C: whoever catches it may use the memory for something else.
    array = np.zeros(1 << 26, np.float32)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ini.init_model({"w": array}, DISTRIBUTIONS["far_tail"], seed=1, threads=1, progress=interrupt)
    array[:] = 0
    time.sleep(0.5)
    assert not array.any()


# --- torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors(dtype):
    expected = ini.normal((6, 10), seed=1, name="w", dtype=dtype)
    for tensor in (
        torch.zeros((6, 10), dtype=getattr(torch, dtype)),
        torch.zeros((10, 6), dtype=getattr(torch, dtype)).T,
        torch.zeros((12, 20), dtype=getattr(torch, dtype))[::2, 10:],
        torch.nn.Parameter(torch.zeros((6, 10), dtype=getattr(torch, dtype))),
    ):
        assert ini.normal((6, 10), seed=1, name="w", out=tensor) is tensor
        raw = tensor.detach().contiguous().view(torch.uint8).numpy()
        assert raw.tobytes() == expected.tobytes()


def test_torch_modules():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(50, 8),
        torch.nn.Linear(8, 8),
        torch.nn.LayerNorm(8),
        torch.nn.Linear(8, 50, bias=False),
    ).to(torch.bfloat16)
    model[3].weight = model[0].weight
    rules = [("2.weight", ini.ones()), ("*.bias", ini.zeros()), ("*.weight", ini.Normal(0, 0.02))]
    report = ini.init_model(model, rules, seed=3)
    assert [p.name for p in report.parameters] == [
        "0.weight",
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
        "3.weight",
    ]
    assert report.parameters[-1].distribution == "tied to 0.weight"
    assert report.weights["0.weight"] is model[0].weight
    expected = ini.normal((50, 8), 0, 0.02, seed=3, name="0.weight", dtype="bfloat16")
    assert model[3].weight.detach().view(torch.int16).numpy().tobytes() == expected.tobytes()
    assert (model[2].weight == 1).all()
    assert (model[1].bias == 0).all()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_torch_modules_on_the_meta_device_have_no_memory():
    with torch.device("meta"):
        model = torch.nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"params\['weight'\].*meta"):
        ini.init_model(model, ini.Normal(), seed=1)


@pytest.mark.parametrize("value", [torch.zeros(3, dtype=torch.int32), torch.zeros(4, dtype=torch.complex64)])
def test_torch_tensors_of_unknown_dtypes(value):
    with pytest.raises(ValueError, match=r"params\['w'\]"):
        ini.init_model({"w": value}, ini.Normal(), seed=1)


# --- torch tensors that hold no plain values ----------------------------------------------------------------


def freed():
    tensor = torch.zeros(1000)
    tensor.untyped_storage().resize_(0)
    return tensor


def shortened():
    tensor = torch.zeros(1000)
    tensor.untyped_storage().resize_(400)
    return tensor


def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(1000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (freed, "no memory of its own|has been freed"),
        (shortened, "has been freed or cut to 400 bytes"),
        (fake, "no memory of its own"),
        (lambda: torch.zeros(3, 4).to_sparse(), r"layout is torch\.sparse_coo; expected torch\.strided"),
        (lambda: torch.zeros(3, dtype=torch.complex64).conj().imag, "negates or conjugates"),
        (lambda: torch.zeros(3, device="meta"), "on device meta"),
    ],
)
def test_tensors_without_plain_values_are_refused(make, message):
    tensor = make()
    with pytest.raises(ValueError, match=rf"params\['w'\].*({message})"):
        ini.init_model({"w": tensor}, ini.ones(), seed=1)


def test_a_freed_tensor_of_no_elements_is_nothing_to_fill():
    ini.init_model({"w": torch.empty(0, 3)}, ini.ones(), seed=1)


# --- a device that is asked for beside an array -------------------------------------------------------------


def test_a_device_is_never_ignored():
    out = np.full(3, 7, np.float32)
    assert ini.uniform(3, seed=1, out=out, device="cpu") is out
    kept = out.copy()
    with pytest.raises(ValueError, match="device='nonsense' is unknown"):
        ini.uniform(3, seed=1, out=out, device="nonsense")
    with pytest.raises((ValueError, ImportError, RuntimeError), match="cuda"):
        ini.uniform(3, seed=1, out=out, device="cuda")
    with pytest.raises((ValueError, ImportError, RuntimeError), match="cuda"):
        ini.init_model({"w": out}, ini.ones(), seed=1, device="cuda")
    assert same_bits(out, kept)


# --- the pool -----------------------------------------------------------------------------------------------


def test_a_call_does_not_wait_for_workers_that_never_started():
    release = threading.Event()
    busy = []
    threads_module.start(release.wait, max(2, threads_module._pool._size), busy)
    try:
        expected = ini.uniform(10**6, seed=1, threads=1)
        assert same_bits(ini.uniform(10**6, seed=1, threads=3), expected)  # returns while the pool is taken
        assert not any(worker.done() for worker in busy)
    finally:
        release.set()


# --- what Numba is told to compile for ----------------------------------------------------------------------


def test_without_avx_the_bits_are_the_same(tmp_path):
    code = (
        "import initium as ini, sys; from initium.kernels.cpu import jit;"
        "sys.stdout.write(ini.truncated_normal(999, seed=5, dtype='bfloat16').view('u2').tobytes().hex());"
        "assert not any('avx' in f for f in jit.FEATURES if f[0] == '+')"
    )
    environment = {**os.environ, "NUMBA_ENABLE_AVX": "0", "INITIUM_CACHE_DIR": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = ini.truncated_normal(999, seed=5, dtype="bfloat16").view("u2").tobytes().hex()
    assert run.stdout == expected


def test_the_warning_of_an_unused_rule_points_at_the_caller():
    for call in (ini.init_model, ini.plan_model):
        with pytest.warns(UnusedRuleWarning) as caught:
            call({"a": (2,)}, [("a", ini.ones()), ("b", ini.ones())], seed=1)
        assert Path(caught[0].filename) == Path(__file__)
