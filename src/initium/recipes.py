"""Recipes: ordered rules for a family of models, as TOML, resolved for one model by its depth and width.

A recipe file::

    description = "what it does"            # these four are optional
    source = "paper or program"
    seed = 1
    dtype = "bfloat16"

    [[rules]]                               # in order; the first rule that matches a name wins
    match = "*.c_proj.weight"               # a glob or a list of globs; or regex = '...', searched for
    init = "normal"                         # an initializer and its parameters
    std = "0.02 / sqrt(2 * depth)"          # a number or a formula of depth and width

    [[rules]]
    match = "*.rotary.*"
    skip = true                             # leave it out

The named recipes are written in the same way.
"""

from __future__ import annotations

import errno
import inspect
import re
import tomllib
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from initium import dtypes, initializers
from initium.architectures import Architecture
from initium.checks import check_seed
from initium.formulas import evaluate
from initium.initializers import Initializer
from initium.rules import Assignment, Rule, Rules, UnusedRuleWarning, assign, skip

__all__ = ["DEFAULTS", "INITIALIZERS", "NAMED", "Recipe", "RecipeError", "RecipeRule", "load", "parse"]

#: Named recipes.
NAMED: Mapping[str, str] = {
    "gpt2": """\
description = "N(0, 0.02), projections into the residual stream 0.02 / sqrt(2 depth), biases 0, norms 1"
source = "Radford et al. 2019, section 2.3, as in transformers' GPT2PreTrainedModel"

[[rules]]
match = "*.c_proj.weight"
init = "normal"
std = "0.02 / sqrt(2 * depth)"

[[rules]]
match = "*ln_*.weight"
init = "ones"

[[rules]]
match = "*.bias"
init = "zeros"

[[rules]]
match = "*.weight"
init = "normal"
std = 0.02
""",
    "llama": """\
description = "N(0, 0.02) without residual scaling, biases 0, norms 1"
source = "Touvron et al. 2023, as in transformers' LlamaPreTrainedModel"

[[rules]]
match = "*norm.weight"
init = "ones"

[[rules]]
match = "*.bias"
init = "zeros"

[[rules]]
match = "*.weight"
init = "normal"
std = 0.02
""",
}

#: The recipe of a family of models, where none is asked for.
DEFAULTS: Mapping[str, str] = {"gpt2": "gpt2", "llama": "llama"}


class RecipeError(ValueError):
    """A malformed recipe; the message begins with file and line."""


def _initializers() -> dict[str, Callable[..., Initializer]]:
    """Return what `init` may name: the functions of `initium.initializers`, and its classes in lower case."""
    public: dict[str, Any] = {name: getattr(initializers, name) for name in initializers.__all__}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    functions = {name: value for name, value in public.items() if name not in classes}
    lowered = {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in classes.items()}
    del lowered["initializer"]  # the protocol
    return dict(sorted((lowered | functions).items()))


#: Makers of initializers by the name that a rule gives as `init`.
INITIALIZERS: Mapping[str, Callable[..., Initializer]] = _initializers()


@dataclass(frozen=True)
class RecipeRule:
    """One ``[[rules]]`` entry.

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
    """

    pattern: str | re.Pattern[str]
    init: str | None
    parameters: Mapping[str, Any]
    where: str

    def resolve(self, variables: Mapping[str, float | None]) -> Rule:
        """Return the rule with its formulas evaluated."""
        return Rule(self.pattern, skip if self.init is None else self._initializer(variables))

    @property
    def open_layout(self) -> bool:
        """Whether the initializer takes a layout that the rule leaves open."""
        if self.init is None or "layout" in self.parameters:
            return False
        return "layout" in inspect.signature(INITIALIZERS[self.init]).parameters

    def describe(self, variables: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the rule as it would stand in a recipe file, formulas evaluated."""
        kind = {"match": self.pattern} if isinstance(self.pattern, str) else {"regex": self.pattern.pattern}
        action = {"skip": True} if self.init is None else {"init": self.init}
        return {**kind, **action, **self.evaluated(variables)}

    def evaluated(self, variables: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the parameters with formulas replaced by their values."""
        if self.init is None:
            return {}
        hints = typing.get_type_hints(_callee(INITIALIZERS[self.init]))
        return {
            key: evaluate(value, variables) if isinstance(value, str) and _is_real(hints.get(key)) else value
            for key, value in self.parameters.items()
        }

    def _initializer(self, variables: Mapping[str, float | None]) -> Initializer:
        assert self.init is not None
        try:
            return INITIALIZERS[self.init](**self.evaluated(variables))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"{self.where}: {error}") from error


def _is_real(hint: Any) -> bool:
    """Tell whether a parameter of this type takes a number, possibly among other things."""
    return hint is float or float in typing.get_args(hint)


def _callee(maker: Callable[..., Any]) -> Callable[..., Any]:
    return maker.__init__ if inspect.isclass(maker) else maker


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
    """

    name: str
    rules: tuple[RecipeRule, ...]
    text: str = field(repr=False)
    description: str = ""
    source: str = ""
    seed: int | None = None
    dtype: str | None = None
    is_named: bool = False

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
        resolved = self.resolve(depth=model.depth, width=model.width)
        with warnings.catch_warnings():
            # Named recipes serve models that lack some kinds of weights; those of files are told in `unused`.
            warnings.simplefilter("ignore", UnusedRuleWarning)
            assignments = assign({tensor.name: tensor.shape for tensor in model.tensors}, resolved)
        origins = {id(rule): origin for rule, origin in zip(resolved.rules, self.rules, strict=True)}
        hit = {id(assignment.rule) for assignment in assignments}
        unused = tuple(origin for key, origin in origins.items() if key not in hit and not self.is_named)
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


def load(recipe: str | Path) -> Recipe:
    """Return a named recipe, or that of a ``.toml`` file.

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
        return parse(NAMED[str(recipe)], str(recipe), is_named=True)
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
    return parse(text, str(path))


def parse(text: str, name: str, *, is_named: bool = False) -> Recipe:
    """Return the recipe that a TOML text holds.

    Parameters
    ----------
    text
        TOML, see the module's documentation.
    name
        File or name, for messages.
    is_named
        See `Recipe`.

    Raises
    ------
    RecipeError
        If the text is malformed; with the line.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{name}: {error}") from None
    return _Reader(text, name).recipe(document, is_named)


_TEXTS = ("description", "source")


@dataclass(frozen=True)
class _Reader:
    """Turns a TOML document into a recipe, and finds the lines of what is wrong in it."""

    text: str
    name: str
    lines: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", self.text.splitlines())

    def recipe(self, document: Mapping[str, Any], is_named: bool) -> Recipe:
        for key, value in document.items():
            if key not in (*_TEXTS, "seed", "dtype", "rules"):
                raise self.error(f"{key!r} is unknown; expected description, source, seed, dtype, rules", key)
            if key in _TEXTS and not isinstance(value, str):
                raise self.error(f"{key}={value!r}; expected a string", key)
        rules = document.get("rules")
        if not isinstance(rules, list) or not rules or not all(isinstance(rule, dict) for rule in rules):
            raise self.error("no rules; expected at least one [[rules]]", "rules")
        return Recipe(
            self.name,
            tuple(made for index, rule in enumerate(rules) for made in self.rules(index, rule)),
            self.text,
            description=document.get("description", ""),
            source=document.get("source", ""),
            seed=self.checked("seed", check_seed, document),
            dtype=self.checked("dtype", lambda dtype: dtypes.lookup(dtype).name, document),
            is_named=is_named,
        )

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
        allowed = inspect.signature(INITIALIZERS[init]).parameters if init is not None else {}
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
