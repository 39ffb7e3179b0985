"""The Numba kernels give the reference's bits, whatever the box, the layout, the threads and the lanes.

The reference draws a whole range; the kernels draw odd parts of it from odd starts. So each comparison
shows both: that the backends agree, and that a slice equals the same slice of the whole.
"""

import json
import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cases import DISTRIBUTIONS, DTYPES, SEED, jobs_for_words, ordered_values, same_bits
from cases import extreme_words as extremes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initium as ini
from initium import backends, dtypes
from initium.backends import numba as numba_backend
from initium.kernels import table as T
from initium.kernels.cpu.jit import LANES
from initium.kernels.reference import arithmetic, normal, quantile, uniform
from initium.kernels.reference.fill import draw
from initium.kernels.reference.philox import philox_words
from initium.kernels.stream import WORDS_PER_BLOCK
from initium.planning.plan import plan

TILE = T.TILE
GROUP = LANES * WORDS_PER_BLOCK
WORDS = [(name, dtype) for name in DISTRIBUTIONS for dtype in DTYPES]
every_case = pytest.mark.parametrize(("name", "dtype"), WORDS)


def numba(name, shape, /, **options):
    return ini.initialize(DISTRIBUTIONS[name], shape, **{"seed": SEED, "name": name, **options})


def numpy(name, shape, /, **options):
    return numba(name, shape, backend="numpy", **options)


def check(made, expected):
    __tracebackhide__ = True
    if not same_bits(made, expected):
        differ = made.tobytes() != expected.tobytes() and np.flatnonzero(
            np.asarray(made, np.float64).ravel() != np.asarray(expected, np.float64).ravel()
        )
        pytest.fail(f"bits differ: shapes {made.shape} {expected.shape}, at {differ!r:.200}")


# --- sizes and starts ---------------------------------------------------------------------------------------


@every_case
def test_odd_sizes_and_misaligned_starts(name, dtype):
    whole = numpy(name, 2 * TILE + 77, dtype=dtype)
    shape = whole.shape
    for size in (1, 2, 3, 5, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP + 3, 1001):
        for start in (0, 1, 2, 3, 4, 7, GROUP - 1, GROUP + 2, TILE - 2):
            check(
                numba(name, shape, dtype=dtype, box=slice(start, start + size)), whole[start : start + size]
            )
    for start, stop in ((0, shape[0]), (1, shape[0]), (3, TILE + 3), (5, 2 * TILE + 6)):
        check(numba(name, shape, dtype=dtype, box=slice(start, stop), threads=2), whole[start:stop])


@every_case
@pytest.mark.parametrize("border", [2**32, 2**33, 2**34, 2**35, 2**61])
def test_indices_past_32_bits(name, dtype, border):
    # 2**33 (2**34) is where the words (blocks) of float64 pass 32 bits, 2**34 (2**35) ... of the others.
    shape = (2**62,)
    whole = numpy(name, shape, dtype=dtype, box=slice(border - 70, border + 150))
    check(numba(name, shape, dtype=dtype, box=slice(border - 70, border + 150)), whole)
    for start, stop in ((-3, 5), (-1, 0), (0, 1), (1, 2), (3, 100), (-69, 149)):
        box = slice(border + start, border + stop)
        check(numba(name, shape, dtype=dtype, box=box), whole[start + 70 : stop + 70])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_million_values(name):
    size = 300_000 if name in ("asymmetric", "one_sided", "far_tail", "farther_tail") else 1 << 20
    check(numba(name, size, threads=2), numpy(name, size))
    check(numba(name, 1 << 17, threads=2, dtype="float64"), numpy(name, 1 << 17, dtype="float64"))


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_seeds(name, seed):
    for stream in ("", "h.0.weight", "名"):
        check(numba(name, 999, seed=seed, name=stream), numpy(name, 999, seed=seed, name=stream))


# --- every kind of word -------------------------------------------------------------------------------------


@every_case
def test_extreme_words(name, dtype):
    fill = DISTRIBUTIONS[name].resolve(())
    words = extremes(dtypes.lookup(dtype).word_bits)
    made, jobs = jobs_for_words(fill, dtype, words, SEED)
    backends.lookup("numba").fill(plan(jobs, SEED), 1, None)
    again, jobs = jobs_for_words(fill, dtype, words, SEED)
    backends.lookup("numpy").fill(plan(jobs, SEED), None, None)
    check(made, again)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_words_are_what_was_asked_for(dtype):
    words = extremes(dtypes.lookup(dtype).word_bits)
    _, jobs = jobs_for_words(DISTRIBUTIONS["uniform"].resolve(()), dtype, words, SEED)
    for word, job in zip(words, jobs, strict=True):
        if dtype == "float32":
            assert philox_words(np.array([job.box.start], np.uint64), job.stream, SEED)[0] == word
        else:
            pair = philox_words(
                np.uint64(2 * job.box.start) + np.arange(2, dtype=np.uint64), job.stream, SEED
            )
            assert pair.tolist() == [word & 0xFFFFFFFF, word >> 32]


# --- boxes --------------------------------------------------------------------------------------------------


@st.composite
def shapes_and_boxes(draw):
    axes = draw(st.integers(1, 5))
    longest = (400, 40, 12, 7, 5)[axes - 1]
    shape = tuple(draw(st.lists(st.integers(0, longest), min_size=axes, max_size=axes)))
    box = []
    for n in shape:
        step = draw(st.sampled_from([None, 1, 2, 3, 7, -1, -2, -5]))
        start = draw(st.one_of(st.none(), st.integers(-n, n)))
        stop = draw(st.one_of(st.none(), st.integers(-n, n)))
        box.append(slice(start, stop, step))
    return shape, tuple(box[: draw(st.integers(0, axes))])


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shapes_and_boxes(), st.sampled_from(WORDS), st.integers(1, 3))
def test_boxes_equal_slices_of_the_whole(shape_and_box, case, threads):
    shape, box = shape_and_box
    name, dtype = case
    whole = numpy(name, shape, dtype=dtype)
    expected = np.ascontiguousarray(whole[box])
    check(numba(name, shape, dtype=dtype, box=box, threads=threads), expected)
    check(numpy(name, shape, dtype=dtype, box=box), expected)


HUGE = [
    ((1 << 20, 1 << 15), (slice(1 << 19, (1 << 19) + 300, 37), slice(5, 30_000, 1001))),
    ((1 << 20, 1 << 15), (slice(300_000, 299_000, -211), slice(None, None, -4099))),
    ((3, 1 << 31, 5), (slice(None), slice(2**31 - 3, 2**31), slice(None))),
    ((3, 1 << 31, 5), (slice(None, None, -1), slice(2**31 - 1, 2**31 - 4, -1), slice(1, None, 3))),
    ((7, 1 << 30, 2, 3), (slice(5, 7), slice(1 << 29, (1 << 29) + 11), slice(1, 2), slice(None, None, -2))),
    (
        (4, 3, 1 << 28, 2, 5),
        (slice(1, 4, 2), slice(1, 3), slice(2**27, 2**27 + 9, 2), ..., slice(1, 4)),
    ),
    ((2, 2, 2, 2, 1 << 31), (slice(None),) * 4 + (slice((1 << 31) - 9, None, 4),)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float8_e5m2"])
@pytest.mark.parametrize(("shape", "box"), HUGE)
@pytest.mark.parametrize("name", ["uniform", "normal", "truncated_2", "asymmetric", "constant"])
def test_boxes_of_huge_tensors(name, shape, box, dtype):
    # Each index worked out one by one, in Python's integers; two of the boxes reach past 2**34.
    full = list(box)
    if Ellipsis in full:
        at = full.index(Ellipsis)
        full[at : at + 1] = [slice(None)] * (len(shape) - len(full) + 1)
    axes = [range(n)[part] for n, part in zip(shape, full, strict=True)]
    index = []
    for place in product(*axes):
        flat = 0
        for i, n in zip(place, shape, strict=True):
            flat = flat * n + i
        index.append(flat)
    kind, split, parameters = DISTRIBUTIONS[name].resolve(shape).encode(dtypes.lookup(dtype))
    expected = draw(
        *(kind, dtypes.lookup(dtype).numpy, np.array(index, np.uint64)),
        *(ini.stream_id(name), SEED, split, np.array(parameters)),
    ).reshape([len(axis) for axis in axes])
    assert max(index) > 2**32
    check(numba(name, shape, dtype=dtype, box=box), expected)
    check(numpy(name, shape, dtype=dtype, box=box), expected)


def test_huge_boxes_pass_2_to_the_34():
    reach = [np.prod([float(n) for n in shape]) for shape, _ in HUGE]
    assert sum(r > 2**34 for r in reach) >= 5


# --- threads and jobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["constant", "uniform", "normal", "truncated_2", "asymmetric"])
def test_thread_counts(name, dtype):
    whole = numpy(name, 5 * TILE + 17, dtype=dtype)
    for threads in (1, 2, 3, 5, 8, 17, None):
        check(numba(name, whole.shape, dtype=dtype, threads=threads), whole)


def test_many_jobs_in_one_call():
    rng = np.random.default_rng(1)
    rules = list(DISTRIBUTIONS.items())
    specs, chosen = {}, []
    for i in range(600):
        kind, _ = rules[i % len(rules)]
        shape = tuple(int(n) for n in rng.integers(0, 12, rng.integers(0, 4)))
        specs[f"{kind}/{i}"] = (shape, DTYPES[int(rng.integers(len(DTYPES)))])
        chosen.append(kind)
    specs["normal/big"] = ((3, TILE), "bfloat16")
    globs = [(f"{kind}/*", initializer) for kind, initializer in rules]
    for threads in (1, 2, 7):
        weights = ini.init_model(specs, globs, seed=SEED, threads=threads).weights
        for name, (shape, dtype) in specs.items():
            kind = name.split("/")[0]
            check(weights[name], numba(kind, shape, dtype=dtype, name=name))
    reference = ini.init_model(specs, globs, seed=SEED, backend="numpy").weights
    assert all(same_bits(reference[name], weights[name]) for name in specs)


# --- layouts of out -----------------------------------------------------------------------------------------

SHAPE = (3, 5, 4, 7)


def layouts(dtype):
    """Arrays of SHAPE of all sorts, each with the buffer that it is a part of."""
    size = dtype.itemsize
    for order in permutations(range(4)):
        if order in ((0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3), (0, 1, 3, 2)):  # the first: channels last
            buffer = np.zeros([SHAPE[axis] for axis in order], dtype)
            yield f"permuted{order}", buffer, buffer.transpose(np.argsort(order))
    for signs in ((-1, 1, 1, 1), (1, 1, 1, -1), (-1, -1, -1, -1), (1, -2, 1, 3), (2, 1, 1, -2)):
        buffer = np.zeros([n * abs(s) for n, s in zip(SHAPE, signs, strict=True)], dtype)
        yield f"steps{signs}", buffer, buffer[tuple(slice(None, None, s) for s in signs)]
    for offset in (1, 3, size, 4 * size + 1):
        buffer = np.zeros(420 * size + 64, np.uint8)
        yield f"offset{offset}", buffer, np.ndarray(SHAPE, dtype, buffer.data, offset)
    record = np.zeros(SHAPE, np.dtype([("head", "u1"), ("value", dtype), ("tail", "u1", 2)]))
    yield "field", record, record["value"]
    buffer = np.zeros((9, 12, 8, 11), dtype)
    yield "window", buffer, buffer[2:5, 4:9, 1:5, 3:10]
    yield "fortran", *(2 * [np.zeros(SHAPE, dtype, order="F")])


@every_case
def test_layouts_of_out(name, dtype):
    expected = numpy(name, SHAPE, dtype=dtype)
    for label, buffer, out in layouts(expected.dtype):
        assert out.shape == SHAPE, label
        untouched = np.ones(buffer.nbytes, bool)
        start = buffer.__array_interface__["data"][0]
        base = out.__array_interface__["data"][0] - start
        for place in np.ndindex(SHAPE):
            byte = base + sum(i * s for i, s in zip(place, out.strides, strict=True))
            untouched[byte : byte + out.itemsize] = False
        memory = np.ndarray(buffer.nbytes, np.uint8, buffer if buffer.flags.c_contiguous else buffer.T)
        memory[:] = 0xA5
        assert numba(name, SHAPE, out=out) is out
        check(np.ascontiguousarray(out), expected)
        assert (memory[untouched] == 0xA5).all(), label
        memory[:] = 0x5A
        numpy(name, SHAPE, out=out)
        check(np.ascontiguousarray(out), expected)
        assert (memory[untouched] == 0x5A).all(), label


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_of_six_permuted_axes(dtype):
    shape = (3, 2, 4, 3, 2, 5)
    expected = numpy("normal", shape, dtype=dtype)
    for order in ((5, 4, 3, 2, 1, 0), (4, 1, 5, 0, 3, 2)):
        out = np.zeros([shape[axis] for axis in order], expected.dtype).transpose(np.argsort(order))
        check(np.ascontiguousarray(numba("normal", shape, out=out)), expected)
    box = tuple(slice(None, None, -1) for _ in shape)
    out = np.zeros(shape[::-1], expected.dtype).T
    check(np.ascontiguousarray(numba("normal", shape, out=out, box=box)), np.ascontiguousarray(expected[box]))


# --- past the caches ----------------------------------------------------------------------------------------


@pytest.fixture
def past_caches(monkeypatch):
    """Let calls of any size write past the caches, as large ones do."""
    monkeypatch.setattr(numba_backend, "_PAST_CACHES", 0)


@every_case
def test_stores_past_the_caches(name, dtype, past_caches):
    whole = numpy(name, TILE + 501, dtype=dtype)
    size = whole.itemsize
    memory = np.zeros(whole.nbytes + 256, np.uint8)
    for offset, start in product((0, 1, 2, 4, 8, 24, 60, 63), (0, 1, 2, 3, 5, 64 // size - 1)):
        for stop in (start + 1, start + 130, whole.size - 7, whole.size):
            memory[:] = 0xA5
            out = np.ndarray(stop - start, whole.dtype, memory.data, offset)
            numba(name, whole.shape, box=slice(start, stop), out=out, threads=1 + start % 2)
            check(out.copy(), whole[start:stop])
            assert (memory[:offset] == 0xA5).all()
            assert (memory[offset + out.nbytes :] == 0xA5).all()


@every_case
def test_layouts_of_out_past_the_caches(name, dtype, past_caches):
    expected = numpy(name, SHAPE, dtype=dtype)
    for label, _, out in layouts(expected.dtype):
        numba(name, SHAPE, out=out)
        assert same_bits(np.ascontiguousarray(out), expected), label


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", ["constant", "uniform", "normal", "truncated_2", "asymmetric"])
def test_large_calls(name, dtype):
    # The sizes at which the engine chooses by itself.
    size = (1 << 25) // dtypes.lookup(dtype).itemsize + 1001
    whole = numba(name, size, dtype=dtype, threads=2)
    assert whole.nbytes > numba_backend._PAST_CACHES
    for start in range(0, size, 1 << 20):
        part = slice(start, min(start + (1 << 20), size))
        check(numba(name, size, dtype=dtype, box=part), whole[part])


# --- narrow dtypes ------------------------------------------------------------------------------------------

NARROW = [dtype for dtype in DTYPES if dtypes.lookup(dtype).itemsize < 4]
HELD = {
    **{"uniform": (0.0, 1.0), "uniform_offset": (-0.3, 0.5), "uniform_narrow": (1.0, 1.5)},
    **{"truncated_2": (-0.04, 0.04), "truncated_half": (0.75, 1.25), "truncated_3": (-3.0, 3.0)},
    **{"asymmetric": (-1.0, 3.0), "one_sided": (-np.inf, 0.5), "far_tail": (5.25, np.inf)},
    **{"farther_tail": (-np.inf, -79.0), "normal": (-np.inf, np.inf), "normal_shifted": (-np.inf, np.inf)},
}


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", HELD)
def test_narrow_dtypes_are_float32_rounded_once(name, dtype):
    single = numba(name, 200_001)
    made = numba(name, 200_001, dtype=dtype)
    cast = single.astype(made.dtype)  # ml_dtypes: to nearest even, in one step
    low, high = HELD[name]
    values = ordered_values(dtype)
    wide = cast.astype(np.float64)
    inside = (wide >= low) & (wide < high if name.startswith("uniform") else wide <= high)
    assert same_bits(made[inside], cast[inside])
    held = values[(values >= low) & (values < high if name.startswith("uniform") else values <= high)]
    nearest = np.where(wide < low, held[0], held[-1])[~inside]
    np.testing.assert_array_equal(made[~inside].astype(np.float64), nearest)
    if name == "uniform":  # 1.0 is what a plain cast would give now and then
        assert not inside.all()


def test_rounding_of_ties_and_subnormals():
    # Constants go through no kernel arithmetic; an interval of two values shows the conversion of both.
    tiny = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).smallest_subnormal)
    made = ini.uniform(4096, -2 * tiny, 2 * tiny, seed=1, dtype="float8_e4m3fn")
    assert set(made.astype(float) / tiny) == {-2.0, -1.0, 0.0, 1.0}
    for dtype in NARROW:
        least = float(ml_dtypes.finfo(dtypes.lookup(dtype).numpy).smallest_subnormal)
        for scale in (3, 20):
            if least * scale < 2.0**-90:  # below the widths that float32 arithmetic can spread
                continue
            made, reference = (
                ini.uniform(20_000, -least * scale, least * scale, seed=1, dtype=dtype, backend=b)
                for b in ("numba", "numpy")
            )
            check(made, reference)
            values = ordered_values(dtype) / least
            assert set(np.unique(made.astype(float)) / least) == set(
                values[(-scale <= values) & (values < scale)]
            )


# --- controls -----------------------------------------------------------------------------------------------


def _two_roundings(a, b, c):
    return a * b + c


def test_a_reference_without_fma_is_noticed(monkeypatch):
    for module in (arithmetic, normal, quantile, uniform):
        monkeypatch.setattr(module, "fma", _two_roundings)
    for name, dtype in product(
        ("uniform_offset", "normal", "truncated_2", "asymmetric"), ("float32", "float64")
    ):
        if (name, dtype) != ("asymmetric", "float32"):  # float64 arithmetic, which float32 does not show
            assert not same_bits(numba(name, 1 << 15, dtype=dtype), numpy(name, 1 << 15, dtype=dtype)), name


def test_one_wrong_bit_is_noticed():
    a = numba("normal", 100)
    b = a.copy()
    b.view(np.uint32)[77] ^= 1
    assert same_bits(a, a.copy())
    assert not same_bits(a, b)
    assert not same_bits(np.zeros(1, np.float32), -np.zeros(1, np.float32))


# --- lanes --------------------------------------------------------------------------------------------------

LANES_SCRIPT = """
import json, sys
from hashlib import blake2b
sys.path.insert(0, sys.argv[1])
from cases import DISTRIBUTIONS, SEED
import initium as ini
from initium.backends import numba as backend
from initium.kernels.cpu.jit import LANES
backend._PAST_CACHES = 0  # narrow vectors have alignments of their own
found = {"lanes": LANES}
for name, dtype in json.loads(sys.argv[2]):
    digest = blake2b()
    for size, start in ((70_001, 0), (1, 3), (31, 2**34 - 5), (257, 1), (4096, 2)):
        box = slice(start, start + size)
        digest.update(ini.initialize(DISTRIBUTIONS[name], 2**40, seed=SEED, dtype=dtype, box=box).tobytes())
    found[f"{name} {dtype}"] = digest.hexdigest()
print(json.dumps(found))
"""
LANES_CASES = [
    *((name, "float32") for name in ("uniform", "normal", "asymmetric")),
    *(("normal", "float64"), ("truncated_2", "bfloat16"), ("uniform", "float8_e4m3fn")),
    *(("asymmetric", "bfloat16"), ("asymmetric", "float8_e5m2"), ("normal", "float8_e4m3fn")),
]


def test_lanes_never_change_a_value(tmp_path):
    runs = {}
    for lanes in (4, 8, 16, 32):
        folder = tmp_path / str(lanes)
        folder.mkdir()
        environment = {**os.environ, "INITIUM_LANES": str(lanes), "INITIUM_CACHE_DIR": str(folder)}
        command = [sys.executable, "-c", LANES_SCRIPT, str(Path(__file__).parent), json.dumps(LANES_CASES)]
        runs[lanes] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    found = {lanes: json.loads(run.communicate()[0]) for lanes, run in runs.items()}
    assert [values.pop("lanes") for values in found.values()] == [4, 8, 16, 32]
    assert len(found[4]) == len(set(found[4].values())) == len(LANES_CASES)
    assert found[4] == found[8] == found[16] == found[32]


@pytest.mark.parametrize("lanes", ["3", "0", "wide", ""])
def test_lanes_that_are_refused(lanes):
    environment = {**os.environ, "INITIUM_LANES": lanes}
    run = subprocess.run(
        [sys.executable, "-c", "import initium.kernels.cpu.jit"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert f"INITIUM_LANES={lanes!r}; expected " in run.stderr
