import math

import pytest

from initium.recipes.formulas import evaluate

KNOWN = {"depth": 12, "width": 768, "layer": None}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("0.02", 0.02),
        ("1e-3", 1e-3),
        ("0.02 / sqrt(2 * depth)", 0.02 / math.sqrt(24)),
        ("sqrt(2 / (5 * width))", math.sqrt(2 / (5 * 768))),
        (" 2 / depth / sqrt(width) ", 2 / 12 / math.sqrt(768)),
        ("-(1 + 2) * +3 ** -2 - depth", -(1 + 2) * 3**-2 - 12),
        ("depth ** 0.25", 12**0.25),
        ("1\n", 1.0),
    ],
)
def test_values(formula, value):
    assert evaluate(formula, KNOWN) == value


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("", "invalid syntax"),
        ("1 +", "invalid syntax"),
        ("0.02 0.03", "invalid syntax"),
        ("1 = 2", "syntax"),
        ("a\0", "null"),
        ("heads", "'heads' is not allowed; expected numbers, .* sqrt, depth, width, layer"),
        ("__import__('os')", "is not allowed"),
        ("depth.real", "is not allowed"),
        ("[1][0]", "is not allowed"),
        ("exp(1)", "is not allowed"),
        ("sqrt(1, 2)", "is not allowed"),
        ("sqrt(x=1)", "is not allowed"),
        ("sqrt", "is not allowed"),
        ("True", "is not allowed"),
        ("'1'", "is not allowed"),
        ("1j", "is not allowed"),
        ("1 if depth else 2", "is not allowed"),
        ("7 // 2", "is not allowed"),
        ("~1", "is not allowed"),
        ("1 / layer", "the layer of this model is not known"),
        ("1 / (depth - 12)", "division by zero"),
        ("sqrt(-1)", "math domain error|nonnegative"),
        ("(-1) ** 0.5", "math domain error"),
        ("9 ** 9 ** 9", "math range error"),
        ("1e308 * 10", "the value is inf"),
        ("1e999", "the value is inf"),
        ("9" * 150 + "** 9", "math range error"),
        ("(" * 150 + "1" + ")" * 150, "301 characters"),
        ("(" * 99 + "1" + ")" * 98, "never closed"),
    ],
)
def test_what_is_refused(formula, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(formula, KNOWN)
    assert str(caught.value).startswith(f"formula {formula!r}: ")
