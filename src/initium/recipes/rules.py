"""Rules: ordered pairs of a name pattern and an initializer; the first match wins."""

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
from initium.layouts import Fans, Layout, UnknownLayoutError
from initium.models.architecture import Parametrized

__all__ = [
    "Assignment",
    "Matched",
    "Own",
    "Rule",
    "Rules",
    "RulesLike",
    "Skip",
    "UnmatchedError",
    "UnusedRuleWarning",
    "assign",
    "match",
    "own",
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
    """In place of an initializer: leave a tensor unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> frozen = np.full(3, 5.0, np.float32)
    >>> report = ini.init_model({"frozen": frozen}, {"frozen": ini.skip}, seed=7)
    >>> frozen
    array([5., 5., 5.], dtype=float32)
    """

    def __repr__(self) -> str:
        return "skip"


#: In place of an initializer: leave the tensors that match unchanged.
skip = Skip()


@dataclass(frozen=True)
class Own:
    """In place of an initializer: start a tensor as the model's own code says.

    Examples
    --------
    >>> import torch
    >>> import initium as ini
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    >>> report = ini.init_model(model, {"0.weight": ini.Orthogonal(), "*": ini.own}, seed=7)
    >>> print(report)
    0.weight  (4, 3)  float32  0.weight  orthogonal(1)
    0.bias  (4,)  float32  *  uniform(-0.57735, 0.57735)
    1.weight  (4,)  float32  *  constant(1)
    1.bias  (4,)  float32  *  constant(0)
    4 parameters, 96 bytes, ... s, seed 7
    """

    def __repr__(self) -> str:
        return "own"


#: In place of an initializer: start the tensors that match as the model's own code says.
own = Own()


@dataclass(frozen=True)
class Rule:
    """A pattern and its initializer.

    Attributes
    ----------
    pattern
        A glob for the whole name (``*`` also matches dots), or a compiled regular expression that may match
        anywhere in the name.
    initializer
        An initializer, `skip` or `own`.
    optional
        Whether there is no warning if the rule matches no tensor, as for rules that are for many models.
    """

    #: Whether all tensors that match get the same initializer.
    is_fixed: ClassVar[bool] = True

    pattern: str | re.Pattern[str]
    initializer: Initializer | Skip | Own
    optional: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, (str, re.Pattern)):
            raise TypeError(f"pattern={self.pattern!r}; expected a glob or a compiled regular expression")
        if isinstance(self.pattern, re.Pattern) and not isinstance(self.pattern.pattern, str):
            raise TypeError(f"pattern={self.pattern!r} matches bytes; expected a regular expression of str")
        if not isinstance(self.initializer, (Initializer, Skip, Own)):
            raise TypeError(
                f"initializer={self.initializer!r} of pattern {self.label!r} has no resolve(shape); "
                "expected an initializer, skip or own"
            )

    @property
    def label(self) -> str:
        """The pattern as text; a regular expression is between slashes."""
        return self.pattern if isinstance(self.pattern, str) else f"/{self.pattern.pattern}/"

    def matcher(self) -> Callable[[str], object]:
        """Return a function whose result is true if a name matches."""
        if isinstance(self.pattern, str):
            return re.compile(fnmatch.translate(self.pattern)).match
        return self.pattern.search

    def initializer_for(self, name: str) -> Initializer | Skip | Own:
        """Return the initializer for a tensor that matches; equal tensors get the same object."""
        return self.initializer


RulesLike: TypeAlias = "Rules | Mapping[Any, Any] | Iterable[tuple[Any, Any]] | Initializer | Own | str"


@dataclass(frozen=True)
class Rules:
    """An ordered tuple of rules.

    Examples
    --------
    >>> import initium as ini
    >>> rules = ini.Rules.of([("*.bias", ini.zeros()), ("*", ini.Normal(0.0, 0.02))])
    >>> [rule.label for rule in rules.rules]
    ['*.bias', '*']
    """

    rules: tuple[Rule, ...]

    @property
    def use_own(self) -> bool:
        """Whether a rule leaves tensors to the model's own code."""
        return any(isinstance(rule.initializer, Own) for rule in self.rules)

    @classmethod
    def of(cls, rules: RulesLike) -> Rules:
        """Make rules from a mapping, from pairs of (pattern, initializer), or from one initializer.

        ``"own"`` is one rule for all tensors, as `own` is.
        """
        if isinstance(rules, Rules):
            return rules
        if isinstance(rules, (Initializer, Skip, Own)):
            return cls((Rule("*", rules),))
        if isinstance(rules, str):
            if rules != repr(own):
                raise ValueError(f"rules={rules!r}; expected rules, an initializer or {repr(own)!r}")
            return cls((Rule("*", own),))
        pairs = rules.items() if isinstance(rules, Mapping) else rules
        try:
            made = tuple(pair if isinstance(pair, Rule) else _rule(*pair) for pair in pairs)
        except TypeError as error:
            raise TypeError(f"rules={rules!r}: {error}; expected pairs of (pattern, initializer)") from None
        return cls(made)


def _rule(pattern: Any, initializer: Any) -> Rule:
    is_own = isinstance(initializer, str) and initializer == repr(own)
    return Rule(pattern, own if is_own else initializer)


class Assignment(NamedTuple):
    """The rule and the distribution of one tensor.

    Attributes
    ----------
    name, shape
        Name and global shape of the tensor.
    rule
        The rule that matched.
    initializer
        The initializer of the rule for this tensor.
    layout
        The layout of the tensor; None if it is not known.
    fill
        The distribution; None if the tensor is skipped, or starts as the model's own code says.
    """

    name: str
    shape: tuple[int, ...]
    rule: Rule
    initializer: Initializer | Skip | Own
    layout: Layout | None
    fill: Fill | None

    @property
    def fans(self) -> Fans | None:
        """The fans that the initializer used; None if it uses none."""
        fans = getattr(self.initializer, "fans", None)
        return fans(self.shape, self.layout) if fans is not None else None


class Matched(NamedTuple):
    """The assignments of the tensors of a model, in order, and for each rule whether it was used."""

    assignments: list[Assignment]
    used: list[bool]


def match(
    shapes: Mapping[str, tuple[int, ...]],
    rules: Rules,
    layouts: Mapping[str, Layout] | None = None,
    parametrized: Mapping[str, Parametrized] | None = None,
) -> Matched:
    """Match every tensor with the first rule that fits its name, and resolve its initializer.

    Parameters
    ----------
    shapes
        Global shapes by name.
    rules
        The rules, in order.
    layouts
        Known layouts by name.
    parametrized
        By name of a tensor: the weight that a parametrization computes from it. Such a tensor needs a rule
        that does not match the weight, since the weight would not have the distribution of the rule.

    Raises
    ------
    UnmatchedError
        If names match no rule; the message lists them.
    initium.layouts.UnknownLayoutError
        If an initializer needs a layout that is not known; the message names the tensor.
    ValueError
        If an initializer cannot be resolved for a shape, or a rule for a weight matches a tensor of a
        parametrization; the message names the tensor.
    """
    known = layouts or {}
    computed = parametrized or {}
    names, matchers = _by_name(rules)
    nothing: tuple[Rule | None, int] = None, len(rules.rules)
    used: dict[int, Rule] = {}
    # Tensors with equal rule, initializer, shape and layout share their fill, since the layers of a model
    # repeat.
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
        if computed and name in computed:
            _check_computed(name, rule, computed[name])
        initializer = rule.initializer if rule.is_fixed else rule.initializer_for(name)
        layout = known.get(name) if known else None
        key = id(rule), id(initializer), shape, layout
        if key not in resolved:
            used[id(rule)] = rule
            resolved[key] = _resolve(rule, initializer, name, check_shape(shape), layout)
        assignments.append(Assignment(name, shape, rule, initializer, layout, resolved[key]))
    if unmatched:
        raise UnmatchedError(f"no rule matches {_listed(unmatched)}; expected a rule, or skip, for each")
    return Matched(assignments, [id(rule) in used for rule in rules.rules])


def _by_name(
    rules: Rules,
) -> tuple[dict[str, tuple[Rule, int]], list[tuple[Rule, int, Callable[[str], object]]]]:
    """Return the rules whose pattern is a plain name, by name, and the other rules; each with its position.

    A recipe with thousands of rules usually has plain names; then one look-up replaces thousands of matches.
    """
    names: dict[str, tuple[Rule, int]] = {}
    others = []
    for place, rule in enumerate(rules.rules):
        if type(rule) is Rule and isinstance(rule.pattern, str) and not _GLOB.search(rule.pattern):
            names.setdefault(rule.pattern, (rule, place))
        else:
            others.append((rule, place, rule.matcher()))
    return names, others


def _check_computed(name: str, rule: Rule, computed: Parametrized) -> None:
    """Raise if a rule for a weight matches a tensor from which a parametrization computes the weight."""
    weight, method = computed
    if not isinstance(rule.initializer, (Skip, Own)) and rule.matcher()(weight):
        raise ValueError(
            f"tensor {name!r}, rule {rule.label!r}: {method} computes {weight!r} from this tensor, so the "
            "weight would not have the distribution of the rule; expected a call before the parametrization, "
            f"or a rule for {name!r} that does not match {weight!r}, or skip"
        )


def assign(
    shapes: Mapping[str, tuple[int, ...]],
    rules: RulesLike,
    layouts: Mapping[str, Layout] | None = None,
    parametrized: Mapping[str, Parametrized] | None = None,
    *,
    stacklevel: int = 5,
) -> list[Assignment]:
    """Match every tensor with the first rule that fits its name; see `match`.

    `stacklevel` is that of the warning; by default it points at the caller of `initium.init_model`.

    Warns
    -----
    UnusedRuleWarning
        If a rule that is not optional matches no tensor, or only tensors that match an earlier rule.
    """
    ordered = Rules.of(rules)
    assignments, used = match(shapes, ordered, layouts, parametrized)
    unused = [rule.label for rule, hit in zip(ordered.rules, used, strict=True) if not (hit or rule.optional)]
    if unused:
        warnings.warn(
            f"no remaining tensor matches the rule {_listed(unused)}",
            UnusedRuleWarning,
            stacklevel=stacklevel,
        )
    return assignments


def _resolve(
    rule: Rule,
    initializer: Initializer | Skip | Own,
    name: str,
    shape: tuple[int, ...],
    layout: Layout | None,
) -> Fill | None:
    if isinstance(initializer, (Skip, Own)):
        return None
    try:
        return initializer.resolve(shape, layout)
    except ValueError as error:
        kind = UnknownLayoutError if isinstance(error, UnknownLayoutError) else ValueError
        raise kind(f"tensor {name!r} of shape {shape}, rule {rule.label!r}: {error}") from error


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_LISTED])
    rest = len(names) - _NAMES_LISTED
    return f"{shown} and {rest} more" if rest > 0 else shown
