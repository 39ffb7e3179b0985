"""The reader of recipe files, and their format.

A recipe file::

    description = "a short text"            # this and the next four keys are optional
    source = "paper or program"
    extends = "gpt2"                        # a named recipe or a file; its rules come after these rules
    seed = 1
    dtype = "bfloat16"

    [constants]                             # numbers for formulas; they override those of the extended recipe
    base_width = 256

    [[rules]]                               # in order; the first rule that matches a name wins
    match = "*.c_proj.weight"               # a glob or a list of globs; or regex = '...', found anywhere
    init = "normal"                         # an initializer and its parameters
    std = "0.02 / sqrt(2 * depth)"          # a number or a formula

    [[rules]]
    match = "*.rotary.*"
    skip = true                             # do not write these tensors

    [[rules]]
    match = "*norm*"
    own = true                              # start as the model's own code says (docs/own.md)

Variables in formulas: the model's ``depth`` and ``width``, constants, and a tensor's ``fan_in``, ``fan_out``
and ``layer``. The layer is the first number in the tensor's name: 3 for ``h.3.mlp.c_fc.weight``. A rule with
a formula of the layer matches only tensors with a layer. The named recipes have the same format.
"""

from __future__ import annotations

import errno
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from initium import dtypes
from initium.checks import check_seed
from initium.recipes.formulas import FUNCTIONS, names
from initium.recipes.named import NAMED
from initium.recipes.recipe import (
    FANS,
    INITIALIZERS,
    OF_MODEL,
    OF_TENSOR,
    Recipe,
    RecipeError,
    RecipeRule,
    formulas_of,
    signature_of,
)

__all__ = ["load", "parse"]

#: What a rule does; each rule has one of them.
_ACTIONS = ("init", "skip", "own")
_CHOICE = "init, skip = true or own = true"


def load(recipe: str | Path, *, chain: tuple[str, ...] = ()) -> Recipe:
    """Return a named recipe, or the recipe of a ``.toml`` file.

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
        If there is no recipe with this name.
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
    """Return the recipe of a TOML text.

    Parameters
    ----------
    text
        TOML; see the documentation of this module.
    name
        File or name, for messages.
    is_named
        See `Recipe`.
    chain
        Recipes that extend this one, to detect cycles.

    Raises
    ------
    RecipeError
        If the text is malformed; the message gives the line.
    """
    _check_keys(text, name)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # errors of TOML, and of integers with thousands of digits
        raise RecipeError(f"{name}: {error}") from None
    return _Reader(text, name, (*chain, name)).recipe(document, is_named)


_STRINGS = re.compile(r'"[^"]*"|\'[^\']*\'')
_LONG_LINE, _MOST_DOTS = 1000, 100
_LARGEST = sys.float_info.max


def _check_keys(text: str, name: str) -> None:
    """Raise for a key with very many parts; the parser's time grows with the square of their number."""
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > _LONG_LINE and _STRINGS.sub("", line).count(".") > _MOST_DOTS:
            raise RecipeError(f"{name}:{number}: a key has more than {_MOST_DOTS} parts; expected fewer")


_TEXTS = ("description", "source", "extends")

_KEYS = (*_TEXTS, "seed", "dtype", "constants", "rules")


@dataclass(frozen=True)
class _Reader:
    """Converts a TOML document to a recipe, and finds the line of an error."""

    text: str
    name: str
    chain: tuple[str, ...]
    lines: list[str] = field(init=False, repr=False)
    headers: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lines = self.text.splitlines()
        headers = [n for n, line in enumerate(lines) if re.match(r"\s*\[\[\s*rules\s*\]\]", line)]
        object.__setattr__(self, "lines", lines)
        object.__setattr__(self, "headers", headers)

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
            raise self.error(f"extends={extends!r} is a cycle: {' -> '.join((*self.chain, name))}", "extends")
        try:
            return load(name, chain=self.chain)
        except RecipeError:
            raise
        except (OSError, ValueError) as error:
            raise self.error(f"extends={extends!r}: {error}", "extends") from None

    def constants(self, given: Any) -> dict[str, float]:
        """Return the constants: numbers, with names that formulas can use."""
        if not isinstance(given, dict):
            raise self.error(f"constants={given!r}; expected a table of numbers", "constants")
        for key, value in given.items():
            if not key.isidentifier() or key in (*OF_MODEL, *OF_TENSOR, *FUNCTIONS):
                raise self.error(
                    f"constant {key!r} is not allowed; expected a name without a meaning in formulas", key
                )
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
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
        parameters = {key: value for key, value in entry.items() if key not in ("match", "regex", *_ACTIONS)}
        allowed = list(signature_of(init)) if init is not None else []
        if init is not None and any(names(parameters[key]) & FANS for key in formulas_of(init, parameters)):
            allowed.append("layout")
        for key in parameters:
            if key not in allowed:
                what = f"init {init!r}" if init is not None else "own" if "own" in entry else "skip"
                taken = f"expected {', '.join(allowed)}" if allowed else "expected none"
                raise self.error(f"{what} has no parameter {key!r}; {taken}", key, index)
        where = self.where(None, index)
        is_own = "own" in entry
        patterns = self.patterns(index, entry)
        return [RecipeRule(pattern, init, parameters, where, is_own=is_own) for pattern in patterns]

    def init(self, index: int, entry: Mapping[str, Any]) -> str | None:
        actions = [key for key in _ACTIONS if key in entry]
        if not actions:
            raise self.error(f"a rule without init; expected {_CHOICE}", None, index)
        if len(actions) > 1 or (actions[0] != "init" and entry[actions[0]] is not True):
            raise self.error(f"expected either {_CHOICE}", actions[-1], index)
        if actions[0] != "init":
            return None
        init = entry["init"]
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
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(f"regex={entry[key]!r}: {error}", key, index) from None

    def error(self, message: str, key: str | None, index: int | None = None) -> RecipeError:
        return RecipeError(f"{self.where(key, index)}: {message}")

    def where(self, key: str | None, index: int | None = None) -> str:
        """Return the file, and the line of a rule or of a key in it, if found."""
        headers = self.headers
        if index is None:
            return self.line_of(key, 0, headers[0] if headers else len(self.lines)) or self.name
        if index >= len(headers):  # rules = [{...}]
            return self.line_of("rules", 0, len(self.lines)) or self.name
        begin = headers[index]
        end = headers[index + 1] if index + 1 < len(headers) else len(self.lines)
        return self.line_of(key, begin, end) or f"{self.name}:{begin + 1}"

    def line_of(self, key: str | None, begin: int, end: int) -> str | None:
        """Return the file and line of a key between two lines, if found."""
        if key is None:
            return None
        setting = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
        return next((f"{self.name}:{n + 1}" for n in range(begin, end) if setting.match(self.lines[n])), None)
