import errno
import itertools
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from initium import dtypes
from initium.io import (
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
    writer,
)
from initium.specs import TensorSpec

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, limits and users")

EVERY_DTYPE = tuple(TensorSpec(f"layer.{name}", (3, 7, 5), name) for name in dtypes.DTYPES)
AWKWARD = (
    TensorSpec("scalar", (), "bfloat16"),
    TensorSpec("empty", (4, 0, 3), "float32"),
    TensorSpec("byte", (1,), "float8_e5m2"),
    TensorSpec("odd", (1001,), "float16"),
    TensorSpec("wide", (17, 3), "float64"),
    TensorSpec("naïve/名", (13, 11), "float8_e4m3fn"),
    TensorSpec("last.empty", (0,), "float64"),
)
METADATA = {"format": "pt", "note": "ü"}


def expected(tensor):
    """Values that tell every element from its neighbours, as raw bytes of the tensor's dtype."""
    dtype = dtypes.lookup(tensor.dtype)
    salt = sum(tensor.name.encode())
    words = (np.arange(tensor.size, dtype=np.uint64) * 2654435761 + salt) >> np.uint64(7)
    return words.astype(f"uint{8 * dtype.itemsize}").view(dtype.numpy)


def filler(tensors):
    whole = [expected(tensor) for tensor in tensors]

    def fill(pieces):
        for piece in pieces:
            piece.values[:] = whole[piece.tensor][piece.start : piece.stop]

    return fill


def write(path, tensors, **options):
    return write_checkpoint(path, tensors, filler(tensors), metadata=METADATA, **options)


def raw(array):
    return (
        array.contiguous().view(torch.uint8).numpy().tobytes()
        if array.ndim
        else bytes(array.untyped_storage())
    )


def check(files, tensors):
    """Load with the safetensors library and compare every byte."""
    loaded = {}
    for file in files:
        loaded |= load_file(file)
    assert set(loaded) == {tensor.name for tensor in tensors}
    for tensor in tensors:
        value = loaded[tensor.name]
        assert tuple(value.shape) == tensor.shape
        assert value.dtype == getattr(torch, tensor.dtype)
        assert raw(value) == expected(tensor).tobytes()


def header(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return length, json.loads(data[8 : 8 + length])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Writing


@pytest.mark.parametrize("chunk_bytes", [8, 15, 64, 1000, 4096, 1 << 20])
@pytest.mark.parametrize(
    "tensors", [EVERY_DTYPE, AWKWARD, EVERY_DTYPE + AWKWARD], ids=["dtypes", "awkward", "both"]
)
def test_library_loads_what_was_written(tmp_path, tensors, chunk_bytes):
    written = write(tmp_path / "w.safetensors", tensors, chunk_bytes=chunk_bytes)
    assert written.files == (tmp_path / "w.safetensors",)
    assert written.index is None
    assert written.nbytes == written.files[0].stat().st_size
    assert names(tmp_path) == ["w.safetensors"]
    check(written.files, tensors)
    with safe_open(written.files[0], "pt") as file:
        assert file.metadata() == METADATA


def test_header_is_aligned_and_has_no_gaps(tmp_path):
    tensors = AWKWARD + EVERY_DTYPE
    write(tmp_path / "w.safetensors", tensors)
    length, entries = header(tmp_path / "w.safetensors")
    assert length % 8 == 0
    del entries["__metadata__"]
    assert set(entries) == {tensor.name for tensor in tensors}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: -tensor.itemsize):
        begin, stop = entries[tensor.name]["data_offsets"]
        assert (begin, stop - begin) == (end, tensor.nbytes)
        assert begin % tensor.itemsize == 0
        end = stop
    assert (tmp_path / "w.safetensors").stat().st_size == 8 + length + end


@pytest.mark.parametrize("chunk_bytes", [8, 40, 4096])
def test_pieces_cover_each_element_once(tmp_path, chunk_bytes):
    tensors = EVERY_DTYPE + AWKWARD
    seen = defaultdict(list)

    def fill(pieces):
        assert sum(piece.values.nbytes for piece in pieces) <= chunk_bytes
        for piece in pieces:
            assert piece.values.dtype == dtypes.lookup(tensors[piece.tensor].dtype).numpy
            assert piece.values.shape == (piece.stop - piece.start,)
            assert piece.values.flags.aligned
            piece.values[:] = 0
            seen[piece.tensor] += range(piece.start, piece.stop)

    write_checkpoint(tmp_path / "w.safetensors", tensors, fill, metadata={}, chunk_bytes=chunk_bytes)
    assert all(seen[i] == list(range(tensor.size)) for i, tensor in enumerate(tensors))


def test_tensors_without_elements_need_no_fill(tmp_path):
    tensors = (TensorSpec("a", (0,), "float32"), TensorSpec("b", (3, 0), "bfloat16"))

    def fill(pieces):
        raise AssertionError("nothing to fill")

    written = write_checkpoint(tmp_path / "w.safetensors", tensors, fill, metadata={})
    check(written.files, tensors)


def test_one_buffer_is_filled_while_the_other_is_written(tmp_path, monkeypatch):
    calls = 0
    second = threading.Event()
    overlapped = []
    really_write = os.write

    def slow_write(descriptor, data):
        overlapped.append(second.wait(timeout=60))
        return really_write(descriptor, data)

    def fill(pieces):
        nonlocal calls
        calls += 1
        if calls == 2:
            second.set()
        pieces[0].values[:] = calls

    monkeypatch.setattr(os, "write", slow_write)
    tensor = TensorSpec("a", (300,), "float32")
    write_checkpoint(tmp_path / "w.safetensors", [tensor], fill, metadata={}, chunk_bytes=800)
    assert overlapped[0]
    # The second call got another buffer: it did not touch what was not yet written.
    first = (800 - 8 - header(tmp_path / "w.safetensors")[0]) // 4
    loaded = load_file(tmp_path / "w.safetensors")["a"]
    assert loaded.tolist() == [1.0] * first + [2.0] * (300 - first)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    really_write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: really_write(descriptor, memoryview(data)[:7]))
    check(write(tmp_path / "w.safetensors", AWKWARD).files, AWKWARD)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="no direct writes on this system")
@pytest.mark.parametrize("refusal", ["file system", "device"])
@pytest.mark.parametrize("chunk_bytes", [64, 4096])
def test_where_direct_writes_are_refused_others_do(tmp_path, monkeypatch, refusal, chunk_bytes):
    import fcntl

    module, call = {"file system": (fcntl, "fcntl"), "device": (os, "write")}[refusal]
    really, refused = getattr(module, call), []

    def refusing(descriptor, *arguments):
        flags = fcntl_really(descriptor, fcntl.F_GETFL) if refusal == "device" else arguments[-1]
        if flags & os.O_DIRECT and (refusal == "device" or arguments[0] == fcntl.F_SETFL):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return really(descriptor, *arguments)

    fcntl_really = fcntl.fcntl
    monkeypatch.setattr(module, call, refusing)
    large = (*AWKWARD, TensorSpec("large", (5000,), "float32"))
    check(write(tmp_path / "w.safetensors", large, chunk_bytes=chunk_bytes).files, large)
    if refusal == "file system":
        assert refused


def test_progress_counts_every_byte(tmp_path):
    counted = []
    written = write(
        tmp_path / "out", EVERY_DTYPE, shard_size=500, chunk_bytes=64, progress=lambda *n: counted.append(n)
    )
    assert counted[-1] == (written.nbytes, written.nbytes)
    assert written.nbytes == sum(file.stat().st_size for file in written.files)
    assert len(counted) > 10 and counted == sorted(counted)


@posix
def test_memory_stays_bounded(tmp_path):
    script = """
        import resource, sys
        from initium.io import write_checkpoint
        from initium.specs import TensorSpec
        def fill(pieces):
            for piece in pieces:
                piece.values[:] = 1
        def write(name, size):
            tensors = [TensorSpec("a", (size,), "float32")]
            write_checkpoint(f"{sys.argv[1]}/{name}.safetensors", tensors, fill, metadata={})
        write("small", 1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write("large", 100_000_000)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    grown = int(subprocess.check_output([sys.executable, "-c", textwrap.dedent(script), tmp_path]))
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 3 * writer.CHUNK_BYTES


# Shards and folders


def test_shards_follow_hugging_face(tmp_path):
    tensors = tuple(TensorSpec(f"t{i}", (n,), "float32") for i, n in enumerate([10, 10, 100, 5, 5, 5]))
    written = write(tmp_path / "out", tensors, shard_size=80)
    # Greedy in order; the third is larger than a shard.
    parts = [["t0", "t1"], ["t2"], ["t3", "t4", "t5"]]
    files = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [file.name for file in written.files] == files
    assert written.index == tmp_path / "out" / "model.safetensors.index.json"
    assert names(tmp_path / "out") == [*files, "model.safetensors.index.json"]
    index = json.loads(written.index.read_text(encoding="utf-8"))
    assert index["metadata"] == {**METADATA, "total_size": 4 * 135, "total_parameters": 135}
    assert index["weight_map"] == {
        name: file for file, part in zip(files, parts, strict=True) for name in part
    }
    check(written.files, tensors)
    for file in written.files:
        with safe_open(file, "pt") as opened:
            assert opened.metadata() == METADATA


def test_shards_equal_those_of_huggingface_hub(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    rng = np.random.default_rng(5)
    tensors = tuple(
        TensorSpec(f"t{i}", (int(n),), "bfloat16") for i, n in enumerate(rng.integers(1, 400, 60))
    )
    state = {tensor.name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for tensor in tensors}
    split = hub.split_torch_state_dict_into_shards(state, max_shard_size=1000)
    written = write(tmp_path, tensors, shard_size=1000)
    assert {file.name: set(load_file(file)) for file in written.files} == {
        file: set(members) for file, members in split.filename_to_tensors.items()
    }


def test_what_fits_one_shard_is_one_file(tmp_path):
    written = write(tmp_path, EVERY_DTYPE)
    assert written.files == (tmp_path / "model.safetensors",)
    assert written.index is None
    assert names(tmp_path) == ["model.safetensors"]


def test_shards_of_a_named_file(tmp_path):
    written = write(tmp_path / "gpt2.safetensors", EVERY_DTYPE, shard_size=1000)
    assert names(tmp_path) == [file.name for file in written.files] + ["gpt2.safetensors.index.json"]
    assert written.files[0].name == "gpt2-00001-of-00003.safetensors"


def test_missing_folders_are_made(tmp_path):
    written = write(tmp_path / "a" / "b" / "w.safetensors", EVERY_DTYPE)
    check(written.files, EVERY_DTYPE)


def test_companions_stand_beside_the_weights(tmp_path):
    write(tmp_path / "out", EVERY_DTYPE, companions={"config.json": '{"ü": 1}'})
    assert names(tmp_path / "out") == ["config.json", "model.safetensors"]
    assert (tmp_path / "out" / "config.json").read_text(encoding="utf-8") == '{"ü": 1}'


def test_companions_that_differ_are_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"config\.json"):
        write(tmp_path, EVERY_DTYPE, companions={"config.json": "[]"})
    assert names(tmp_path) == ["config.json"]
    write(tmp_path, EVERY_DTYPE, companions={"config.json": "{}"})
    write(tmp_path, EVERY_DTYPE, companions={"config.json": "[]"}, overwrite=True)
    assert (tmp_path / "config.json").read_text() == "[]"


# Overwriting


@pytest.mark.parametrize("old", [None, 300, 1000])
@pytest.mark.parametrize("new", [None, 300, 1000])
def test_an_output_is_replaced_whole_and_only_when_asked(tmp_path, old, new):
    (tmp_path / "other-00001-of-00002.safetensors").write_text("somebody's")
    first = write(tmp_path, EVERY_DTYPE, shard_size=old)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    smaller = EVERY_DTYPE[:5]
    with pytest.raises(FileExistsError, match="Exists already"):
        write(tmp_path, smaller, shard_size=new)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    second = write(tmp_path, smaller, shard_size=new, overwrite=True)
    made = [file.name for file in second.files] + ([second.index.name] if second.index else [])
    assert names(tmp_path) == sorted([*made, "other-00001-of-00002.safetensors"])
    check(second.files, smaller)
    assert first.files


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path):
    fill = filler(EVERY_DTYPE)

    def fill_and_race(pieces):
        fill(pieces)
        (tmp_path / "w.safetensors").write_text("faster")

    with pytest.raises(FileExistsError):
        write_checkpoint(tmp_path / "w.safetensors", EVERY_DTYPE, fill_and_race, metadata={})
    assert names(tmp_path) == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").read_text() == "faster"


def test_shards_without_an_index_are_left_alone(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_text("a download")
    with pytest.raises(FileExistsError, match="model-00001-of-00002"):
        write(tmp_path, EVERY_DTYPE)
    assert names(tmp_path) == ["model-00001-of-00002.safetensors"]


# Failures


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 9])
@pytest.mark.parametrize("shard_size", [None, 300])
def test_a_failing_fill_leaves_nothing(tmp_path, error, call, shard_size):
    fill = filler(EVERY_DTYPE)
    calls = 0

    def failing(pieces):
        nonlocal calls
        calls += 1
        if calls == call:
            raise error("stop")
        fill(pieces)

    with pytest.raises(error, match="stop"):
        write_checkpoint(
            tmp_path / "new" / "out", EVERY_DTYPE, failing, metadata={}, shard_size=shard_size, chunk_bytes=64
        )
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failing_disk_leaves_nothing(tmp_path, monkeypatch, code, call):
    really, calls = getattr(os, call), 0

    def failing(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(code, os.strerror(code))
        return really(*arguments)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="model-0000") as caught:
        write(tmp_path / "out", EVERY_DTYPE, shard_size=300, chunk_bytes=64)
    assert caught.value.errno == code
    assert names(tmp_path) == []


@posix
def test_file_size_limit(tmp_path):
    script = """
        import resource, sys
        from initium.io import write_checkpoint
        from initium.specs import TensorSpec
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        tensors = [TensorSpec("a", (50_000,), "float32")]
        try:
            write_checkpoint(sys.argv[1], tensors, lambda pieces: None, metadata={})
        except OSError as error:
            print(error)
    """
    output = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path / "w.safetensors"]
    )
    assert output.decode().strip() == f"[Errno 27] File too large: '{tmp_path / 'w.safetensors'}'"
    assert names(tmp_path) == []


def test_too_little_space_is_found_before_writing(tmp_path):
    huge = TensorSpec("a", (1 << 60,), "float32")
    with pytest.raises(OSError, match="Not enough space on the disk: 4,611,") as caught:
        write_checkpoint(tmp_path / "w.safetensors", [huge], pytest.fail, metadata={})
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


@posix
def test_unwritable_folder(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # permissions do not bind root
    try:
        with pytest.raises(PermissionError, match="locked"):
            write(locked / "w.safetensors", EVERY_DTYPE)
        with pytest.raises(PermissionError, match="locked"):
            write(locked / "folder", EVERY_DTYPE)
    finally:
        os.seteuid(before)
    assert names(locked) == []


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "notes").write_text("x")
    with pytest.raises(FileExistsError, match="Not a folder"):
        write(tmp_path / "notes", EVERY_DTYPE)
    with pytest.raises(OSError, match="notes"):
        write(tmp_path / "notes" / "w.safetensors", EVERY_DTYPE)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tensors": []}, ValueError, "tensors is empty"),
        ({"tensors": EVERY_DTYPE[:1] * 2}, ValueError, "'layer.float32' occurs twice"),
        ({"tensors": [TensorSpec("__metadata__", (1,), "float32")]}, ValueError, "reserves"),
        ({"metadata": {"seed": 1}}, TypeError, r"metadata\['seed'\]=1"),
        ({"companions": {"config.json": b""}}, TypeError, "companions"),
        ({"companions": {"config.json": ""}}, ValueError, "expected a folder"),
        ({"chunk_bytes": 7}, ValueError, "chunk_bytes=7"),
        ({"shard_size": 0}, ValueError, "shard_size=0"),
        ({"shard_size": 1.5}, TypeError, "shard_size=1.5"),
    ],
)
def test_bad_arguments(tmp_path, change, error, message):
    arguments = {"tensors": EVERY_DTYPE, "metadata": {}, "fill": pytest.fail} | change
    with pytest.raises(error, match=message):
        write_checkpoint(tmp_path / "w.safetensors", **arguments)
    assert names(tmp_path) == []


def test_a_header_too_long_for_readers(tmp_path, monkeypatch):
    monkeypatch.setattr("initium.io.safetensors._HEADER_LIMIT", 100)
    with pytest.raises(ValueError, match="choose a smaller shard_size"):
        write(tmp_path / "w.safetensors", EVERY_DTYPE)


# Reading


def test_reading_returns_what_was_written(tmp_path):
    tensors = EVERY_DTYPE + AWKWARD
    written = write(tmp_path / "one.safetensors", tensors)
    checkpoint = read_checkpoint(written.files[0])
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.metadata == METADATA
    assert checkpoint.files == written.files

    written = write(tmp_path / "many", tensors, shard_size=700)
    checkpoint = read_checkpoint(written.index)
    assert set(checkpoint.tensors) == set(tensors)
    assert checkpoint.metadata == METADATA
    assert checkpoint.files == written.files
    assert len(checkpoint.files) > 3


def test_the_index_decides_what_belongs_to_the_model(tmp_path):
    written = write(tmp_path, EVERY_DTYPE, shard_size=700)
    index = json.loads(written.index.read_text(encoding="utf-8"))
    del index["weight_map"]["layer.float16"]
    written.index.write_text(json.dumps(index))
    assert {tensor.dtype for tensor in read_checkpoint(written.index).tensors} == set(dtypes.DTYPES) - {
        "float16"
    }


def packed(entries, data=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": entry("F32", [2], 0, 8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header too small"),
        (b"abc", "header too small"),
        (struct.pack("<Q", 1 << 63) + b"{}", "header too large"),
        (struct.pack("<Q", 1 << 20) + b"{}", "invalid header length"),
        (packed(b"{nope"), "invalid JSON"),
        (packed(b"\xff\xfe{}"), "UTF-8"),
        (packed(GOOD, b"\0" * 7), "not fully covered"),
        (packed(GOOD, b"\0" * 9), "not fully covered"),
        (packed({**GOOD, "b": entry("F32", [2], 4, 12)}, b"\0" * 12), "invalid offset"),
        (packed({**GOOD, "b": entry("F32", [2], 12, 20)}, b"\0" * 20), "invalid offset"),
        (packed({"a": entry("F32", [3], 0, 8)}, b"\0" * 8), "invalid shape"),
        (packed({"a": entry("F32", [1 << 62, 1 << 62], 0, 8)}, b"\0" * 8), "overflow"),
        (packed({"a": entry("F32", [-2], 0, 8)}, b"\0" * 8), "-2"),
        (packed({"a": entry("F31", [2], 0, 8)}, b"\0" * 8), "F31"),
        (packed({"a": entry("C64", [1], 0, 8)}, b"\0" * 8), "tensor 'a'.*C64.*float32, float64, bfloat16"),
        (packed({"a": entry("F8_E8M0", [8], 0, 8)}, b"\0" * 8), "tensor 'a'.*F8_E8M0"),
        (packed({"__metadata__": {"a": 1}, **GOOD}, b"\0" * 8), "expected a string"),
    ],
)
def test_bad_headers(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"bad.safetensors: .*{message}"):
        read_checkpoint(path)


def test_integers_and_booleans_are_left_out(tmp_path):
    sizes = {"BOOL": 1, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
    ends = list(itertools.accumulate(sizes.values(), initial=8))
    others = {d: entry(d, [], *place) for d, place in zip(sizes, itertools.pairwise(ends), strict=True)}
    shard = tmp_path / "m-1.safetensors"
    shard.write_bytes(packed({**GOOD, **others}, bytes(ends[-1])))
    (tmp_path / "m-2.safetensors").write_bytes(packed({"n": entry("I64", [1], 0, 8)}, bytes(8)))
    kept = (TensorSpec("a", (2,), "float32"),)
    found = read_checkpoint(shard)
    assert (found.tensors, found.left_out) == (kept, tuple(sizes))

    # What an index does not name belongs to no model, so that it is not listed either.
    index = tmp_path / "m.safetensors.index.json"
    places = {"a": shard.name, "I64": shard.name, "BOOL": shard.name, "n": "m-2.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    found = read_checkpoint(index)
    assert (found.tensors, found.left_out) == (kept, ("BOOL", "I64", "n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', r"weight_map\['a'\]=1"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "not a file name; expected no folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "not a file name; expected no folder"),
        ('{"weight_map": {"a": ""}}', "not a file name; expected no folder"),
        ('{"weight_map": {"a": ".."}}', "not a file name; expected no folder"),
        (r'{"weight_map": {"a": "a\\b"}}', "not a file name; expected no folder"),
        (r'{"weight_map": {"a": "a\u0000b"}}', "not a file name; expected no folder"),
        ('{"weight_map": {"b": "good.safetensors"}}', "lacks the tensor 'b'"),
    ],
)
def test_bad_indexes(tmp_path, text, message):
    (tmp_path / "good.safetensors").write_bytes(packed(GOOD, b"\0" * 8))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(index)
    assert str(index) in str(caught.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none.safetensors.index.json"):
        read_checkpoint(tmp_path / "none.safetensors.index.json")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(FileNotFoundError, match=r"model-00001-of-00001\.safetensors"):
        read_checkpoint(index)
    with pytest.raises(CheckpointError, match="not a file"):
        read_checkpoint(tmp_path)


def test_a_truncated_download_is_named(tmp_path):
    written = write(tmp_path, EVERY_DTYPE, shard_size=700)
    shard = Path(written.files[1])
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=shard.name):
        read_checkpoint(written.index)
