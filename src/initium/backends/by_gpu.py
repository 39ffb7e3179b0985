"""Drawing on a GPU what belongs into this machine's memory, such as the buffers of a checkpoint."""

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
    steps = packed_steps(target.shape, target.dtype.itemsize)
    moved = target._replace(address=address, byte_steps=steps, device=device, owner=owner)
    return job._replace(destination=moved)
