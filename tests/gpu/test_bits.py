"""The GPU's bits are the CPU's."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from arrays import host
from cases import DISTRIBUTIONS, DTYPES, SEED, same_bits
from golden import write
from test_golden import GOLDEN

import initium as ini
from initium import dtypes
from initium.backends import cuda as backend
from initium.kernels.cuda import source
from initium.memory import cuda
from initium.models.built_in import built_in

every_case = pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in DISTRIBUTIONS for dtype in DTYPES]
)


def draw(name, shape, /, **options):
    return ini.initialize(DISTRIBUTIONS[name], shape, **{"seed": SEED, "name": name, **options})


def check(name, shape, /, **options):
    __tracebackhide__ = True
    made, expected = host(draw(name, shape, device="cuda", **options)), draw(name, shape, **options)
    if not same_bits(made, expected):
        differ = np.flatnonzero(made.view(f"u{made.itemsize}") != expected.view(f"u{made.itemsize}"))
        pytest.fail(f"bits differ: {name}, {shape}, {options}: {differ.size}, first at {differ[:5]}")


@every_case
def test_sizes_and_starts(name, dtype):
    for size, start in ((1, 0), (3, 5), (17, 2), (1001, 4), (70_000, 1), (1 << 20, 0)):
        check(name, (1 << 21,), dtype=dtype, box=slice(start, start + size))


@every_case
@pytest.mark.parametrize("border", [2**32, 2**34, 2**35, 2**61])
def test_indices_past_32_bits(name, dtype, border):
    check(name, (2**62,), dtype=dtype, box=slice(border - 5003, border + 7001))


BOXES = [
    ((400, 370), (slice(3, 390, 2), slice(1, 360))),
    ((400, 640), (slice(None), slice(160, 480))),
    ((400, 640), (slice(None, None, -3), slice(None, None, -1))),
    ((5, 6, 70, 9), (slice(None, None, 2), slice(1, 5), slice(None, None, 3), slice(2, 8))),
    ((3, 4, 5, 2, 60), (slice(None, None, 2), slice(1, 4), slice(None, None, 2), ..., slice(1, 59, 2))),
    ((3, 1 << 31, 5), (slice(None), slice(2**31 - 300, 2**31), slice(None))),
]


@pytest.mark.parametrize("start", [0, 3, 2**34 - 5003, 2**64 - 2, 2**66 - 1_000_003])
def test_words(start):
    made = ini.bits(1_000_003, seed=SEED, name="w", start=start, device="cuda")
    assert same_bits(made.get(), ini.bits(1_000_003, seed=SEED, name="w", start=start))


@every_case
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_boxes(name, dtype, shape, box):
    check(name, shape, dtype=dtype, box=box)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_of_out(dtype):
    shape, expected = (6, 5, 32), draw("normal", (6, 5, 32), dtype=dtype)
    for whole, view in (
        ((12, 5, 64), lambda a: a[::2, :, 3:35]),
        ((12, 5, 64), lambda a: a[11:5:-1, ::-1, 33:1:-1]),
        ((5, 32, 6), lambda a: a.transpose(2, 0, 1)),
        ((970,), lambda a: a[7:967].reshape(6, 5, 32)),
    ):
        memory = cuda.allocate([(whole, dtypes.lookup(dtype))], "cuda:0")[0].owner
        patterns = memory.view(f"u{memory.itemsize}")
        patterns[...] = 0xA5
        draw("normal", shape, out=view(memory))
        assert same_bits(host(view(memory)), expected)
        untouched = np.ones(whole, bool)
        view(untouched)[...] = False
        assert (patterns.get()[untouched] == 0xA5).all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_many_values(name):
    check(name, 1 << 24)
    check(name, 1 << 24, dtype="bfloat16")


@every_case
def test_golden_values(name, dtype):
    for part in write.PARTS:
        shape, box = write.PARTS[part]
        options = {"name": f"golden.{name}", "dtype": dtype, "box": box}
        made = host(draw(name, shape, device="cuda", **options))
        assert write.summary(made) == GOLDEN["values"][name][dtype][part]


def test_a_whole_llama(cupy):
    model = built_in("llama-3-8b").with_dtype("bfloat16")
    rules = {"*norm*": ini.ones(), "*embed*": ini.Normal(0, 0.02), "*": ini.TruncatedNormal(0, 0.02, -3, 3)}
    specs = {tensor.name: tensor for tensor in model.tensors}
    made = ini.init_model(specs, rules, seed=SEED, device="cuda").weights
    buffer = np.empty(max(tensor.size for tensor in model.tensors), dtypes.lookup("bfloat16").numpy)
    for name, tensor in specs.items():
        # One tensor at a time on the CPU: the whole model need not fit there.
        expected = buffer[: tensor.size].reshape(tensor.shape)
        ini.init_model({name: expected}, _rule(rules, name), seed=SEED)
        difference = made[name].view(np.uint16) != cupy.asarray(expected.view(np.uint16))
        assert not bool(difference.any()), name


def _rule(rules, name):
    return next(rule for pattern, rule in rules.items() if pattern.strip("*") in name)


# --- the machine's arithmetic -------------------------------------------------------------------------------

CHECKS = r"""
// All floats with exponents in [-40, 40]: thread i takes mantissa i of each binade.
extern "C" __global__ void check_steps(unsigned long long* wrong) {
  const unsigned mantissa = blockIdx.x * blockDim.x + threadIdx.x;
  if (mantissa >= 1u << 23) return;
  for (unsigned exponent = 127 - 40; exponent <= 127 + 40; ++exponent) {
    const float a = __uint_as_float(exponent << 23 | mantissa);
    if (reciprocal(a) != __frcp_rn(a)) atomicAdd(wrong, 1ull);
    if (square_root(a) != __fsqrt_rn(a)) atomicAdd(wrong + 1, 1ull);
    const float b = __uint_as_float((exponent ^ 3) << 23 | (mantissa * 2654435761u >> 9));
    if (divide(a, b) != __fdiv_rn(a, b)) atomicAdd(wrong + 2, 1ull);
    if (seed::reciprocal(a) != __frcp_rn(a)) atomicAdd(wrong + 3, 1ull);
  }
}
"""


def test_steps_from_the_machines_own_seeds(cupy):
    options = source.options("normal", "float32")
    module = cupy.RawModule(code=source.source() + CHECKS, options=options)
    wrong = cupy.zeros(4, np.uint64)
    module.get_function("check_steps")(((1 << 23) // 256,), (256,), (wrong,))
    reciprocals, roots, quotients, seeds = wrong.get().tolist()
    assert (reciprocals, roots, quotients) == (0, 0, 0)
    assert seeds > 10**6  # the control: the seeds alone are often wrong


@pytest.mark.parametrize("dtype", source.ROUNDED)
def test_rounding_of_all_sorts_of_floats(cupy, dtype):
    narrow = dtypes.lookup(dtype).numpy
    rng = np.random.default_rng(5)
    patterns = (
        np.arange(1 << (8 * narrow.itemsize)).astype(f"u{narrow.itemsize}").view(narrow).astype(np.float32)
    )
    held = np.sort(patterns[np.isfinite(patterns)])
    middles = held[:-1] + (held[1:] - held[:-1]) / np.float32(2)
    random = rng.integers(0, 1 << 32, 1 << 24, dtype=np.uint32).view(np.float32)
    values = np.concatenate(
        [held, middles, np.nextafter(middles, -np.inf), np.nextafter(middles, np.inf), random]
    )
    values = values[np.isfinite(values) & (np.abs(values) <= dtypes.lookup(dtype).max)]
    (out,) = cuda.allocate([((values.size,), dtypes.lookup(dtype))], "cuda:0")
    backend._write_here(cupy.asarray(values), out)
    assert same_bits(host(out.owner), values.astype(narrow))


# --- cuRAND -------------------------------------------------------------------------------------------------

CURAND = r"""
#include <curand_kernel.h>
extern "C" __global__ void words(unsigned* to, unsigned long long seed, unsigned long long stream,
                                 unsigned long long start, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  curandStatePhilox4_32_10_t state;
  curand_init(seed, stream, start + i, &state);
  to[i] = curand(&state);
}
"""


def _curand_headers():
    found = importlib.util.find_spec("nvidia")
    roots = [Path(path) for path in (found.submodule_search_locations or [])] if found else []
    roots += [Path("/usr/local/cuda")]
    return next((path.parent for root in roots for path in root.rglob("curand_kernel.h")), None)


@pytest.mark.parametrize("start", [0, 3, 2**32 - 7, 2**34 + 5])
def test_words_are_those_of_curand(cupy, start):
    headers = _curand_headers()
    if headers is None:
        pytest.skip("cuRAND's headers are not installed")
    module = cupy.RawModule(code=CURAND, options=("-std=c++17", f"-I{headers}"))
    words = cupy.empty(1000, np.uint32)
    arguments = (words, np.uint64(SEED), np.uint64(ini.stream_id("w")), np.uint64(start), np.int32(1000))
    module.get_function("words")((8,), (128,), arguments)
    assert same_bits(words.get(), ini.bits(1000, seed=SEED, name="w", start=start))
    assert same_bits(words.get(), ini.bits(1000, seed=SEED, name="w", start=start, device="cuda").get())
