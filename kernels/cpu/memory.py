"""Memory operations of Numba kernels: stores of lanes, copies of values, stack memory, an atomic counter."""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from initium.kernels.cpu.lanes import Lanes, scalar_bytes, vector_type

__all__ = ["claim", "copy_item", "fence", "stack_buffer", "store", "store_past_caches"]

_WORD = ir.IntType(32)


def _store(typingctx: Any, address: Any, a: Any, past_caches: bool) -> Any:
    if not isinstance(a, Lanes):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = context.cast(builder, args[0], sig.args[0], types.uintp)
        pointer = builder.inttoptr(where, vector_type(a).as_pointer())
        size = a.width * scalar_bytes(a.element)
        instruction = builder.store(args[1], pointer, align=min(64, size) if past_caches else 1)
        if past_caches:
            instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_WORD, 1)]))
        return context.get_dummy_value()

    return types.void(address, a), codegen


@intrinsic
def store(typingctx: Any, address: Any, a: Any) -> Any:
    """Write the lanes to consecutive memory at `address`, aligned or not."""
    return _store(typingctx, address, a, False)


@intrinsic
def store_past_caches(typingctx: Any, address: Any, a: Any) -> Any:
    """Write the lanes to consecutive memory with nontemporal stores.

    The address is a multiple of 64, or of the bytes of the lanes if these are fewer. Nontemporal stores do
    not read the memory first and do not use the caches; a `fence` makes them visible.
    """
    return _store(typingctx, address, a, True)


@intrinsic
def fence(typingctx: Any) -> Any:
    """Make all stores of this thread visible to other threads, including nontemporal stores."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def copy_item(typingctx: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy one item of `size` (a literal) bytes between addresses, aligned or not."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    integer = ir.IntType(8 * size.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        to, at = (builder.inttoptr(value, integer.as_pointer()) for value in args[:2])
        builder.store(builder.load(at, align=1), to, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, size), codegen


@intrinsic
def stack_buffer(typingctx: Any, size: Any) -> Any:
    """Return the address of `size` (a literal) bytes on the stack of the calling function."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        block = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), size.literal_value))
        block.align = 64
        return builder.ptrtoint(block, ir.IntType(64))

    return types.uint64(size), codegen


@intrinsic
def claim(typingctx: Any, counter: Any) -> Any:
    """Add one to the int64 at the address `counter` atomically; return its old value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        pointer = builder.inttoptr(args[0], integer.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(integer, 1), "monotonic")

    return types.int64(types.uint64), codegen
