"""Check that all packages of this environment are those of ci/constraints.txt."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = Path(__file__).resolve().parent / "constraints.txt"
#: The project itself, and what `python -m venv` brings.
OTHERS = {"initium", "pip", "setuptools"}


def pins(lines: list[str]) -> dict[str, str]:
    """Return the version that the lock gives each package under this Python and platform."""
    found = {}
    for line in lines:
        text = line.partition("#")[0].strip()
        if text:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def main() -> None:
    """Compare, print the differences, and fail if there are any."""
    locked = pins(LOCK.read_text("utf-8").splitlines())
    installed = {canonicalize_name(d.name): Version(d.version).public for d in metadata.distributions()}
    wrong = {
        name: (version, locked.get(name))
        for name, version in sorted(installed.items())
        if name not in OTHERS and locked.get(name) != version
    }
    if wrong:
        for name, (version, pin) in wrong.items():
            print(f"{name} {version} is installed; {LOCK.name} has {pin}")
        sys.exit(1)
    print(f"all {len(installed.keys() - OTHERS)} packages are those of {LOCK.name}")


if __name__ == "__main__":
    main()
