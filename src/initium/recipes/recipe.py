"""Recipes: ordered rules for a family of models, resolved for one model by its depth and width.

`initium.recipes.reader` reads TOML files and documents their format.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar

from initium import dtypes, layouts
from initium.fills.base import Fill
from initium.initializers.basic import Initializer
from initium.initializers.catalogue import MAKERS
from initium.layouts import Fans, Layout, LayoutLike
from initium.models.architecture import Architecture
from initium.recipes.formulas import evaluate, names, substitute
from initium.recipes.rules import Assignment, Own, Rule, Rules, Skip, match, own, skip

__all__ = [
    "FANS",
    "INITIALIZERS",
    "OF_MODEL",
    "OF_TENSOR",
    "Assigned",
    "ByFans",
    "LayerRule",
    "Recipe",
    "RecipeError",
    "RecipeRule",
    "formulas_of",
    "signature_of",
]


class RecipeError(ValueError):
    """A malformed recipe; the message starts with file and line."""


#: Functions and classes that make initializers, by the value of `init` in a rule.
INITIALIZERS: Mapping[str, Callable[..., Initializer]] = MappingProxyType(dict(sorted(MAKERS.items())))


#: Variables in formulas besides constants: those of the model, and those of a tensor.
OF_MODEL = ("depth", "width")

OF_TENSOR = ("layer", "fan_in", "fan_out")

FANS = frozenset(("fan_in", "fan_out"))


_Variables = Mapping[str, float | None]


@dataclass(frozen=True)
class RecipeRule:
    """One pattern of a ``[[rules]]`` entry.

    Attributes
    ----------
    pattern
        A glob, or a compiled regular expression.
    init
        Name of an initializer; None to skip the tensors that match, or to leave them to the model's own code.
    parameters
        Parameters of the initializer; numbers may be formulas.
    where
        File and line, for messages.
    constants
        Constants of the recipe, for formulas.
    is_named
        Whether the rule is from a named recipe of initium.
    is_own
        Whether the tensors that match start as the model's own code says.
    """

    pattern: str | re.Pattern[str]
    init: str | None
    parameters: Mapping[str, Any]
    where: str
    constants: Mapping[str, float] = field(default_factory=dict)
    is_named: bool = False
    is_own: bool = False

    def resolve(self, variables: _Variables) -> Rule:
        """Return the rule for a model; formulas are evaluated here, formulas of the layer per layer."""
        if "layer" not in self._names:
            return Rule(self.pattern, self._resolved(variables), optional=self.is_named)
        depth = variables.get("depth")
        if depth is None:
            raise RecipeError(f"{self.where}: a formula uses layer, but the depth of this model is not known")

        @cache
        def of_layer(layer: int) -> Initializer:
            return self._initializer({**variables, "layer": layer})

        return LayerRule(self.pattern, of_layer(0), self.is_named, depth=int(depth), of_layer=of_layer)

    @property
    def uses_fans(self) -> bool:
        """Whether a formula depends on the fans of each tensor."""
        return bool(self._names & FANS)

    @property
    def _names(self) -> frozenset[str]:
        return frozenset().union(*(names(self.parameters[key]) for key in self._formulas))

    @property
    def _formulas(self) -> list[str]:
        """Parameters that are formulas."""
        return [] if self.init is None else formulas_of(self.init, self.parameters)

    def describe(self, variables: _Variables) -> dict[str, Any]:
        """Return the rule in the format of a recipe file, with formulas evaluated.

        In formulas of a tensor's layer or fans, only the variables of the model are replaced.
        """
        kind = {"match": self.pattern} if isinstance(self.pattern, str) else {"regex": self.pattern.pattern}
        action: dict[str, Any] = {"own" if self.is_own else "skip": True}
        if self.init is not None:
            action = {"init": self.init}
        known = {**self.constants, **variables}
        values = {
            key: substitute(self.parameters[key], known)
            if names(self.parameters[key]) & frozenset(OF_TENSOR)
            else evaluate(self.parameters[key], known)
            for key in self._formulas
        }
        return {**kind, **action, **self.parameters, **values}

    def _resolved(self, variables: _Variables) -> Initializer | Skip | Own:
        if self.init is None:
            return own if self.is_own else skip
        return self._initializer(variables)

    def _initializer(self, variables: _Variables) -> Initializer:
        assert self.init is not None
        known = {**self.constants, **variables}
        try:
            if self.uses_fans:
                # Raise errors that do not depend on the fans here, with file and line.
                made = ByFans(self.init, tuple(self.parameters.items()), tuple(known.items()))
                if "layout" in self.parameters:
                    made = replace(made, layout=self.parameters["layout"])
                made.initializer(Fans(1.0, 1.0))
                return made
            return _make(self.init, self.parameters, known)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.where}: {error}") from error


def signature_of(init: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an initializer."""
    return inspect.signature(INITIALIZERS[init]).parameters


@cache
def _numbers(init: str) -> frozenset[str]:
    """Return the parameters of an initializer whose type includes float."""
    maker = INITIALIZERS[init]
    hints = typing.get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    return frozenset(key for key, hint in hints.items() if hint is float or float in typing.get_args(hint))


def formulas_of(init: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that are formulas: strings where the initializer takes a float."""
    return [key for key, value in parameters.items() if isinstance(value, str) and key in _numbers(init)]


def _make(init: str, parameters: Mapping[str, Any], known: _Variables) -> Initializer:
    """Return the initializer `init` with formulas evaluated."""
    values = {key: evaluate(parameters[key], known) for key in formulas_of(init, parameters)}
    axes = {key: tuple(value) for key, value in parameters.items() if isinstance(value, list)}
    return INITIALIZERS[init](**{**parameters, **axes, **values})


# Matches a name up to and including its first part that is a number.
_LAYER = re.compile(r"(?:(?!\d+\.)[^.]+\.)*(0|[1-9]\d{0,9})\.")


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor: the first number among the parts of its name, except the last part."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


@dataclass(frozen=True, kw_only=True)
class LayerRule(Rule):
    """A rule for the tensors of a model's layers, whose initializer depends on the layer.

    Attributes
    ----------
    initializer
        The initializer of layer 0.
    depth
        Number of layers.
    of_layer
        Returns the initializer of a layer, the same object each time.
    """

    is_fixed: ClassVar[bool] = False

    depth: int
    of_layer: Callable[[int], Initializer]

    def matcher(self) -> Callable[[str], object]:
        """Return a function that states whether a name matches and has a layer below the depth."""
        matches = super().matcher()

        def of_some_layer(name: str) -> bool:
            if not matches(name):
                return False
            layer = layer_of(name)
            return layer is not None and layer < self.depth

        return of_some_layer

    def initializer_for(self, name: str) -> Initializer | Skip | Own:
        """Return the initializer of the layer in the name."""
        layer = layer_of(name)
        assert layer is not None
        return self.of_layer(layer)


@dataclass(frozen=True)
class ByFans:
    """An initializer whose parameters are formulas of a weight's fans.

    Parameters
    ----------
    init
        Name of the initializer.
    parameters
        Pairs of name and value or formula.
    variables
        Pairs of name and value, for the formulas.
    layout
        The layout for the fans.
    """

    init: str
    parameters: tuple[tuple[str, Any], ...]
    variables: tuple[tuple[str, float | None], ...] = ()
    layout: LayoutLike = None

    def fans(self, shape: Sequence[int], layout: Layout | None = None) -> Fans:
        """Return the fans of a weight; `layout` is the layout of the tensor if it is known."""
        return layouts.lookup(self.layout, layout).fans(shape)

    def initializer(self, fans: Fans) -> Initializer:
        """Return the initializer for these fans."""
        takes_layout = "layout" in signature_of(self.init)
        parameters = {key: value for key, value in self.parameters if key != "layout" or takes_layout}
        return _make(self.init, parameters, {**dict(self.variables), **fans._asdict()})

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill for a weight, with the formulas evaluated for its fans."""
        return self.initializer(self.fans(shape, layout)).resolve(shape, layout)


@dataclass(frozen=True)
class Assigned:
    """The assignments of a recipe to the tensors of a model.

    Attributes
    ----------
    assignments
        One assignment per tensor, in the order of the model.
    unused
        Rules of a recipe file that match no remaining tensor.
    """

    assignments: tuple[Assignment, ...]
    unused: tuple[RecipeRule, ...]


@dataclass(frozen=True)
class Recipe:
    """Rules, with a default seed and dtype.

    Attributes
    ----------
    name
        The name of a named recipe, or the path of the file.
    rules
        The rules, in order.
    description, source
        Texts for the user.
    seed, dtype
        None if the recipe does not set them.
    is_named
        Whether the recipe is a named recipe of initium.
    text
        The TOML text of the recipe.
    constants
        Constants for formulas, including those of the extended recipe.
    """

    name: str
    rules: tuple[RecipeRule, ...]
    text: str = field(repr=False)
    description: str = ""
    source: str = ""
    seed: int | None = None
    dtype: str | None = None
    is_named: bool = False
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def use_own(self) -> bool:
        """Whether a rule leaves tensors to the model's own code."""
        return any(rule.is_own for rule in self.rules)

    def resolve(self, *, depth: int | None = None, width: int | None = None) -> Rules:
        """Return rules for a model with this depth and width, for `initium.init_model`.

        Parameters
        ----------
        depth
            Number of residual layers.
        width
            Size of the residual stream.

        Raises
        ------
        RecipeError
            If a formula needs a value that is not given, or a parameter is invalid for its initializer.
        """
        variables = {"depth": depth, "width": width}
        return Rules(tuple(rule.resolve(variables) for rule in self.rules))

    def assign(self, model: Architecture) -> Assigned:
        """Return the assignment of each tensor of a model.

        An initializer that depends on fans uses the layout of each tensor in the model, unless its rule has
        a layout.

        Raises
        ------
        RecipeError
            See `resolve`.
        initium.recipes.rules.UnmatchedError
            If tensors match no rule.
        ValueError
            If an initializer does not fit a tensor's shape, or a distribution its dtype.
        """
        shapes = {tensor.name: tensor.shape for tensor in model.tensors}
        rules = self.resolve(depth=model.depth, width=model.width)
        assignments, used = match(shapes, rules, model.layouts, model.parametrized)
        for tensor, assignment in zip(model.tensors, assignments, strict=True):
            _check_dtype(assignment, tensor.dtype)
        # Named recipes are for many models, and some of them lack some kinds of weights.
        unused = (rule for rule, hit in zip(self.rules, used, strict=True) if not (hit or rule.is_named))
        return Assigned(tuple(assignments), tuple(unused))


def _check_dtype(assignment: Assignment, dtype: str) -> None:
    if assignment.fill is None:
        return
    try:
        assignment.fill.check(dtypes.lookup(dtype))
    except ValueError as error:
        raise ValueError(f"tensor {assignment.name!r}, rule {assignment.rule.label!r}: {error}") from error
