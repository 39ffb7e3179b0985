"""Formulas in recipes: numbers that depend on the model, such as ``0.02 / sqrt(2 * depth)``."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

__all__ = ["FUNCTIONS", "evaluate", "names", "substitute"]

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
#: Functions in formulas.
FUNCTIONS: Mapping[str, Callable[[float], float]] = {"sqrt": math.sqrt}
_LONGEST = 200  # characters; this also limits the depth of the syntax tree


def evaluate(formula: str, variables: Mapping[str, float | None]) -> float:
    """Return the value of a formula, in double precision.

    Parameters
    ----------
    formula
        Numbers, ``+ - * / **``, brackets, ``sqrt`` and the names of variables.
    variables
        The values of variables; None if the value is not known for this model.

    Raises
    ------
    ValueError
        If the formula is malformed, uses a variable without a value, or its value is not finite.
    """
    try:
        if len(formula) > _LONGEST:
            raise ValueError(f"{len(formula)} characters; expected at most {_LONGEST}")
        value = _value(ast.parse(formula.strip(), mode="eval").body, variables)
        if not math.isfinite(value):
            raise ValueError(f"the value is {value}; expected a finite number")
    except SyntaxError as error:
        raise ValueError(f"formula {formula!r}: {error.msg}") from None
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"formula {formula!r}: {error}") from None
    return value


def names(formula: str) -> frozenset[str]:
    """Return the names of the variables in a formula; an empty set if it is malformed."""
    if len(formula) > _LONGEST:
        return frozenset()
    try:
        tree = ast.parse(formula.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return frozenset()
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return frozenset(found - set(FUNCTIONS))


def substitute(formula: str, variables: Mapping[str, float | None]) -> str:
    """Return a formula in which each variable with a value is replaced by the value."""
    tree = _Substitution(variables).visit(ast.parse(formula.strip(), mode="eval"))
    return ast.unparse(tree)


class _Substitution(ast.NodeTransformer):
    def __init__(self, variables: Mapping[str, float | None]) -> None:
        self._variables = variables

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = self._variables.get(node.id)
        return node if value is None else ast.Constant(value)


def _value(node: ast.expr, variables: Mapping[str, float | None]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in variables:
            known = variables[name]
            if known is None:
                raise ValueError(f"the {name} of this model is not known")
            return float(known)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _BINARY:
            return _BINARY[type(operation)](_value(left, variables), _value(right, variables))
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand, variables))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](_value(argument, variables))
    words = ", ".join([*FUNCTIONS, *variables])
    raise ValueError(f"{ast.unparse(node)!r} is not allowed; expected numbers, + - * / ** ( ), {words}")
