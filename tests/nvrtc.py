"""The CUDA source compiled to machine code by NVRTC, with the flags that CuPy uses; no GPU is needed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import sass
from cuda_tools import missing

from initium.kernels import coefficients
from initium.kernels import table as T
from initium.kernels.cuda import source

#: What CuPy adds to the options of a RawModule.
CUPY_FLAGS = ("-ftz=true", "--device-as-default-execution-space")


@cache
def _nvrtc():
    if not sys.platform.startswith("linux"):
        missing("NVRTC's wheel is tested on Linux only")
    try:
        from cuda.bindings import nvrtc as bindings
    except ImportError as error:
        missing(f"cuda-bindings is not installed, no NVRTC: {error}")
    try:
        bindings.nvrtcVersion()
    except RuntimeError as error:  # the wheel nvidia-cuda-nvrtc is missing
        missing(f"NVRTC is not installed: {error}")
    return bindings


def version():
    """Return NVRTC's version; instruction counts are those of a version."""
    _, major, minor = _nvrtc().nvrtcVersion()
    return f"{major}.{minor}"


@cache
def disassembler():
    """Return the path of nvdisasm, from its wheel or from the PATH."""
    try:
        names = metadata.files("nvidia-cuda-nvdisasm") or []
    except metadata.PackageNotFoundError:
        names = []
    found = [name.locate() for name in names if name.name in ("nvdisasm", "nvdisasm.exe")]
    path = found[0] if found else shutil.which("nvdisasm")
    if path is None:
        missing("nvdisasm is not installed: the machine code cannot be read")
    return path


def compile_text(code, arch, flags, ptx=False):
    """Return the binary (or the PTX) that NVRTC makes of CUDA source, and what it says about it."""
    nvrtc = _nvrtc()

    def check(result):
        assert int(result[0]) == 0, result[0]
        return result[1:]

    (program,) = check(nvrtc.nvrtcCreateProgram(code.encode(), b"initium.cu", 0, [], []))
    target = f"-arch={'compute' if ptx else 'sm'}_{arch}"
    options = [flag.encode() for flag in (*flags, target, *(() if ptx else ("--ptxas-options=-v",)))]
    failed = int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0])
    (size,) = check(nvrtc.nvrtcGetProgramLogSize(program))
    # NVRTC writes into these bytes: one alone would be Python's only b" ", shared by all.
    log = bytes(size + 2)
    check(nvrtc.nvrtcGetProgramLog(program, log))
    if failed:
        raise RuntimeError(log.rstrip(b"\0").decode())
    length, get = (
        (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    )
    (size,) = check(length(program))
    made = bytes(size)
    check(get(program, made))
    check(nvrtc.nvrtcDestroyProgram(program))
    return made, log.rstrip(b"\0").decode()


def disassemble(cubin):
    """Return the functions of a binary."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [os.fspath(disassembler()), "-c", os.fspath(file)]
        return sass.parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@cache
def kernel(kind, output, arch, flags=CUPY_FLAGS):
    """Return a kernel's machine code, and the registers and bytes of stack and spills that it takes."""
    cubin, log = compile_text(source.source(), arch, (*source.options(kind, output), *flags))
    function = disassemble(cubin)[source.entry(kind, output)]

    def number(pattern):
        return int(re.search(pattern, log)[1])

    return SimpleNamespace(
        function=function,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spills=number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
    )


def cost(kind, output, arch):
    """Return what the main loop of a kernel takes, in instructions a value and by operation.

    ``usual`` is the way without rare tails. ``expected`` adds the code off that way times the probability
    that one of a warp's 32 lanes has a value in the tail, for the kinds that have tails.
    """
    function = kernel(kind, output, arch).function
    usual = function.hot_loop()
    operations = sass.count(usual)
    values = operations["STG"] * source.ITEM_BYTES // source.itemsize(output)
    rare = sum(sass.count(function.whole_loop()).values()) - operations.total()
    share = 1 - (1 - 2 * coefficients.NORMAL_WIDE_MIN_H) ** 32 if kind == T.NORMAL else 0.0
    return {
        "values": values,
        "usual": operations.total() / values,
        "expected": (operations.total() + share * rare) / values,
        "operations": {name: count / values for name, count in sorted(operations.items())},
    }
