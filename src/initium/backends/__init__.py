"""The registry of backends, by name and by device."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

from initium.backends.base import Backend
from initium.kernels.forks import importing

__all__ = ["BACKENDS", "backend_for", "lookup"]

#: Names of all backends; the default backend of a device comes before the others.
BACKENDS = ("numba", "numpy", "cuda")
_PREFERRED = {"cpu": "numba", "cuda": "cuda"}


def lookup(name: str) -> Backend:
    """Return the backend with a name; its module is imported here.

    Raises
    ------
    ValueError
        If there is no backend with this name.
    ImportError
        If a library that the backend needs is not installed.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; expected one of {', '.join(BACKENDS)}")
    module = f"initium.backends.{name}"
    # A module defines BACKEND last, so it exists once the import is complete; another import costs more.
    found: Backend | None = getattr(sys.modules.get(module), "BACKEND", None)
    return _imported(name, module) if found is None else found


def _imported(name: str, module: str) -> Backend:
    try:
        with importing:
            backend: Backend = import_module(module).BACKEND
    except ImportError as error:
        raise ImportError(f"backend={name!r} cannot be used: {error}") from error
    return backend


def backend_for(devices: Iterable[str], name: str | None = None) -> Backend:
    """Return the backend that fills memory of the given devices.

    Parameters
    ----------
    devices
        The devices of all destinations of a call.
    name
        The name of a backend; None selects the default backend of the device. There is no fallback.
    """
    wanted = sorted({device.partition(":")[0] for device in devices}) or ["cpu"]
    if len(wanted) > 1:
        raise ValueError(
            f"destinations are on devices {', '.join(wanted)} in one call; expected one kind of device"
        )
    chosen = lookup(name if name is not None else _PREFERRED[wanted[0]])
    if wanted[0] not in chosen.devices:
        raise ValueError(
            f"backend={chosen.name!r} fills memory of {', '.join(chosen.devices)}; "
            f"the destination is on {wanted[0]}"
        )
    return chosen
