"""Backends: records of functions, chosen by name, by device or by the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium.boxes import Box
from initium.destinations import Destination, destination_of
from initium.dtypes import DType
from initium.fills import Fill
from initium.patterns import Draw, write_pattern
from initium.plan import Job, Plan, plan

__all__ = ["BACKENDS", "Backend", "backend_for", "lookup"]

#: Calls back with the number of units done so far.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Backend:
    """What a backend can do.

    Attributes
    ----------
    name
        As `backend=` takes it.
    devices
        Kinds of device whose memory it fills, such as ``("cpu",)``.
    fill
        ``fill(plan, threads, progress)`` draws the tables of the plan; `threads` and `progress` may be
        None.
    orthogonal
        ``orthogonal(plan, threads, progress)`` makes its orthogonal matrices.
    write
        ``write(array, destination)`` rounds a NumPy array into memory of the same shape.
    fill_for_patterns
        As `fill`, but in this machine's memory and by its CPU, where patterns are made.
    """

    name: str
    devices: tuple[str, ...]
    fill: Callable[[Plan, int | None, Progress | None], None]
    orthogonal: Callable[[Plan, int | None, Progress | None], None]
    write: Callable[[NDArray[Any], Destination], None]
    fill_for_patterns: Callable[[Plan, int | None, Progress | None], None]

    def run(self, made: Plan, threads: int | None = None, progress: Progress | None = None) -> None:
        """Do every job of a plan."""
        done = 0

        def report(units: int) -> None:
            if progress is not None:
                progress(done + units)

        listener = None if progress is None else report
        self.fill(made, threads, listener)
        done += made.tiles
        if made.matrices:  # these need more of a backend's libraries
            self.orthogonal(made, threads, listener)
            done += sum(job.units for job in made.matrices)
        for job in made.patterns:
            draw = Draw(job.stream, made.seed, partial(self._sample, threads))
            write_pattern(job, draw, self.write)
            done += job.units
            report(0)

    def _sample(
        self, threads: int | None, stream: int, fill: Fill, box: Box, dtype: DType, seed: int
    ) -> NDArray[Any]:
        values = np.empty(box.shape, dtype.numpy)
        self.fill_for_patterns(plan([Job(stream, fill, box, destination_of(values))], seed), threads, None)
        return values


#: Names of all backends, the preferred one of a device first.
BACKENDS = ("numba", "numpy", "cuda")


def lookup(name: str) -> Backend:
    """Return the backend of that name, importing what it needs.

    Raises
    ------
    ValueError
        If there is none of that name.
    ImportError
        If what it needs is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; expected one of {', '.join(BACKENDS)}")
    try:
        module = import_module(f"initium.backends.{name}")
    except ImportError as error:
        raise ImportError(f"backend={name!r} cannot be used: {error}") from error
    backend: Backend = module.BACKEND
    return backend


def backend_for(devices: Iterable[str], name: str | None = None) -> Backend:
    """Return the backend that fills memory of the given devices.

    Parameters
    ----------
    devices
        Of all destinations of a call.
    name
        A backend by name; None takes the fastest for the device. Nothing falls back on another.
    """
    wanted = sorted({device.partition(":")[0] for device in devices}) or ["cpu"]
    if len(wanted) > 1:
        raise ValueError(
            f"destinations on devices {', '.join(wanted)} in one call; expected the CPU, or GPUs of one kind"
        )
    chosen = lookup(name if name is not None else _preferred(wanted[0]))
    if wanted[0] not in chosen.devices:
        raise ValueError(
            f"backend={chosen.name!r} fills memory of {', '.join(chosen.devices)}; "
            f"the destination is on {wanted[0]}"
        )
    return chosen


def _preferred(device: str) -> str:
    return {"cpu": "numba", "cuda": "cuda"}[device]


def is_on(device: str, place: str) -> bool:
    """Tell whether memory at `place` is where `device` asks for; a kind without a number asks for any."""
    return place == check_device(device) or place.partition(":")[0] == device


def check_device(device: Any) -> str:
    """Return the name of a device that memory can be allocated on: ``"cpu"``, or ``"cuda:N"``.

    Raises
    ------
    ValueError
        If there is no such device.
    ImportError, RuntimeError
        If it is a GPU, and CuPy or the driver is missing.
    """
    if device == "cpu":
        return "cpu"
    if isinstance(device, str) and device.partition(":")[0] == "cuda":
        from initium import cuda

        return cuda.device_name(device)
    raise ValueError(f"device={device!r} is unknown; expected 'cpu', 'cuda' or 'cuda:N'")
