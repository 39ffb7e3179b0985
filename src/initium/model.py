"""Functions that draw all weights of a model in one call."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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
from initium.models.torch_modules import ModuleParameter, parameters_of
from initium.planning.collector import no_collections
from initium.planning.jobs import Job, job_of
from initium.planning.plan import Plan, plan
from initium.recipes.rules import Assignment, Rules, RulesLike, Skip, assign, own
from initium.regions.boxes import box_of

if TYPE_CHECKING:
    from initium.recording.laws.start import Start

__all__ = ["ParameterReport", "Report", "init_model", "plan_model", "run_plan"]


@dataclass(frozen=True, eq=False)
class ParameterReport:
    """The result of a call for one parameter.

    Attributes
    ----------
    name, shape, dtype
        Name, shape and dtype of the parameter.
    rule
        Pattern of the rule that matched.
    distribution
        The distribution as text; ``"skip"``, or ``"tied to NAME"`` for a second name of the same memory.
    fans
        Fans that the initializer used, or None.
    nbytes
        Bytes written.
    seconds
        A share of the wall time of the call in proportion to `nbytes`; parameters are not timed one by one.
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
    """The weights of a model, and a report for each of them.

    Attributes
    ----------
    weights
        Arrays by name: the arrays that were given, and new arrays for specs.
    seed
        The seed of the call.
    seconds
        Wall time of drawing all weights.
    nbytes
        Bytes written.
    """

    weights: dict[str, Any]
    seed: int
    seconds: float
    nbytes: int
    _done: tuple[_Done | _OwnDone, ...]

    @property
    def parameters(self) -> tuple[ParameterReport, ...]:
        """One report per parameter, in the order of `params`."""
        rate = self.seconds / self.nbytes if self.nbytes else 0.0
        return tuple(done.report(rate) for done in self._done)

    def __str__(self) -> str:
        lines = (f"{p.name}  {p.shape}  {p.dtype}  {p.rule}  {p.distribution}" for p in self.parameters)
        total = f"{len(self._done)} parameters, {self.nbytes} bytes, {self.seconds:.3f} s, seed {self.seed}"
        return "\n".join((*lines, total))


class _Done(NamedTuple):
    """One parameter of a call: its assignment, its memory and the first name of that memory."""

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


class _OwnDone(NamedTuple):
    """One tensor of a model that uses its own code: its assignment, how it starts, and its memory."""

    assignment: Assignment
    start: Start
    tensor: Any

    @property
    def nbytes(self) -> int:
        skipped = isinstance(self.assignment.initializer, Skip)
        return 0 if skipped or self.start.tied_to else int(self.tensor.numel() * self.tensor.element_size())

    def report(self, seconds_per_byte: float) -> ParameterReport:
        assignment = self.assignment
        skipped = isinstance(assignment.initializer, Skip) and not self.start.tied_to
        return ParameterReport(
            assignment.name,
            assignment.shape,
            str(self.start.dtype).removeprefix("torch."),
            assignment.rule.label,
            "skip" if skipped else str(self.start),
            assignment.fans if self.nbytes else None,
            self.nbytes,
            self.nbytes * seconds_per_byte,
        )


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
        A mapping of names to arrays or specs, or a torch module. Arrays, and the parameters of a module, are
        filled in place. A new array is made for each spec: a `TensorSpec`, a shape, a pair (shape, dtype) or
        any object with ``shape`` and ``dtype``. Arrays with the same memory (tied weights) are filled once,
        under their first name. The modules of a torch module state the layouts of their weights
        (`initium.models.torch_modules`); other weights are (out, in) unless an initializer has a layout.
    rules
        Ordered pairs of (pattern, initializer), a mapping of them, or one initializer for all. A pattern is
        a glob or a compiled regular expression. The first match wins. ``initium.skip`` leaves a parameter
        unchanged. ``initium.own`` gives the tensors of a torch module what the model's own code gives them;
        ``"own"`` is this rule for all. Rules then match parameters **and buffers**, and tensors on the meta
        device are replaced by new ones on `device`. `initium.torch.recording` says how the code is known.
    seed
        The Philox key, in [0, 2**64). A weight depends on seed, name, shape, rule and dtype only.
    dtype
        The dtype of new arrays. Default: the dtype of each spec, else float32.
    device
        Where new arrays are allocated: ``"cpu"`` (default), ``"cuda"`` or ``"cuda:N"``. Existing arrays are
        filled on their own device, also on several GPUs; if `device` is given, they must be on it.
    backend, threads
        See `initium.initialize`.
    progress
        True for a progress bar (needs the extra ``cli``), or a function that is called with (units
        done, units in all).

    Returns
    -------
    Report
        The weights, and a report for each of them.

    Raises
    ------
    UnmatchedError
        If a parameter matches no rule.
    initium.layouts.UnknownLayoutError
        If an initializer needs the input and output axes of a parameter, and its module does not state them.
    TypeError, ValueError
        If an argument is wrong; the message names the parameter, and nothing has been written.
    initium.recording.tape.errors.RecordingError
        If a rule is `own`, and it is not known how a tensor starts; nothing has been written.

    Warns
    -----
    UnusedRuleWarning
        If a rule matches no parameter.

    Examples
    --------
    >>> import initium as ini
    >>> shapes = {"norm.weight": (4,), "fc.weight": (4, 3), "fc.bias": (4,)}
    >>> rules = {"*.bias": ini.zeros(), "norm.*": ini.ones(), "*": ini.he_normal()}
    >>> report = ini.init_model(shapes, rules, seed=7)
    >>> print(report)
    norm.weight  (4,)  float32  norm.*  constant(1)
    fc.weight  (4, 3)  float32  *  truncated_normal(0, 0.928232, -2, 2)
    fc.bias  (4,)  float32  *.bias  constant(0)
    3 parameters, 80 bytes, ... s, seed 7
    >>> report.weights["fc.weight"][0]
    array([ 0.12804489, -1.270765  ,  1.2080265 ], dtype=float32)
    """
    seed = check_seed(seed)
    ordered = Rules.of(rules)
    if ordered.use_own:
        return _init_own(params, ordered, seed, dtype, device, backend, threads, progress)
    with no_collections:
        done = _prepare(params, ordered, dtype, device)
        made = plan((d.job() for d in done if d.writes), seed)
    start = time.perf_counter()
    run_plan(made, backend=backend, threads=threads, progress=progress)
    seconds = time.perf_counter() - start
    weights = {d.assignment.name: d.destination.owner for d in done}
    return Report(weights, seed, seconds, sum(d.nbytes for d in done), tuple(done))


def _init_own(
    module: Any,
    rules: Rules,
    seed: int,
    dtype: Any,
    device: str | None,
    backend: str | None,
    threads: int | None,
    progress: Reported,
) -> Report:
    """Draw a torch module, of which some tensors start as its own code says."""
    if not hasattr(module, "named_parameters"):
        raise TypeError(f"params is a {type(module).__name__}; expected a torch module for the rule {own!r}")
    if dtype is not None:
        raise ValueError(f"dtype={dtype!r} with the rule {own!r}; expected a module that has this dtype")
    from initium.recording.module_tensors import tensors_of
    from initium.recording.own import Prepared

    prepared = Prepared.of(module, rules, seed, device, threads)
    made = plan(prepared.jobs(), seed)
    begin = time.perf_counter()
    run_plan(made, backend=backend, threads=threads, progress=progress)
    prepared.finish()
    seconds = time.perf_counter() - begin
    done = tuple(_OwnDone(a, prepared.starts[a.name], prepared.tensors[a.name]) for a in prepared.assignments)
    return Report(tensors_of(module), seed, seconds, sum(d.nbytes for d in done), done)


@in_default_mode
def plan_model(
    params: Any, rules: RulesLike, *, seed: int, dtype: Any = None, device: str | None = None
) -> Plan:
    """Plan a call of `init_model` without drawing.

    A model of thousands of small tensors takes longer to plan than to draw (benchmarks/README.md). A plan can
    be run any number of times.

    Parameters
    ----------
    params, rules, seed, dtype, device
        See `init_model`. New arrays are allocated by this call.

    Returns
    -------
    Plan
        The argument of `run_plan`. It keeps the arrays alive (``plan.jobs[i].destination.owner``).

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> weights = {"fc.weight": np.empty((4, 3), np.float32)}
    >>> plan = ini.plan_model(weights, ini.Normal(0.0, 0.02), seed=7)
    >>> [(job.name, str(job.fill)) for job in plan.jobs]
    [('fc.weight', 'normal(0, 0.02)')]
    """
    seed = check_seed(seed)
    ordered = Rules.of(rules)
    if ordered.use_own:
        raise ValueError(f"plan_model does not take the rule {own!r}; expected init_model")
    with no_collections:
        return plan((d.job() for d in _prepare(params, ordered, dtype, device) if d.writes), seed)


@in_default_mode
def run_plan(
    plan: Plan,
    *,
    backend: str | None = None,
    threads: int | None = None,
    progress: Reported = False,
) -> None:
    """Draw all weights of a plan in one call; every call draws the same values.

    Parameters
    ----------
    plan
        A result of `plan_model`.
    backend, threads, progress
        See `init_model`.

    Examples
    --------
    >>> import numpy as np
    >>> import initium as ini
    >>> weights = {"fc.weight": np.empty((4, 3), np.float32)}
    >>> plan = ini.plan_model(weights, ini.Normal(0.0, 0.02), seed=7)
    >>> ini.run_plan(plan)
    >>> weights["fc.weight"][0]
    array([ 0.00289131, -0.03016615,  0.02846606], dtype=float32)
    """
    with reporter(progress, "weights") as report:
        run(plan, backend, threads, None if report is None else lambda units: report(units, plan.units))
    mark_as_written(job.destination for job in plan.jobs)


def _described_by_modules(params: Any) -> tuple[Mapping[str, Any], Mapping[str, ModuleParameter]]:
    """Return arrays and specs by name, and what the modules of a torch model know of them."""
    if isinstance(params, Mapping):
        return params, {}
    if hasattr(params, "named_parameters"):
        return dict(params.named_parameters(remove_duplicate=False)), parameters_of(params)
    raise TypeError(
        f"params is a {type(params).__name__}; expected a mapping of names to arrays or specs, "
        "or a torch module"
    )


def _prepare(params: Any, rules: RulesLike, dtype: Any, device: str | None) -> list[_Done]:
    named, known = _described_by_modules(params)
    wanted = None if dtype is None else lookup(dtype)
    place = check_device("cpu" if device is None else device)
    given: dict[str, Destination] = {}
    specs: dict[str, tuple[tuple[int, ...], DType]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in named.items():
        if is_array(value):
            given[name] = destination = _given(name, value, wanted, device)
            shapes[name] = destination.shape
        else:
            specs[name] = _described(name, value, wanted)
            shapes[name] = specs[name][0]
    layouts = {name: parameter.layout for name, parameter in known.items() if parameter.layout is not None}
    computed = {name: p.parametrized for name, p in known.items() if p.parametrized is not None}
    assignments = assign(shapes, rules, layouts, computed)
    tied = _tied(given)
    made = allocate(list(specs.values()), place) if specs else []
    destinations = given | dict(zip(specs, made, strict=True))
    return [_Done(a, destinations[a.name], tied.get(a.name)) for a in assignments]


def _given(name: str, array: Any, dtype: DType | None, device: str | None) -> Destination:
    destination = destination_of(array, "params", name)
    if device is not None and not is_on(device, destination.device):
        raise ValueError(f"params[{name!r}] is on device {destination.device}; expected device={device}")
    if dtype is not None and destination.dtype != dtype:
        raise ValueError(f"params[{name!r}] is an array of dtype {destination.dtype}; expected dtype={dtype}")
    return destination


def _described(name: str, value: Any, dtype: DType | None) -> tuple[tuple[int, ...], DType]:
    """Return global shape and dtype of a spec; `dtype` overrides the dtype of the spec."""
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
    """The memory of a destination for NumPy's overlap test; the memory itself is not read."""

    def __init__(self, destination: Destination) -> None:
        self.__array_interface__ = {
            "data": (destination.address, False),
            "shape": destination.shape,
            "strides": destination.byte_steps,
            "typestr": f"|V{destination.dtype.itemsize}",
            "version": 3,
        }


def _tied(destinations: Mapping[str, Destination]) -> dict[str, str]:
    """Return {later name: first name} of tensors with the same memory; raise on any other overlap."""
    filled = {name: d for name, d in destinations.items() if 0 not in d.shape}
    spans = np.array([d.span for d in filled.values()], np.uint64).reshape(-1, 2)
    order = np.argsort(spans[:, 0], kind="stable")
    lows, highs = spans[order, 0], spans[order, 1]
    if not (lows[1:] < np.maximum.accumulate(highs)[:-1]).any():
        return {}  # the usual case: no overlap
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
        limit: Any = 10**6  # enough work for all strides that occur in practice
        shared = np.shares_memory(np.asarray(_Memory(a)), np.asarray(_Memory(b)), max_work=limit)
    except np.exceptions.TooHardError:
        shared = True
    if shared:
        raise ValueError(
            f"params[{name!r}] and params[{other!r}] overlap in part; expected separate or tied memory"
        )
