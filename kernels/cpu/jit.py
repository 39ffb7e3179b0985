"""Numba options and tags, and the decorators that compile the entry points of kernels."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core import types
from numba.core.codegen import get_host_cpu_features
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import NativeValue, models, overload, register_model, typeof_impl, unbox

from initium.kernels.cpu.cache import KernelCache
from initium.kernels.forks import hold_over_forks, importing

__all__ = [
    "FEATURES",
    "LANES",
    "Tag",
    "TagType",
    "chosen_by_tag",
    "entry_point",
    "inline",
    "parallel_entry",
]

if numba.config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set, and these kernels must be compiled; expected it unset or 0")

# The locks of the compilers in Numba and LLVM, if they have these names in the installed versions.
_compiler_locks: tuple[Any, ...] = (global_compiler_lock, getattr(llvmlite.binding.ffi.lib, "_lock", None))
hold_over_forks(*(lock._lock for lock in _compiler_locks if hasattr(lock, "_lock")))

_INLINE = {"forceinline": True, "error_model": "numpy"}

#: Decorator of functions that are always inlined, so that vectors stay in registers.
inline = numba.njit(**_INLINE)


def chosen_by_tag(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a decorator of a function that chooses the body of `function` by the types of the arguments."""
    return overload(function, jit_options=_INLINE, strict=False)  # type: ignore[no-any-return]


def _features() -> frozenset[str]:
    """Return the vector extensions for which kernels are compiled, in LLVM's notation (``"+avx2"``)."""
    chosen = numba.config.CPU_FEATURES
    # The default of Numba, which respects NUMBA_ENABLE_AVX.
    return frozenset((chosen if chosen is not None else get_host_cpu_features()).split(","))


FEATURES = _features()

# `instructions.hardware_bfloat16` is written in assembly.
llvmlite.binding.initialize_native_asmparser()


def _lanes() -> int:
    """Return the number of Philox blocks in flight per step; `fill` uses twice as many for uniforms.

    Four to eight registers of each counter word hide the latency of the rounds and share the loads of the
    round keys.
    """
    chosen = os.environ.get("INITIUM_LANES")
    if chosen is not None:
        if chosen not in ("4", "8", "16", "32", "64"):
            raise ValueError(f"INITIUM_LANES={chosen!r}; expected 4, 8, 16, 32 or 64")
        return int(chosen)
    if "+avx512f" in FEATURES:
        return 32
    return 16 if "+avx2" in FEATURES else 8


LANES = _lanes()


class Tag:
    """A compile-time choice (a kind or an output); each name has its own Numba type."""

    def __init__(self, name: str) -> None:
        self.name = name


class TagType(types.Type):
    """The Numba type of a `Tag`."""

    def __init__(self, label: str) -> None:
        self.label = label
        super().__init__(name=f"Tag({label})")


register_model(TagType)(models.OpaqueModel)


@typeof_impl.register(Tag)
def _typeof_tag(value: Tag, context: Any) -> TagType:
    return TagType(value.name)


@unbox(TagType)
def _unbox_tag(ty: TagType, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


#: Settings of Numba that change what it compiles.
_SETTINGS = (
    *("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "LLVM_REFPRUNE_PASS", "LLVM_REFPRUNE_FLAGS", "USING_SVML"),
    *("BOUNDSCHECK", "DEBUGINFO_DEFAULT", "DEBUG_NRT", "NRT_STATS", "EXTEND_VARIABLE_LIFETIMES"),
)


@cache
def _stamp() -> str:
    """Return a hash of all that compiled code depends on, except its function and types.

    Numba's cache checks only the file that defines a function, but a kernel here uses many files.
    """
    digest = hashlib.blake2b(digest_size=16)
    for folder in ("initium.kernels", "initium.kernels.cpu"):
        for file in sorted(files(folder).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version)
    settings = [str(getattr(numba.config, name, None)) for name in _SETTINGS]
    digest.update(repr((versions, LANES, sorted(FEATURES), settings)).encode())
    return digest.hexdigest()


def parallel_entry(function: Callable[..., Any]) -> Any:
    """Compile `function` without the GIL, with a cache on disk; many threads can call it."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(function, _stamp)
    return dispatcher


def entry_point(entry: Any, *samples: Any) -> Callable[..., Any]:
    """Return a `parallel_entry`, compiled for the types of `samples`, which all later arguments must have.

    It bypasses Numba's dispatch by type, whose cost matters for small tensors.
    """
    with importing:  # the first question imports parts of NumPy and Numba
        signature = tuple(numba.typeof(sample) for sample in samples)
    entry.compile(signature)
    return entry.overloads[signature].entry_point  # type: ignore[no-any-return]
