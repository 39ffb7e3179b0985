"""The writer of checkpoints: it writes one buffer to disk while the other one is filled."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from initium import dtypes
from initium.checks import check_count
from initium.io.places import Places, check_replaceable, is_plain_name, stamp_of, sync_folder
from initium.io.safetensors import (
    INDEX_SUFFIX,
    SUFFIX,
    Extent,
    FileLayout,
    index_text,
    layout_file,
    split_into_shards,
)
from initium.io.staged_file import BLOCK, StagedFile
from initium.io.staging import Staging
from initium.specs import TensorSpec

__all__ = ["CHUNK_BYTES", "SHARD_SIZE", "Piece", "Written", "is_folder", "write_checkpoint"]

#: Bytes of each of the two buffers. Smaller buffers make disk and samplers slower; larger ones bring no gain.
CHUNK_BYTES = 16 << 20
#: Largest shard in a folder by default, as in Hugging Face's libraries.
SHARD_SIZE = 5_000_000_000

#: Name of the weights in a folder, which Hugging Face's loaders expect.
_FOLDER_STEM = "model"
_ALIGNMENT = 8  # alignment of chunks within the data: bytes of the widest dtype


class Piece(NamedTuple):
    """A run of consecutive elements, in row-major order, of one tensor.

    Attributes
    ----------
    tensor
        Position of the tensor among those given to `write_checkpoint`.
    start, stop
        Elements [start, stop) of the tensor.
    values
        Writable, 1-D, stop - start elements of the tensor's dtype; valid until `fill` returns.
    """

    tensor: int
    start: int
    stop: int
    values: npt.NDArray[Any]


@dataclass(frozen=True)
class Written:
    """The result of `write_checkpoint`.

    Attributes
    ----------
    files
        The ``.safetensors`` files.
    index
        The index of the shards; None for a single file.
    nbytes
        Bytes of `files`.
    """

    files: tuple[Path, ...]
    index: Path | None
    nbytes: int


def write_checkpoint(
    path: str | Path,
    tensors: Sequence[TensorSpec],
    fill: Callable[[list[Piece]], object],
    *,
    metadata: Mapping[str, str],
    companions: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Written:
    """Write tensors to safetensors files while `fill` computes their values.

    Memory stays at two buffers of `chunk_bytes`, also for large tensors.

    At all times, a reader finds the complete older output, the complete new one, or no output: neither an
    index nor a single file without an index. See Notes.

    Parameters
    ----------
    path
        A file that ends in ``.safetensors``, or a folder for ``model.safetensors``. A missing folder is
        created.
    tensors
        The tensors, with different names.
    fill
        Called with the pieces of one buffer, which it fills. All pieces of a call belong to one file.
    metadata
        Metadata for the header of each file, and for the index.
    companions
        Names and texts of small files for the folder of the weights, such as ``config.json``; only allowed if
        `path` is a folder.
    shard_size
        Largest number of bytes of a shard. If one shard does not suffice, the files are numbered,
        ``-00001-of-00002`` and so on, and an index is written. None: one file for a file, `SHARD_SIZE` for a
        folder.
    chunk_bytes
        Bytes of one buffer.
    overwrite
        Replace an existing output, including all its shards. A link is replaced, not its target.
    progress
        Called with (bytes written so far, bytes in all).

    Raises
    ------
    FileExistsError
        If the output exists already, if another run is writing it, if its path is not a regular file, or if
        an interrupted run left files that can neither be completed nor undone.
    ValueError, TypeError
        If an argument is wrong; nothing has been written then.
    OSError
        If the folder cannot be written, disappears, or has too little space.

    Warns
    -----
    RuntimeWarning
        If an interrupted run was completed or undone, if old files could not be removed, or if the file
        system has no locks.

    Notes
    -----
    *Errors and interrupts* leave the older output unchanged, and no other files. SIGINT, SIGTERM
    and SIGHUP wait during the switch, some milliseconds; after it the new output is complete. A later error
    does not remove the new output, and its message states this.

    *A killed run*, or a loss of power, leaves one or both of two folders. ``initium-partial-NAME`` may be
    deleted. ``initium-old-NAME`` must not be deleted, since it can hold the only older files. The next run of
    the same output, with or without `overwrite`, first removes incomplete files. If the run was killed during
    the switch, the next run completes the switch, or undoes it if new files are missing. If neither is
    possible, since files were removed or added, it changes nothing.

    *Other runs* of the same output raise an error while one run is active, also in other processes and
    threads. The lock ends with its process.

    *On the disk*, all files and their names are synchronised before older files are removed, and before this
    function returns. On Windows, the names of files are not synchronised.
    """
    if sys.byteorder != "little":
        raise NotImplementedError("safetensors files are little-endian; this machine is not")
    chunk_bytes = check_count("chunk_bytes", chunk_bytes, minimum=_ALIGNMENT) // _ALIGNMENT * _ALIGNMENT
    if shard_size is not None:
        shard_size = check_count("shard_size", shard_size, minimum=1)
    _check_tensors(tensors)
    _check_texts("metadata", metadata)
    _check_texts("companions", companions or {})

    target = _target_of(path)
    small = {name: text.encode() for name, text in (companions or {}).items()}
    _check_companions(small, target)
    if target.is_folder and shard_size is None:
        shard_size = SHARD_SIZE
    layouts = _layouts(target.stem, tensors, metadata, shard_size)
    total = sum(layout.nbytes for layout in layouts)
    weights = [layout.name for layout in layouts] + ([target.index] if len(layouts) > 1 else [])

    with _made(target.folder):
        _refuse_early(target, weights, small, overwrite)
        with Staging(target.folder, target.stem, target.output) as staging:
            _survey(target, weights, small, overwrite)
            _check_space(target.folder, total)
            for name, content in small.items():
                _write_small(staging, name, content)
            _stream(layouts, tensors, fill, staging, chunk_bytes, progress)
            if len(layouts) > 1:
                _write_small(staging, target.index, index_text(layouts, tensors, metadata).encode())
            # Again, since drawing can take hours.
            found = _survey(target, weights, small, overwrite)
            new = [name for name in small if name not in found.same] + weights
            staging.commit(new, old=found.old, keys=target.keys)
    files = tuple(target.folder / layout.name for layout in layouts)
    return Written(files, target.folder / target.index if len(layouts) > 1 else None, total)


def is_folder(path: str | Path) -> bool:
    """Return whether a path is a folder for `write_checkpoint`, not a file."""
    return _target_of(path).is_folder


def _check_tensors(tensors: Sequence[TensorSpec]) -> None:
    if not tensors:
        raise ValueError("tensors is empty; expected at least one")
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name == "__metadata__":
            raise ValueError("tensors: the safetensors format reserves the name '__metadata__'")
        if tensor.name in seen:
            raise ValueError(f"tensors: the name {tensor.name!r} occurs twice")
        seen.add(tensor.name)


def _check_texts(argument: str, texts: Mapping[str, str]) -> None:
    for key, value in texts.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{argument}[{key!r}]={value!r}; expected a string under a string")


def _check_companions(small: Mapping[str, bytes], target: _Target) -> None:
    if small and not target.is_folder:
        raise ValueError(f"companions={sorted(small)} with the file {target.output}; expected a folder")
    for name in small:
        if not is_plain_name(name) or re.fullmatch(target.pattern, name):
            raise ValueError(
                f"companions: {name!r} is not a file name beside the weights; expected no folder in it"
            )


@dataclass(frozen=True)
class _Target:
    """The place of an output: its folder, and the first part of its file names."""

    output: Path
    folder: Path
    stem: str
    is_folder: bool

    @property
    def index(self) -> str:
        return f"{self.stem}{INDEX_SUFFIX}"

    @property
    def keys(self) -> tuple[str, str]:
        """Names by which loaders find the weights; if both exist, the second one has precedence."""
        return self.index, f"{self.stem}{SUFFIX}"

    @property
    def pattern(self) -> str:
        """A pattern for the file names of all weights, with any number of shards."""
        shard = re.escape(self.stem) + r"-\d{5,}-of-\d{5,}" + re.escape(SUFFIX)
        return "|".join([shard, *map(re.escape, self.keys)])


def _target_of(given: str | Path) -> _Target:
    if not str(given):
        raise ValueError("path is empty; expected a file or a folder")
    path = Path(given)
    if path.name.endswith(SUFFIX) and not path.is_dir():
        return _Target(path, path.parent, path.name.removesuffix(SUFFIX), is_folder=False)
    if stamp_of(path) is not None and not path.is_dir():  # also for a broken link
        expected = f"Not a folder; expected a folder or a name that ends in {SUFFIX}"
        raise FileExistsError(errno.EEXIST, expected, str(path))
    return _Target(path, path, _FOLDER_STEM, is_folder=True)


def _layouts(
    stem: str, tensors: Sequence[TensorSpec], metadata: Mapping[str, str], shard_size: int | None
) -> list[FileLayout]:
    shards = split_into_shards(tensors, shard_size)
    if len(shards) == 1:
        return [layout_file(f"{stem}{SUFFIX}", tensors, shards[0], metadata)]
    return [
        layout_file(f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}", tensors, members, metadata)
        for number, members in enumerate(shards, start=1)
    ]


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create the folder if it does not exist, and remove it if an error leaves it empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for path in missing:
            sync_folder(path.parent)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # not empty: it holds other files
                path.rmdir()
        raise


class _Found(NamedTuple):
    """Names of files of an older output, and of companions that need no change."""

    old: list[str]
    same: list[str]


def _survey(target: _Target, weights: Sequence[str], small: Mapping[str, bytes], overwrite: bool) -> _Found:
    """Find existing files of the output, and raise if they must not be overwritten."""
    folder = target.folder
    there = sorted(entry.name for entry in folder.iterdir() if re.fullmatch(target.pattern, entry.name))
    # On file systems that ignore case, the same file may have another name.
    there += [name for name in weights if name not in there and stamp_of(folder / name) is not None]
    there.sort(key=lambda name: name not in target.keys)
    same = [name for name, content in small.items() if _holds(folder / name, content)]
    there += [name for name in small if name not in same and stamp_of(folder / name) is not None]
    for name in there:
        check_replaceable(folder / name)
    if there and not overwrite:
        raise FileExistsError(errno.EEXIST, "Exists already", str(folder / there[0]))
    return _Found(there, same)


def _refuse_early(
    target: _Target, weights: Sequence[str], small: Mapping[str, bytes], overwrite: bool
) -> None:
    """Raise before any change, unless an interrupted run may have to be completed first."""
    places = Places(target.folder, target.stem)
    if stamp_of(places.partial) is None and stamp_of(places.kept) is None:
        _survey(target, weights, small, overwrite)


def _holds(file: Path, content: bytes) -> bool:
    try:
        return file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content
    except PermissionError:  # such a file can still be replaced
        return False


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"Not enough space on the disk: {needed:,} bytes needed, {free:,} free"
        raise OSError(errno.ENOSPC, message, str(folder))


def _write_small(staging: Staging, name: str, content: bytes) -> None:
    file = staging.create(name)
    file.write(content)
    file.finish()


class _Chunk(NamedTuple):
    """Consecutive bytes of one file, with their pieces of tensors."""

    file: StagedFile
    data: npt.NDArray[np.uint8]
    pieces: list[Piece]
    is_last: bool


def _stream(
    layouts: Sequence[FileLayout],
    tensors: Sequence[TensorSpec],
    fill: Callable[[list[Piece]], object],
    staging: Staging,
    chunk_bytes: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Fill one buffer in this thread while another thread writes the other buffer."""
    size = min(chunk_bytes, max(layout.nbytes for layout in layouts))
    buffers = [_aligned_buffer(size) for _ in range(2)]
    written: Future[int] | None = None
    done, total = 0, sum(layout.nbytes for layout in layouts)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="initium-writer") as writer:
        for chunk in itertools.chain(_chunks(layouts, tensors, staging, buffers), [None]):
            if chunk is not None and chunk.pieces:
                fill(chunk.pieces)
            if written is not None:
                done += written.result()
                if progress is not None:
                    progress(done, total)
            if chunk is not None:
                written = writer.submit(_write, chunk)


def _aligned_buffer(nbytes: int) -> npt.NDArray[np.uint8]:
    memory = np.empty(nbytes + BLOCK, np.uint8)
    begin = -memory.ctypes.data % BLOCK
    return memory[begin : begin + nbytes]


def _write(chunk: _Chunk) -> int:
    chunk.file.write(chunk.data.data)
    if chunk.is_last:
        chunk.file.finish()
    return chunk.data.nbytes


def _chunks(
    layouts: Sequence[FileLayout],
    tensors: Sequence[TensorSpec],
    staging: Staging,
    buffers: Sequence[npt.NDArray[np.uint8]],
) -> Iterator[_Chunk]:
    """Split all files, including their headers, into chunks of a buffer's size."""
    turn = itertools.cycle(buffers)
    step = buffers[0].nbytes
    for layout in layouts:
        file = staging.create(layout.name, direct=True)
        first = 0  # the first tensor with bytes in the chunk
        for begin in range(0, layout.nbytes, step):
            end = min(begin + step, layout.nbytes)
            data = next(turn)[: end - begin]
            header = layout.header[begin:end]
            data[: len(header)] = np.frombuffer(header, np.uint8)
            while first < len(layout.extents) and layout.extents[first].end <= begin:
                first += 1
            pieces = _pieces(itertools.islice(layout.extents, first, None), tensors, begin, data)
            yield _Chunk(file, data, pieces, is_last=end == layout.nbytes)


def _pieces(
    extents: Iterable[Extent], tensors: Sequence[TensorSpec], begin: int, data: npt.NDArray[np.uint8]
) -> list[Piece]:
    """Return the pieces of tensors in `data`, which starts at the byte `begin` of the file."""
    end = begin + data.nbytes
    pieces: list[Piece] = []
    for extent in extents:
        if extent.begin >= end:
            break
        low, high = max(extent.begin, begin), min(extent.end, end)
        if low < high:
            dtype = dtypes.stored(tensors[extent.tensor].dtype)
            start, stop = (low - extent.begin) // dtype.itemsize, (high - extent.begin) // dtype.itemsize
            values = data[low - begin : high - begin].view(dtype.numpy)
            pieces.append(Piece(extent.tensor, start, stop, values))
    return pieces
