"""The safetensors format: the content of a checkpoint, and the header and index of a new one."""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from initium import dtypes
from initium.io.places import is_plain_name
from initium.specs import TensorSpec

__all__ = [
    "INDEX_SUFFIX",
    "SUFFIX",
    "Checkpoint",
    "CheckpointError",
    "Extent",
    "FileLayout",
    "index_text",
    "layout_file",
    "read_checkpoint",
    "split_into_shards",
]

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"

#: The limit of safetensors for the header; readers reject a longer one.
_HEADER_LIMIT = 100_000_000
_HEADER_ALIGNMENT = 8
#: Dtypes in safetensors that no initializer fills: counters, indices and masks.
_LEFT_OUT_DTYPES = frozenset(("BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"))

#: Shape and safetensors dtype.
_Entry = tuple[list[int], str]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the error."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint, without values.

    Attributes
    ----------
    tensors
        In the order of the files and, within a file, of the data.
    metadata
        Metadata of the file or, for shards, of all files; the first value of a key wins.
    files
        The ``.safetensors`` files.
    left_out
        Names of the tensors of integers and booleans, which are not in `tensors`.
    """

    tensors: tuple[TensorSpec, ...]
    metadata: Mapping[str, str]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read names, shapes, dtypes and metadata of a ``.safetensors`` file or of shards, without the data.

    Parameters
    ----------
    path
        A ``.safetensors`` file or a ``*.safetensors.index.json``. As for loaders, an index decides which
        tensors belong to the model; other tensors in its shards are ignored.

    Raises
    ------
    FileNotFoundError
        If the file, or a shard in the index, does not exist.
    CheckpointError
        If a header or index is malformed or truncated, if a shard lacks a tensor of the index, or if a tensor
        has a dtype that initium neither writes nor leaves out (integers and booleans are left out).

    Examples
    --------
    >>> import initium as ini
    >>> from initium.io import read_checkpoint
    >>> from safetensors.numpy import save_file
    >>> save_file({"fc.weight": ini.normal((4, 3), seed=7)}, "w.safetensors")
    >>> read_checkpoint("w.safetensors").tensors
    (TensorSpec(name='fc.weight', shape=(4, 3), dtype='float32'),)
    """
    path = Path(path)
    if not path.name.endswith(".json"):
        tensors, metadata = _read_file(path)
        found, left_out = _specs(path, tensors)
        return Checkpoint(tuple(found), metadata, (path,), tuple(left_out))

    shards = _read_index(path)
    specs: list[TensorSpec] = []
    others: list[str] = []
    merged: dict[str, str] = {}
    for shard, names in shards.items():
        tensors, metadata = _read_file(shard)
        if missing := [name for name in names if name not in tensors]:
            raise CheckpointError(f"{shard}: lacks the tensor {missing[0]!r}, which {path} places in it")
        wanted = frozenset(names)
        found, left_out = _specs(shard, {name: entry for name, entry in tensors.items() if name in wanted})
        specs += found
        others += left_out
        merged = metadata | merged
    return Checkpoint(tuple(specs), merged, tuple(shards), tuple(others))


def _read_file(path: Path) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Return the entries by name, in the order of the data, and the metadata."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file; expected a safetensors file")
    path.open("rb").close()  # the library reports a file that may not be read as one that is missing
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            tensors = {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error
    return {name: tensors[name] for name in _in_order(tensors)}, metadata


def _in_order(tensors: Mapping[str, _Entry]) -> Iterator[str]:
    """Yield names by offset; tensors without elements share an offset and are sorted by name."""
    for is_empty, group in itertools.groupby(tensors, key=lambda name: 0 in tensors[name][0]):
        names = list(group)
        yield from sorted(names) if is_empty else names


def _specs(path: Path, entries: Mapping[str, _Entry]) -> tuple[list[TensorSpec], list[str]]:
    """Return the tensors of a file that can be filled, and the names of the others."""
    left_out = [name for name, (_, dtype) in entries.items() if dtype in _LEFT_OUT_DTYPES]
    kept = [name for name in entries if entries[name][1] not in _LEFT_OUT_DTYPES]
    return [_spec(path, name, *entries[name]) for name in kept], left_out


def _spec(path: Path, name: str, shape: list[int], dtype: str) -> TensorSpec:
    try:
        return TensorSpec(name, tuple(shape), dtypes.lookup(dtype).name)
    except ValueError as error:
        raise CheckpointError(f"{path}: tensor {name!r}: {error}") from None


def _read_index(path: Path) -> dict[Path, list[str]]:
    """Return {shard: names} of an index file, shards in the order of their names."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: no weight_map; expected an object of tensor names and file names")
    shards: dict[Path, list[str]] = {}
    for name, file in sorted(weight_map.items(), key=lambda entry: str(entry[1])):
        if not is_plain_name(file):
            raise CheckpointError(
                f"{path}: weight_map[{name!r}]={file!r} is not a file name; expected no folder in it"
            )
        shards.setdefault(path.with_name(file), []).append(name)
    return shards


class Extent(NamedTuple):
    """The byte range of a tensor in its file."""

    tensor: int
    begin: int
    end: int


@dataclass(frozen=True)
class FileLayout:
    """The layout of a file to be written.

    Attributes
    ----------
    name
        File name.
    header
        Everything before the data; its length is a multiple of 8.
    extents
        The tensors in the order of their data, without gaps, widest dtype first: so each tensor is
        aligned to its item size, as in files that the safetensors library writes.
    nbytes
        Bytes of the file.
    """

    name: str
    header: bytes
    extents: tuple[Extent, ...]
    nbytes: int


def layout_file(
    name: str, tensors: Sequence[TensorSpec], members: Sequence[int], metadata: Mapping[str, str]
) -> FileLayout:
    """Return the layout of the file `name` for the tensors at the positions `members`."""
    ordered = sorted(members, key=lambda i: -tensors[i].itemsize)
    ends = list(itertools.accumulate((tensors[i].nbytes for i in ordered), initial=0))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for i, offsets in zip(ordered, itertools.pairwise(ends), strict=True):
        dtype = dtypes.stored(tensors[i].dtype).safetensors
        entries[tensors[i].name] = {"dtype": dtype, "shape": tensors[i].shape, "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    if len(text) > _HEADER_LIMIT:
        raise ValueError(
            f"{name}: a header of {len(text)} bytes for {len(members)} tensors; safetensors allows "
            f"{_HEADER_LIMIT}: choose a smaller shard_size"
        )
    header = len(text).to_bytes(8, "little") + text
    places = itertools.pairwise(len(header) + end for end in ends)
    extents = tuple(Extent(i, *place) for i, place in zip(ordered, places, strict=True))
    return FileLayout(name, header, extents, len(header) + ends[-1])


def split_into_shards(tensors: Sequence[TensorSpec], shard_size: int | None) -> list[list[int]]:
    """Return the positions of the tensors of each shard, in order.

    As in Hugging Face's libraries, a new shard starts at the tensor with which a shard would exceed
    `shard_size` bytes. A tensor that is larger than `shard_size` has its own shard.
    """
    shards: list[list[int]] = [[]]
    used = 0
    for i, tensor in enumerate(tensors):
        if shard_size is not None and shards[-1] and used + tensor.nbytes > shard_size:
            shards.append([])
            used = 0
        shards[-1].append(i)
        used += tensor.nbytes
    return shards


def index_text(
    files: Sequence[FileLayout], tensors: Sequence[TensorSpec], metadata: Mapping[str, str]
) -> str:
    """Return the text of the ``.safetensors.index.json`` of these shards."""
    weight_map = {tensors[extent.tensor].name: file.name for file in files for extent in file.extents}
    total = {
        "total_parameters": sum(tensor.size for tensor in tensors),
        "total_size": sum(tensor.nbytes for tensor in tensors),
    }
    index = {"metadata": {**metadata, **total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
