"""Numba types for LLVM vectors: a kernel has the form of scalar code and compiles to full vectors.

LLVM does not vectorise a scalar Philox loop. A value of type ``Lanes(element, width)`` is one LLVM vector;
arithmetic on it is one vector instruction per register of the target. The width changes no value, since every
operation acts lane by lane.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

__all__ = [
    "Lanes",
    "filled",
    "is_float",
    "scalar_bytes",
    "scalar_type",
    "shuffle",
    "spread",
    "vector_type",
]


class Lanes(types.Type):
    """The type of `width` values of the scalar type `element` in one LLVM vector."""

    def __init__(self, element: types.Type, width: int) -> None:
        self.element, self.width = element, width
        super().__init__(name=f"Lanes({element}, {width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, vector_type(lanes))


_WORD = ir.IntType(32)


def scalar_type(element: types.Type) -> ir.Type:
    """Return the LLVM type of a scalar."""
    if element == types.boolean:
        return ir.IntType(1)
    if element == types.float32:
        return ir.FloatType()
    if element == types.float64:
        return ir.DoubleType()
    return ir.IntType(element.bitwidth)  # type: ignore[attr-defined]


def scalar_bytes(element: types.Type) -> int:
    """Return the bytes of a scalar."""
    return int(element.bitwidth) // 8  # type: ignore[attr-defined]


def vector_type(lanes: Lanes) -> ir.VectorType:
    """Return the LLVM type of lanes."""
    return ir.VectorType(scalar_type(lanes.element), lanes.width)


def _mask(indices: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_WORD, len(indices)), [ir.Constant(_WORD, i) for i in indices])


def shuffle(builder: Any, a: Any, b: Any, indices: list[int]) -> Any:
    """Select lanes of the concatenation of `a` and `b`."""
    return builder.shuffle_vector(a, b, _mask(indices))


def spread(builder: Any, value: Any, width: int) -> Any:
    """Broadcast a scalar to `width` lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    return shuffle(
        builder, builder.insert_element(undefined, value, ir.Constant(_WORD, 0)), undefined, [0] * width
    )


def filled(lanes: Lanes, value: int) -> ir.Constant:
    """Return lanes that all hold a constant."""
    return ir.Constant(vector_type(lanes), [ir.Constant(scalar_type(lanes.element), value)] * lanes.width)


def _is_scalar(ty: types.Type) -> bool:
    return isinstance(ty, (types.Number, types.Literal))


def _binary_operator(op: Callable[..., Any], *, comparison: bool = False) -> Callable[..., Any]:
    """Register ``op`` for two lanes, or a lane and a scalar, with code from the decorated function."""

    def register(emit: Callable[[Any, Lanes, Any, Any], Any]) -> Callable[..., Any]:
        @infer_global(op)
        class Template(AbstractTemplate):
            def generic(self, args: Any, kws: Any) -> Any:
                if len(args) != 2 or kws:
                    return None
                a, b = args
                lanes = a if isinstance(a, Lanes) else b
                if not isinstance(lanes, Lanes):
                    return None
                if a != b and not (_is_scalar(a) or _is_scalar(b)):
                    return None
                result = Lanes(types.boolean, lanes.width) if comparison else lanes
                return signature(result, a, b)

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = sig.args[0] if isinstance(sig.args[0], Lanes) else sig.args[1]
            values = [
                value
                if isinstance(ty, Lanes)
                else spread(builder, context.cast(builder, value, ty, lanes.element), lanes.width)
                for value, ty in zip(args, sig.args, strict=True)
            ]
            return emit(builder, lanes, *values)

        for left, right in ((Lanes, Lanes), (Lanes, types.Any), (types.Any, Lanes)):
            lower_builtin(op, left, right)(lower)
        return emit

    return register


def is_float(lanes: Lanes) -> bool:
    """Return whether lanes hold floating-point numbers."""
    return lanes.element in (types.float32, types.float64)


@_binary_operator(operator.add)
def _add(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.fadd(a, b) if is_float(lanes) else builder.add(a, b)


@_binary_operator(operator.sub)
def _sub(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.fsub(a, b) if is_float(lanes) else builder.sub(a, b)


@_binary_operator(operator.mul)
def _mul(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.fmul(a, b) if is_float(lanes) else builder.mul(a, b)


@_binary_operator(operator.truediv)
def _div(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.fdiv(a, b)


@_binary_operator(operator.and_)
def _and(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.and_(a, b)


@_binary_operator(operator.or_)
def _or(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.or_(a, b)


@_binary_operator(operator.xor)
def _xor(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.xor(a, b)


@_binary_operator(operator.lshift)
def _shl(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.shl(a, b)


@_binary_operator(operator.rshift)
def _shr(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
    return builder.lshr(a, b)  # lanes of integers are unsigned


@infer_global(operator.neg)
class _Negation(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], args[0]) if isinstance(args[0], Lanes) and is_float(args[0]) else None


@lower_builtin(operator.neg, Lanes)
def _neg(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])


def _compare(symbol: str) -> Callable[..., Any]:
    def emit(builder: Any, lanes: Lanes, a: Any, b: Any) -> Any:
        if is_float(lanes):
            return builder.fcmp_ordered(symbol, a, b)
        return builder.icmp_unsigned(symbol, a, b)

    return emit


for _op, _symbol in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _binary_operator(_op, comparison=True)(_compare(_symbol))
