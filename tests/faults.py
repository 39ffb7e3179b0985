"""Writes with a fault at one of their system calls: an error, a signal, or the end of the process.

As a script it is a server that forks for each write: a process ends in a few milliseconds then, while
Python would take a quarter of a second to start.
"""

import contextlib
import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings

#: Calls that change files or wait for the disk: a process that dies at another one leaves the same files.
CHANGES = (
    "open",
    "write",
    "fsync",
    "rename",
    "replace",
    "link",
    "unlink",
    "remove",
    "mkdir",
    "rmdir",
    "flock",
)
READS = ("stat", "fstat", "lstat", "statvfs", "listdir", "scandir", "dup")


_readlink = os.readlink


class Faults:
    """Counts system calls, and lets number `at` and the `repeat` - 1 calls after it fail.

    Kinds: "error" in place of a call, "late error" after it, as a network file system may report one, or
    the name of a signal, which comes just before it.
    """

    def __init__(self, kind=None, at=0, *, code=errno.EIO, calls=CHANGES, repeat=1):
        self.kind, self.hits, self.code, self.calls = kind, range(at, at + repeat), code, calls
        self.counter, self.log, self.saved = itertools.count(1), [], []

    def __enter__(self):
        import fcntl

        places = {"flock": [fcntl], "open": [os, io]}
        for name in self.calls:
            for module in places.get(name, [os]):
                really = getattr(module, name)
                self.saved.append((module, name, really))
                setattr(module, name, self._wrapped(name, really))
        return self

    def __exit__(self, *_):
        for module, name, really in self.saved:
            setattr(module, name, really)

    def _wrapped(self, name, really):
        def wrapper(*arguments, **options):
            number = next(self.counter)
            self.log.append(f"{name} {_path_of(arguments[0])}")
            kind = self.kind if number in self.hits else None
            if kind is not None and kind.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, kind))
            if kind == "error":
                raise OSError(self.code, os.strerror(self.code))
            # How long the disk takes is not what is tested here.
            result = None if name == "fsync" else really(*arguments, **options)
            if kind == "late error" and name not in ("open", "dup"):  # which would not be closed
                raise OSError(self.code, os.strerror(self.code))
            return result

        return wrapper


def _path_of(argument):
    """Return the path that a call is given, also by a descriptor where the system tells."""
    with contextlib.suppress(TypeError, OSError):
        return _readlink(f"/proc/self/fd/{argument + 0}")
    return argument


def version_of(number):
    from initium.specs import TensorSpec

    return [TensorSpec(f"t{i}", (100 + number,), "float32") for i in range(6)]


#: Sizes of shards by their number.
SHARD_SIZES = {1: None, 2: 1300, 3: 900}


def write(path, number, *, shards=1, config=True, overwrite=False, pause=0, limit=None):
    """Write the version `number` of a checkpoint: all its values say so, and its metadata and config.json.

    `pause` is in seconds before each of the 3 to 8 calls of fill, `limit` the largest size of a file.
    """
    from initium.io import write_checkpoint

    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def fill(pieces):
        time.sleep(pause)
        for piece in pieces:
            piece.values[:] = number

    companions = {"config.json": json.dumps({"version": number})} if config else None
    return write_checkpoint(
        path,
        version_of(number),
        fill,
        metadata={"version": str(number)},
        companions=companions,
        shard_size=SHARD_SIZES[shards],
        chunk_bytes=1024,
        overwrite=overwrite,
    )


def read(folder):
    """Return the version that a loader finds in a folder; None if it finds none."""
    from safetensors.numpy import safe_open

    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = ["model.safetensors"]
    elif index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        return None
    found, names = set(), set()
    for file in files:
        with safe_open(folder / file, "numpy") as opened:
            found.add(int(opened.metadata()["version"]))
            for name in opened.offset_keys():
                names.add(name)
                values = opened.get_tensor(name)
                found |= {len(values) - 100, *map(int, values)}
    with contextlib.suppress(FileNotFoundError):
        found.add(json.loads((folder / "config.json").read_text())["version"])
    assert names == {f"t{i}" for i in range(6)}, f"not whole: {names}"
    assert len(found) == 1, f"a mixture of versions {found}"
    return found.pop()


def expected_names(shards, config):
    """Return the names of the files of a version."""
    weights = ["model.safetensors"]
    if shards > 1:
        weights = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
        weights.append("model.safetensors.index.json")
    return sorted([*weights, *(["config.json"] if config else [])])


class Server:
    """Runs `write` in processes that are forked from one that has loaded everything."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, path, number, **options):
        """Start a write; return its process."""
        request = {"path": str(path), "number": number, **options}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def result(self):
        """Wait for the end of the write that was started, and return what became of it."""
        return json.loads(self.process.stdout.readline())

    def write(self, path, number, **options):
        self.start(path, number, **options)
        return self.result()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def _serve():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:  # loads what is loaded when it is first needed
        for shards in (1, 2):
            write(Path(folder), 1, shards=shards, overwrite=True)
        with contextlib.suppress(FileExistsError):
            write(Path(folder), 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        ends = os.pipe()
        child = os.fork()
        if not child:
            os.close(ends[0])
            _write_and_tell(json.loads(line), ends[1])
        os.close(ends[1])
        print(child, flush=True)
        with os.fdopen(ends[0]) as pipe:
            told = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"status": status, "error": "not told", **json.loads(told or "{}")}), flush=True)


def _write_and_tell(request, pipe):
    error = message = None
    try:
        faults = Faults(**request.pop("fault", {}))
        try:
            with faults, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                write(**request)
        except BaseException as caught:
            error, message = type(caught).__name__, str(caught)
        told = {"error": error, "message": message, "calls": faults.log}
        os.write(pipe, json.dumps(told).encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    _serve()
