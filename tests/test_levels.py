"""Imports point downwards only, and without cycles, as docs/architecture.md draws the levels."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: From the top; a folder or file may import what stands below its own line.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("torch", "jax", "keras", "plots"),
    ("tensor", "model", "checkpoint"),
    ("recording",),
    ("recipes", "backends"),
    ("initializers", "planning"),
    ("models", "fills"),
    ("io", "regions"),
    ("memory", "specs", "layouts"),
    ("kernels", "checks", "dtypes", "_version"),
)
LEVEL = {name: number for number, names in enumerate(reversed(LEVELS)) for name in names}
MOST_FILES, MOST_LINES = 12, 500


def module_of(path):
    tree, prefix = (
        (ROOT / "kernels", "initium.kernels") if (ROOT / "kernels") in path.parents else (ROOT / "src", "")
    )
    parts = [*prefix.split("."), *path.relative_to(tree).with_suffix("").parts]
    return ".".join(part for part in parts if part and part != "__init__")


MODULES = {
    module_of(path): path
    for tree in ("kernels", "src/initium")
    for path in sorted((ROOT / tree).rglob("*.py"))
}


def imports_of(module, text):
    """Yield (module, name or None) for what a text imports of initium, within functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.startswith("initium"))
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import in line {node.lineno}"
            if (node.module or "").split(".")[0] == "initium":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield (full, None) if full in MODULES else (node.module, alias.name)


IMPORTS = {
    module: list(imports_of(module, path.read_text(encoding="utf-8"))) for module, path in MODULES.items()
}


def room(module):
    """Return the folder or file within the package that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def wrong_ways(imports):
    """Return the imports that do not point downwards."""
    return sorted(
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target, _ in targets
        if room(module) and room(module) != room(target)
        if not room(target) or LEVEL[room(target)] >= LEVEL[room(module)]
    )


def cycle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_room_has_a_level():
    assert {room(module) for module in MODULES} - {""} == set(LEVEL)


def test_imports_point_downwards():
    # The package's own face imports names when they are first used, and for type checkers.
    assert wrong_ways({m: targets for m, targets in IMPORTS.items() if m != "initium"}) == []


def test_there_is_no_cycle_of_files():
    graph = {m: {target for target, _ in targets} for m, targets in IMPORTS.items() if m != "initium"}
    assert cycle(graph) is None


def test_negative_controls_are_noticed():
    up = {"initium.fills.base": [("initium.planning.plan", None)]}
    level = {"initium.fills.base": [("initium.models.resolve", None)]}
    face = {"initium.fills.base": [("initium", "normal")]}
    assert all(wrong_ways(change) for change in (up, level, face))
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def public_names(text):
    """Return what a module lists in `__all__`; None if it lists nothing."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", "") == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def test_names_that_others_import_are_public():
    listed = {module: public_names(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
    missing = {
        (target, name)
        for module, targets in IMPORTS.items()
        for target, name in targets
        if name is not None and not name.startswith("__")
        if name.startswith("_") or (listed[target] is not None and name not in listed[target])
    }
    assert missing == set()


def test_the_package_folder_stays_small():
    entries = [path for path in (ROOT / "src" / "initium").iterdir() if path.is_file()]
    assert len(entries) <= MOST_FILES


@pytest.mark.parametrize("module", MODULES)
def test_files_stay_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES
