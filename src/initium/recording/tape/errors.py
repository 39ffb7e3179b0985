"""The error of code that cannot be recorded."""

from __future__ import annotations

__all__ = ["RecordingError"]


class RecordingError(RuntimeError):
    """Code did something that cannot be recorded."""
