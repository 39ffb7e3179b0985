"""The command ``initium``, or ``python -m initium``; an interrupt ends it at once, without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

__all__ = ["main"]

#: The exit status of a command that SIGINT has ended.
_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    _open_closed_streams()
    # Before and after a command there is nothing to clean up, so an interrupt can end the process.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _end)
    from initium.cli.main import main as commands

    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        commands()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, _end)


def _open_closed_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
