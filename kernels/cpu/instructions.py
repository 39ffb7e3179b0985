"""Instructions on lanes: conversions, fma, square root, selection, products and orders of words.

Each instruction acts on every lane separately or moves lanes. Operators are in `lanes`, stores in `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.ir as ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from initium.kernels.cpu.jit import FEATURES
from initium.kernels.cpu.lanes import (
    Lanes,
    filled,
    scalar_type,
    shuffle,
    spread,
    vector_type,
)

__all__ = [
    "any_lane",
    "bits_of",
    "clamp_magnitude",
    "constant",
    "float_of",
    "fma",
    "hardware_bfloat16",
    "high_half",
    "high_word",
    "interleave_words",
    "iota",
    "low_byte",
    "low_half",
    "low_word",
    "multiply_words",
    "pair_words",
    "polynomial",
    "select",
    "shift_signed",
    "signed_to_float",
    "splat",
    "sqrt",
    "to_float32",
    "unsigned_to_float",
    "widen",
]

_WORD = ir.IntType(32)


def _unary(result: Callable[[Lanes], Lanes | None]) -> Callable[[Any], Any]:
    """Make an intrinsic with one lane argument; `result` returns its type, or None for a wrong argument."""

    def wrap(emit: Callable[[Any, Lanes, Lanes, Any], Any]) -> Any:
        def typed(typingctx: Any, a: Any) -> Any:
            target = result(a) if isinstance(a, Lanes) else None
            if target is None:
                return None
            return target(a), lambda context, builder, sig, args: emit(builder, a, target, args[0])

        typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(typed)

    return wrap


def _same_width(sources: tuple[types.Type, ...], target: types.Type) -> Callable[[Lanes], Lanes | None]:
    return lambda a: Lanes(target, a.width) if a.element in sources else None


_FLOAT_OF = {types.uint32: types.float32, types.uint64: types.float64}
_BITS_OF = {real: bits for bits, real in _FLOAT_OF.items()}
_U64 = (types.uint64,)


def _by(table: dict[Any, Any]) -> Callable[[Lanes], Lanes | None]:
    return lambda a: Lanes(table[a.element], a.width) if a.element in table else None


@_unary(_same_width(_U64, types.uint64))
def low_word(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Keep the low 32 bits of each 64-bit lane."""
    return builder.and_(a, filled(lanes, 0xFFFFFFFF))


@_unary(_same_width(_U64, types.uint64))
def high_word(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Move the high 32 bits of each 64-bit lane down."""
    return builder.lshr(a, filled(lanes, 32))


@_unary(_by(_FLOAT_OF))
def signed_to_float(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Convert two's complement integers to floats of the same size, to nearest even."""
    return builder.sitofp(a, vector_type(target))


@_unary(_by(_FLOAT_OF))
def unsigned_to_float(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Convert unsigned integers to floats of the same size, to nearest even."""
    return builder.uitofp(a, vector_type(target))


@_unary(_by(_FLOAT_OF))
def float_of(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Reinterpret bits as floats."""
    return builder.bitcast(a, vector_type(target))


@_unary(_by(_BITS_OF))
def bits_of(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Reinterpret floats as bits."""
    return builder.bitcast(a, vector_type(target))


@intrinsic
def shift_signed(typingctx: Any, a: Any, bits: Any) -> Any:
    """Shift two's complement integers right by `bits`, with copies of the sign bit."""
    if not isinstance(a, Lanes):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ashr(args[0], _as_lanes(context, builder, a, sig.args[1], args[1]))

    return a(a, bits), codegen


@_unary(_by({types.uint32: types.uint64}))
def widen(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Extend 32-bit integers to 64 bits with zeros."""
    return builder.zext(a, vector_type(target))


@_unary(_by({types.float64: types.float32}))
def to_float32(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Round float64 to float32, to nearest even."""
    return builder.fptrunc(a, vector_type(target))


@_unary(_by({types.float32: types.float32, types.float64: types.float64}))
def sqrt(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Take the correctly rounded square root."""
    return _call_llvm(builder, "llvm.sqrt", [a])


@_unary(lambda a: Lanes(types.uint64, a.width // 2) if a.element == types.uint32 else None)
def pair_words(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Join words (2k, 2k+1) to one 64-bit lane; the first word is the low one (little-endian)."""
    return builder.bitcast(a, vector_type(target))


def _call_llvm(builder: Any, name: str, args: list[Any]) -> Any:
    vector_type = args[0].type
    suffix = f"v{vector_type.count}f{32 if isinstance(vector_type.element, ir.FloatType) else 64}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector_type, [vector_type] * len(args)), f"{name}.{suffix}"
    )
    return builder.call(function, args)


def _as_lanes(context: Any, builder: Any, lanes: Lanes, ty: types.Type, value: Any) -> Any:
    if isinstance(ty, Lanes):
        return value
    return spread(builder, context.cast(builder, value, ty, lanes.element), lanes.width)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute ``a * b + c`` with one rounding; scalars are broadcast to the lanes."""
    lanes = next((ty for ty in (a, b, c) if isinstance(ty, Lanes)), None)
    if lanes is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        operands = [_as_lanes(context, builder, lanes, ty, v) for ty, v in zip(sig.args, args, strict=True)]
        return _call_llvm(builder, "llvm.fma", operands)

    return lanes(a, b, c), codegen


@intrinsic
def select(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return `a` where `mask` is true and `b` elsewhere, lane by lane; scalars are broadcast."""
    lanes = a if isinstance(a, Lanes) else b
    if not isinstance(lanes, Lanes):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = _as_lanes(context, builder, lanes, sig.args[1], args[1])
        second = _as_lanes(context, builder, lanes, sig.args[2], args[2])
        return builder.select(args[0], first, second)

    return lanes(mask, a, b), codegen


@intrinsic
def any_lane(typingctx: Any, mask: Any) -> Any:
    """Return whether `mask` is true in any lane."""
    if not (isinstance(mask, Lanes) and mask.element == types.boolean):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        packed = builder.bitcast(args[0], ir.IntType(mask.width))
        return builder.icmp_unsigned("!=", packed, ir.Constant(packed.type, 0))

    return types.boolean(mask), codegen


@intrinsic
def iota(typingctx: Any, base: Any, width: Any) -> Any:
    """Make 64-bit lanes ``base, base + 1, ...``; `width` is a literal."""
    if not isinstance(width, types.IntegerLiteral):
        return None
    lanes = Lanes(types.uint64, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        steps = ir.Constant(vector_type(lanes), [ir.Constant(ir.IntType(64), i) for i in range(lanes.width)])
        start = context.cast(builder, args[0], sig.args[0], types.uint64)
        return builder.add(spread(builder, start, lanes.width), steps)

    return lanes(base, width), codegen


@intrinsic
def splat(typingctx: Any, value: Any, like: Any) -> Any:
    """Broadcast a scalar to lanes with the type of `like`."""
    if not isinstance(like, Lanes):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _as_lanes(context, builder, like, sig.args[0], args[0])

    return like(value, like), codegen


@intrinsic
def multiply_words(typingctx: Any, a: Any, constant: Any) -> Any:
    """Multiply the low words of 64-bit lanes by a 32-bit scalar to full 64-bit products.

    The explicit mask lets LLVM choose ``vpmuludq`` / ``umull``, which ignore the high words.
    """
    if not (isinstance(a, Lanes) and a.element == types.uint64):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = _as_lanes(context, builder, a, sig.args[1], args[1])
        return builder.mul(builder.and_(args[0], filled(a, 0xFFFFFFFF)), factor)

    return a(a, constant), codegen


@intrinsic
def interleave_words(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Order the low words of four 64-bit lanes as a0 b0 c0 d0 a1 b1 c1 d1 ... in 32-bit lanes."""
    if not (isinstance(a, Lanes) and a.element == types.uint64 and a == b == c == d):
        return None
    target = Lanes(types.uint32, 4 * a.width)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = ir.VectorType(_WORD, 2 * a.width)

        def pair(low: Any, high: Any) -> Any:
            order = [2 * i + half * words.count for i in range(a.width) for half in (0, 1)]
            picked = shuffle(builder, builder.bitcast(low, words), builder.bitcast(high, words), order)
            return builder.bitcast(picked, vector_type(a))

        order = [half * a.width + i for i in range(a.width) for half in (0, 1)]
        joined = shuffle(builder, pair(args[0], args[1]), pair(args[2], args[3]), order)
        return builder.bitcast(joined, vector_type(target))

    return target(a, b, c, d), codegen


def _part(offset: int, bits: int) -> Callable[[Any, Lanes, Lanes, Any], Any]:
    """Take `bits` bits of each 32-bit lane, from bit `offset` on (little-endian), as one shuffle.

    LLVM compiles it to a permutation, which is shorter than a shift and a truncation.
    """
    pieces = 32 // bits

    def emit(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
        fine = builder.bitcast(a, ir.VectorType(ir.IntType(bits), pieces * lanes.width))
        return shuffle(builder, fine, fine, [pieces * i + offset // bits for i in range(lanes.width)])

    return emit


@_unary(_by({types.float32: types.uint16}))
def hardware_bfloat16(builder: Any, lanes: Lanes, target: Lanes, a: Any) -> Any:
    """Round float32 to bfloat16 bits by AVX512_BF16, which treats subnormal numbers as zero."""
    words, singles = ir.VectorType(ir.IntType(16), 32), ir.VectorType(ir.FloatType(), 16)
    # As assembly, since LLVM has no nontemporal stores for the bfloat vectors of the intrinsic.
    instruction = ir.InlineAsm(
        ir.FunctionType(words, [singles, singles]), "vcvtne2ps2bf16 $2, $1, $0", "=v,v,v", side_effect=False
    )

    def pair(first: int) -> Any:
        low, high = (shuffle(builder, a, a, list(range(i, i + 16))) for i in (first, first + 16))
        return builder.call(instruction, [high, low])

    return _concatenated(builder, [pair(first) for first in range(0, lanes.width, 32)])


_u16, _u8 = _by({types.uint32: types.uint16}), _by({types.uint32: types.uint8})
low_half = _unary(_u16)(_part(0, 16))
high_half = _unary(_u16)(_part(16, 16))
low_byte = _unary(_u8)(_part(0, 8))


@intrinsic
def clamp_magnitude(typingctx: Any, a: Any, bound: Any) -> Any:
    """Clamp float32 lanes to [-bound, bound]; one instruction with AVX512DQ, else two."""
    if not (isinstance(a, Lanes) and a.element == types.float32):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        limit = _as_lanes(context, builder, a, sig.args[1], args[1])
        if "+avx512dq" in FEATURES and a.width % 16 == 0:
            return _smaller_magnitude512(builder, args[0], limit)
        negative = builder.fneg(limit)
        raised = builder.select(builder.fcmp_ordered("<", args[0], negative), negative, args[0])
        return builder.select(builder.fcmp_ordered(">", raised, limit), limit, raised)

    return a(a, bound), codegen


def _smaller_magnitude512(builder: Any, a: Any, b: Any) -> Any:
    """Emit VRANGEPS: the smaller magnitude of both, with the sign of `a`."""
    single, word, half = ir.VectorType(ir.FloatType(), 16), ir.IntType(32), ir.IntType(16)
    kind = ir.FunctionType(single, [single, single, word, single, half, word])
    name = "llvm.x86.avx512.mask.range.ps.512"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    constants = (
        (ir.Constant(word, 2), ir.Constant(single, ir.Undefined)),  # smaller magnitude, sign of the first
        (ir.Constant(half, 0xFFFF), ir.Constant(word, 4)),  # all lanes, current rounding mode
    )
    pieces = []
    for first in range(0, a.type.count, 16):
        x, y = (shuffle(builder, v, v, list(range(first, first + 16))) for v in (a, b))
        pieces.append(builder.call(function, [x, y, *constants[0], *constants[1]]))
    return _concatenated(builder, pieces)


def _concatenated(builder: Any, pieces: list[Any]) -> Any:
    """Join vectors of equal width; their number is a power of two."""
    while len(pieces) > 1:
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        pieces = [shuffle(builder, x, y, list(range(2 * x.type.count))) for x, y in pairs]
    return pieces[0]


@intrinsic
def constant(typingctx: Any, bits: Any, width: Any, count: Any) -> Any:
    """Make `count` lanes of the low `width` bits of `bits`; `width` and `count` are literals."""
    if not (isinstance(width, types.IntegerLiteral) and isinstance(count, types.IntegerLiteral)):
        return None
    lanes = Lanes(types.Integer.from_bitwidth(width.literal_value, False), count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pattern = args[0]
        if width.literal_value < 64:
            pattern = builder.trunc(pattern, ir.IntType(width.literal_value))
        return spread(builder, pattern, lanes.width)

    return lanes(bits, width, count), codegen


def polynomial(coefficients: Sequence[float]) -> Any:
    """Return a function of one lane argument that evaluates a polynomial by Horner's rule with fma.

    Parameters
    ----------
    coefficients
        Coefficients, lowest power first. The arithmetic has the element type of the argument.
    """

    @intrinsic
    def evaluate(typingctx: Any, a: Any) -> Any:
        if not isinstance(a, Lanes):
            return None

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            *rest, value = (
                ir.Constant(vector_type(a), [ir.Constant(scalar_type(a.element), c)] * a.width)
                for c in coefficients
            )
            for constant in reversed(rest):
                value = _call_llvm(builder, "llvm.fma", [value, args[0], constant])
            return value

        return a(a), codegen

    return evaluate
