"""The tests that docs/promises.md names exist, in the files where it says."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "promises.md").read_text("utf-8")


def functions(file):
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named(section):
    """Return the tests that a section names, with their file: that of the row, or that of the text above."""
    texts, rows = [], []
    for line in section.splitlines():
        (rows if line.startswith("|") else texts).append(line)
    above = re.findall(r"tests/(test_\w+\.py)", "".join(texts))
    for row in rows:
        files = re.findall(r"tests/(test_\w+\.py)", row) or above
        yield from ((files[-1] if files else None, name) for name in re.findall(r"`(test_\w+)`", row))


def test_named_tests_exist():
    count = 0
    for chapter in PAGE.split("\n## ")[1:]:
        sections = chapter.split("\n### ")
        texts = [line for line in sections[0].splitlines() if not line.startswith("|")]
        default = re.findall(r"tests/(test_\w+\.py)", "".join(texts))[-1]
        for section in sections:
            for file, name in named(section):
                assert name in functions(file or default), f"{name} is not in {file or default}"
                count += 1
    assert count > 60
