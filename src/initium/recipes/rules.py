"""Rules: ordered pairs of a pattern of names and an initializer; the first match wins."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

from initium.checks import check_name, check_shape
from initium.fills.base import Fill
from initium.initializers.basic import Initializer
from initium.layouts import Fans, Layout

__all__ = [
    "Assignment",
    "Matched",
    "Rule",
    "Rules",
    "RulesLike",
    "Skip",
    "UnmatchedError",
    "UnusedRuleWarning",
    "assign",
    "match",
    "skip",
]

_NAMES_LISTED = 10
_GLOB = re.compile(r"[*?\[]")


class UnmatchedError(ValueError):
    """Some tensors match no rule."""


class UnusedRuleWarning(UserWarning):
    """Some rule matches no tensor."""


@dataclass(frozen=True)
class Skip:
    """Leaves a tensor as it is."""

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

    #: Whether all tensors that match get the same initializer.
    is_fixed: ClassVar[bool] = True

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

    def matcher(self) -> Callable[[str], object]:
        """Return what tells, by something true, whether a name matches."""
        if isinstance(self.pattern, str):
            return re.compile(fnmatch.translate(self.pattern)).match
        return self.pattern.search

    def initializer_for(self, name: str) -> Initializer | Skip:
        """Return what a tensor that matches gets; equal tensors get the same object."""
        return self.initializer


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
    """What the rules give one tensor.

    Attributes
    ----------
    name, shape
        Of the tensor; the global shape.
    rule
        The rule that matched.
    initializer
        What the rule says for this tensor.
    layout
        The layout of the tensor; None if it is not known.
    fill
        The distribution; None if the tensor is skipped.
    """

    name: str
    shape: tuple[int, ...]
    rule: Rule
    initializer: Initializer | Skip
    layout: Layout | None
    fill: Fill | None

    @property
    def fans(self) -> Fans | None:
        """The fans that the initializer used; None if it uses none."""
        fans = getattr(self.initializer, "fans", None)
        return fans(self.shape, self.layout) if fans is not None else None


class Matched(NamedTuple):
    """What rules give the tensors of a model, in order, and which rules were used."""

    assignments: list[Assignment]
    used: list[bool]


def match(
    shapes: Mapping[str, tuple[int, ...]], rules: Rules, layouts: Mapping[str, Layout] | None = None
) -> Matched:
    """Match every tensor with the first rule that fits its name, and resolve its initializer.

    Parameters
    ----------
    shapes
        Global shapes by name.
    rules
        In order.
    layouts
        Layouts by name, where they are known.

    Raises
    ------
    UnmatchedError
        If names match no rule; it lists them.
    ValueError
        If an initializer cannot be resolved for a shape; it names the tensor.
    """
    known = layouts or {}
    names, matchers = _by_name(rules)
    nothing: tuple[Rule | None, int] = None, len(rules.rules)
    used: dict[int, Rule] = {}
    # Tensors of one shape, layout and initializer share their fill: models repeat their layers.
    resolved: dict[tuple[Any, ...], Fill | None] = {}
    assignments: list[Assignment] = []
    unmatched: list[str] = []
    for name, shape in shapes.items():
        check_name(name)
        rule, last = names.get(name, nothing)
        for candidate, place, matches in matchers:
            if place > last:
                break
            if matches(name):
                rule = candidate
                break
        if rule is None:
            unmatched.append(name)
            continue
        initializer = rule.initializer if rule.is_fixed else rule.initializer_for(name)
        layout = known.get(name) if known else None
        key = id(rule), id(initializer), shape, layout
        if key not in resolved:
            used[id(rule)] = rule
            resolved[key] = _resolve(rule, initializer, name, check_shape(shape), layout)
        assignments.append(Assignment(name, shape, rule, initializer, layout, resolved[key]))
    if unmatched:
        raise UnmatchedError(f"no rule matches {_listed(unmatched)}; add a rule, or skip them explicitly")
    return Matched(assignments, [id(rule) in used for rule in rules.rules])


def _by_name(
    rules: Rules,
) -> tuple[dict[str, tuple[Rule, int]], list[tuple[Rule, int, Callable[[str], object]]]]:
    """Return the rules for one name each, by that name, and the others; each with its place in the order.

    Thousands of rules are as a rule for one name each: a look-up takes the place of thousands of matches.
    """
    names: dict[str, tuple[Rule, int]] = {}
    others = []
    for place, rule in enumerate(rules.rules):
        if type(rule) is Rule and isinstance(rule.pattern, str) and not _GLOB.search(rule.pattern):
            names.setdefault(rule.pattern, (rule, place))
        else:
            others.append((rule, place, rule.matcher()))
    return names, others


def assign(shapes: Mapping[str, tuple[int, ...]], rules: RulesLike) -> list[Assignment]:
    """Match every tensor with the first rule that fits its name; see `match`.

    Warns
    -----
    UnusedRuleWarning
        If a rule that is not optional matches nothing, or nothing that rules before it left.
    """
    ordered = Rules.of(rules)
    assignments, used = match(shapes, ordered)
    unused = [rule.label for rule, hit in zip(ordered.rules, used, strict=True) if not (hit or rule.optional)]
    if unused:
        warnings.warn(f"no tensor is left for the rule {_listed(unused)}", UnusedRuleWarning, stacklevel=5)
    return assignments


def _resolve(
    rule: Rule, initializer: Initializer | Skip, name: str, shape: tuple[int, ...], layout: Layout | None
) -> Fill | None:
    if isinstance(initializer, Skip):
        return None
    try:
        return initializer.resolve(shape, layout)
    except ValueError as error:
        raise ValueError(f"tensor {name!r} of shape {shape}, rule {rule.label!r}: {error}") from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_LISTED])
    rest = len(names) - _NAMES_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
