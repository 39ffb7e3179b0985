"""Orthogonal weights: how orthogonal, which values, slices, layouts, dtypes, the family, bad input."""

import itertools
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import initium as ini
from initium import backends, dtypes
from initium.backends import orthogonal_arrays, threads
from initium.backends import orthogonal_numba as driver
from initium.backends.run import draw_gaussians, run
from initium.fills.orthogonal import OrthogonalFill
from initium.kernels.cpu import orthogonal as kernel
from initium.kernels.reference.orthogonal import by_householder, by_qr
from initium.memory.arrays import destination_of
from initium.memory.destination import write_host
from initium.planning.jobs import job_of
from initium.planning.plan import plan
from initium.regions.boxes import Box, box_of

SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (16, 16), (20, 48), (65, 65), (193, 193), (700, 200), (200, 700)]
CLOSE = 1e-5  # what slices, threads and backends may differ by, times the gain


def draw(shape, seed=3, name="w", **more):
    return ini.orthogonal(shape, seed=seed, name=name, **more)


def deviation(q, gain=1.0):
    """The largest deviation of Q'Q (or QQ') from the identity."""
    q = np.asarray(q, np.float64) / gain
    gram = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
    return np.abs(gram - np.eye(len(gram))).max()


# --- orthogonal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype, limit", [("float32", 2e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("shape", [*SHAPES, (1024, 1024), (2000, 30), (30, 2000)])
def test_orthogonal(shape, dtype, limit, method):
    assert deviation(draw(shape, dtype=dtype, method=method)) <= limit
    assert deviation(draw(shape, gain=-3.5, dtype=dtype, method=method), -3.5) <= limit


@pytest.mark.slow
@pytest.mark.parametrize("dtype, limit", [("float32", 2e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("shape", [(4096, 4096), (512, 4096)])
def test_large_ones_are_orthogonal(shape, dtype, limit):
    q = draw(shape, dtype=dtype)
    assert deviation(q) <= limit


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (3, 0, 2)])
def test_no_rows_or_columns(shape):
    assert draw(shape).shape == shape


@pytest.mark.parametrize("method", ["householder", "qr"])
def test_one_value_is_the_gain_exactly(method):
    assert abs(draw((1, 1), gain=0.7, method=method)) == np.float32(0.7)


def test_gain_zero():
    assert not draw((70, 60), gain=0.0).any()


# --- which values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("dtype, limit", [("float32", CLOSE), ("float64", 1e-13)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_agrees(shape, dtype, limit, method):
    wanted = draw(shape, dtype=dtype, method=method, backend="numpy")
    assert np.abs(draw(shape, dtype=dtype, method=method) - wanted).max() <= limit


def test_values_are_made_of_the_normal_tensor():
    gaussians = ini.normal((30, 50), seed=3, name="w", dtype="float64")
    upper = np.triu(gaussians)  # reflectors take nothing else
    for dtype, limit in (("float64", 1e-13),):
        assert np.abs(draw((50, 30), dtype=dtype) - by_householder(upper)).max() <= limit
        assert np.abs(draw((50, 30), dtype=dtype, method="qr") - by_qr(gaussians)).max() <= limit
    single = ini.normal((30, 50), seed=3, name="w")
    assert np.abs(draw((50, 30)) - by_householder(np.triu(single))).max() <= CLOSE
    assert np.abs(draw((50, 30), dtype="bfloat16").astype("f4") - draw((50, 30))).max() <= 2**-8


def test_reflectors_of_a_qr_give_its_q():
    """Gaussians that are the columns which Householder's QR meets make the Q of that QR."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((9, 6))
    vectors, left = np.zeros((6, 9)), a.copy()
    for k in range(6):
        x = left[k:, k].copy()
        vectors[k, k:] = x
        sign = -1.0 if x[0] >= 0 else 1.0
        x[0] -= sign * np.linalg.norm(x)
        left[k:] -= np.outer(x, 2 / (x @ x) * (x @ left[k:]))
    assert np.abs(by_householder(vectors) - by_qr(a.T)).max() < 1e-14


def test_a_zero_vector_makes_an_orthogonal_matrix_too():
    """Where peers' sign(0) makes a zero column."""
    gaussians = np.random.default_rng(0).standard_normal((4, 70)).astype("f4")
    gaussians[2] = 0
    wanted = by_householder(gaussians)
    assert deviation(wanted) < 1e-14
    few = kernel.small(gaussians[None].copy())[0]
    made = kernel.panel(0, gaussians.copy())
    many = kernel.columns_of_q([made], 70, np.arange(4)) * made.signs
    for q in (few, many):
        assert np.abs(q - wanted).max() < CLOSE


@pytest.mark.parametrize("shape", [(20, 48), (200, 700), (300, 300)])
def test_a_transposed_weight_is_transposed(shape):
    twin = draw(shape[::-1], layout="in_out")
    assert np.abs(draw(shape).T - twin).max() <= CLOSE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("shape", [(30, 20), (300, 200)])
def test_narrow_dtypes_are_float32_rounded_once(shape, dtype):
    wide, narrow = draw(shape, gain=2.0), draw(shape, gain=2.0, dtype=dtype)
    assert narrow.dtype == dtypes.lookup(dtype).numpy
    assert np.array_equal(narrow, wide.astype(narrow.dtype))


def test_streams_and_seeds_differ():
    q = draw((40, 40))
    assert np.abs(q - draw((40, 40), name="v")).max() > 0.1
    assert np.abs(q - draw((40, 40), seed=4)).max() > 0.1


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3000, 40), (700, 700)])
def test_threads_agree(shape, threads):
    assert np.abs(draw(shape, threads=threads) - draw(shape)).max() <= CLOSE


def test_blas_gets_its_threads_back():
    before = [(lib["filepath"], lib["num_threads"]) for lib in threadpool_info()]
    errors = []

    def work(seed):
        try:
            draw((300, 300), seed=seed)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert [(lib["filepath"], lib["num_threads"]) for lib in threadpool_info()] == before


def test_an_error_in_a_thread_reaches_the_caller(monkeypatch):
    def broken(first, gaussians):
        raise MemoryError("no panel")

    monkeypatch.setattr(driver.kernel, "panel", broken)
    with pytest.raises(MemoryError, match="no panel"):
        draw((600, 600))


def test_no_thread_works_on_after_an_error():
    role, all_started = threading.local(), threading.Barrier(3)
    call_is_over, was_over = threading.Event(), []

    def task():
        all_started.wait(30)
        if getattr(role, "number", None) != 1:  # the calling thread and the first of the others
            raise MemoryError("no block")
        was_over.append(call_is_over.wait(0.5))

    def in_role(number, work):
        role.number = number
        work()

    with ThreadPoolExecutor(2) as pool:
        crew = threads.Crew(
            3, None, lambda work, n, into: into.extend([pool.submit(in_role, i, work) for i in range(n)])
        )
        with pytest.raises(MemoryError, match="no block"):
            crew.together([(task, 0.0)] * 3)
        call_is_over.set()
    assert was_over == [False]


def test_no_task_starts_after_an_interrupt_between_tasks():
    begun, reported = [], threading.Event()

    def task():
        begun.append(1)
        if threading.current_thread() is not threading.main_thread():
            reported.wait(30)
            time.sleep(0.01)

    def progress(done):
        reported.set()
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        crew = threads.Crew(
            2, progress, lambda work, n, into: into.extend([pool.submit(work) for _ in range(n)])
        )
        with pytest.raises(KeyboardInterrupt):
            crew.together([(task, 1.0)] * 100)
        count = len(begun)
        assert count < 100
    assert len(begun) == count


def test_threads_that_are_busy_elsewhere_are_not_waited_for():
    free, made = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(free.wait, 10)
        crew = threads.Crew(2, None, lambda work, n, into: into.extend([pool.submit(work) for _ in range(n)]))
        crew.together([(lambda: made.append(1), 0.0)] * 2)
        free.set()
        assert elsewhere.result()
    assert made == [1, 1]


FORK_WITHIN_A_LIMIT = """
import os, signal, threading
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
from initium.backends import threads

def blas():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

def hold():
    with threads._blas_lock:
        held.set()
        forked.wait()

threadpool_limits(2, user_api="blas")
before = blas()
held, forked = threading.Event(), threading.Event()
with threads.one_blas_thread():
    assert blas() == [1] * len(before)
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child:
        forked.set()
        holder.join()
        assert blas() == [1] * len(before) and threads._blas_calls == [None]
    else:
        signal.alarm(30)  # ends a child that waits for a lock of its parent
        assert blas() == before and threads._blas_calls == [], (blas(), threads._blas_calls)
        with threads.one_blas_thread():
            assert blas() == [1] * len(before)
        assert blas() == before
assert blas() == before and threads._blas_calls == []
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
else:
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_limit_of_its_parent():
    ran = subprocess.run(
        [sys.executable, "-c", FORK_WITHIN_A_LIMIT], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


# --- slices -------------------------------------------------------------------------------------------------

BOXES = [
    np.s_[:10],
    np.s_[30:],
    np.s_[:, 7:9],
    np.s_[:, -40:],
    np.s_[5:6, 5:6],
    np.s_[::-1, ::-2],
    np.s_[::3, 4:1:-1],
    np.s_[-1:, :],
]


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("shape", [(40, 50), (50, 40), (500, 300), (300, 500), (450, 450)])
def test_slices_equal_the_whole(shape, box, method):
    whole = draw(shape, gain=2.0, method=method)[box]
    part = draw(shape, gain=2.0, method=method, box=box)
    assert part.shape == whole.shape
    assert np.abs(part - whole).max() <= 2 * CLOSE


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_slices_of_convolutions(layout):
    shape, box = (70, 6, 5, 30), np.s_[3:60:2, 1:5, ::-1, 4:20]
    whole = draw(shape, layout=layout)
    assert np.abs(draw(shape, layout=layout, box=box) - whole[box]).max() <= CLOSE


def test_slices_of_stacks():
    for shape in ((5, 20, 30), (5, 200, 100)):
        box = np.s_[3:0:-1, 4:, :20:3]
        whole = draw(shape, batch_axis=0)
        assert np.abs(draw(shape, batch_axis=0, box=box) - whole[box]).max() <= CLOSE


def test_shards_in_other_order_and_place():
    """Tensor-parallel ranks make their own rows or columns, and no more."""
    whole = draw((256, 384))
    rows = [draw((256, 384), box=np.s_[i : i + 64]) for i in range(0, 256, 64)]
    columns = [draw((256, 384), box=np.s_[:, i : i + 96]) for i in range(0, 384, 96)]
    assert np.abs(np.concatenate(rows) - whole).max() <= CLOSE
    assert np.abs(np.concatenate(columns, 1) - whole).max() <= CLOSE


@pytest.mark.parametrize("shape", [(30, 20), (90, 70), (20, 3, 2)])
@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_runs_of_elements(shape, layout):
    """A checkpoint's writer asks for runs of the flat tensor, wherever a buffer begins and ends."""
    whole = draw(shape, layout=layout).ravel()
    fill = ini.Orthogonal(layout=layout).resolve(shape)
    cuts = [0, 1, 29, 35, 61, 100, whole.size]
    out = np.empty_like(whole)
    jobs = [
        job_of("w", fill, Box((b - a,), a, (1,)), destination_of(out[a:b]))
        for a, b in itertools.pairwise(cuts)
    ]
    run(plan(jobs, 3), "numba")
    assert np.abs(out - whole).max() <= CLOSE


# --- layouts and memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 4, 3), (300, 40, 3)])
def test_flattening_of_torch(shape):
    flat = draw((shape[0], shape[1] * shape[2]))
    assert np.abs(draw(shape).reshape(flat.shape) - flat).max() <= CLOSE


@pytest.mark.parametrize("shape", [(3, 4, 30), (3, 40, 300)])
def test_flattening_of_keras(shape):
    q = draw(shape, layout="in_out").reshape(-1, shape[-1])
    assert deviation(q) < 2e-6
    assert np.abs(q - draw((shape[-1], q.shape[0])).T).max() <= CLOSE
    assert np.abs(draw(shape, column_axis=-1).reshape(q.shape) - q).max() == 0


def test_column_axis_in_the_middle():
    q = draw((6, 20, 5), column_axis=1)
    assert deviation(np.moveaxis(q, 1, 0).reshape(20, 30)) < 2e-6
    layout = ini.Layout(in_axis=(0, 2), out_axis=1)
    assert np.array_equal(draw((6, 20, 5), layout=layout), q)


@pytest.mark.parametrize("name", ["out_in", "in_out", "transposed", "mine"])
def test_the_name_of_a_layout_changes_no_value(name):
    """The axes of a user's layout decide, also if its name is that of a layout with other axes."""
    layout = ini.Layout(in_axis=(0, 2), out_axis=1, name=name)
    assert np.array_equal(draw((6, 20, 5), layout=layout), draw((6, 20, 5), column_axis=1))
    kernel = ini.Layout(in_axis=0, out_axis=1)
    named = ini.Layout(in_axis=0, out_axis=1, name=name)
    shape = (4, 6, 2)
    assert ini.DeltaOrthogonal(layout=named).resolve(shape) == ini.DeltaOrthogonal(layout=kernel).resolve(
        shape
    )


def test_stacks_hold_independent_matrices():
    for shape in ((4, 20, 30), (4, 200, 100)):
        q = draw(shape, batch_axis=0)
        assert max(deviation(m) for m in q) < 2e-6
        assert np.abs(q[0] - draw(shape[1:])).max() <= CLOSE
        assert min(np.abs(a - b).max() for i, a in enumerate(q) for b in q[:i]) > 0.05
    layout = ini.Layout(in_axis=1, out_axis=2, batch_axis=(0,))
    assert (
        np.abs(draw((4, 20, 30), layout=layout) - draw((4, 20, 30), batch_axis=0, layout="in_out")).max() == 0
    )
    assert max(deviation(m) for m in np.moveaxis(draw((20, 4, 30), batch_axis=1), 1, 0)) < 2e-6


@pytest.mark.parametrize("shape", [(24, 36), (100, 150), (150, 100)])
def test_strides_of_every_kind(shape):
    wanted = draw(shape)
    memory = np.zeros((2 * shape[1], shape[0] + 3), "f4")
    for out in (memory[: shape[1], : shape[0]].T, memory[::-2, : shape[0]].T):
        draw(shape, out=out)
        assert np.abs(out - wanted).max() <= CLOSE
    assert not memory[:, shape[0] :].any()


def test_strides_that_no_matrix_has():
    wanted = draw((100, 6, 20))
    out = np.zeros((6, 100, 40), "f4").swapaxes(0, 1)[:, :, ::2]
    assert out.base is not None
    assert np.abs(draw((100, 6, 20), out=out) - wanted).max() <= CLOSE
    small = np.zeros((4, 3, 5, 8), "f4").transpose(3, 1, 0, 2)
    whole = draw(small.shape, batch_axis=(0, 2))
    assert np.abs(draw(small.shape, batch_axis=(0, 2), out=small) - whole).max() <= CLOSE


def test_torch_tensors_are_filled():
    weight = torch.empty(64, 100, dtype=torch.bfloat16)
    ini.orthogonal((64, 100), seed=3, name="w", out=weight)
    assert np.array_equal(weight.float().numpy(), draw((64, 100), dtype="bfloat16").astype("f4"))


@pytest.mark.parametrize("shape", [(1024, 1024), (2048, 2048), (4096, 1024)])
def test_work_memory_is_bounded(shape):
    out = np.empty(shape, "f4")
    draw(shape, out=out, threads=2)  # compiles
    tracemalloc.start()
    draw(shape, out=out, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 1.5 * out.nbytes


def test_memory_of_a_slice_is_a_share():
    box = np.s_[:, :96]
    draw((2048, 2048), box=box, threads=2)
    tracemalloc.start()
    draw((2048, 2048), box=box, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 0.25 * 2048 * 2048 * 4


# --- models -------------------------------------------------------------------------------------------------


def test_a_model_takes_orthogonal_and_elementwise_jobs_in_one_plan():
    shapes = {f"{i}.{part}": shape for i in range(5) for part, shape in LAYERS.items()}
    rules = [("*.bias", ini.zeros()), ("*.conv", ini.delta_orthogonal()), ("*.eye", ini.Identity())]
    seen = []
    report = ini.init_model(
        shapes,
        [*rules, ("*.norm", ini.ones()), ("*", ini.Orthogonal(2.0))],
        seed=3,
        progress=lambda done, total: seen.append((done, total)),
    )
    for name, weight in report.weights.items():
        match name.split(".")[1]:
            case "bias":
                assert not weight.any()
            case "norm":
                assert (weight == 1).all()
            case "eye":
                assert np.array_equal(weight, np.eye(*weight.shape))
            case "conv":
                wanted = ini.initialize(ini.delta_orthogonal(), weight.shape, seed=3, name=name)
                assert np.abs(weight - wanted).max() <= CLOSE
            case _:
                assert np.abs(weight - draw(weight.shape, name=name, gain=2.0)).max() <= 2 * CLOSE
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]
    assert report.parameters[0].distribution == "orthogonal(2)"


LAYERS = {
    **{"query": (64, 64), "small": (16, 16), "up": (300, 70), "bias": (64,), "norm": (64,)},
    **{"conv": (8, 6, 3, 3), "eye": (5, 7), "large": (1100, 1000)},
}


def test_a_model_names_the_parameter_whose_gain_overflows():
    with pytest.raises(ValueError, match=r"'b'.*orthogonal\(1e\+06\).*float16"):
        ini.init_model({"b": ((4, 4), "float16")}, ini.Orthogonal(1e6), seed=1)


# --- delta-orthogonal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_shape", [(3,), (4,), (3, 3), (2, 5), (1, 1), (3, 4, 5)])
def test_delta_orthogonal_has_jax_places(kernel_shape):
    jax = pytest.importorskip("jax")
    shape = (*kernel_shape, 5, 8)
    peer = np.asarray(jax.nn.initializers.delta_orthogonal(2.0)(jax.random.key(0), shape))
    mine = ini.initialize(ini.delta_orthogonal(2.0, layout="in_out"), shape, seed=3, name="w")
    assert np.array_equal(mine != 0, peer != 0)
    (at,) = {tuple(int(i) for i in place) for place in np.argwhere(mine.any((-1, -2)))}
    assert deviation(mine[at], 2.0) < 2e-6
    assert np.abs(mine[at] - draw((8, 5), gain=2.0).T).max() <= CLOSE


@pytest.mark.parametrize("kernel_shape", [(3,), (4,), (3, 3), (2, 6), (3, 4, 5)])
def test_delta_orthogonal_has_torch_places(kernel_shape):
    shape = (8, 5, *kernel_shape)
    peer = torch.nn.init.dirac_(torch.empty(shape)).numpy()
    mine = ini.initialize(ini.delta_orthogonal(), shape, seed=3, name="w")
    places = (0, 1)
    assert np.array_equal(mine.any(places), peer.any(places))
    lower = ini.initialize(ini.DeltaOrthogonal(centre="lower"), shape, seed=3, name="w")
    at = tuple((k - 1) // 2 for k in kernel_shape)
    assert lower[(slice(None), slice(None), *at)].all()
    assert np.count_nonzero(lower) == 40


def test_delta_orthogonal_keeps_the_norm_of_a_signal():
    weight = ini.initialize(ini.delta_orthogonal(), (16, 16, 3, 3), seed=3, name="w")
    signal = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    out = torch.nn.functional.conv2d(signal, torch.from_numpy(weight), padding=1)
    assert torch.allclose(out.norm(), signal.norm(), rtol=1e-5)


@pytest.mark.parametrize(
    "box", [np.s_[2:, :, 1:2], np.s_[:, 1:4, :1], np.s_[3:, ::-1, ::-1], np.s_[:, :, 3:]]
)
def test_slices_of_delta_orthogonal(box):
    init = ini.delta_orthogonal()
    whole = ini.initialize(init, (8, 5, 3), seed=3, name="w")[box]
    out = np.full(whole.shape, 7.0, "f4")
    ini.initialize(init, (8, 5, 3), seed=3, name="w", box=box, out=out)
    assert np.abs(out - whole).max(initial=0) <= CLOSE


# --- identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(dtypes.DTYPES))
@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 1), (0, 3)])
def test_identity_is_that_of_torch(shape, dtype):
    mine = ini.initialize(ini.Identity(0.5), shape, seed=0, dtype=dtype)
    assert np.array_equal(mine.astype("f4"), 0.5 * torch.nn.init.eye_(torch.empty(shape)).numpy())


def test_identity_and_orthogonal_are_those_of_keras():
    keras = pytest.importorskip("keras")
    peer = np.asarray(keras.initializers.Identity(2.0)((4, 6)))
    assert np.array_equal(ini.initialize(ini.Identity(2.0), (4, 6), seed=0), peer)
    for shape in ((3, 5, 7), (3, 3, 30), (8, 4)):
        peer = np.asarray(keras.initializers.Orthogonal(2.0, seed=1)(shape))
        for q in (peer, draw(shape, gain=2.0, layout="in_out")):
            assert deviation(q.reshape(-1, shape[-1]), 2.0) < 5e-6


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 6, 4, 3), (6, 2, 3, 3, 2), (6, 6, 1, 1)])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_is_that_of_torch(shape, groups):
    peer = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    assert np.array_equal(ini.initialize(ini.Dirac(groups), shape, seed=0), peer)
    keras_like = tuple(np.moveaxis(peer, (0, 1), (-1, -2)).shape)
    moved = ini.initialize(ini.Dirac(groups, layout="in_out"), keras_like, seed=0)
    assert np.array_equal(np.moveaxis(moved, (-1, -2), (0, 1)), peer)
    box = (slice(1, None), slice(None, None, -1), slice(0, 1))
    assert np.array_equal(ini.initialize(ini.Dirac(groups), shape, seed=0, box=box), peer[box])


def test_patterns_larger_than_a_piece():
    q = ini.initialize(ini.Identity(), (3000, 2500), seed=0)
    assert np.array_equal(q, np.eye(3000, 2500))
    box = np.s_[::-1, 100:]
    assert np.array_equal(
        ini.initialize(ini.Identity(), (3000, 2500), seed=0, box=box), np.eye(3000, 2500)[box]
    )


@pytest.mark.parametrize(
    "init, shape",
    [
        (ini.Orthogonal(2.0), (30, 40)),
        (ini.delta_orthogonal(2.0), (30, 20, 3)),
        (ini.Identity(2.0), (30, 40)),
        (ini.Dirac(), (6, 5, 3)),
        (ini.Dirac(2), (6, 5, 3)),
    ],
)
def test_fills_know_their_moments(init, shape):
    fill = init.resolve(shape)
    values = ini.initialize(init, shape, seed=1, name="w", dtype="float64")
    mean = values.mean() if not isinstance(fill, OrthogonalFill) else 0.0
    assert fill.mean == pytest.approx(mean, abs=1e-12)
    assert fill.std == pytest.approx(np.sqrt(((values - mean) ** 2).mean()), rel=1e-9)


# --- whole-array operations, as a GPU runs them -------------------------------------------------------------


@pytest.mark.parametrize("method", ["householder", "qr"])
@pytest.mark.parametrize("box", [None, *BOXES], ids=str)
@pytest.mark.parametrize("shape", [(40, 50), (500, 300), (300, 500)])
def test_whole_array_operations_agree(shape, box, method):
    part = box_of(shape, box)
    out = np.zeros(part.shape, "f4")
    run_on_arrays(ini.Orthogonal(2.0, method).resolve(shape), part, out)
    assert np.abs(out - draw(shape, gain=2.0, method=method, box=box)).max() <= 2 * CLOSE


def test_whole_array_operations_take_stacks():
    shape = (5, 6, 150, 7)
    box = box_of(shape, np.s_[::-1, 1:4])
    for memory in (np.zeros(box.shape, "f4"), np.zeros((3, 5, 7, 150), "f4").transpose(1, 0, 3, 2)):
        run_on_arrays(ini.Orthogonal(batch_axis=(0, 1)).resolve(shape), box, memory)
        whole = draw(shape, batch_axis=(0, 1))
        assert np.abs(memory - whole[::-1, 1:4]).max() <= CLOSE


def run_on_arrays(fill, box, out):
    made = plan([job_of("w", fill, box, destination_of(out))], 3)
    seen = []
    draw = partial(draw_gaussians, backends.lookup("numba"), 3)
    orthogonal_arrays.make(made.matrices, np, draw, write_host, seen.append)
    assert seen == [made.units]


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (ValueError, r"shape=\(5,\) is not a matrix", {"shape": 5}),
        (ValueError, r"shape=\(\) is not a matrix", {"shape": ()}),
        (ValueError, r"two axes besides batch_axis", {"shape": (3, 4), "batch_axis": 0}),
        (ValueError, "batch_axis=7 is not an axis", {"shape": (3, 4, 5), "batch_axis": 7}),
        (ValueError, "twice", {"shape": (3, 4, 5, 6), "batch_axis": (0, -4)}),
        (ValueError, "column_axis=2 is not an axis", {"shape": (3, 4), "column_axis": 2}),
        (
            ValueError,
            "batch_axis=0.*contains the rows",
            {"shape": (3, 4, 5), "column_axis": 0, "batch_axis": 0},
        ),
        (TypeError, "column_axis=0.5 is not an integer", {"shape": (3, 4), "column_axis": 0.5}),
        (ValueError, "gain=inf is not finite", {"shape": (3, 4), "gain": np.inf}),
        (ValueError, "gain is NaN", {"shape": (3, 4), "gain": np.nan}),
        (TypeError, "gain='2' is not a number", {"shape": (3, 4), "gain": "2"}),
        (ValueError, "method='lq' is unknown", {"shape": (3, 4), "method": "lq"}),
        (ValueError, "layout='oihw' is unknown", {"shape": (3, 4), "layout": "oihw"}),
        (ValueError, "int32", {"shape": (3, 4), "dtype": "int32"}),
        (ValueError, "overflows dtype float16", {"shape": (3, 4), "gain": 1e6, "dtype": "float16"}),
        (ValueError, r"box\[0\].stop=9", {"shape": (3, 4), "box": np.s_[:9]}),
        (TypeError, "expected slices only", {"shape": (3, 4), "box": (0, slice(None))}),
        (ValueError, "threads=0", {"shape": (3, 4), "threads": 0}),
    ],
)
def test_bad_input(error, match, arguments):
    with pytest.raises(error, match=match):
        draw(**arguments)


def test_bad_input_leaves_memory_alone():
    out = np.full((3, 4), 7.0, np.float16)
    with pytest.raises(ValueError, match="overflows"):
        draw((3, 4), gain=1e6, out=out)
    assert (out == 7).all()
    with pytest.raises(ValueError, match="int8"):
        draw((3, 4), out=np.zeros((3, 4), np.int8))


@pytest.mark.parametrize(
    "match, make",
    [
        ("5 input and 4 output channels", lambda: ini.delta_orthogonal().resolve((4, 5, 3))),
        ("5 input and 4 output", lambda: ini.delta_orthogonal(layout="in_out").resolve((3, 5, 4))),
        ("not a convolution", lambda: ini.delta_orthogonal().resolve((4, 4))),
        ("centre='middle'", lambda: ini.DeltaOrthogonal(centre="middle")),
        ("gain=-inf", lambda: ini.delta_orthogonal(-np.inf)),
        ("not a matrix", lambda: ini.Identity().resolve((4, 4, 4))),
        ("gain is NaN", lambda: ini.Identity(np.nan)),
        ("not a convolution", lambda: ini.Dirac().resolve((4, 4))),
        ("groups=3 does not divide the 4 outputs", lambda: ini.Dirac(3).resolve((4, 4, 3))),
        ("groups=0", lambda: ini.Dirac(0)),
        ("layout='oihw'", lambda: ini.Dirac(layout="oihw")),
    ],
)
def test_bad_initializers(match, make):
    with pytest.raises(ValueError, match=match):
        make()
