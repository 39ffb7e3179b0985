"""Drawing on a GPU into host memory, for the buffers of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from initium.backends.run import run
from initium.dtypes import DTYPES
from initium.kernels.cuda import source
from initium.memory import cuda
from initium.memory.destination import host_view, packed_steps
from initium.planning.jobs import Job
from initium.planning.plan import plan

__all__ = ["run_by_gpu"]


def run_by_gpu(jobs: Iterable[Job], seed: int, device: str = "cuda") -> None:
    """Draw jobs with destinations in host memory on a GPU, copy the values, and wait for the copy.

    Parameters
    ----------
    jobs
        Jobs whose destinations have the device ``"cpu"``. GPU memory and pinned host memory hold the values
        of all jobs at once, so the caller limits the size of a call.
    seed
        The Philox key, in [0, 2**64).
    device
        ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    MemoryError
        If the memory of the GPU does not suffice.
    """
    listed = [job for job in jobs if job.box.size]
    if not listed:
        return
    name = cuda.device_name(device)
    places, nbytes = _places(listed)
    module = cuda.cupy()
    (allocated,) = cuda.allocate([((nbytes,), DTYPES["float8_e5m2"])], name)
    memory = allocated.owner
    with module.cuda.Device(cuda.index_of(name)):
        target = int(memory.data.ptr)
        moved = [_moved(j, target + at, name, memory) for j, at in zip(listed, places, strict=True)]
        run(plan(moved, seed))
        pinned = module.cuda.alloc_pinned_memory(nbytes)
        stream = module.cuda.get_current_stream()
        memory.data.copy_to_host_async(pinned.ptr, nbytes, stream)
        stream.synchronize()
    for job, at in zip(listed, places, strict=True):
        wanted = job.destination
        host_view(wanted)[...] = host_view(_moved(job, pinned.ptr + at, "cpu", pinned).destination)


def _places(jobs: list[Job]) -> tuple[list[int], int]:
    """Return byte offsets of compact copies of all destinations, and their bytes in total.

    Each offset has the alignment of the job's first index within items of 16 bytes, so that kernels store
    whole items.
    """
    places, end = [], 0
    for job in jobs:
        size = job.destination.dtype.itemsize
        start = -(-end // source.ITEM_BYTES) * source.ITEM_BYTES
        places.append(start + job.box.start * size % source.ITEM_BYTES)
        end = places[-1] + job.box.size * size
    return places, end


def _moved(job: Job, address: int, device: str, owner: Any) -> Job:
    """Return the job with a compact destination at another address."""
    target = job.destination
    steps = packed_steps(target.shape, target.dtype.itemsize)
    moved = target._replace(address=address, byte_steps=steps, device=device, owner=owner)
    return job._replace(destination=moved)
