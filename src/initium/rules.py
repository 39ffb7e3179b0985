"""Rules: ordered pairs of a pattern of names and an initializer; the first match wins."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from initium.checks import check_name, check_shape
from initium.fans import Fans
from initium.fills import Fill
from initium.initializers import Initializer

__all__ = [
    "Assignment",
    "Rule",
    "Rules",
    "RulesLike",
    "UnmatchedError",
    "UnusedRuleWarning",
    "assign",
    "skip",
]

_NAMES_LISTED = 10


class UnmatchedError(ValueError):
    """Some parameters match no rule."""


class UnusedRuleWarning(UserWarning):
    """Some rule matches no parameter."""


@dataclass(frozen=True)
class Skip:
    """Leaves a parameter as it is."""

    def __repr__(self) -> str:
        return "skip"


#: In place of an initializer: leave what matches as it is.
skip = Skip()


@dataclass(frozen=True)
class Rule:
    """A pattern and what it stands for.

    Attributes
    ----------
    pattern
        A glob over whole names (``*`` matches dots too), or a compiled regular expression that is
        searched for within the name.
    initializer
        An initializer, or `skip`.
    optional
        Whether the rule may match nothing without a warning, as those do that serve many models.
    """

    pattern: str | re.Pattern[str]
    initializer: Initializer | Skip
    optional: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, (str, re.Pattern)):
            raise TypeError(f"pattern={self.pattern!r}; expected a glob or a compiled regular expression")
        if isinstance(self.pattern, re.Pattern) and not isinstance(self.pattern.pattern, str):
            raise TypeError(f"pattern={self.pattern!r} matches bytes; expected a regular expression of str")
        if not isinstance(self.initializer, (Initializer, Skip)):
            raise TypeError(
                f"initializer={self.initializer!r} of pattern {self.label!r} has no resolve(shape); "
                "expected an initializer or skip"
            )

    @property
    def label(self) -> str:
        """The pattern as text, regular expressions between slashes."""
        return self.pattern if isinstance(self.pattern, str) else f"/{self.pattern.pattern}/"

    @property
    def regex(self) -> re.Pattern[str]:
        """The pattern as a regular expression to search for."""
        if isinstance(self.pattern, str):
            return re.compile(r"\A" + fnmatch.translate(self.pattern))
        return self.pattern


RulesLike: TypeAlias = "Rules | Mapping[Any, Any] | Iterable[tuple[Any, Any]] | Initializer"


@dataclass(frozen=True)
class Rules:
    """An ordered tuple of rules."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, rules: RulesLike) -> Rules:
        """Make rules from a mapping, from pairs of (pattern, initializer), or from one initializer."""
        if isinstance(rules, Rules):
            return rules
        if isinstance(rules, (Initializer, Skip)):
            return cls((Rule("*", rules),))
        pairs = rules.items() if isinstance(rules, Mapping) else rules
        try:
            made = tuple(pair if isinstance(pair, Rule) else Rule(*pair) for pair in pairs)
        except TypeError as error:
            raise TypeError(f"rules={rules!r}: {error}; expected pairs of (pattern, initializer)") from None
        return cls(made)


class Assignment(NamedTuple):
    """What the rules give one parameter.

    Attributes
    ----------
    name, shape
        Of the parameter; the global shape.
    rule
        The rule that matched.
    fill
        The distribution; None if the parameter is skipped.
    """

    name: str
    shape: tuple[int, ...]
    rule: Rule
    fill: Fill | None

    @property
    def fans(self) -> Fans | None:
        """The fans that the initializer used; None if it uses none."""
        fans = getattr(self.rule.initializer, "fans", None)
        return fans(self.shape) if fans is not None else None


def assign(shapes: Mapping[str, tuple[int, ...]], rules: RulesLike) -> list[Assignment]:
    """Match every parameter with the first rule that fits its name.

    Parameters
    ----------
    shapes
        Global shapes by name.
    rules
        See `Rules.of`.

    Raises
    ------
    UnmatchedError
        If names match no rule; it lists them.
    ValueError
        If an initializer cannot be resolved for a shape; it names the parameter.

    Warns
    -----
    UnusedRuleWarning
        If a rule that is not optional matches nothing, or nothing that rules before it left.
    """
    ordered = Rules.of(rules).rules
    searches = tuple(enumerate(rule.regex.search for rule in ordered))
    resolved: dict[tuple[int, tuple[int, ...]], Fill | None] = {}
    assignments: list[Assignment] = []
    unmatched: list[str] = []
    for name, shape in shapes.items():
        check_name(name)
        for index, search in searches:  # noqa: B007 (used behind the loop)
            if search(name):
                break
        else:
            unmatched.append(name)
            continue
        key = index, shape
        if key not in resolved:
            resolved[key] = _resolve(ordered[index], name, check_shape(shape))
        assignments.append(Assignment(name, shape, ordered[index], resolved[key]))
    used = [False] * len(ordered)
    for index, _ in resolved:
        used[index] = True
    if unmatched:
        raise UnmatchedError(f"no rule matches {_listed(unmatched)}; add a rule, or skip them explicitly")
    unused = [rule.label for rule, hit in zip(ordered, used, strict=True) if not (hit or rule.optional)]
    if unused:
        warnings.warn(f"no parameter is left for the rule {_listed(unused)}", UnusedRuleWarning, stacklevel=4)
    return assignments


def _resolve(rule: Rule, name: str, shape: tuple[int, ...]) -> Fill | None:
    if isinstance(rule.initializer, Skip):
        return None
    try:
        return rule.initializer.resolve(shape)
    except ValueError as error:
        raise ValueError(f"parameter {name!r} of shape {shape}, rule {rule.label!r}: {error}") from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_LISTED])
    rest = len(names) - _NAMES_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
