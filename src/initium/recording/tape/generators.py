"""Random generators whose values a tape would show as constants."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from initium.recording.tape.errors import RecordingError

__all__ = ["unused_generators"]


@contextmanager
def unused_generators() -> Iterator[None]:
    """Raise if code has drawn with a generator whose values a tape would show as constants."""
    numpy = sys.modules.get("numpy")
    before = _states(numpy)
    yield
    for name, state in _states(numpy).items():
        if state != before[name]:
            raise RecordingError(
                f"the code (or another thread) draws with {name}, whose values initium takes for "
                "constants; expected the generators of torch"
            )


def _states(numpy: Any) -> dict[str, Any]:
    states: dict[str, Any] = {"Python's module random": random.getstate()}
    if numpy is not None:
        kind, key, *rest = numpy.random.get_state(legacy=True)
        states["numpy.random"] = (kind, key.tobytes(), *rest)
    return states
