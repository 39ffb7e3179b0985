"""Check that a wheel holds all that the source tree ships, and nothing else."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {".py", ".typed", ".toml", ".cuh", ".cu", ".h"}


def expected() -> set[str]:
    """Return the package files as the wheel names them."""
    trees = {ROOT / "src" / "initium": "initium", ROOT / "kernels": "initium/kernels"}
    return {
        f"{prefix}/{path.relative_to(tree).as_posix()}"
        for tree, prefix in trees.items()
        for path in tree.rglob("*")
        if path.suffix in SHIPPED and "__pycache__" not in path.parts
    }


def main(wheel: str) -> None:
    """Compare, print the difference, and fail if there is one."""
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    missing, surplus = sorted(expected() - held), sorted(held - expected())
    if missing or surplus:
        sys.exit(f"wheel {wheel}: missing {missing}, surplus {surplus}")
    print(f"wheel holds {len(held)} files")


if __name__ == "__main__":
    main(sys.argv[1])
