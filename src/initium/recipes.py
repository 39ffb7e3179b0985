"""Recipes: ordered rules for a family of models, as TOML, resolved for one model by its depth and width.

A recipe file::

    description = "what it does"            # all of these are optional
    source = "paper or program"
    extends = "gpt2"                        # a named recipe or a file; its rules come after those here
    seed = 1
    dtype = "bfloat16"

    [constants]                             # numbers for formulas; those of the extended recipe give way
    base_width = 256

    [[rules]]                               # in order; the first rule that matches a name wins
    match = "*.c_proj.weight"               # a glob or a list of globs; or regex = '...', searched for
    init = "normal"                         # an initializer and its parameters
    std = "0.02 / sqrt(2 * depth)"          # a number or a formula

    [[rules]]
    match = "*.rotary.*"
    skip = true                             # leave it out

Formulas speak of the model's ``depth`` and ``width``, of constants, of a tensor's ``fan_in`` and ``fan_out``,
and of its ``layer``: the first number in its name, ``h.3.mlp.c_fc.weight`` being of layer 3. Rules that speak
of the layer match no other tensors. The named recipes are written in the same way.
"""

from __future__ import annotations

import errno
import inspect
import math
import re
import tomllib
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from initium import dtypes
from initium.architectures import Architecture
from initium.catalogue import MAKERS
from initium.checks import check_seed
from initium.fans import Fans, Layout
from initium.fans import lookup as fans_lookup
from initium.fills import Fill
from initium.formulas import FUNCTIONS, evaluate, names, substitute
from initium.initializers import Initializer
from initium.named_recipes import DEFAULTS, NAMED
from initium.rules import Assignment, Rule, Rules, UnusedRuleWarning, assign, skip

__all__ = ["DEFAULTS", "INITIALIZERS", "NAMED", "Recipe", "RecipeError", "RecipeRule", "load", "parse"]


class RecipeError(ValueError):
    """A malformed recipe; the message begins with file and line."""


#: Makers of initializers by the name that a rule gives as `init`.
INITIALIZERS: Mapping[str, Callable[..., Initializer]] = MappingProxyType(dict(sorted(MAKERS.items())))


#: What formulas may speak of besides constants: of the model, and of one tensor.
_OF_MODEL = ("depth", "width")
_OF_TENSOR = ("layer", "fan_in", "fan_out")
_FANS = frozenset(("fan_in", "fan_out"))

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

    def resolve(self, variables: _Variables) -> list[Rule]:
        """Return the rule with its formulas evaluated: one rule, or one per layer if they speak of it."""
        if "layer" not in self._names:
            initializer = skip if self.init is None else self._initializer(variables)
            return [Rule(self.pattern, initializer, optional=self.is_named)]
        depth = variables.get("depth")
        if depth is None:
            raise RecipeError(f"{self.where}: a formula of layer: the depth of this model is not known")
        return [
            LayerRule(self.pattern, self._initializer({**variables, "layer": layer}), True, layer)
            for layer in range(int(depth))
        ]

    @property
    def open_layout(self) -> bool:
        """Whether the initializer takes a layout that the rule leaves open."""
        if self.init is None or "layout" in self.parameters:
            return False
        return self.speaks_of_fans or "layout" in _signature(self.init)

    @property
    def speaks_of_fans(self) -> bool:
        """Whether a formula depends on the fans of each tensor."""
        return bool(self._names & _FANS)

    @property
    def _names(self) -> frozenset[str]:
        return frozenset().union(*(names(self.parameters[key]) for key in self._formulas))

    @property
    def _formulas(self) -> list[str]:
        """Parameters that are formulas."""
        return [] if self.init is None else _formulas(self.init, self.parameters)

    def describe(self, variables: _Variables) -> dict[str, Any]:
        """Return the rule as it would stand in a recipe file, formulas evaluated.

        Of formulas of a tensor's layer or fans, only what belongs to the model is replaced.
        """
        kind = {"match": self.pattern} if isinstance(self.pattern, str) else {"regex": self.pattern.pattern}
        action = {"skip": True} if self.init is None else {"init": self.init}
        known = {**self.constants, **variables}
        values = {
            key: substitute(self.parameters[key], known)
            if names(self.parameters[key]) & {*_OF_TENSOR}
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
                made.resolve((), Fans(1.0, 1.0))
                return made
            return _make(self.init, self.parameters, known)
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.where}: {error}") from error


def _signature(init: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(INITIALIZERS[init]).parameters


def _formulas(init: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters that are texts where the initializer takes numbers."""
    maker = INITIALIZERS[init]
    hints = typing.get_type_hints(maker.__init__ if inspect.isclass(maker) else maker)
    return [key for key, value in parameters.items() if isinstance(value, str) and _is_real(hints.get(key))]


def _is_real(hint: Any) -> bool:
    """Tell whether a parameter of this type takes a number, possibly among other things."""
    return hint is float or float in typing.get_args(hint)


def _make(init: str, parameters: Mapping[str, Any], known: _Variables) -> Initializer:
    """Return the initializer of that name with formulas evaluated."""
    values = {key: evaluate(parameters[key], known) for key in _formulas(init, parameters)}
    return INITIALIZERS[init](**{**parameters, **values})


@dataclass(frozen=True)
class LayerRule(Rule):
    """A rule for the tensors of one layer: those whose name's first number is that of the layer."""

    layer: int = 0

    @property
    def label(self) -> str:
        """The pattern as text, and the layer."""
        return f"{super().label} in layer {self.layer}"

    @property
    def regex(self) -> re.Pattern[str]:
        """The pattern as a regular expression to search for."""
        numbered = rf"(?=(?:(?!\d+\.)[^.]+\.)*{self.layer}\.)"
        return re.compile(rf"\A{numbered}(?=(?s:.*?)(?:{super().regex.pattern}))")


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
    layout: str | Layout = "out_in"

    def fans(self, shape: Sequence[int]) -> Fans:
        """Return the fans of a weight."""
        return fans_lookup(self.layout).fans(shape)

    def resolve(self, shape: Sequence[int], fans: Fans | None = None) -> Fill:
        """Return the fill for a weight of these fans."""
        found = fans if fans is not None else self.fans(shape)
        takes_layout = "layout" in _signature(self.init)
        parameters = {key: value for key, value in self.parameters if key != "layout" or takes_layout}
        if takes_layout:
            parameters["layout"] = self.layout
        return _make(self.init, parameters, {**dict(self.variables), **found._asdict()}).resolve(shape, found)


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
        return Rules(tuple(rule for rule, _ in self._resolved(depth, width)))

    def _resolved(self, depth: int | None, width: int | None) -> list[tuple[Rule, RecipeRule]]:
        """Return the rules, each with what it comes from."""
        variables = {"depth": depth, "width": width}
        return [(rule, origin) for origin in self.rules for rule in origin.resolve(variables)]

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
        resolved = self._resolved(model.depth, model.width)
        with warnings.catch_warnings():
            # Named recipes serve models that lack some kinds of weights; those of files are told in `unused`.
            warnings.simplefilter("ignore", UnusedRuleWarning)
            shapes = {tensor.name: tensor.shape for tensor in model.tensors}
            assignments = assign(shapes, Rules(tuple(rule for rule, _ in resolved)))
        origins = {id(rule): origin for rule, origin in resolved}
        hit = {id(origins[id(assignment.rule)]) for assignment in assignments}
        unused = tuple(origin for origin in self.rules if id(origin) not in hit and not origin.is_named)
        in_layout = tuple(
            _in_layout(assignment, model) if origins[id(assignment.rule)].open_layout else assignment
            for assignment in assignments
        )
        for tensor, assignment in zip(model.tensors, in_layout, strict=True):
            _check_dtype(assignment, tensor.dtype)
        return Assigned(in_layout, unused)


def _in_layout(assignment: Assignment, model: Architecture) -> Assignment:
    """Return the assignment with the tensor's own layout in its initializer."""
    if assignment.name not in model.layouts:
        return assignment
    initializer: Any = assignment.rule.initializer
    initializer = replace(initializer, layout=model.layout(assignment.name))
    rule = Rule(assignment.rule.pattern, initializer)
    return assignment._replace(rule=rule, fill=initializer.resolve(assignment.shape))


def _check_dtype(assignment: Assignment, dtype: str) -> None:
    if assignment.fill is None:
        return
    try:
        assignment.fill.encode(dtypes.lookup(dtype))
    except ValueError as error:
        raise ValueError(f"tensor {assignment.name!r}, rule {assignment.rule.label!r}: {error}") from error


def load(recipe: str | Path, *, chain: tuple[str, ...] = ()) -> Recipe:
    """Return a named recipe, or that of a ``.toml`` file.

    Parameters
    ----------
    recipe
        Name or path.
    chain
        See `parse`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    RecipeError
        If the file is malformed.
    ValueError
        If there is no recipe of that name.
    """
    if str(recipe) in NAMED:
        return parse(NAMED[str(recipe)], str(recipe), is_named=True, chain=chain)
    path = Path(recipe)
    if path.suffix != ".toml":
        raise ValueError(
            f"recipe={str(recipe)!r} is unknown; expected one of {', '.join(NAMED)}, or a .toml file"
        )
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: {error}") from None
    return parse(text, str(path), chain=chain)


def parse(text: str, name: str, *, is_named: bool = False, chain: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe that a TOML text holds.

    Parameters
    ----------
    text
        TOML, see the module's documentation.
    name
        File or name, for messages.
    is_named
        See `Recipe`.
    chain
        Recipes that extend this one, which it may not extend in turn.

    Raises
    ------
    RecipeError
        If the text is malformed; with the line.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{name}: {error}") from None
    return _Reader(text, name, (*chain, name)).recipe(document, is_named)


_TEXTS = ("description", "source", "extends")
_KEYS = (*_TEXTS, "seed", "dtype", "constants", "rules")


@dataclass(frozen=True)
class _Reader:
    """Turns a TOML document into a recipe, and finds the lines of what is wrong in it."""

    text: str
    name: str
    chain: tuple[str, ...]
    lines: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", self.text.splitlines())

    def recipe(self, document: Mapping[str, Any], is_named: bool) -> Recipe:
        for key, value in document.items():
            if key not in _KEYS:
                raise self.error(f"{key!r} is unknown; expected {', '.join(_KEYS)}", key)
            if key in _TEXTS and not isinstance(value, str):
                raise self.error(f"{key}={value!r}; expected a string", key)
        base = self.base(document["extends"]) if "extends" in document else None
        rules = document.get("rules", [] if base else None)
        if not isinstance(rules, list) or not (rules or base) or not all(isinstance(r, dict) for r in rules):
            raise self.error("no rules; expected at least one [[rules]]", "rules")
        own = [made for index, rule in enumerate(rules) for made in self.rules(index, rule)]
        constants = {**(base.constants if base else {}), **self.constants(document.get("constants", {}))}
        inherited = base.rules if base else ()
        seed = self.checked("seed", check_seed, document)
        dtype = self.checked("dtype", lambda dtype: dtypes.lookup(dtype).name, document)
        return Recipe(
            self.name,
            (
                *(replace(rule, constants=constants, is_named=is_named) for rule in own),
                *(replace(rule, constants=constants) for rule in inherited),
            ),
            self.text,
            description=document.get("description", base.description if base else ""),
            source=document.get("source", base.source if base else ""),
            seed=base.seed if seed is None and base else seed,
            dtype=base.dtype if dtype is None and base else dtype,
            is_named=is_named,
            constants=constants,
        )

    def base(self, extends: str) -> Recipe:
        """Return the recipe that this one extends."""
        name = extends if extends in NAMED else str(Path(self.name).parent / extends)
        if name in self.chain:
            raise self.error(
                f"extends={extends!r} goes in a circle: {' -> '.join((*self.chain, name))}", "extends"
            )
        try:
            return load(name, chain=self.chain)
        except RecipeError:
            raise
        except (OSError, ValueError) as error:
            raise self.error(f"extends={extends!r}: {error}", "extends") from None

    def constants(self, given: Any) -> dict[str, float]:
        """Return the constants, which are numbers under names that formulas can speak of."""
        if not isinstance(given, dict):
            raise self.error(f"constants={given!r}; expected a table of numbers", "constants")
        for key, value in given.items():
            if not key.isidentifier() or key in (*_OF_MODEL, *_OF_TENSOR, *FUNCTIONS):
                raise self.error(f"constant {key!r}; expected a name that formulas do not know yet", key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise self.error(f"constant {key}={value!r}; expected a finite number", key)
        return {key: float(value) for key, value in given.items()}

    def checked(self, key: str, check: Callable[[Any], Any], document: Mapping[str, Any]) -> Any:
        if key not in document:
            return None
        try:
            return check(document[key])
        except (TypeError, ValueError) as error:
            raise self.error(str(error), key) from None

    def rules(self, index: int, entry: Mapping[str, Any]) -> list[RecipeRule]:
        """Return the rules of an entry: one for each of its patterns."""
        init = self.init(index, entry)
        parameters = {
            key: value for key, value in entry.items() if key not in ("match", "regex", "init", "skip")
        }
        allowed = list(_signature(init)) if init is not None else []
        if init is not None and any(names(parameters[key]) & _FANS for key in _formulas(init, parameters)):
            allowed.append("layout")
        for key in parameters:
            if key not in allowed:
                what = f"init {init!r}" if init is not None else "skip"
                taken = f"expected {', '.join(allowed)}" if allowed else "it takes none"
                raise self.error(f"{what} has no parameter {key!r}; {taken}", key, index)
        where = self.where(None, index)
        return [RecipeRule(pattern, init, parameters, where) for pattern in self.patterns(index, entry)]

    def init(self, index: int, entry: Mapping[str, Any]) -> str | None:
        if "skip" in entry:
            if entry["skip"] is not True or "init" in entry:
                raise self.error("expected either init or skip = true", "skip", index)
            return None
        init = entry.get("init")
        if init is None:
            raise self.error("a rule without init; expected init or skip = true", None, index)
        if not isinstance(init, str) or init not in INITIALIZERS:
            raise self.error(
                f"init={init!r} is unknown; expected one of {', '.join(INITIALIZERS)}", "init", index
            )
        return init

    def patterns(self, index: int, entry: Mapping[str, Any]) -> Sequence[str | re.Pattern[str]]:
        if ("match" in entry) == ("regex" in entry):
            raise self.error("expected either match or regex", "regex" if "regex" in entry else None, index)
        key = "match" if "match" in entry else "regex"
        texts = entry[key] if isinstance(entry[key], list) else [entry[key]]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise self.error(f"{key}={entry[key]!r}; expected a string or a list of strings", key, index)
        if key == "match":
            return texts
        try:
            return [re.compile(text) for text in texts]
        except re.error as error:
            raise self.error(f"regex={entry[key]!r}: {error}", key, index) from None

    def error(self, message: str, key: str | None, index: int | None = None) -> RecipeError:
        return RecipeError(f"{self.where(key, index)}: {message}")

    def where(self, key: str | None, index: int | None = None) -> str:
        """Return the file, and the line of a rule or of a key in it, if found."""
        headers = [n for n, line in enumerate(self.lines) if re.match(r"\s*\[\[\s*rules\s*\]\]", line)]
        if index is None:
            return self.line_of(key, 0, headers[0] if headers else len(self.lines)) or self.name
        if index >= len(headers):  # rules = [{...}]
            return self.line_of("rules", 0, len(self.lines)) or self.name
        begin, end = [*headers, len(self.lines)][index : index + 2]
        return self.line_of(key, begin, end) or f"{self.name}:{begin + 1}"

    def line_of(self, key: str | None, begin: int, end: int) -> str | None:
        """Return the file and line of a key between two lines, if found."""
        if key is None:
            return None
        setting = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
        return next((f"{self.name}:{n + 1}" for n in range(begin, end) if setting.match(self.lines[n])), None)
