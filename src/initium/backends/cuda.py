"""The GPU backend: one launch for all jobs of a kind and an output, on the arrays' own CUDA streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from initium import cuda
from initium.backends import Backend, Progress
from initium.boxes import Box
from initium.checks import check_count
from initium.destinations import Destination, host_view
from initium.dtypes import DTYPES
from initium.fills import NormalFill
from initium.kernels.constants import WORDS_PER_BLOCK
from initium.kernels.cuda import source
from initium.plan import Job, Plan, Table, plan

__all__ = ["BACKEND", "fill_host"]

#: Tiles that a group of threads takes at once, at most: longer spans look up their job less often and shorter
#: ones finish together, which spans of an eighth of a group's share do well enough.
_SPAN = 64
_SPANS_PER_GROUP = 8

_T = TypeVar("_T")


@lru_cache(maxsize=256)
def _kernel(device: int, kind: str, output: str) -> Any:
    """Return a kernel for the current device; CuPy keeps its binary on disk."""
    module = cuda.cupy().RawModule(code=source.source(), options=source.options(kind, output))
    return module.get_function(source.entry(kind, output))


@lru_cache(maxsize=64)
def _multiprocessors(device: int) -> int:
    return int(cuda.cupy().cuda.Device(device).attributes["MultiProcessorCount"])


def _launch(table: Table, device: int, seed: int) -> None:
    """Draw a table whose memory is all on the current device, on the current stream."""
    rows, tiles = source.number_tiles(table.rows, table.output)
    groups = min(tiles, _multiprocessors(device) * source.GROUPS[table.kind])
    span = min(max(tiles // (groups * _SPANS_PER_GROUP), 1), _SPAN)
    # CuPy copies by pinned memory that it keeps until the copy is done, and reuses the table's memory on this
    # stream only: nothing waits.
    jobs = cuda.cupy().asarray(rows.view(np.uint8))
    arguments = (jobs, np.int64(len(rows)), np.int64(tiles), np.int64(span), source.round_keys(seed))
    _kernel(device, table.kind, table.output)((groups,), (source.THREADS,), arguments)


def _by_queue(jobs: Iterable[_T], destination: Callable[[_T], Destination]) -> dict[cuda.Queue, list[_T]]:
    """Group what writes to GPU memory by device and stream; ask each library for its stream once."""
    queues: dict[Any, cuda.Queue] = {}
    groups: dict[cuda.Queue, list[_T]] = {}
    for job in jobs:
        target = destination(job)
        library = type(target.owner).__module__.partition(".")[0]
        # These two have one current stream a device; of others each array may name its own.
        key = (library, target.device) if library in ("torch", "cupy") else id(target.owner)
        if key not in queues:
            queues[key] = cuda.queue_of(target)
        groups.setdefault(queues[key], []).append(job)
    return groups


def _fill(made: Plan, threads: int | None, progress: Progress | None) -> None:
    if threads is not None:
        check_count("threads", threads, minimum=1)
    groups = _by_queue(made.jobs, lambda job: job.destination)
    plans = [made] if len(groups) == 1 else [plan(jobs, made.seed) for jobs in groups.values()]
    for queue, part in zip(groups, plans, strict=True):
        with queue.entered():
            for table in part.tables:
                _launch(table, queue.device, made.seed)
    if progress is not None:
        progress(made.tiles)


def _orthogonal(made: Plan, threads: int | None, progress: Progress | None) -> None:
    from initium.backends.orthogonal_arrays import run

    done = 0
    for queue, jobs in _by_queue(made.matrices, lambda job: job.destination).items():
        part = replace(made, matrices=tuple(jobs))
        with queue.entered():
            run(part, cuda.cupy(), _draw_normals, _write_here, _later(progress, done))
        done += sum(job.units for job in jobs)


def _later(progress: Progress | None, before: int) -> Progress | None:
    """Return what counts on from `before`."""
    return None if progress is None else lambda units: progress(before + units)


def _draw_normals(wanted: Iterable[tuple[int, Box, Any]], seed: int) -> None:
    jobs = [Job(stream, NormalFill(), box, cuda.destination_of(array)) for stream, box, array in wanted]
    _fill(plan(jobs, seed), None, None)


# --- arrays that were made elsewhere ------------------------------------------------------------------------


def _write(array: Any, destination: Destination) -> None:
    """Round an array of NumPy or CuPy into GPU memory of its shape."""
    if 0 in destination.shape:
        return
    with cuda.queue_of(destination).entered():
        _write_here(array, destination)


def _write_here(array: Any, destination: Destination) -> None:
    if isinstance(array, np.ndarray):
        _view(destination)[...] = cuda.cupy().asarray(_patterns(array.astype(destination.dtype.numpy)))
    elif destination.dtype.itemsize >= 4:
        _view(destination)[...] = _patterns(array.astype(destination.dtype.numpy))
    else:
        _round(array, destination)


def _patterns(array: Any) -> Any:
    """Return an array's bits as unsigned integers, which every version of CuPy can copy."""
    return array.view(f"u{array.dtype.itemsize}")


def _view(destination: Destination) -> Any:
    """Return the memory of a destination as a CuPy array of unsigned integers."""
    module = cuda.cupy()
    low, end = destination.span
    memory = module.cuda.UnownedMemory(low, end - low, destination.owner, cuda.index_of(destination.device))
    pointer = module.cuda.MemoryPointer(memory, destination.address - low)
    return module.ndarray(
        destination.shape, f"u{destination.dtype.itemsize}", pointer, strides=destination.byte_steps
    )


def _round(array: Any, destination: Destination) -> None:
    """Round float32 values on the GPU into a narrow dtype, as the samplers do."""
    module, size = cuda.cupy(), destination.dtype.itemsize
    values = module.ascontiguousarray(array, dtype=np.float32)
    blocks = -(-values.size // WORDS_PER_BLOCK)
    rounded = module.ndarray(blocks * WORDS_PER_BLOCK, f"u{size}")
    device = cuda.index_of(destination.device)
    groups = min(-(-blocks // source.THREADS), _multiprocessors(device) * source.GROUPS[source.ROUND])
    kernel = _kernel(device, source.ROUND, destination.dtype.name)
    kernel((groups,), (source.THREADS,), (values, rounded, np.int64(values.size)))
    _view(destination)[...] = rounded[: values.size].reshape(destination.shape)


# --- by way of the GPU into host memory ---------------------------------------------------------------------


def fill_host(jobs: Iterable[Job], seed: int, device: str = "cuda") -> None:
    """Draw on a GPU what belongs into this machine's memory, and wait for it.

    Parameters
    ----------
    jobs
        Jobs whose destinations are of device ``"cpu"``. The GPU and pinned memory hold all of them at once,
        so callers hand in as much as suits them (tens of megabytes use a GPU's link well).
    seed
        In [0, 2**64).
    device
        ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    MemoryError
        If the GPU has too little memory.
    """
    listed = [job for job in jobs if job.box.size]
    if not listed:
        return
    name = cuda.device_name(device)
    places, nbytes = _places(listed)
    module = cuda.cupy()
    (memory,) = cuda.allocate([((nbytes,), DTYPES["float8_e5m2"])], name)
    with module.cuda.Device(cuda.index_of(name)):
        target = int(memory.data.ptr)
        moved = [_moved(j, target + at, name, memory) for j, at in zip(listed, places, strict=True)]
        BACKEND.run(plan(moved, seed))
        pinned = module.cuda.alloc_pinned_memory(nbytes)
        stream = module.cuda.get_current_stream()
        memory.data.copy_to_host_async(pinned.ptr, nbytes, stream)
        stream.synchronize()
    for job, at in zip(listed, places, strict=True):
        wanted = job.destination
        host_view(wanted)[...] = host_view(_moved(job, pinned.ptr + at, "cpu", pinned).destination)


def _places(jobs: list[Job]) -> tuple[list[int], int]:
    """Return byte offsets of compact copies of all destinations, and the bytes of all.

    Each lies as its indices do within items of 16 bytes, so that kernels store whole items.
    """
    places, end = [], 0
    for job in jobs:
        size = job.destination.dtype.itemsize
        start = -(-end // source.ITEM_BYTES) * source.ITEM_BYTES
        places.append(start + job.box.start * size % source.ITEM_BYTES)
        end = places[-1] + job.box.size * size
    return places, end


def _moved(job: Job, address: int, device: str, owner: Any) -> Job:
    """Return the job with a compact destination elsewhere."""
    target = job.destination
    steps = cuda.packed(target.shape, target.dtype.itemsize)
    moved = target._replace(address=address, byte_steps=steps, device=device, owner=owner)
    return job._replace(destination=moved)


def _fill_for_patterns(made: Plan, threads: int | None, progress: Progress | None) -> None:
    from initium.backends import numba  # patterns are made in this machine's memory

    numba.BACKEND.fill(made, threads, progress)


BACKEND = Backend("cuda", ("cuda",), _fill, _orthogonal, _write, _fill_for_patterns)
