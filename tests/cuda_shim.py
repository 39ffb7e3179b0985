"""The CUDA kernels compiled as C++ and run on the CPU: all of their source but kernels/cuda/device.cuh."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

from cuda_tools import missing

from initium.backends.base import Backend
from initium.kernels.cuda import source

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-shared", "-fPIC")


def text(*change):
    """Return what the compiler gets; `change` is an old text of the kernels and a new one."""
    folder = files("initium.kernels.cuda")
    kernels = {name: (folder / name).read_text("utf-8") for name in source.FILES if name != "device.cuh"}
    if change:
        assert sum(change[0] in kernel for kernel in kernels.values()) == 1
        kernels = {name: kernel.replace(*change) for name, kernel in kernels.items()}
    before, behind = ((HERE / name).read_text("utf-8") for name in ("cuda_shim.hpp", "cuda_launch.hpp"))
    return source.join(
        {"cuda_shim.hpp": before, "prelude": source.prelude(), **kernels, "cuda_launch.hpp": behind}
    )


@cache
def library(*change):
    """Compile and load the kernels, as they are or with a change (see `text`)."""
    compiler = shutil.which("g++")
    if compiler is None:
        missing("g++ is not installed: the CUDA source cannot run on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        code, target = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        code.write_text(text(*change), "utf-8")
        run = subprocess.run(
            [compiler, *FLAGS, code, "-o", target], capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise RuntimeError(run.stderr)
        return ctypes.CDLL(str(target))


def seeds(error, exact=False, *change):
    """Let the seeds be off by up to `error` units in the last place, or by exactly that many."""
    ctypes.c_int.in_dll(library(*change), "seed_error").value = error
    ctypes.c_int.in_dll(library(*change), "seed_exact").value = exact


def stores():
    """Return how many 16-byte, smaller and misaligned stores there were since the last question."""
    found = []
    for name in ("wide_stores", "narrow_stores", "misaligned_stores"):
        variable = ctypes.c_longlong.in_dll(library(), name)
        found.append(variable.value)
        variable.value = 0
    return SimpleNamespace(wide=found[0], narrow=found[1], misaligned=found[2])


def fill(plan, groups=3, span=2, change=()):
    """Draw a plan with destinations in this machine's memory, by a grid of `groups` groups of threads."""
    keys = source.round_keys(plan.seed)
    for table in plan.tables:
        rows, tiles = source.number_tiles(table.rows, table.output)
        library(*change).launch(
            getattr(library(*change), source.entry(table.kind, table.output)),
            ctypes.c_uint(groups),
            ctypes.c_void_p(rows.ctypes.data),
            ctypes.c_int64(len(rows)),
            ctypes.c_int64(tiles),
            ctypes.c_int64(span),
            ctypes.c_void_p(keys.ctypes.data),
        )


def backend(*options):
    """Return the shim as a backend of initium."""
    none = [None] * (len(Backend.__dataclass_fields__) - 3)
    return Backend("shim", ("cpu",), lambda plan, threads, progress: fill(plan, *options), *none)
