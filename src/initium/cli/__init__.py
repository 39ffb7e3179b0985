"""The command line: ``initium init``, ``plan``, ``recipes`` and ``plot``; one file per command."""

from __future__ import annotations

import sys

try:
    import click  # noqa: F401
    import rich.console  # noqa: F401
    import safetensors  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"initium: the command line needs {error.name}; install it with: pip install 'initium[cli]'")

__all__: list[str] = []
