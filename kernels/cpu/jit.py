"""All Numba options, tags and the cache of compiled kernels, in one place.

Numba's own cache watches only the file that defines a function; a kernel here is made of many files.
The folder of this cache is therefore named after a hash over all kernel sources and versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import get_host_cpu_features
from numba.extending import NativeValue, models, overload, register_model, typeof_impl, unbox

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

_INLINE = {"forceinline": True, "error_model": "numpy"}

#: A function that always becomes part of its caller, so that vectors stay in registers.
inline = numba.njit(**_INLINE)


def chosen_by_tag(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let the decorated chooser return the body of `function` for the Numba types of its arguments."""
    return overload(function, jit_options=_INLINE, strict=False)  # type: ignore[no-any-return]


def _features() -> frozenset[str]:
    """Return the vector extensions that kernels are compiled for, as LLVM names them (``"+avx2"``)."""
    chosen = numba.config.CPU_FEATURES
    # Numba's own choice, which honours NUMBA_ENABLE_AVX.
    return frozenset((chosen if chosen is not None else get_host_cpu_features()).split(","))


FEATURES = _features()

# One instruction of `lanes` is written as assembly.
llvmlite.binding.initialize_native_asmparser()


def _lanes() -> int:
    """Return the Philox blocks in flight per step; `fill` takes twice as many for uniforms.

    Four to eight registers of each counter word hide the latency of the rounds and share the loads of the
    round keys: on AVX-512, 32 lanes draw 1.3 times as fast as 16; on AVX2, 16 draw 1.2 times as fast as 8.
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
    """A compile-time choice (a kind, a dtype): each name is a Numba type of its own."""

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


@cache
def _source_hash() -> str:
    digest = hashlib.blake2b(digest_size=12)
    for folder in ("initium.kernels", "initium.kernels.cpu"):
        for file in sorted(files(folder).iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, LANES, sorted(FEATURES))
    digest.update(repr(versions).encode())
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``INITIUM_CACHE_DIR``, or the user's cache folder."""
    chosen = os.environ.get("INITIUM_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "initium" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "initium"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "initium"


class _Locator(_CacheLocator):
    def __init__(self, name: str) -> None:
        self._name = name

    def get_cache_path(self) -> str:
        return str(cache_folder() / _source_hash())

    def get_source_stamp(self) -> str:
        return _source_hash()

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator | None:
        locator = cls(py_func.__name__)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):
    _impl_class = _CacheImpl


def parallel_entry(function: Callable[..., Any]) -> Any:
    """Compile `function` without the GIL, with results cached on disk, for callers in many threads."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError):  # no folder can be written: compile in each process
        dispatcher._cache = _Cache(function)
    return dispatcher


def entry_point(entry: Any, *samples: Any) -> Callable[..., Any]:
    """Return a `parallel_entry` compiled for the types of `samples`, which later arguments must have.

    Without Numba's choice by type, which takes 5 us, more than drawing a small tensor.
    """
    signature = tuple(numba.typeof(sample) for sample in samples)
    entry.compile(signature)
    return entry.overloads[signature].entry_point  # type: ignore[no-any-return]
