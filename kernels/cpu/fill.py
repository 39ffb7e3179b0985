"""The tiles of all jobs as one work list: claim a tile, loop over its runs, draw and store."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.kernels import table as T
from initium.kernels.cpu.convert import convert
from initium.kernels.cpu.instructions import clamp_magnitude, constant, select, to_float32
from initium.kernels.cpu.jit import LANES, Tag, TagType, chosen_by_tag, entry_point, inline, parallel_entry
from initium.kernels.cpu.memory import claim, copy_item, fence, stack_buffer, store, store_past_caches
from initium.kernels.cpu.normal import bounded_normal64, central_normal32, normal32
from initium.kernels.cpu.philox import philox_words
from initium.kernels.cpu.uniform import uniform32, uniform64
from initium.kernels.stream import WORDS_PER_BLOCK

__all__ = ["run"]

_TILE = T.TILE
_LINE = 64  # bytes of a cache line
_LOW, _HIGH, _SCALE = T.LOW, T.HIGH, T.SCALE
# Kinds and outputs.
_TAGS = {name: Tag(name) for name in (*T.KINDS, *T.OUTPUTS)}

# Philox blocks in flight. Words and uniforms need few registers, so more blocks hide more latency. The
# float64 lanes of a bounded normal need many registers; fewer blocks avoid spills.
_LANES = {
    **{T.WORDS: 2 * LANES, T.UNIFORM: 2 * LANES},
    T.BOUNDED_NORMAL: max(2, LANES // 4),
}
_BUFFER_BYTES = 2 * LANES * WORDS_PER_BLOCK * 8


@inline
def _clamp(x: Any, low: Any, high: Any) -> Any:
    x = select(x < low, low, x)
    return select(x > high, high, x)


@inline
def _round_clamped(output: Any, x: Any, p: Any, step: Any) -> Any:
    # One branch per group of values, always the same within a job, is cheaper than clamping twice.
    if p[_LOW] == -p[_HIGH]:
        if p[_HIGH] < np.inf:
            x = clamp_magnitude(x, p[_HIGH])
    else:
        x = _clamp(x, p[_LOW], p[_HIGH])
    return convert(output, x, p[_SCALE] * step)


def _round_bounded(output: Any, x: Any, p: Any) -> Any:
    """Clamp float64 values to their interval and round them to the bits of the output."""
    raise NotImplementedError


@chosen_by_tag(_round_bounded)
def _choose_round_bounded(output: Any, x: Any, p: Any) -> Any:
    if output.label == "float64":
        return lambda output, x, p: _clamp(x, p[_LOW], p[_HIGH])
    return lambda output, x, p: convert(output, to_float32(_clamp(x, p[_LOW], p[_HIGH])), np.float32(0))


# Each float32 sampler, and a power of two that divides all its values before scale and offset.
_SAMPLERS = {
    T.UNIFORM: (uniform32, np.float32(2.0**7)),
    # At least 2**-33, with 24 bits.
    T.NORMAL: (normal32, np.float32(2.0**-56)),
    T.CENTRAL_NORMAL: (central_normal32, np.float32(2.0**-56)),
}


def _sampler32(kind: str, output: str, lanes: int) -> Callable[..., Any]:
    sample, step = _SAMPLERS[kind]
    if output == "float32":
        # The planner chooses scale and offset so that float32 values stay inside their interval.
        return lambda kind, output, block, stream, key, integer, p: sample(
            philox_words(block, lanes, stream, key), p
        )
    return lambda kind, output, block, stream, key, integer, p: _round_clamped(
        output, sample(philox_words(block, lanes, stream, key), p), p, step
    )


def _draw(kind: Any, output: Any, block: Any, stream: Any, key: Any, integer: Any, p: Any) -> Any:
    """Return the values of the blocks from `block` on, as lanes with the bits of the output."""
    raise NotImplementedError


@chosen_by_tag(_draw)
def _choose_draw(kind: Any, output: Any, block: Any, stream: Any, key: Any, integer: Any, p: Any) -> Any:
    if not (isinstance(kind, TagType) and isinstance(output, TagType)):
        return None
    lanes = _LANES.get(kind.label, LANES)
    if kind.label == T.WORDS:
        return lambda kind, output, block, stream, key, integer, p: philox_words(
            block + integer, lanes, stream, key
        )
    if kind.label == T.CONSTANT:
        width, count = 8 * T.OUTPUTS[output.label], LANES * WORDS_PER_BLOCK
        return lambda kind, output, block, stream, key, integer, p: constant(integer, width, count)
    if kind.label == T.UNIFORM and output.label == "float64":
        return lambda kind, output, block, stream, key, integer, p: uniform64(
            philox_words(block, lanes, stream, key), p
        )
    if kind.label == T.BOUNDED_NORMAL:
        return lambda kind, output, block, stream, key, integer, p: _round_bounded(
            output,
            bounded_normal64(output, philox_words(block, lanes, stream, key), integer, p),
            p,
        )
    return _sampler32(kind.label, output.label, lanes)


def _layout(kind: Any, output: Any) -> Any:
    """Return (values per group, values per block, bytes per value), which are compile-time constants."""
    raise NotImplementedError


@chosen_by_tag(_layout)
def _choose_layout(kind: Any, output: Any) -> Any:
    blocks = _LANES.get(kind.label, LANES)
    per_block = WORDS_PER_BLOCK // (2 if output.label == "float64" else 1)
    size = T.OUTPUTS[output.label]
    group = blocks * per_block
    return lambda kind, output: (group, per_block, size)


def _copy(output: Any, target: Any, source: Any) -> None:
    """Copy one value between addresses."""
    raise NotImplementedError


@chosen_by_tag(_copy)
def _choose_copy(output: Any, target: Any, source: Any) -> Any:
    size = T.OUTPUTS[output.label]
    return lambda output, target, source: copy_item(target, source, size)


def _load(kind: Any, output: Any, job: Any) -> Any:
    """Return a job's parameters as a tuple in the precision of the arithmetic."""
    raise NotImplementedError


@chosen_by_tag(_load)
def _choose_load(kind: Any, output: Any, job: Any) -> Any:
    if kind.label == T.BOUNDED_NORMAL or output.label == "float64":
        return lambda kind, output, job: _parameters(job, np.float64)
    return lambda kind, output, job: _parameters(job, np.float32)


@inline
def _parameters(job: Any, real: Any) -> Any:
    p = job.parameters
    return (
        *(real(p[0]), real(p[1]), real(p[2]), real(p[3])),
        *(real(p[4]), real(p[5]), real(p[6]), real(p[7])),
        *(real(p[8]), real(p[9]), real(p[10]), real(p[11])),
        *(real(p[12]), real(p[13]), real(p[14]), real(p[15])),
    )


@inline
def _draw_run(
    kind: Any,
    output: Any,
    address: Any,
    step: Any,
    index: Any,
    count: Any,
    job: Any,
    key: Any,
    p: Any,
    buffer: Any,
    past_caches: Any,
) -> None:
    """Write `count` values of consecutive global indices from `index` on, `step` bytes apart."""
    group, per_block, size = _layout(kind, output)
    stream, integer = job.stream, job.integer
    block = index // np.uint64(per_block)
    skip = np.int64(index % np.uint64(per_block))
    contiguous = step == size
    # Values before the first full cache line; nontemporal stores only if a line begins with a block.
    beyond = np.int64(address % np.uint64(_LINE))
    lead = (_LINE - beyond) % _LINE // size
    past_caches = past_caches and contiguous and beyond % size == 0 and (skip + lead) % per_block == 0
    if not past_caches:
        lead = 0
    while count > 0:
        if contiguous and skip == 0 and lead == 0 and count >= group:
            full = count // group
            # Two loops, since LLVM would merge the two stores of one loop and drop their nontemporal mark.
            if past_caches:
                for _ in range(full):
                    store_past_caches(address, _draw(kind, output, block, stream, key, integer, p))
                    address += np.uint64(group * size)
                    block += np.uint64(group // per_block)
            else:
                for _ in range(full):
                    store(address, _draw(kind, output, block, stream, key, integer, p))
                    address += np.uint64(group * size)
                    block += np.uint64(group // per_block)
            count -= full * group
        else:
            # An incomplete group or a strided target: draw a group to a buffer and copy the wanted values.
            store(buffer, _draw(kind, output, block, stream, key, integer, p))
            wanted = min(count, group - skip)
            if lead > 0:
                wanted = min(wanted, lead)
                lead -= wanted
            for i in range(wanted):
                _copy(output, address + np.uint64(i * step), buffer + np.uint64((skip + i) * size))
            address += np.uint64(wanted * step)
            count -= wanted
            skip += wanted
            block += np.uint64(skip // per_block)
            skip %= per_block


@inline
def _draw_tile(
    kind: Any, output: Any, job: Any, tile: Any, key: Any, p: Any, buffer: Any, past_caches: Any
) -> None:
    """Draw the elements of a tile in row-major order, one run along the innermost axis after the other."""
    first = tile * _TILE
    left = min(job.count - first, _TILE)
    extent, index_step, byte_step = job.extent, job.index_step, job.byte_step
    i3, row = first % extent[3], first // extent[3]
    i2, row = row % extent[2], row // extent[2]
    i1, i0 = row % extent[1], row // extent[1]
    while left > 0:
        index = i0 * index_step[0] + i1 * index_step[1] + i2 * index_step[2] + i3
        offset = i0 * byte_step[0] + i1 * byte_step[1] + i2 * byte_step[2] + i3 * byte_step[3]
        count = min(extent[3] - i3, left)
        _draw_run(
            kind,
            output,
            job.address + np.uint64(offset),
            byte_step[3],
            job.start + np.uint64(index),
            count,
            job,
            key,
            p,
            buffer,
            past_caches,
        )
        left -= count
        i3 = 0
        i2 += 1
        if i2 == extent[2]:
            i2 = 0
            i1 += 1
            if i1 == extent[1]:
                i1 = 0
                i0 += 1


@parallel_entry
def _run(jobs: Any, tiles: Any, counter: Any, key: Any, kind: Any, output: Any, past_caches: Any) -> None:
    buffer = stack_buffer(_BUFFER_BYTES)
    current = -1
    p = _load(kind, output, jobs[0])
    while True:
        tile = claim(counter)
        if tile >= tiles:
            break
        if current < 0 or (current + 1 < len(jobs) and jobs[current + 1].tile <= tile):
            current += 1
            while current + 1 < len(jobs) and jobs[current + 1].tile <= tile:
                current += 1
            p = _load(kind, output, jobs[current])
        job = jobs[current]
        _draw_tile(kind, output, job, tile - job.tile, key, p, buffer, past_caches)
    fence()


@cache
def _compiled(kind: str, output: str) -> Callable[..., None]:
    word = np.uint64(0)
    return entry_point(_run, np.zeros(1, T.JOB), 0, word, word, _TAGS[kind], _TAGS[output], False)


def run(
    jobs: NDArray[np.void],
    tiles: int,
    counter: NDArray[np.int64],
    key: int,
    kind: str,
    output: str,
    past_caches: bool,
) -> None:
    """Draw tiles until all are claimed; every thread of a call runs this function with the same counter.

    Parameters
    ----------
    jobs
        Rows of `T.JOB`, writable and contiguous, in the order of their first tiles.
    tiles
        Number of tiles of all jobs.
    counter
        An array whose first element is the number of claimed tiles.
    key
        The Philox key, which is the seed.
    kind, output
        Kind and output of all jobs.
    past_caches
        Whether to use nontemporal stores, which bypass the caches; useful if the data exceeds the caches.
    """
    address, seed = np.uint64(counter.ctypes.data), np.uint64(key)
    _compiled(kind, output)(jobs, tiles, address, seed, _TAGS[kind], _TAGS[output], past_caches)
