"""Recipes: ordered rules for a family of models, resolved for one model by its depth and width.

`initium.recipes.reader` reads them from TOML files and describes the format.
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
from initium.recipes.rules import Assignment, Rule, Rules, Skip, match, skip

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
    """A malformed recipe; the message begins with file and line."""


#: Makers of initializers by the name that a rule gives as `init`.
INITIALIZERS: Mapping[str, Callable[..., Initializer]] = MappingProxyType(dict(sorted(MAKERS.items())))


#: What formulas may speak of besides constants: of the model, and of one tensor.
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
        Name of an initializer; None to leave out what matches.
    parameters
        For the initializer; numbers may be formulas.
    where
        File and line, for messages.
    constants
        Of the recipe, for formulas.
    is_named
        Whether the rule comes with initium.
    """

    pattern: str | re.Pattern[str]
    init: str | None
    parameters: Mapping[str, Any]
    where: str
    constants: Mapping[str, float] = field(default_factory=dict)
    is_named: bool = False

    def resolve(self, variables: _Variables) -> Rule:
        """Return the rule for a model: formulas are evaluated, those of a layer when a layer asks."""
        if "layer" not in self._names:
            initializer = skip if self.init is None else self._initializer(variables)
            return Rule(self.pattern, initializer, optional=self.is_named)
        depth = variables.get("depth")
        if depth is None:
            raise RecipeError(f"{self.where}: a formula of layer: the depth of this model is not known")

        @cache
        def of_layer(layer: int) -> Initializer:
            return self._initializer({**variables, "layer": layer})

        return LayerRule(self.pattern, of_layer(0), self.is_named, depth=int(depth), of_layer=of_layer)

    @property
    def speaks_of_fans(self) -> bool:
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
        """Return the rule as it would stand in a recipe file, formulas evaluated.

        Of formulas of a tensor's layer or fans, only what belongs to the model is replaced.
        """
        kind = {"match": self.pattern} if isinstance(self.pattern, str) else {"regex": self.pattern.pattern}
        action = {"skip": True} if self.init is None else {"init": self.init}
        known = {**self.constants, **variables}
        values = {
            key: substitute(self.parameters[key], known)
            if names(self.parameters[key]) & frozenset(OF_TENSOR)
            else evaluate(self.parameters[key], known)
            for key in self._formulas
        }
        return {**kind, **action, **self.parameters, **values}

    def _initializer(self, variables: _Variables) -> Initializer:
        assert self.init is not None
        known = {**self.constants, **variables}
        try:
            if self.speaks_of_fans:
                # Errors that do not depend on the fans shall come now, with file and line.
                made = ByFans(self.init, tuple(self.parameters.items()), tuple(known.items()))
                if "layout" in self.parameters:
                    made = replace(made, layout=self.parameters["layout"])
                made.initializer(Fans(1.0, 1.0))
                return made
            return _make(self.init, self.parameters, known)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.where}: {error}") from error


def signature_of(init: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters that an initializer takes."""
    return inspect.signature(INITIALIZERS[init]).parameters


@cache
def _numbers(init: str) -> frozenset[str]:
    """Return the parameters of an initializer that take a number, possibly among other things."""
    maker = INITIALIZERS[init]
    hints = typing.get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    return frozenset(key for key, hint in hints.items() if hint is float or float in typing.get_args(hint))


def formulas_of(init: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters that are texts where the initializer takes numbers."""
    return [key for key, value in parameters.items() if isinstance(value, str) and key in _numbers(init)]


def _make(init: str, parameters: Mapping[str, Any], known: _Variables) -> Initializer:
    """Return the initializer of that name with formulas evaluated."""
    values = {key: evaluate(parameters[key], known) for key in formulas_of(init, parameters)}
    axes = {key: tuple(value) for key, value in parameters.items() if isinstance(value, list)}
    return INITIALIZERS[init](**{**parameters, **axes, **values})


# The first part of a name that is a number, with all parts before it.
_LAYER = re.compile(r"(?:(?!\d+\.)[^.]+\.)*(0|[1-9]\d{0,9})\.")


def layer_of(name: str) -> int | None:
    """Return the layer of a tensor: the first number among the parts of its name, the last part aside."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


@dataclass(frozen=True, kw_only=True)
class LayerRule(Rule):
    """A rule for the tensors of a model's layers, whose initializer depends on the layer.

    Attributes
    ----------
    initializer
        That of layer 0.
    depth
        Number of layers.
    of_layer
        Returns the initializer of a layer, the same object each time.
    """

    is_fixed: ClassVar[bool] = False

    depth: int
    of_layer: Callable[[int], Initializer]

    def matcher(self) -> Callable[[str], object]:
        """Return what tells whether a name matches, and is that of a layer."""
        matches = super().matcher()

        def of_some_layer(name: str) -> bool:
            if not matches(name):
                return False
            layer = layer_of(name)
            return layer is not None and layer < self.depth

        return of_some_layer

    def initializer_for(self, name: str) -> Initializer | Skip:
        """Return the initializer of the layer that the name tells."""
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
        What the fans are read off by.
    """

    init: str
    parameters: tuple[tuple[str, Any], ...]
    variables: tuple[tuple[str, float | None], ...] = ()
    layout: LayoutLike = None

    def fans(self, shape: Sequence[int], layout: Layout | None = None) -> Fans:
        """Return the fans of a weight; `layout` is that of the tensor, where it is known."""
        return layouts.lookup(self.layout, layout).fans(shape)

    def initializer(self, fans: Fans) -> Initializer:
        """Return the initializer for these fans."""
        takes_layout = "layout" in signature_of(self.init)
        parameters = {key: value for key, value in self.parameters if key != "layout" or takes_layout}
        return _make(self.init, parameters, {**dict(self.variables), **fans._asdict()})

    def resolve(self, shape: Sequence[int], layout: Layout | None = None) -> Fill:
        """Return the fill for a weight of these fans."""
        return self.initializer(self.fans(shape, layout)).resolve(shape, layout)


@dataclass(frozen=True)
class Assigned:
    """What a recipe gives each tensor of a model.

    Attributes
    ----------
    assignments
        In the order of the model's tensors.
    unused
        Rules of a recipe file to which no tensor was left.
    """

    assignments: tuple[Assignment, ...]
    unused: tuple[RecipeRule, ...]


@dataclass(frozen=True)
class Recipe:
    """Rules, and the seed and dtype to use unless others are asked for.

    Attributes
    ----------
    name
        Of a named recipe, or the path of the file.
    rules
        In order.
    description, source
        For people.
    seed, dtype
        None if the recipe does not say.
    is_named
        Whether the recipe comes with initium.
    text
        The TOML that it was made from.
    constants
        For formulas, those of the extended recipe included.
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

    def resolve(self, *, depth: int | None = None, width: int | None = None) -> Rules:
        """Return rules for a model of this depth and width, as `initium.init_model` takes them.

        Parameters
        ----------
        depth
            Number of residual layers.
        width
            Size of the residual stream.

        Raises
        ------
        RecipeError
            If a formula needs what is not given, or a parameter is unfit for its initializer.
        """
        variables = {"depth": depth, "width": width}
        return Rules(tuple(rule.resolve(variables) for rule in self.rules))

    def assign(self, model: Architecture) -> Assigned:
        """Return what each tensor of a model gets.

        An initializer that depends on fans takes the layout of each tensor from the model, unless its
        rule gives one.

        Raises
        ------
        RecipeError
            See `resolve`.
        initium.rules.UnmatchedError
            If tensors match no rule.
        ValueError
            If an initializer does not fit a tensor's shape, or a distribution its dtype.
        """
        shapes = {tensor.name: tensor.shape for tensor in model.tensors}
        assignments, used = match(shapes, self.resolve(depth=model.depth, width=model.width), model.layouts)
        for tensor, assignment in zip(model.tensors, assignments, strict=True):
            _check_dtype(assignment, tensor.dtype)
        # Named recipes serve models that lack some kinds of weights.
        unused = (rule for rule, hit in zip(self.rules, used, strict=True) if not (hit or rule.is_named))
        return Assigned(tuple(assignments), tuple(unused))


def _check_dtype(assignment: Assignment, dtype: str) -> None:
    if assignment.fill is None:
        return
    try:
        assignment.fill.check(dtypes.lookup(dtype))
    except ValueError as error:
        raise ValueError(f"tensor {assignment.name!r}, rule {assignment.rule.label!r}: {error}") from error
