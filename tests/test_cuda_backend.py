"""What the GPU backend asks of CuPy: job tables, launches, devices, streams, memory, refusals."""

import builtins
import sys
from types import SimpleNamespace

import cuda_shim
import ml_dtypes
import numpy as np
import pytest
from cases import DISTRIBUTIONS, DTYPES, SEED, same_bits
from fake_cupy import MULTIPROCESSORS, CUDARuntimeError, FakeCupy, InterfaceArray, JaxArray, TorchTensor

import initium as ini
from initium import dtypes
from initium.backends import cuda as backend
from initium.backends.by_gpu import run_by_gpu
from initium.backends.run import draw_gaussians
from initium.kernels import table as T
from initium.kernels.cuda import source
from initium.memory import cuda
from initium.memory.arrays import destination_of
from initium.planning.jobs import job_of
from initium.planning.matrices import GaussianDraw, matrix_jobs
from initium.regions import boxes
from initium.regions.boxes import box_of

CACHES = (cuda.cupy, cuda._check_capability, backend._kernel, backend._multiprocessors)


@pytest.fixture
def gpu(monkeypatch):
    """Return a fake CuPy with two GPUs; torch's current streams are 0x20 and 0x21 there."""
    cuda_shim.library()
    fake = FakeCupy()
    install(monkeypatch, fake)

    def increment_version(tensor):
        tensor.version += 1

    torch = SimpleNamespace(
        cuda=SimpleNamespace(current_stream=lambda i: SimpleNamespace(cuda_stream=0x20 + i)),
        autograd=SimpleNamespace(graph=SimpleNamespace(increment_version=increment_version)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    yield fake
    for cache in CACHES:
        cache.cache_clear()


def install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "cupy", module)
    for cache in CACHES:
        cache.cache_clear()


def on_cpu(name, shape, /, **options):
    return ini.initialize(DISTRIBUTIONS[name], shape, **{"seed": SEED, "name": name, **options})


def on_gpu(name, shape, /, **options):
    return on_cpu(name, shape, **{"device": "cuda", **options})


# --- values and launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_are_those_of_the_cpu(gpu, name, dtype):
    made = on_gpu(name, (31, 1000), dtype=dtype)
    assert type(made).__module__ == "cupy" and made.device.id == 0
    assert same_bits(made.host, on_cpu(name, (31, 1000), dtype=dtype))
    assert len(gpu.launches()) == 1


def test_one_launch_per_kind_and_output(gpu):
    specs = {
        f"{name}/{dtype}/{i}": ((i, 7), dtype) for name in DISTRIBUTIONS for dtype in DTYPES for i in range(5)
    }
    rules = [(f"{name}/*", initializer) for name, initializer in DISTRIBUTIONS.items()]
    report = ini.init_model(specs, rules, seed=SEED, device="cuda:1")
    launches = gpu.launches()
    assert len(launches) == len(set(launches))
    kernels = {f"{kind}_{output}" for kind, output in source.ENTRIES if kind != T.WORDS}
    assert {name for name, *_ in launches} == kernels
    assert {device for _, device, _ in launches} == {1}
    expected = ini.init_model(specs, rules, seed=SEED).weights
    assert all(same_bits(made.host, expected[name]) for name, made in report.weights.items())


def test_words_are_those_of_the_cpu(gpu):
    made = ini.bits(1001, seed=SEED, name="w", start=7, device="cuda:1")
    assert gpu.launches() == [("words_bits32", 1, 0x11)]
    assert same_bits(made.host, ini.bits(1001, seed=SEED, name="w", start=7))


def test_kernels_are_compiled_once_for_each_device(gpu):
    for device in ("cuda:0", "cuda:0", "cuda:1", "cuda:1"):
        on_gpu("normal", 10, device=device)
    assert gpu.kernels == [(source.options("normal", "float32"), device) for device in (0, 1)]


def test_nothing_waits_and_no_weights_are_copied(gpu):
    on_gpu("normal", 1 << 18)
    allocate, copy, launch = gpu.calls
    assert allocate == ("allocate", 4 << 18, 0)
    assert copy == ("copy", T.JOB.itemsize, 0, 0x10)  # one row of the job table
    tiles = (1 << 18) // 4 // source.THREADS
    assert launch == ("launch", "fill_normal_float32", min(tiles, 3 * MULTIPROCESSORS), 0, 0x10)


@pytest.mark.parametrize(
    ("size", "groups"), [(1, 1), (4 * source.THREADS, 1), (5 * source.THREADS, 2), (1 << 20, 12)]
)
def test_grids_fit_device_and_work(gpu, size, groups):
    on_gpu("uniform", size)
    assert gpu.calls[-1] == ("launch", "fill_uniform_float32", groups, 0, 0x10)


@pytest.mark.parametrize(("tiles", "span"), [(1, 1), (12 * 8, 1), (12 * 24, 3), (10**6, 64)])
def test_spans(gpu, tiles, span, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "launch", lambda name, grid, block, arguments: seen.append(int(arguments[3])))
    monkeypatch.setattr(source, "number_tiles", lambda rows, output: (rows, tiles))
    on_gpu("uniform", 10)
    assert seen == [span]


def test_progress_and_threads(gpu):
    seen = []
    ini.init_model(
        {"a": (40_000,)}, ini.Normal(), seed=1, device="cuda", progress=lambda *units: seen.append(units)
    )
    assert seen[-1] == (2, 2)
    with pytest.raises(ValueError, match="threads=0"):
        on_gpu("normal", 3, threads=0)


# --- arrays of other libraries ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_torch_tensors_in_place_on_their_current_stream(gpu, dtype):
    expected = on_cpu("normal", (5, 300), dtype=dtype)
    for tensor in (TorchTensor(np.zeros_like(expected), 1), TorchTensor(np.zeros_like(expected.T), 1)):
        out = tensor if tensor.shape == (5, 300) else TorchTensor(tensor.host.T, 1)
        assert on_gpu("normal", (5, 300), out=out) is out
        assert same_bits(np.ascontiguousarray(out.host), expected)
        assert gpu.launches() == [(f"normal_{dtype}", 1, 0x21)]
        assert out.version == 1
    assert ("wait", 0x21) not in gpu.calls


def test_cupy_arrays_in_place_on_the_current_stream(gpu):
    out = gpu.ndarray((7, 9), np.float32)[::2, ::-1]
    gpu.current[0] = 0x20
    assert on_gpu("uniform", (4, 9), out=out) is out
    assert same_bits(np.ascontiguousarray(out.host), on_cpu("uniform", (4, 9)))
    assert gpu.launches() == [("uniform_float32", 0, 0x20)]
    assert gpu.current == {0: 0x20, 1: 0x11}


def test_the_users_current_streams_stay_current(gpu, monkeypatch):
    tensor = TorchTensor(np.zeros(10, np.float32), 1)
    on_gpu("normal", 10, out=tensor)
    assert gpu.launches() == [("normal_float32", 1, 0x21)]
    assert (gpu.device, gpu.current) == (0, {0: 0x10, 1: 0x11})

    def fails(*arguments):
        raise CUDARuntimeError("cudaErrorUnknown")

    monkeypatch.setattr(gpu, "launch", fails)
    with pytest.raises(CUDARuntimeError):
        on_gpu("normal", 10, out=tensor)
    assert (gpu.device, gpu.current) == (0, {0: 0x10, 1: 0x11})


def test_arrays_of_dlpack_wait_for_their_library_and_the_host_waits_for_them(gpu):
    out = JaxArray(np.zeros(100, ml_dtypes.bfloat16), 1)
    assert on_gpu("uniform", 100, out=out) is out
    assert same_bits(out.host, on_cpu("uniform", 100, dtype="bfloat16"))
    what = [call[0] for call in gpu.calls]
    assert what[-4:] == ["join", "copy", "launch", "wait"]
    assert gpu.calls[-1] == ("wait", 0x11)


@pytest.mark.parametrize(("stream", "used"), [(None, 0x11), (1, 1), (2, 2), (0x21, 0x21)])
def test_arrays_of_the_cuda_array_interface(gpu, stream, used):
    out = InterfaceArray(np.zeros((6, 50), np.float64), stream)
    on_gpu("normal", (6, 50), out=out)
    assert same_bits(out.host, on_cpu("normal", (6, 50), dtype="float64"))
    assert gpu.launches() == [("bounded_normal_float64", 1, used)]
    strided = InterfaceArray(np.zeros((6, 100))[:, ::2], stream)
    on_gpu("normal", (6, 50), out=strided)
    assert same_bits(np.ascontiguousarray(strided.host), out.host)


def test_devices_and_streams_of_one_call_are_grouped(gpu):
    made = {
        "torch.0": TorchTensor(np.zeros(10, np.float32), 0),
        "torch.1": TorchTensor(np.zeros(10, np.float32), 1),
        "cupy.0": gpu.ndarray(10, np.float32),
        "torch.0.more": TorchTensor(np.zeros(10, np.float32), 0),
        "interface.1": InterfaceArray(np.zeros(10, np.float32), 0x21),
    }
    report = ini.init_model(made, ini.Normal(), seed=SEED)
    assert gpu.launches() == [
        ("normal_float32", 0, 0x20),
        ("normal_float32", 1, 0x21),
        ("normal_float32", 0, 0x10),
    ]
    for name, array in report.weights.items():
        assert array is made[name]
        assert same_bits(array.host, on_cpu("normal", 10, name=name))


def test_tied_weights_are_filled_once(gpu):
    host = np.zeros(10, np.float32)
    report = ini.init_model({"a": TorchTensor(host), "b": TorchTensor(host)}, ini.Normal(), seed=SEED)
    assert report.parameters[1].distribution == "tied to a"
    assert same_bits(host, on_cpu("normal", 10, name="a"))


def test_empty_arrays(gpu):
    for out in (TorchTensor(np.zeros((0, 3), np.float32)), gpu.ndarray((0, 3), np.float32)):
        on_gpu("normal", (0, 3), out=out)
    on_gpu("normal", (0, 3), out=InterfaceArray(np.zeros((0, 3), np.float32), data=(0, False)))
    assert gpu.launches() == []


# --- orthogonal matrices and patterns -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_host_arrays_are_written_to_any_layout(gpu, dtype):
    (out,) = cuda.allocate([((8, 5), dtypes.lookup(dtype))], "cuda:0")
    values = on_cpu("normal", (5, 8), dtype="float64" if dtype == "float64" else "float32")
    backend.BACKEND.write(values, out._replace(shape=(5, 8), byte_steps=out.byte_steps[::-1]))
    array = out.owner
    assert same_bits(np.ascontiguousarray(array.host.T), values.astype(array.dtype))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_arrays_are_rounded_on_the_gpu(gpu, dtype, size):
    values = gpu.asarray(on_cpu("normal", size, dtype="float64" if dtype == "float64" else "float32"))
    (out,) = cuda.allocate([((size,), dtypes.lookup(dtype))], "cuda:0")
    backend._write_here(values, out)
    assert same_bits(out.owner.host, values.host.astype(out.owner.dtype))
    narrow = dtype in source.ROUNDED
    assert gpu.launches() == ([(f"round_{dtype}", 0, 0x10)] if narrow else [])


def test_gaussians_of_orthogonal_matrices_are_drawn_on_the_gpu(gpu):
    arrays = [gpu.ndarray(12, np.float32), gpu.ndarray(6, np.float32)]
    whole = boxes.box_of((18,), None)
    parts = [boxes.box_of((18,), slice(0, 12)), boxes.box_of((18,), slice(12, 18))]
    assert whole.size == sum(part.size for part in parts)
    fill = ini.Orthogonal().resolve((3, 6))
    whole_matrix = job_of("normal", fill, box_of((3, 6)), destination_of(gpu.ndarray((3, 6), np.float32)))
    (job,) = matrix_jobs(whole_matrix, fill)
    draws = (GaussianDraw(job, part, array) for part, array in zip(parts, arrays, strict=True))
    draw_gaussians(backend.BACKEND, SEED, draws)
    made = np.concatenate([array.host for array in arrays])
    assert same_bits(made, on_cpu("normal", 18))


# --- memory -------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_fails_before_anything_is_drawn(gpu):
    gpu.free = 2 << 30
    specs = {f"layer.{i}": ((1 << 14, 1 << 14), "bfloat16") for i in range(6)}
    with pytest.raises(
        MemoryError, match=r"6 arrays of 3\.00 GiB .* cuda:0: 2\.00 GiB of 8\.00 GiB are free"
    ):
        ini.init_model(specs, ini.Normal(), seed=1, device="cuda")
    assert gpu.calls == []


def test_what_the_pool_holds_counts_as_free(gpu):
    gpu.free = 0
    on_gpu("normal", 1 << 18)
    with pytest.raises(MemoryError, match=r"1 arrays of 0\.00 GiB"):
        on_gpu("normal", (1 << 18) + 1)


def test_a_pool_that_cannot_give_the_memory(gpu, monkeypatch):
    def full(nbytes):
        raise gpu.cuda.memory.OutOfMemoryError("Out of memory allocating 40 bytes")

    monkeypatch.setattr(gpu.cuda, "alloc", full)
    with pytest.raises(MemoryError, match="do not fit on cuda:0: Out of memory allocating 40 bytes"):
        on_gpu("normal", 10)


def test_run_by_gpu(gpu):
    rng = np.random.default_rng(3)
    jobs, expected = [], []
    for i in range(40):
        name, dtype = list(DISTRIBUTIONS)[i % len(DISTRIBUTIONS)], DTYPES[i % len(DTYPES)]
        start, count = int(rng.integers(0, 50)), int(rng.integers(0, 3000))
        box = boxes.box_of((5000,), slice(start, start + count))
        memory = np.zeros(2 * count, on_cpu(name, 1, dtype=dtype).dtype)
        out = memory[::2] if i % 3 else memory[:count]
        jobs.append(job_of(name, DISTRIBUTIONS[name].resolve((5000,)), box, destination_of(out)))
        expected.append(on_cpu(name, 5000, dtype=dtype)[start : start + count])
    cuda_shim.stores()
    run_by_gpu(jobs, SEED, "cuda:1")
    stores = cuda_shim.stores()
    assert stores.wide > 5 * stores.narrow and not stores.misaligned
    assert all(
        same_bits(np.ascontiguousarray(job.destination.owner), right)
        for job, right in zip(jobs, expected, strict=True)
    )
    assert gpu.calls[-2][0] == "to host" and gpu.calls[-1][0] == "wait"
    assert {call[3] for call in gpu.calls if call[0] == "launch"} == {1}
    gpu.calls.clear()
    run_by_gpu([], SEED)
    assert gpu.calls == []


# --- refusals -----------------------------------------------------------------------------------------------


def test_a_gpu_that_is_too_old(gpu):
    gpu.capability = "75"
    expected = r"cuda:0 has compute capability 7\.5; expected 8\.0"
    with pytest.raises(RuntimeError, match=expected):
        on_gpu("normal", 10)
    with pytest.raises(RuntimeError, match=expected):
        on_gpu("normal", 10, out=TorchTensor(np.zeros(10, np.float32), 0), device=None)
    assert gpu.calls == []


def test_cupy_itself_takes_float8_with_memory_only():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(4096, 64, None, 0), 0)
    for dtype in DTYPES:
        numpy = dtypes.lookup(dtype).numpy
        if "float8" in dtype:  # as the stand-in does
            with pytest.raises(ValueError, match="Unsupported dtype"):
                cupy.ndarray((3, 2), numpy)
        made = cupy.ndarray((3, 2), numpy, memory)
        assert (made.dtype, made.strides) == (numpy, (2 * numpy.itemsize, numpy.itemsize))
        assert made.view(f"u{numpy.itemsize}")[1:].data.ptr == 4096 + 2 * numpy.itemsize


def test_freed_memory(gpu):
    with pytest.raises(ValueError, match="out: the tensor's storage has been freed or cut to 0 bytes"):
        on_gpu("normal", 10, out=TorchTensor(np.zeros(10, np.float32), storage=0))
    array = InterfaceArray(np.zeros(10, np.float32))
    gpu.freed.add(array.host.ctypes.data)
    with pytest.raises(
        ValueError, match=r"out: address 0x[0-9a-f]+ is not GPU memory; expected an array that was not freed"
    ):
        on_gpu("normal", 10, out=array)
    array = JaxArray(np.zeros(10, np.float32))
    array.fault = RuntimeError("Array has been deleted.")
    with pytest.raises(
        ValueError, match="out: the JaxArray does not export its memory: Array has been deleted"
    ):
        on_gpu("normal", 10, out=array)
    array.unplaced = TypeError("object of type 'NoneType' has no len()")  # what JAX says of a deleted array
    with pytest.raises(ValueError, match="out: the JaxArray does not state its device: object of type"):
        on_gpu("normal", 10, out=array)
    with pytest.raises(ValueError, match=r"params\['w'\]: the JaxArray does not state its device"):
        ini.init_model({"w": array}, ini.Normal(), seed=1)
    with pytest.raises(ValueError, match=r"params\['w'\]: the tensor's storage has been freed"):
        ini.init_model({"w": TorchTensor(np.zeros(3, np.float32), storage=0)}, ini.Normal(), seed=1)
    assert gpu.launches() == []


def test_read_only_and_masked_arrays(gpu):
    for array, words in (
        (InterfaceArray(np.zeros(10, np.float32), read_only=True), "the array is read-only"),
        (
            InterfaceArray(np.zeros(10, np.float32), mask=InterfaceArray(np.zeros(10, bool))),
            "the array is masked",
        ),
    ):
        with pytest.raises(ValueError, match=f"out: {words}"):
            on_gpu("normal", 10, out=array)


def test_streams_of_another_device(gpu):
    array = InterfaceArray(np.zeros(10, np.float32), stream=0x20)
    with pytest.raises(ValueError, match="stream 0x20 of an array on cuda:1 belongs to another device"):
        on_gpu("normal", 10, out=array)
    assert not array.host.any() and gpu.launches() == []


def test_misaligned_and_overlapping_arrays(gpu):
    memory = np.zeros(100, np.uint8)
    odd = np.ndarray(10, np.float32, memory.data, -memory.ctypes.data % 4 + 1)
    with pytest.raises(ValueError, match=r"out: elements of 4 bytes have address .* expected multiples of 4"):
        on_gpu("normal", 10, out=InterfaceArray(odd))
    same = InterfaceArray(np.zeros(10, np.float32), strides=(0,))
    with pytest.raises(ValueError, match="out: elements share memory"):
        on_gpu("normal", 10, out=same)


def test_dtypes_that_are_not_known(gpu):
    with pytest.raises(ValueError, match=r"out: dtype=.*int32"):
        on_gpu("normal", 10, out=InterfaceArray(np.zeros(10, np.int32)))


def test_arrays_of_other_devices(gpu):
    with pytest.raises(ValueError, match="destinations are on devices cpu, cuda in one call"):
        ini.init_model(
            {"a": np.zeros(3, np.float32), "b": TorchTensor(np.zeros(3, np.float32))}, ini.Normal(), seed=1
        )
    with pytest.raises(ValueError, match="backend='numba' fills memory of cpu; the destination is on cuda"):
        on_gpu("normal", 10, backend="numba")
    with pytest.raises(ValueError, match="backend='cuda' fills memory of cuda; the destination is on cpu"):
        on_cpu("normal", 10, backend="cuda")


@pytest.mark.parametrize("device", ["cuda:2", "cuda:99"])
def test_devices_that_do_not_exist(gpu, device):
    with pytest.raises(
        ValueError, match=f"device='{device}' does not exist; this machine has 2 GPUs; 'cuda:0' is the first"
    ):
        on_gpu("normal", 10, device=device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "tpu", 0])
def test_devices_that_are_no_names(gpu, device):
    with pytest.raises(ValueError, match=r"device=.* is unknown; expected 'cpu', 'cuda' or 'cuda:N'"):
        on_gpu("normal", 10, device=device)


# --- without CuPy, without a driver -------------------------------------------------------------------------


def test_cupy_is_missing(monkeypatch):
    install(monkeypatch, None)
    with pytest.raises(ImportError, match=r"device='cuda' needs CuPy .*pip install 'initium\[cuda13\]'"):
        ini.normal(3, seed=1, device="cuda")
    with pytest.raises(ImportError, match="needs CuPy"):
        ini.init_model({"a": (3,)}, ini.Normal(), seed=1, device="cuda:0")
    assert same_bits(ini.normal(3, seed=1), ini.normal(3, seed=1, backend="numpy"))
    cuda.cupy.cache_clear()


def test_the_driver_is_missing(monkeypatch):
    install(
        monkeypatch,
        FakeCupy(devices=CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")),
    )
    with pytest.raises(RuntimeError, match=r"finds no NVIDIA driver .*cudaErrorNoDevice.* nvidia-smi"):
        ini.normal(3, seed=1, device="cuda")
    install(monkeypatch, FakeCupy(devices=0))
    with pytest.raises(RuntimeError, match="finds no NVIDIA GPU"):
        ini.normal(3, seed=1, device="cuda")
    cuda.cupy.cache_clear()


def test_the_real_cupy_without_a_driver():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        count = 0
    if count:
        pytest.skip("there is a GPU: tests/gpu shows what it does")
    cuda.cupy.cache_clear()
    with pytest.raises(RuntimeError, match="finds no NVIDIA"):
        ini.normal(3, seed=1, device="cuda")


def test_the_cpu_asks_for_no_cupy(monkeypatch):
    asked = []
    real = builtins.__import__

    def watch(name, *rest):
        asked.append(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watch)
    ini.init_model({"a": (3, 4)}, ini.Normal(), seed=1)
    assert not any(name.partition(".")[0] == "cupy" for name in asked)
