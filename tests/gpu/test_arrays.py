"""Arrays of CuPy, torch and JAX on a GPU: in place, in order, without waiting."""

import numpy as np
import pytest
from arrays import host
from cases import DISTRIBUTIONS, DTYPES, SEED, same_bits

import initium as ini
from initium.backends.by_gpu import run_by_gpu
from initium.memory import cuda
from initium.memory.arrays import destination_of
from initium.planning.jobs import job_of
from initium.regions import boxes

torch = pytest.importorskip("torch", reason="torch is not installed")
BUSY = 1 << 30  # cycles: more than half a second on any GPU of today


def draw(name, shape, /, **options):
    return ini.initialize(DISTRIBUTIONS[name], shape, **{"seed": SEED, "name": name, **options})


# --- torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_tensors_in_place(dtype):
    expected = draw("normal", (31, 64), dtype=dtype)
    for out in (
        torch.empty((31, 64), dtype=getattr(torch, dtype), device="cuda"),
        torch.empty((64, 31), dtype=getattr(torch, dtype), device="cuda").T,
        torch.empty((40, 80), dtype=getattr(torch, dtype), device="cuda")[3:34, 7:71],
    ):
        address = out.data_ptr()
        assert draw("normal", (31, 64), out=out) is out and out.data_ptr() == address
        assert same_bits(host(out), expected)


def test_a_torch_module():
    layer = torch.nn.Linear(300, 200, device="cuda", dtype=torch.bfloat16)
    ini.init_model(layer, {"bias": ini.zeros(), "weight": ini.he_normal()}, seed=1)
    expected = ini.init_model(
        {"weight": ((200, 300), "bfloat16"), "bias": (200,)},
        {"bias": ini.zeros(), "weight": ini.he_normal()},
        seed=1,
    ).weights
    assert same_bits(host(layer.weight), expected["weight"])
    assert not layer.bias.any()


def test_work_is_in_order_with_torchs_current_stream_and_nothing_waits():
    out = torch.empty(1 << 20, device="cuda")
    stream, done = torch.cuda.Stream(), torch.cuda.Event()
    # Kernels are loaded on first use, which may wait for the GPU.
    torch.cuda._sleep(1)
    out.fill_(1.0)
    draw("normal", 1 << 20, out=out)
    out.clone()
    done.record()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(BUSY)
        out.fill_(7.0)  # must come before the draw
        draw("normal", 1 << 20, out=out)
        after = out.clone()  # and this behind it
        done.record()
    assert not done.query(), "the call waited for the GPU"
    done.synchronize()
    assert same_bits(after.cpu().numpy(), draw("normal", 1 << 20))


def test_work_is_in_order_with_cupys_current_stream(cupy):
    out = cupy.empty(1 << 20, np.float32)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        out.fill(7)
        draw("uniform", 1 << 20, out=out)
        after = out * 2
        stream.synchronize()
    assert same_bits((after / 2).get(), draw("uniform", 1 << 20))


def test_no_weights_pass_through_the_host(cupy):
    copied = []

    class Watch(cupy.cuda.MemoryHook):
        name = "watch"

        def malloc_preprocess(self, device_id, size, mem_size):
            copied.append(size)

    with Watch():
        draw("uniform", 1 << 28, device="cuda")
    weights, table = copied  # the GPU's memory: weights, and a job table of one row
    assert weights == 4 << 28 and table < 1024


def test_refusals(cupy):
    tensor = torch.empty(1000, device="cuda")
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="out: the tensor's storage has been freed"):
        draw("normal", 1000, out=tensor)
    with pytest.raises(ValueError, match="destinations are on devices cpu, cuda"):
        ini.init_model({"a": torch.empty(3), "b": torch.empty(3, device="cuda")}, ini.Normal(), seed=1)
    with pytest.raises(ValueError, match="out: elements share memory"):
        draw("normal", (3, 4), out=torch.empty(4, device="cuda").expand(3, 4))
    count = cupy.cuda.runtime.getDeviceCount()
    with pytest.raises(ValueError, match=f"this machine has {count}"):
        draw("normal", 3, device=f"cuda:{count}")


def test_a_model_that_does_not_fit(cupy):
    total = cupy.cuda.runtime.memGetInfo()[1]
    specs = {f"layer.{i}": (total // 20, "float32") for i in range(10)}
    specs = {name: ((size,), dtype) for name, (size, dtype) in specs.items()}
    before = cupy.get_default_memory_pool().total_bytes()
    with pytest.raises(MemoryError, match=r"10 arrays of .* GiB do not fit on cuda:0"):
        ini.init_model(specs, ini.Normal(), seed=1, device="cuda")
    assert cupy.get_default_memory_pool().total_bytes() == before


def test_several_gpus_in_one_call(cupy):
    count = cupy.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip("there is one GPU")
    specs = {f"{i}": torch.empty(1000, device=f"cuda:{i % count}") for i in range(10)}
    ini.init_model(specs, ini.Normal(), seed=SEED)
    for name, tensor in specs.items():
        assert same_bits(tensor.cpu().numpy(), ini.normal(1000, seed=SEED, name=name))


# --- JAX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_jax_arrays_in_place(dtype):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX finds no GPU")
    out = jax.numpy.zeros((64, 31), dtype).block_until_ready()
    try:
        destination_of(out)
    except ValueError as error:
        pytest.skip(f"this JAX gives no writable memory: {error}")
    assert draw("normal", (64, 31), out=out) is out
    assert same_bits(np.asarray(out).astype(out.dtype), draw("normal", (64, 31), dtype=dtype))
    out.delete()
    with pytest.raises(ValueError, match="out: "):
        draw("normal", (64, 31), out=out)


# --- host memory, matrices, patterns ------------------------------------------------------------------------


def test_run_by_gpu():
    jobs, expected = [], []
    for i, (name, dtype) in enumerate((name, dtype) for name in DISTRIBUTIONS for dtype in DTYPES):
        box = boxes.box_of((50_000,), slice(i, 40_000 - i))
        memory = np.zeros(box.shape, draw("normal", 1, dtype=dtype).dtype)
        jobs.append(job_of(name, DISTRIBUTIONS[name].resolve((50_000,)), box, destination_of(memory)))
        expected.append(draw(name, 50_000, dtype=dtype)[i : 40_000 - i])
    run_by_gpu(jobs, SEED)
    assert all(same_bits(job.destination.owner, right) for job, right in zip(jobs, expected, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(200, 200), (300, 100), (64, 500)])
def test_orthogonal_matrices_equal_those_of_the_cpu(shape, dtype):
    made = host(ini.orthogonal(shape, seed=SEED, device="cuda", dtype=dtype)).astype(np.float64)
    expected = ini.orthogonal(shape, seed=SEED, dtype=dtype).astype(np.float64)
    np.testing.assert_allclose(made, expected, rtol=0, atol=8e-3 if dtype == "bfloat16" else 1e-5)


def test_patterns_equal_those_of_the_cpu():
    for dtype in DTYPES:
        made = ini.initialize(ini.Identity(), (30, 40), seed=1, dtype=dtype, device="cuda")
        assert same_bits(host(made), ini.initialize(ini.Identity(), (30, 40), seed=1, dtype=dtype))


def test_the_current_device_and_stream_are_left_alone(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    try:
        stream.use()
        before = cupy.cuda.Device().id, stream.ptr
        draw("normal", 10, device=f"cuda:{cuda.cupy().cuda.runtime.getDeviceCount() - 1}")
        draw("normal", 10, out=torch.empty(10, device="cuda"))
        assert (cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr) == before
    finally:
        cupy.cuda.Stream.null.use()
