"""One call for a whole model."""

from __future__ import annotations

import gc
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from initium.backends.progress import Reported, reporter
from initium.backends.run import run
from initium.checks import check_seed, check_shape
from initium.dtypes import DType, lookup
from initium.kernels.float_mode import in_default_mode
from initium.layouts import Fans
from initium.memory.arrays import allocate, destination_of, is_array
from initium.memory.destination import Destination
from initium.memory.devices import check_device, is_on
from initium.memory.torch import mark_as_written
from initium.planning.jobs import Job, job_of
from initium.planning.plan import Plan, plan
from initium.recipes.rules import Assignment, RulesLike, assign
from initium.regions.boxes import box_of

__all__ = ["ParameterReport", "Report", "init_model", "plan_model", "run_plan"]


@dataclass(frozen=True, eq=False)
class ParameterReport:
    """What was done to one parameter.

    Attributes
    ----------
    name, shape, dtype
        Of the parameter.
    rule
        Pattern of the rule that matched.
    distribution
        What was drawn, in words; ``"skip"``, or ``"tied to NAME"`` for a second name of the same memory.
    fans
        Fans that the initializer used, or None.
    nbytes
        Bytes written.
    seconds
        Its share of the wall time of the call, by bytes: all parameters are drawn at once.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rule: str
    distribution: str
    fans: Fans | None
    nbytes: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Report:
    """The weights of a model, and what was done to them.

    Attributes
    ----------
    weights
        Arrays by name: those that were given, filled, and those made for specs.
    seed
        What the values were drawn from.
    seconds
        Wall time of drawing all weights.
    nbytes
        Bytes written.
    """

    weights: dict[str, Any]
    seed: int
    seconds: float
    nbytes: int
    _done: tuple[_Done, ...]

    @property
    def parameters(self) -> tuple[ParameterReport, ...]:
        """One report per parameter, in the order in which they were given."""
        rate = self.seconds / self.nbytes if self.nbytes else 0.0
        return tuple(done.report(rate) for done in self._done)

    def __str__(self) -> str:
        lines = (f"{p.name}  {p.shape}  {p.dtype}  {p.rule}  {p.distribution}" for p in self.parameters)
        total = f"{len(self._done)} parameters, {self.nbytes} bytes, {self.seconds:.3f} s, seed {self.seed}"
        return "\n".join((*lines, total))


class _Done(NamedTuple):
    """One parameter on its way through a call."""

    assignment: Assignment
    destination: Destination
    tied_to: str | None

    @property
    def writes(self) -> bool:
        return self.tied_to is None and self.assignment.fill is not None

    @property
    def nbytes(self) -> int:
        if not self.writes:
            return 0
        return math.prod(self.destination.shape) * self.destination.dtype.itemsize

    def report(self, seconds_per_byte: float) -> ParameterReport:
        assignment = self.assignment
        if self.tied_to is not None:
            distribution = f"tied to {self.tied_to}"
        else:
            distribution = str(assignment.fill) if assignment.fill is not None else "skip"
        return ParameterReport(
            assignment.name,
            assignment.shape,
            self.destination.dtype.name,
            assignment.rule.label,
            distribution,
            assignment.fans if self.writes else None,
            self.nbytes,
            self.nbytes * seconds_per_byte,
        )

    def job(self) -> Job:
        assignment = self.assignment
        assert assignment.fill is not None
        return job_of(assignment.name, assignment.fill, box_of(assignment.shape), self.destination)


@in_default_mode
def init_model(
    params: Any,
    rules: RulesLike,
    *,
    seed: int,
    dtype: Any = None,
    device: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
    progress: Reported = False,
) -> Report:
    """Initialise all weights of a model in one call.

    Parameters
    ----------
    params
        Mapping of names to arrays, which are filled in place, or to specs, for which arrays are made: a
        `TensorSpec`, a shape, a pair (shape, dtype) or anything with ``shape`` and ``dtype``. Or a
        torch module, whose parameters are filled. Arrays that are the same memory (tied weights) are
        filled once, under the first name.
    rules
        Ordered rules of (pattern, initializer), a mapping of them, or one initializer for all. Patterns
        are globs or compiled regular expressions; the first match wins; ``initium.skip`` leaves a
        parameter as it is.
    seed
        In [0, 2**64). A weight depends on seed, name, shape, rule and dtype, and on nothing else.
    dtype
        Of the arrays made for specs; each spec's own (float32 where it has none) by default.
    device
        Where arrays are made for specs: ``"cpu"`` (default), ``"cuda"`` or ``"cuda:N"``. Arrays that are
        given are filled where they are, on several GPUs too, and must be on `device` if it is named.
    backend, threads
        See `initium.initialize`.
    progress
        True for a progress bar (needs the extra ``cli``), or a function that is called with (units
        done, units in all).

    Returns
    -------
    Report
        The weights, and what was done to each.

    Raises
    ------
    UnmatchedError
        If parameters match no rule.
    TypeError, ValueError
        For bad arguments, named with their parameter, before anything is written.

    Warns
    -----
    UnusedRuleWarning
        If a rule matches nothing.
    """
    seed = check_seed(seed)
    with _no_collections:
        done = _prepare(_mapping(params), rules, dtype, device)
        made = plan((d.job() for d in done if d.writes), seed)
    start = time.perf_counter()
    run_plan(made, backend=backend, threads=threads, progress=progress)
    seconds = time.perf_counter() - start
    weights = {d.assignment.name: d.destination.owner for d in done}
    return Report(weights, seed, seconds, sum(d.nbytes for d in done), tuple(done))


@in_default_mode
def plan_model(
    params: Any, rules: RulesLike, *, seed: int, dtype: Any = None, device: str | None = None
) -> Plan:
    """Do all of `init_model` but the drawing.

    Models of very many small tensors take longer to plan than to draw: 10,000 tensors of 1,000 values
    are drawn in about twice the time of one of ten million, but matched with rules and laid out one by
    one.

    Parameters
    ----------
    params, rules, seed, dtype, device
        See `init_model`; arrays for specs are made here.

    Returns
    -------
    Plan
        For `run_plan`, any number of times; it keeps the arrays alive (``plan.jobs[i].destination.owner``).
    """
    seed = check_seed(seed)
    with _no_collections:
        return plan((d.job() for d in _prepare(_mapping(params), rules, dtype, device) if d.writes), seed)


@in_default_mode
def run_plan(
    plan: Plan,
    *,
    backend: str | None = None,
    threads: int | None = None,
    progress: Reported = False,
) -> None:
    """Draw all weights of a plan in one call; the same values each time.

    Parameters
    ----------
    plan
        From `plan_model`.
    backend, threads, progress
        See `init_model`.
    """
    with reporter(progress, "weights") as report:
        run(plan, backend, threads, None if report is None else lambda units: report(units, plan.units))
    mark_as_written(job.destination for job in plan.jobs)


class _CollectorPause:
    """Keeps Python's cyclic garbage collector from running, for as long as any thread is within.

    Whenever enough objects were made it looks for cycles, at times among all objects of all libraries, and
    there are none among these: plans of 10,000 tensors took 5 % longer, and at times three times as long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within and self._was_enabled:
                gc.enable()

    def reset_after_fork(self) -> None:
        """Lift the pause in a child: the threads that asked for it are not there to do so."""
        if self._within and self._was_enabled:
            gc.enable()
        self.__init__()  # type: ignore[misc]


_no_collections = _CollectorPause()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_no_collections.reset_after_fork)


def _mapping(params: Any) -> Mapping[str, Any]:
    if isinstance(params, Mapping):
        return params
    if hasattr(params, "named_parameters"):
        return dict(params.named_parameters(remove_duplicate=False))
    raise TypeError(
        f"params is a {type(params).__name__}; expected a mapping of names to arrays or specs, "
        "or a torch module"
    )


def _prepare(params: Mapping[str, Any], rules: RulesLike, dtype: Any, device: str | None) -> list[_Done]:
    wanted = None if dtype is None else lookup(dtype)
    place = check_device("cpu" if device is None else device)
    given: dict[str, Destination] = {}
    specs: dict[str, tuple[tuple[int, ...], DType]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in params.items():
        if is_array(value):
            given[name] = destination = _given(name, value, wanted, device)
            shapes[name] = destination.shape
        else:
            specs[name] = _described(name, value, wanted)
            shapes[name] = specs[name][0]
    assignments = assign(shapes, rules)
    tied = _tied(given)
    made = allocate(list(specs.values()), place) if specs else []
    destinations = given | dict(zip(specs, made, strict=True))
    return [_Done(a, destinations[a.name], tied.get(a.name)) for a in assignments]


def _given(name: str, array: Any, dtype: DType | None, device: str | None) -> Destination:
    destination = destination_of(array, "params", name)
    if device is not None and not is_on(device, destination.device):
        raise ValueError(
            f"params[{name!r}] is on device {destination.device}; expected {device} as device says"
        )
    if dtype is not None and destination.dtype != dtype:
        raise ValueError(
            f"params[{name!r}] is an array of dtype {destination.dtype}; expected {dtype} as dtype says"
        )
    return destination


def _described(name: str, value: Any, dtype: DType | None) -> tuple[tuple[int, ...], DType]:
    """Return global shape and dtype of a spec; `dtype` overrides its own."""
    argument = f"params[{name!r}]"
    try:
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return check_shape(tuple(value.shape), argument), dtype or lookup(value.dtype)
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], (tuple, list)):
            return check_shape(tuple(value[0]), argument), dtype or lookup(value[1])
        return check_shape(value, argument), dtype or lookup("float32")
    except (TypeError, ValueError) as error:
        text = str(error)
        raise type(error)(text if text.startswith(argument) else f"{argument}: {text}") from None


# --- tied weights -------------------------------------------------------------------------------------------


class _Memory:
    """A destination's memory as NumPy sees it, for questions about overlap; it is never read."""

    def __init__(self, destination: Destination) -> None:
        self.__array_interface__ = {
            "data": (destination.address, False),
            "shape": destination.shape,
            "strides": destination.byte_steps,
            "typestr": f"|V{destination.dtype.itemsize}",
            "version": 3,
        }


def _tied(destinations: Mapping[str, Destination]) -> dict[str, str]:
    """Return the first name of each later name of the same memory; raise on any other overlap."""
    filled = {name: d for name, d in destinations.items() if 0 not in d.shape}
    spans = np.array([d.span for d in filled.values()], np.uint64).reshape(-1, 2)
    order = np.argsort(spans[:, 0], kind="stable")
    lows, highs = spans[order, 0], spans[order, 1]
    if not (lows[1:] < np.maximum.accumulate(highs)[:-1]).any():
        return {}  # as a rule: nothing overlaps
    names = list(filled)
    first: dict[tuple[Any, ...], str] = {}
    tied: dict[str, str] = {}
    for name, destination in filled.items():
        original = first.setdefault(destination.identity, name)
        if original != name:
            tied[name] = original
    reaching: list[tuple[int, str]] = []
    for low, high, index in zip(lows, highs, order, strict=True):
        name = names[index]
        if name in tied:
            continue
        reaching = [(end, other) for end, other in reaching if end > low]
        for _, other in reaching:
            _check_apart(other, filled[other], name, filled[name])
        reaching.append((int(high), name))
    return tied


def _check_apart(name: str, a: Destination, other: str, b: Destination) -> None:
    try:
        limit: Any = 10**6  # work that settles all but contrived strides
        shared = np.shares_memory(np.asarray(_Memory(a)), np.asarray(_Memory(b)), max_work=limit)
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        raise ValueError(
            f"params[{name!r}] and params[{other!r}] overlap without being the same; "
            "expected separate or tied memory"
        )
