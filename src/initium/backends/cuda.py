"""The GPU backend: one launch for all jobs of a kind and an output, on the CUDA streams of the arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.backends.base import Backend, DrawGaussians, Progress, counted_from
from initium.checks import check_count
from initium.kernels.cuda import source
from initium.kernels.forks import importing
from initium.kernels.stream import WORDS_PER_BLOCK
from initium.memory import cuda
from initium.memory.destination import Destination
from initium.planning.matrices import MatrixJob
from initium.planning.plan import Plan, Table

__all__ = ["BACKEND"]

#: Largest number of tiles in a span, which a group of threads takes at a time, and least number of spans per
#: group. Long spans need fewer searches for their job; short spans balance the load of the groups.
_SPAN = 64
_SPANS_PER_GROUP = 8


@lru_cache(maxsize=256)
def _kernel(device: int, kind: str, output: str) -> Any:
    """Return a kernel for the current device; CuPy caches its binary on disk."""
    module = cuda.cupy().RawModule(code=source.source(), options=source.options(kind, output))
    return module.get_function(source.entry(kind, output))


@lru_cache(maxsize=64)
def _multiprocessors(device: int) -> int:
    return int(cuda.cupy().cuda.Device(device).attributes["MultiProcessorCount"])


def _launch(table: Table, rows: NDArray[np.void], device: int, seed: int) -> None:
    """Draw rows of a table, whose memory is on the current device, on the current stream."""
    rows, tiles = source.number_tiles(rows, table.output)
    groups = min(tiles, _multiprocessors(device) * source.GROUPS[table.kind])
    span = min(max(tiles // (groups * _SPANS_PER_GROUP), 1), _SPAN)
    # CuPy keeps the pinned memory of the copy until the copy is done, and reuses the table's memory on this
    # stream only. So the host does not need to wait.
    jobs = cuda.cupy().asarray(rows.view(np.uint8))
    arguments = (jobs, np.int64(len(rows)), np.int64(tiles), np.int64(span), source.round_keys(seed))
    _kernel(device, table.kind, table.output)((groups,), (source.THREADS,), arguments)


def _by_queue(destinations: Iterable[Destination]) -> dict[cuda.Queue, list[int]]:
    """Group the positions of destinations by device and stream."""
    queues: dict[Any, cuda.Queue] = {}
    groups: dict[cuda.Queue, list[int]] = {}
    for position, target in enumerate(destinations):
        library = type(target.owner).__module__.partition(".")[0]
        # torch and CuPy have one current stream per device; with other libraries it depends on the array.
        key = (library, target.device) if library in ("torch", "cupy") else id(target.owner)
        if key not in queues:
            queues[key] = cuda.queue_of(target)
        groups.setdefault(queues[key], []).append(position)
    return groups


def _fill(made: Plan, threads: int | None, progress: Progress | None) -> None:
    if threads is not None:
        check_count("threads", threads, minimum=1)
    groups = _by_queue(job.destination for job in made.jobs)
    for queue, members in groups.items():
        with queue.entered():
            for table in made.tables:
                rows = table.rows if len(groups) == 1 else table.rows[np.isin(table.owners, members)]
                if len(rows):
                    _launch(table, rows, queue.device, made.seed)
    if progress is not None:
        progress(made.tiles)


def _orthogonal(
    jobs: Sequence[MatrixJob], draw: DrawGaussians, threads: int | None, progress: Progress | None
) -> None:
    with importing:
        from initium.backends.orthogonal_arrays import make

    done = 0
    for queue, members in _by_queue(job.destination for job in jobs).items():
        part = [jobs[position] for position in members]
        with queue.entered():
            make(part, cuda.cupy(), draw, _write_here, counted_from(done, progress))
        done += sum(job.units for job in part)


# --- arrays that were computed before -----------------------------------------------------------------------


def _write(array: Any, destination: Destination) -> None:
    """Write a NumPy or CuPy array, rounded to the dtype, to GPU memory of its shape."""
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
    """Return the bits of an array as unsigned integers, which every version of CuPy can copy."""
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
    """Round float32 values to a narrow dtype on the GPU, with the rounding of the samplers."""
    module, size = cuda.cupy(), destination.dtype.itemsize
    values = module.ascontiguousarray(array, dtype=np.float32)
    blocks = -(-values.size // WORDS_PER_BLOCK)
    rounded = module.ndarray(blocks * WORDS_PER_BLOCK, f"u{size}")
    device = cuda.index_of(destination.device)
    groups = min(-(-blocks // source.THREADS), _multiprocessors(device) * source.GROUPS[source.ROUND])
    kernel = _kernel(device, source.ROUND, destination.dtype.name)
    kernel((groups,), (source.THREADS,), (values, rounded, np.int64(values.size)))
    _view(destination)[...] = rounded[: values.size].reshape(destination.shape)


BACKEND = Backend("cuda", ("cuda",), _fill, _orthogonal, _write)
