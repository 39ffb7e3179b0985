"""What users copy must run: the examples of docstrings, and the blocks of README.md and docs/.

A page's ``python`` blocks run in order in one namespace. A page may prepare names for its next block unseen,
in a comment whose first line is ``<!-- python`` and whose last is ``-->``. Of ``bash`` blocks, the lines that
call ``initium`` run. Examples find only the installed package and an empty folder: each imports what it uses.
"""

import ast
import doctest
import importlib.util
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import initium
import initium.kernels

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Modules whose docstrings must hold examples, and pages that must hold blocks; one without is a fault.
MODULES_WITH_EXAMPLES = (
    "initium.checkpoint",
    "initium.initializers.basic",
    "initium.initializers.filters",
    "initium.initializers.gains",
    "initium.initializers.identities",
    "initium.initializers.orthogonal",
    "initium.initializers.scaling",
    "initium.initializers.sparse",
    "initium.initializers.unit_ball",
    "initium.io.safetensors",
    "initium.jax.initializers",
    "initium.keras",
    "initium.layouts",
    "initium.model",
    "initium.models.torch_modules",
    "initium.planning.streams",
    "initium.plots",
    "initium.recording.own",
    "initium.recording.tape.recorder",
    "initium.recipes.rules",
    "initium.specs",
    "initium.tensor",
    "initium.torch.init",
    "initium.torch.layers",
    "initium.torch.lsuv",
    "initium.torch.patched",
)
PAGES_WITH_PYTHON = ("README.md", "docs/own.md")
PAGES_WITH_COMMANDS = ("README.md", "docs/own.md")
#: A small model at the place that the pages name.
CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 99, "n_positions": 16}
#: Commands of the pages that do not run here, with the reason.
SKIPPED = {
    "initium init llama-3-8b --dtype bfloat16 --seed 7 --shard-size 5GB -o llama/": "writes 16 GB",
    "initium init path/to/config.json --recipe my.toml -o model.safetensors": "the paths are the reader's",
}
#: Packages that only extras install; an example that names one is skipped where it is missing.
EXTRAS = ("cupy", "jax", "keras", "matplotlib", "safetensors", "torch", "transformers")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


# Docstrings


def sources(package):
    """Return the file of each module of a package, by the module's name; imports none of them."""
    found = {}
    folders = [(package.__name__, Path(folder)) for folder in package.__path__]
    for name, folder in folders:
        found[name] = folder / "__init__.py"
        for module in pkgutil.iter_modules([str(folder)]):
            inner = f"{name}.{module.name}"
            if module.ispkg:
                folders.append((inner, folder / module.name))
            else:
                found[inner] = folder / f"{module.name}.py"
    return found


def docstrings(source, module="module"):
    """Yield the tests of all docstrings in a module's text, of decorated and private objects too."""
    parser = doctest.DocTestParser()

    def visit(node, name):
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            yield from visit(child, f"{name}.{child.name}" if named else name)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                line = node.body[0].lineno - 1
                test = parser.get_doctest(text, {"__name__": "__main__"}, name, module, line)
                if test.examples:
                    yield test

    yield from visit(ast.parse(source), module)


def run(test):
    """Return what is wrong with a docstring's examples, or nothing."""
    said = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=said.append)
    return "".join(said)


def skip_without_extras(text):
    for extra in EXTRAS:
        if re.search(rf"\b{extra}\b", text) and importlib.util.find_spec(extra) is None:
            pytest.skip(f"{extra} is not installed")


SOURCES = {**sources(initium), **sources(initium.kernels)}
EXAMPLES = {
    test.name: (module, test)
    for module, file in SOURCES.items()
    for test in docstrings(file.read_text("utf-8"), module)
}


def test_all_modules_are_found():
    folders = (Path(initium.__path__[0]), Path(initium.kernels.__path__[0]))
    assert set(SOURCES.values()) == {file for folder in folders for file in folder.rglob("*.py")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstrings(name, tmp_path, monkeypatch):
    module, test = EXAMPLES[name]
    skip_without_extras(test.docstring + module)
    monkeypatch.chdir(tmp_path)
    assert run(test) == ""


def test_listed_modules_have_examples():
    have = {module for module, _ in EXAMPLES.values()}
    assert [module for module in MODULES_WITH_EXAMPLES if module not in have] == []


def test_a_wrong_example_is_noticed():
    head = "class A:\n    @property\n    def b(self):"
    text = head + '\n        """Return.\n\n        >>> 1 + 1\n        {}\n        """\n'
    assert [(test.name, run(test)) for test in docstrings(text.format(2))] == [("module.A.b", "")]
    (wrong,) = docstrings(text.format(3))
    assert "Expected:\n    3\nGot:\n    2" in run(wrong)
    assert list(docstrings('def f():\n    """Return."""\n')) == []


# Pages


def blocks(text, language):
    """Return a language's blocks and its hidden ones, in order, each behind as many lines as precede it."""
    pattern = rf"^(?:```{language}\n(.*?)^```|<!-- {language}\n(.*?)^-->)$"
    return [
        "\n" * text.count("\n", 0, found.start(found.lastindex)) + found[found.lastindex]
        for found in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
    ]


def commands(text):
    """Return the lines of bash blocks that call initium, without comments."""
    lines = "".join(blocks(text, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith("initium ")]


def run_blocks(text, name):
    namespace = {"__name__": "__main__"}
    for block in blocks(text, "python"):
        exec(compile(block, name, "exec"), namespace)


def relative(page):
    return page.relative_to(ROOT).as_posix()


COMMANDS = {relative(page): commands(page.read_text("utf-8")) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks(page, tmp_path, monkeypatch):
    text = page.read_text("utf-8")
    found = blocks(text, "python")
    assert found or relative(page) not in PAGES_WITH_PYTHON
    skip_without_extras("".join(found))
    monkeypatch.chdir(tmp_path)
    run_blocks(text, str(page))


@pytest.mark.parametrize("command", sorted({command for found in COMMANDS.values() for command in found}))
def test_commands(command, tmp_path):
    if command in SKIPPED:
        pytest.skip(SKIPPED[command])
    if "config.json" in command:
        skip_without_extras("transformers")
        (tmp_path / "path/to").mkdir(parents=True)
        (tmp_path / "path/to/config.json").write_text(json.dumps(CONFIG))
    script = Path(sys.executable).with_name("initium")
    done = subprocess.run(
        [script, *shlex.split(command)[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_listed_pages_have_commands():
    assert [page for page in PAGES_WITH_COMMANDS if not COMMANDS[page]] == []
    assert SKIPPED.keys() <= {command for found in COMMANDS.values() for command in found}


def test_a_wrong_block_is_noticed():
    page = (
        "<!-- python\nx = 1\n-->\n```python\ny = x\n```\n"
        "```bash\nls\ninitium plan a  # b\n```\n\n```python\nz\n```\n"
    )
    with pytest.raises(NameError, match="'z'") as caught:
        run_blocks(page, "page.md")
    assert caught.traceback[-1].lineno + 1 == 13  # as a reader of the page counts
    assert commands(page) == ["initium plan a"]
    assert blocks("```python3\nx\n```\n", "python") == []
