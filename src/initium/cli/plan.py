"""``initium plan``: show the distribution of each tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click
from rich import box
from rich.table import Table
from rich.text import Text

from initium.cli import options
from initium.cli.common import count, planned, printable, show, show_left_out
from initium.layouts import UnknownLayout
from initium.models.architecture import Architecture
from initium.recipes.recipe import Recipe
from initium.recipes.rules import Assignment
from initium.specs import TensorSpec

__all__ = ["plan"]


@click.command("plan", short_help="Show the distribution of each tensor.")
@options.model
@options.recipe
@options.dtype
def plan(model: Architecture, recipe: Recipe | None, dtype: str | None) -> None:
    """Show the distribution that 'init' draws for each tensor of MODEL, without drawing."""
    made = planned(model, recipe, dtype)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("tensor", "shape", "dtype", "rule", "distribution"):
        table.add_column(heading, overflow="fold")
    for heading in ("fan in", "fan out", "std", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tensor, assignment in zip(made.model.tensors, made.assignments, strict=True):
        table.add_row(*(Text(printable(cell)) for cell in _row(made.model, tensor, assignment)))
    show(table)
    drawn = [tensor for tensor, _ in made.drawn]
    click.echo(
        printable(
            f"{made.model.name}: {count(drawn)}, {sum(tensor.nbytes for tensor in drawn):,} bytes; "
            f"recipe {made.recipe.name}"
        )
    )
    show_left_out(made)


def _row(model: Architecture, tensor: TensorSpec, assignment: Assignment) -> Sequence[str]:
    fan_in = fan_out = std = "-"
    if len(tensor.shape) > 1:
        layout = model.layout(tensor.name)
        fans = assignment.fans
        if fans is None and not isinstance(layout, UnknownLayout):
            fans = layout.fans(tensor.shape)
        if fans is not None:
            fan_in, fan_out = (f"{fan:,.10g}" for fan in fans)
    if assignment.fill is not None:
        std = "-" if math.isnan(assignment.fill.std) else f"{assignment.fill.std:.4g}"
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    nbytes = tensor.nbytes if assignment.fill is not None else 0
    distribution = str(assignment.fill or "skip")
    return (
        *(tensor.name, shape, tensor.dtype, assignment.rule.label, distribution),
        *(fan_in, fan_out, std, f"{nbytes:,}"),
    )
