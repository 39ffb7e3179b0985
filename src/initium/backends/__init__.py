"""Backends: records of functions, chosen by name, by device or by the destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from initium.plan import Plan

__all__ = ["BACKENDS", "Backend", "backend_for", "lookup"]

#: Calls back with the number of tiles done so far.
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
        ``fill(plan, threads, progress)`` draws every job of the plan; `threads` and `progress` may be
        None.
    """

    name: str
    devices: tuple[str, ...]
    fill: Callable[[Plan, int | None, Progress | None], None]


#: Names of all backends, the preferred one of a device first.
BACKENDS = ("numba", "numpy")


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
    wanted = sorted(set(devices)) or ["cpu"]
    if len(wanted) > 1:
        raise ValueError(f"destinations on devices {', '.join(wanted)} in one call; expected one device")
    chosen = lookup(name if name is not None else _preferred(wanted[0]))
    if wanted[0] not in chosen.devices:
        raise ValueError(
            f"backend={chosen.name!r} fills memory of {', '.join(chosen.devices)}; "
            f"the destination is on {wanted[0]}"
        )
    return chosen


def _preferred(device: str) -> str:
    if device == "cpu":
        return "numba"
    raise ValueError(f"device={device!r} has no backend; expected 'cpu'")


def check_device(device: Any) -> str:
    """Return the name of a device that memory can be allocated on."""
    if device != "cpu":
        raise ValueError(f"device={device!r} is unknown; expected 'cpu'")
    return "cpu"
