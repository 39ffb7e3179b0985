"""Recipes for a model whose own code is known: what a rule does not mean to change starts by that code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from initium import dtypes
from initium.fills.base import Fill
from initium.initializers.basic import Constant
from initium.models.architecture import Architecture
from initium.recipes.recipe import Recipe, RecipeRule
from initium.recipes.rules import Assignment, Own, Rule, own
from initium.recording.laws.boxes import extents
from initium.recording.laws.start import Given, Piece, Start
from initium.specs import TensorSpec

__all__ = ["Mixed", "mixed"]

#: Roles of the tensors that named recipes are about. Norms, biases and all others start by the model's code.
_MATRICES = frozenset(
    ("matrix", "convolution", "transposed_convolution", "embedding", "expert_stack", "fused", "head")
)


@dataclass(frozen=True)
class Mixed:
    """The assignments of a recipe and of a model's own code.

    Attributes
    ----------
    tensors
        The tensors of the model, first those of floats, in order.
    assignments
        One for each tensor. The fill of a tensor that starts by the model's code is its `Start`.
    unused
        Rules of a recipe file that match no remaining tensor.
    """

    tensors: tuple[TensorSpec, ...]
    assignments: tuple[Assignment, ...]
    unused: tuple[RecipeRule, ...]


def mixed(model: Architecture, recipe: Recipe, starts: Mapping[str, Start]) -> Mixed:
    """Return how each tensor of a model starts, by a recipe and by the model's own code.

    The rules of named recipes know tensors by their names only. So they apply to a matrix, a convolution or
    an embedding that the model's own code draws; all else starts by that code. The rules of a user's file
    apply to all tensors that they match. Rows that the code sets to a constant, as for padding, stay so.

    Parameters
    ----------
    model
        The model.
    recipe
        The recipe.
    starts
        How the tensors start by the model's own code, by name.

    Raises
    ------
    ValueError
        See `Recipe.assign`.
    """
    floats = [tensor for tensor in model.tensors if tensor.dtype in dtypes.DTYPES]
    integers = [tensor for tensor in model.tensors if tensor.dtype not in dtypes.DTYPES]
    by_name = {t.name for t in floats if model.roles.get(t.name) in _MATRICES and starts[t.name].is_random}
    drawn = [tensor for tensor in floats if tensor.name in by_name]
    others = [tensor for tensor in floats if tensor.name not in by_name]
    kept = tuple(rule for rule in recipe.rules if not rule.is_named)
    rest = RecipeRule("*", None, {}, recipe.name, is_named=True, is_own=True)
    first = recipe.assign(replace(model, tensors=tuple(drawn)))
    second = replace(recipe, rules=(*kept, rest)).assign(replace(model, tensors=tuple(others)))
    given = [_own(tensor) for tensor in integers]
    found = {a.name: a for a in (*first.assignments, *second.assignments, *given)}
    ordered = (*floats, *integers)
    assignments = tuple(_started(found[tensor.name], tensor, starts[tensor.name]) for tensor in ordered)
    unused = tuple(rule for rule in first.unused if rule in second.unused)
    return Mixed(ordered, assignments, unused)


def _own(tensor: TensorSpec) -> Assignment:
    return Assignment(tensor.name, tensor.shape, Rule("*", own, optional=True), own, None, None)


def _started(assignment: Assignment, tensor: TensorSpec, start: Start) -> Assignment:
    """Return an assignment with the start by the model's own code, or with its constant rows."""
    if isinstance(assignment.initializer, Own):
        start.check(dtypes.stored(tensor.dtype))
        return assignment._replace(fill=start)
    if assignment.fill is None or not start.has_constant_boxes:
        return assignment
    return assignment._replace(fill=_with_constants(start, assignment.fill))


def _with_constants(start: Start, fill: Fill) -> Start:
    """Return a start whose constant boxes stay, and whose other boxes have a fill for the whole tensor."""
    pieces = (
        piece
        if isinstance(piece.initializer, Constant)
        else Piece(piece.box, extents(piece.box), Given(fill), start.name)
        for piece in start.pieces
    )
    return replace(start, pieces=tuple(pieces))
