"""Options and arguments of several commands; they are checked before a command runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from initium import dtypes
from initium.checks import check_choice
from initium.models.resolve import resolve_model
from initium.recipes.reader import load
from initium.recipes.recipe import INITIALIZERS

__all__ = ["checked", "dtype", "initializers", "model", "picture", "recipe", "size"]


def checked(check: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that reports an error of `check` as a usage error."""

    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(value)
        except (ValueError, TypeError) as error:
            if type(error) not in (ValueError, TypeError):
                raise  # a malformed file is not a usage error
            raise click.BadParameter(str(error), ctx, parameter) from error

    return callback


_UNITS: dict[str, int] = {"": 1, "B": 1, **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{p}IB": 1024**n for n, p in enumerate("KMGT", 1)}


def size(text: str) -> int:
    """Return a number of bytes: ``5GB`` is 5e9, ``5GiB`` is 5 * 2**30."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.ASCII | re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; expected a number with a unit such as 500MB, 5GB or 2GiB")
    size = round(Decimal(match[1]) * _UNITS[match[2].upper()])
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte; expected at least one byte")
    return size


model = click.argument("model", callback=checked(resolve_model))


recipe = click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    callback=checked(load),
    help="The rules for the tensors; see 'initium recipes'.  "
    "[default: own for a config.json, else of the model's family]",
)
dtype = click.option(
    "--dtype",
    metavar="|".join(dtypes.DTYPES),
    callback=checked(lambda dtype: dtypes.lookup(dtype).name),
    help="The dtype of all tensors.  [default: of the recipe, else of the model]",
)

_PICTURES = (".png", ".svg", ".pdf")


def _picture(path: str) -> Path:
    if Path(path).suffix.lower() not in _PICTURES:
        raise ValueError(
            f"{path!r} is not a picture file; expected a name that ends in {', '.join(_PICTURES)}"
        )
    return Path(path)


def _known_initializer(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_choice("initializer", name, tuple(INITIALIZERS))
    return names


initializers = click.option(
    "--init",
    "initializers",
    metavar="NAME",
    multiple=True,
    callback=checked(_known_initializer),
    help="The name of an initializer in the catalogue; can be repeated.",
)
picture = click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    callback=checked(_picture),
    help="A .png, .svg or .pdf file.",
)
