"""README and docs have short sentences, and no text has an idiom that a reader could misunderstand."""

import re
from pathlib import Path

import pytest
from test_levels import LEVELS

ROOT = Path(__file__).parents[1]
MOST_WORDS = 25
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS, SUFFIXES = ("src", "kernels"), {".py", ".cu", ".cuh", ".toml"}
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
TEXTS = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md", *sorted(SOURCES)]

#: An idiom, as a regular expression, with an example that it must find.
IDIOMS = {
    r"\bwhoever\b": "Whoever comes from elsewhere finds it.",
    r"\bbehind\b": "the address behind the last byte",
    r"(?<!there )\b(is|are) no (?!longer\b|such\b)": "shape=(3,) is no matrix",
    r"\b(tells?|telling|told)\b": "Tell whether it fits, unless told otherwise.",
    r"\baside\b": "such a matrix is made aside",
    r"\bwithout a margin\b": "at their goal without a margin",
    r"\bsp(eaks?|oken) of\b": "a formula speaks of the layer",
    r"\bfor want of\b": "for want of parts of a QR",
    r"\bfinish together\b": "and so finish together",
    r"\bmemory away\b": "does not give its memory away",
    r"\b(is|being) of (layer|family)\b": "the name being of layer 3",
    r"\bas (it is|they are)\b": "leaves a tensor as it is",
    r"\bin words\b": "what was drawn, in words",
    r"\banew\b": "started anew after fork",
    r"\bshall\b": "errors shall come now",
    r"\bas a rule\b": "the nearest as a rule",
    r"\bso many\b": "in so many threads",
    r"\bbelongs? into\b": "what belongs into memory",
    r"\bin turns\b": "measured in turns",
    r"\b(trips over|at fault|rubbish)\b": "the configuration is at fault",
    r"\b(mend|cure|dearest)\b": "which no scale can mend",
    r"\b(stands? (here|with|in for|above|once)|stood in)\b": "the formulas stand with their coefficients",
    r"\bin their hands?\b|\bin our hands\b|\bof our own\b": "threads of our own",
    r"\ball the same\b": "lost all the same",
    r"\b(twins?|judge of)\b": "the judge of the others",
    r"\b(somebody|anybody)\b": "somebody else's files",
    r"\b(words?|values?|calls?|bytes|one) an? (value|second|tensor|call|table)\b": "one word a value",
    r"^ +(?-i:Of) (the|all|each|a|its|what)\b": "        Of all tensors.",
    r"\btimes as (fast|long|much)\b|\bhalf the rate\b|\b\d+ ?(us|ms|GB/s)\b": "draw 1.3 times as fast",
}


def sentences(text):
    """Yield the sentences of a Markdown page, without code, tables and headings."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.MULTILINE)
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", block))
        yield from re.split(r"(?<=[.!?])\**\s+", plain.strip())


def too_long(text):
    """Return the sentences with more than MOST_WORDS words; inline code counts as one word."""
    return [s for s in sentences(text) if len(re.findall(r"\S*\w\S*", s)) > MOST_WORDS]


def found(text):
    """Return the lines that contain an idiom."""
    return [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if any(re.search(idiom, line, re.IGNORECASE) for idiom in IDIOMS)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_sentences_are_short(page):
    assert too_long(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_idiom(path):
    assert found(path.read_text(encoding="utf-8")) == []


def test_long_sentences_are_noticed():
    short = " ".join(["word"] * MOST_WORDS)
    assert too_long(f"- {short}.\n- `a b` {short[5:]}. Short.\n\n| {short} {short} |\n") == []
    assert len(too_long(f"Short. {short} more.")) == 1


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idioms_are_noticed(idiom):
    assert re.search(idiom, IDIOMS[idiom], re.IGNORECASE)
    assert found(f"A line.\n{IDIOMS[idiom]}\n")


def test_the_architecture_names_every_part():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [
        part for level in LEVELS for part in level if f"`{part}/`" not in page and f"`{part}.py`" not in page
    ] == []
