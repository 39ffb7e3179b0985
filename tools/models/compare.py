"""A model's own initialisation, and a test of another sampler against it.

`truth` builds a model of transformers with several seeds and keeps every parameter and buffer. `compare`
takes these and the same tensors from another sampler, whose bits differ. It says for each tensor whether
the laws agree:

- What is the same for all seeds must be equal: constants, tables, rows of zeros.
- What differs between seeds must have the same law. Two-sample tests compare the values of all seeds: that
  of Kolmogorov and Smirnov, and Welch's for the mean and for the mean distance from the median. Welch's
  tests are repeated for each index of each axis, and for blocks of each axis, since a fused matrix has
  several laws.
- Values that are copies of one another must be copies, inside a tensor and between tensors; others must be
  uncorrelated, between tensors and between seeds. A weight norm must be the norm of its direction.
- Tensors whose names differ in numbers alone are also tested as one, for more power.

A verdict is a false alarm with probability `LEVEL` at most, whatever the number of tests in it
(Bonferroni). All model types of transformers give about 100,000 verdicts, so that a false alarm among them
has probability 0.001. The p-values are asymptotic, except for few values; `validate.py` shows that they
hold for all these models.

`smallest` says how many values a tensor needs for an error of its standard deviation to show.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from shrink import model_class, quiet

Floats = NDArray[np.float64]
Samples = dict[str, list[Floats]]

LEVEL = 1e-8
KS_VALUES = 40_000
WELCH_VALUES = 1_000_000
EXACT_VALUES = 1000
CORRELATED_VALUES = 4096
FEWEST = 60
BLOCKS = (2, 3, 4)

CONSTANT = "constant"
DETERMINISTIC = "deterministic"
RANDOM = "random"
UNINITIALISED = "uninitialised"
GROUP = "group"
MODEL = "model"


@dataclass(frozen=True)
class Verdict:
    """What the comparison says about a tensor, a group of tensors or a whole model.

    Attributes
    ----------
    name : str
        The tensor, the pattern of a group, or what was compared in the model.
    kind : str
        By the truth: ``constant``, ``deterministic``, ``random`` or ``uninitialised``. Else ``group`` or
        ``model``.
    passed : bool
        Whether the two agree.
    p : float
        The smallest p-value of the tests, times their number, at most 1. It is 1 where nothing is random.
    why : str
        The test that gave it, or what differs.
    """

    name: str
    kind: str
    passed: bool
    p: float = 1.0
    why: str = ""


def build(config: Any, seed: int) -> torch.nn.Module:
    """Build a model with torch's, numpy's and Python's generators at a seed.

    Memory that torch hands out is full of NaN, or of the largest integers: what is never written shows.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    set_seed(seed)
    try:
        with quiet():
            return model_class(config.model_type)._from_config(config)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def set_seed(seed: int) -> None:
    """Set torch's, numpy's and Python's generators to a seed."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that models use
    random.seed(seed)


def tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Return all parameters and buffers under all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def as_floats(tensor: torch.Tensor) -> Floats:
    """Return a tensor's values, NaN where they were never written. A complex number gives two values."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    values = tensor.to(torch.float64).numpy()
    if not tensor.is_floating_point() and tensor.dtype != torch.bool:
        return np.where(tensor.numpy() == torch.iinfo(tensor.dtype).max, np.nan, values)
    return np.array(values)


def truth(config: Any, seeds: Iterable[int]) -> Samples:
    """Return all tensors of a model for several seeds, as the model's own code makes them.

    Parameters
    ----------
    config : PreTrainedConfig
        The configuration, for example from `shrink.shrunk`.
    seeds : iterable of int
        The seeds, two at least.

    Returns
    -------
    dict
        For each parameter and buffer, one float64 array a seed. NaN stands for what was never written.
    """
    samples: Samples = defaultdict(list)
    for seed in seeds:
        for name, tensor in tensors(build(config, seed)):
            samples[name].append(as_floats(tensor))
    return dict(samples)


def smallest(
    seeds: int, error: float = 0.03, level: float = LEVEL, power: float = 0.5, law: str = "normal"
) -> int:
    """Return the number of values from which a tensor shows an error of its standard deviation.

    Parameters
    ----------
    seeds : int
        The number of seeds on both sides.
    error : float
        The relative error.
    level : float
        The level of a verdict; it is divided by ten, about the number of tests in it.
    power : float
        The probability that the error shows.
    law : str
        ``normal`` or ``uniform``.

    Returns
    -------
    int
        The smallest number of values.

    Examples
    --------
    >>> smallest(5), smallest(5, power=0.99), smallest(5, law="uniform")
    (9469, 18053, 5530)
    """
    # The mean and the standard deviation of the distance from the median, for a standard deviation of 1.
    mean, spread = {"normal": (0.797885, 0.602810), "uniform": (0.866025, 0.5)}[law]
    z = stats.norm.isf(level / 20) + stats.norm.ppf(power)
    return int(np.ceil(2 * (z * spread / (error * mean)) ** 2 / seeds))


def detectable(
    samples: Samples, seeds: int, error: float = 0.03, level: float = LEVEL, power: float = 0.99
) -> dict[str, bool]:
    """Say for each random tensor whether an error of its standard deviation shows.

    An error of a tensor shows if it has enough values, or if all tensors of its group, which then share
    the error, have enough together.

    Parameters
    ----------
    samples : dict
        The tensors of a model, for two seeds at least.
    seeds : int
        The number of seeds that are to be compared.
    error, level, power : float
        As for `smallest`, for normal values.

    Returns
    -------
    dict
        The random tensors, without those that are copies of another.
    """
    pairs = {name: Pair(name, np.stack(values), np.stack(values)) for name, values in samples.items()}
    drawn = {name: pair for name, pair in pairs.items() if pair.random.any()}
    needed = smallest(seeds, error, level, power)
    counts = {names[0]: int(drawn[names[0]].random.sum()) for names in _equal_in(drawn, "theirs")}
    groups: dict[tuple[Any, ...], int] = defaultdict(int)
    for name, count in counts.items():
        groups[_pattern(drawn[name])] += count
    return {name: groups[_pattern(drawn[name])] >= needed for name in counts}


def compare(
    truth: Samples, ours: Samples, *, level: float = LEVEL, rtol: float = 0.0, atol: float = 0.0
) -> list[Verdict]:
    """Compare two samplers of one model.

    Parameters
    ----------
    truth : dict
        The tensors of the model's own code, for each name one array a seed.
    ours : dict
        The same from another sampler. The number of seeds may differ; two at least.
    level : float
        The largest probability of a false alarm of one verdict.
    rtol, atol : float
        How far deterministic values may differ.

    Returns
    -------
    list of Verdict
        One a tensor, one a group of tensors with random values, and four on the whole model.
    """
    missing, more = sorted(truth.keys() - ours.keys()), sorted(ours.keys() - truth.keys())
    verdicts = [Verdict("names", MODEL, not (missing or more), why=f"missing {missing}, more {more}")]
    pairs = {name: Pair(name, np.stack(truth[name]), np.stack(ours[name])) for name in truth if name in ours}
    verdicts += [_tensor(pair, level, rtol, atol) for pair in pairs.values()]
    drawn = {n: p for n, p in pairs.items() if p.same_shape and p.random.any()}
    distinct = {names[0]: drawn[names[0]] for names in _equal_in(drawn, "theirs")}
    verdicts += _groups(distinct, level)
    verdicts.append(_copies(drawn))
    verdicts.append(_independent(distinct, level))
    verdicts.append(_norms(pairs))
    return verdicts


class Pair:
    """One tensor of both samplers: an array a side, whose first axis is the seed."""

    def __init__(self, name: str, theirs: Floats, ours: Floats):
        self.name = name
        self.theirs = theirs
        self.ours = ours
        self.same_shape = theirs.shape[1:] == ours.shape[1:]
        self.written = ~np.isnan(theirs).any(axis=0)
        self.random = self.written & (theirs != theirs[:1]).any(axis=0)
        self.fixed = self.written & ~self.random

    def drawn(self) -> tuple[Floats, Floats]:
        """Return the values that are random in the truth, an array of seeds times values a side."""
        if self.random.all():
            return self.theirs.reshape(len(self.theirs), -1), self.ours.reshape(len(self.ours), -1)
        return self.theirs[:, self.random], self.ours[:, self.random]


def _tensor(pair: Pair, level: float, rtol: float, atol: float) -> Verdict:
    """Return the verdict on one tensor."""
    if not pair.same_shape:
        return Verdict(
            pair.name, MODEL, False, why=f"shape {pair.ours.shape[1:]}, not {pair.theirs.shape[1:]}"
        )
    if not pair.written.any() and pair.written.size:
        return Verdict(pair.name, UNINITIALISED, True)
    kind = _kind(pair)
    values, expected = pair.ours[:, pair.fixed], pair.theirs[0, pair.fixed]
    with np.errstate(invalid="ignore"):  # masks hold infinities
        near = np.abs(values - expected) <= atol + rtol * np.abs(expected)
    equal = (values == expected) | (near & np.isfinite(expected))
    if not equal.all():
        return Verdict(pair.name, kind, False, 0.0, f"{(~equal).any(0).sum()} fixed values differ")
    if kind != RANDOM:
        return Verdict(pair.name, kind, True)
    theirs, ours = pair.drawn()
    if not np.isfinite(ours).all():
        return Verdict(pair.name, kind, False, 0.0, "not finite")
    still = (ours[1] == ours[0]) & (ours == ours[0]).all(axis=0)
    if still.any():
        return Verdict(pair.name, kind, False, 0.0, f"{still.sum()} values do not change")
    if not np.array_equal(_labels(theirs), _labels(ours)):
        return Verdict(pair.name, kind, False, 0.0, "other values are copies of one another")
    own = _without_copies(theirs, ours)
    tests = _two_samples(*own)
    if own[0].shape[1] == pair.written.size:  # no copies and no fixed values: the axes have a meaning
        tests += _axes(pair.theirs, pair.ours)
        tests += _seeds(theirs, ours)
    return _smallest_p(pair.name, kind, tests, level)


def _kind(pair: Pair) -> str:
    if pair.random.any():
        return RANDOM
    fixed = pair.theirs[0, pair.fixed]
    return CONSTANT if (fixed == fixed[:1]).all() else DETERMINISTIC


def _smallest_p(name: str, kind: str, tests: list[tuple[str, float]], level: float) -> Verdict:
    """Return the verdict of several tests by Bonferroni's bound."""
    if not tests:
        return Verdict(name, kind, True, 1.0, "too few values for a test")
    why, p = min(tests, key=lambda test: test[1])
    p = min(1.0, p * len(tests))
    return Verdict(name, kind, p >= level, p, why)


def _labels(values: Floats) -> NDArray[np.int64]:
    """Return, for each column, the first column that is equal to it."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    keys = np.zeros(bits.shape[1], np.uint64)
    for row in bits:
        keys = (keys ^ row ^ (row >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)  # a float32 has 29 zeros
        keys ^= keys >> np.uint64(32)
    order = np.sort(keys)
    if (order[1:] != order[:-1]).all():
        return np.arange(keys.size)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def _without_copies(theirs: Floats, ours: Floats) -> tuple[Floats, Floats]:
    """Return the columns that are no copies of another."""
    labels = _labels(theirs)
    first = labels == np.arange(labels.size)
    return (theirs, ours) if first.all() else (theirs[:, first], ours[:, first])


def _two_samples(theirs: Floats, ours: Floats) -> list[tuple[str, float]]:
    """Make tests of the values of all seeds together."""
    a, b = (x.ravel()[:: -(-x.size // WELCH_VALUES)] for x in (theirs, ours))
    method = "exact" if max(a.size, b.size) <= EXACT_VALUES else "asymp"
    tests = [("law", float(stats.ks_2samp(_part(a), _part(b), method=method).pvalue))]
    if min(a.size, b.size) >= FEWEST:
        middle = float(np.median(_part(a)))
        tests.append(("mean", _welch(a, b)))
        tests.append(("scale", _welch(np.abs(a - middle), np.abs(b - middle))))
    return tests


def _part(values: Floats) -> Floats:
    """Return every few values, so that there are `KS_VALUES` at most."""
    return values[:: -(-values.size // KS_VALUES)]


def _welch(a: Floats, b: Floats) -> float:
    """Return the p-value of Welch's test of equal means."""
    sums = [(x.mean(), x.std(), x.size) for x in (a, b)]
    return _welch_sums(*(np.asarray(v, float) for side in sums for v in side))


def _welch_sums(m1: Floats, s1: Floats, n1: Floats, m2: Floats, s2: Floats, n2: Floats) -> float:
    """Return the smallest p-value of several tests of Welch, times their number."""
    v1, v2 = s1**2 / n1, s2**2 / n2
    error = v1 + v2
    # Sums in double precision leave a difference of means where all values are nearly equal.
    some = error > (1e-14 * (np.abs(m1) + np.abs(m2))) ** 2
    if not some.any():
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (m1 - m2) / np.sqrt(error)
        freedom = error**2 / (v1**2 / (n1 - 1) + v2**2 / (n2 - 1))
    p = 2 * stats.t.sf(np.abs(t[some]), freedom[some]) if t.ndim else 2 * stats.t.sf(np.abs(t), freedom)
    return float(min(1.0, np.min(p) * np.size(p)))


def _axes(theirs: Floats, ours: Floats) -> list[tuple[str, float]]:
    """Make Welch's tests for each index and each block of each axis."""
    tests = []
    middle = float(np.median(_part(theirs.ravel())))
    for what, change in (("mean", lambda x: x), ("scale", lambda x: np.abs(x - middle))):
        a, b = change(theirs), change(ours)
        for axis in range(1, theirs.ndim):
            length = theirs.shape[axis]
            if length == 1:
                continue
            others = tuple(i for i in range(theirs.ndim) if i != axis)
            sums = [(x.sum(axis=others), (x * x).sum(axis=others), x.size // length) for x in (a, b)]
            if min(n for _, _, n in sums) >= FEWEST:
                tests.append((f"{what} of an index of axis {axis - 1}", _sums_test(sums, range(length + 1))))
            for blocks in BLOCKS:
                edges = [length * i // blocks for i in range(blocks + 1)]
                shortest = min(np.diff(edges))
                if shortest >= 1 and length > blocks and min(n for _, _, n in sums) * shortest >= FEWEST:
                    tests.append((f"{what} of a block of axis {axis - 1}", _sums_test(sums, edges)))
    return tests


def _sums_test(sums: list[tuple[Floats, Floats, int]], edges: Sequence[int]) -> float:
    """Make Welch's tests for the parts of an axis between edges."""
    parts = []
    for first, second, count in sums:
        n = np.diff(edges) * float(count)
        mean = np.add.reduceat(first, edges[:-1]) / n
        variance = np.maximum(0.0, np.add.reduceat(second, edges[:-1]) / n - mean**2)
        parts += [mean, np.sqrt(variance), n]
    return _welch_sums(*parts)


def _seeds(theirs: Floats, ours: Floats) -> list[tuple[str, float]]:
    """Say whether the values of two seeds are as much alike as in the truth."""
    if theirs.shape[1] < FEWEST:
        return []
    a, b = (x[:, :CORRELATED_VALUES] for x in (theirs, ours))
    ab = np.corrcoef(np.concatenate([a, b]))
    seeds = len(a)
    expected = np.arctanh(ab[:seeds, :seeds][np.triu_indices(seeds, 1)].mean())
    found = np.arctanh(np.clip(ab[np.triu_indices(len(ab), 1)], -1 + 1e-15, 1 - 1e-15))
    z = np.abs(found - expected).max() * np.sqrt(a.shape[1] - 3)
    return [("correlation of seeds", float(min(1.0, 2 * stats.norm.sf(z) * found.size)))]


def _equal_in(pairs: dict[str, Pair], side: str) -> list[list[str]]:
    """Return the names of tensors in groups that are equal for all seeds."""
    groups: dict[tuple[Any, ...], list[list[str]]] = defaultdict(list)
    for name, pair in pairs.items():
        values: Floats = getattr(pair, side)
        alike = groups[values.shape, values.ravel()[:8].tobytes()]
        for group in alike:
            if np.array_equal(getattr(pairs[group[0]], side), values, equal_nan=True):
                group.append(name)
                break
        else:
            alike.append([name])
    return [group for alike in groups.values() for group in alike]


def _copies(pairs: dict[str, Pair]) -> Verdict:
    """Say whether the same tensors are copies of one another."""
    theirs, ours = ({tuple(g) for g in _equal_in(pairs, side)} for side in ("theirs", "ours"))
    wrong = sorted(g for g in theirs ^ ours if len(g) > 1)
    return Verdict(
        "copies", MODEL, theirs == ours, float(theirs == ours), f"not in both: {wrong[:3]}" if wrong else ""
    )


def _pattern(pair: Pair) -> tuple[str, tuple[int, ...]]:
    """Return what the tensors of a group share: the name without its numbers, and the shape."""
    return re.sub(r"\d+", "#", pair.name), pair.theirs.shape[1:]


def _groups(pairs: dict[str, Pair], level: float) -> list[Verdict]:
    """Make tests of tensors together whose names differ in numbers alone."""
    groups: dict[tuple[Any, ...], list[Pair]] = defaultdict(list)
    for pair in pairs.values():
        groups[_pattern(pair)].append(pair)
    verdicts = []
    for (pattern, _), members in groups.items():
        if len(members) > 1:
            drawn = [_without_copies(*pair.drawn()) for pair in members]
            theirs, ours = (np.concatenate([pair[side].ravel() for pair in drawn]) for side in (0, 1))
            verdicts.append(_smallest_p(pattern, GROUP, _two_samples(theirs, ours), level))
    return verdicts


def _independent(pairs: dict[str, Pair], level: float) -> Verdict:
    """Say whether tensors with equal numbers of random values are correlated that are not so in the truth."""
    groups: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs.values():
        count = int(pair.random.sum())
        if count >= FEWEST:
            groups[count].append(pair)
    tests = []
    for members in groups.values():
        if len(members) == 1:
            continue
        z = []
        for side in (0, 1):
            values = np.stack([pair.drawn()[side][:, :CORRELATED_VALUES].ravel() for pair in members])
            if not (values.std(axis=1) > 0).all():
                break
            z.append(np.abs(np.corrcoef(values)) * np.sqrt(values.shape[1]))
        if len(z) < 2:
            continue
        above = np.triu_indices(len(members), 1)
        limit = stats.norm.isf(level / 2 / above[0].size)
        free = z[0][above] < limit
        if free.any():
            i = int(np.argmax(np.where(free, z[1][above], 0)))
            names = f"{members[above[0][i]].name} and {members[above[1][i]].name}"
            p = 2 * stats.norm.sf(z[1][above][i]) * free.sum()
            tests.append((f"{names} are correlated", float(min(1.0, p))))
    return _smallest_p("independence", MODEL, tests, level)


def _norms(pairs: dict[str, Pair]) -> Verdict:
    """Say whether a weight's norm is the norm of its direction, where it is so in the truth."""
    wrong = []
    for name, norm in pairs.items():
        match = re.fullmatch(r"(.*)(original0|weight_g)", name)
        other = match and pairs.get(match[1] + {"original0": "original1", "weight_g": "weight_v"}[match[2]])
        if not other or not (norm.same_shape and other.same_shape) or norm.theirs.ndim != other.theirs.ndim:
            continue
        axes = tuple(i for i in range(1, norm.theirs.ndim) if norm.theirs.shape[i] == 1)
        good = [
            np.allclose(g, np.sqrt((v * v).sum(axis=axes, keepdims=True)), rtol=1e-4)
            for g, v in ((norm.theirs, other.theirs), (norm.ours, other.ours))
        ]
        if good[0] and not good[1]:
            wrong.append(name)
    return Verdict(
        "norms", MODEL, not wrong, float(not wrong), f"are not norms: {wrong[:3]}" if wrong else ""
    )


# ----------------------------------------------------------------------------------------------------
# Negative controls: each changes one tensor of a sampler, and `compare` must reject it


def with_scale(samples: Samples, name: str, factor: float = 1.03) -> Samples:
    """Return a tensor whose values are multiplied."""
    return {**samples, name: [values * factor for values in samples[name]]}


def with_ones(samples: Samples, name: str) -> Samples:
    """Return a tensor of ones."""
    return {**samples, name: [np.ones_like(values) for values in samples[name]]}


def without_zero_row(samples: Samples, name: str, row: int) -> Samples:
    """Return a tensor in which another row's values stand in a row that should be zero."""
    changed = [values.copy() for values in samples[name]]
    for values in changed:
        values[row] = values[row - 1][::-1]
    return {**samples, name: changed}


def with_other_law(samples: Samples, name: str, seed: int = 0) -> Samples:
    """Return a tensor of normal values with the standard deviation of a uniform one."""
    rng = np.random.default_rng(seed)
    return {**samples, name: [rng.normal(v.mean(), v.std(), v.shape) for v in samples[name]]}


def with_one_seed(samples: Samples, name: str) -> Samples:
    """Return a tensor that is the same for all seeds."""
    return {**samples, name: [samples[name][0]] * len(samples[name])}


def with_values_of(samples: Samples, name: str, other: str) -> Samples:
    """Return a tensor with the values of another of the same shape."""
    return {**samples, name: samples[other]}
