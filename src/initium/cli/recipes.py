"""``initium recipes``: list the named recipes, or print one."""

from __future__ import annotations

import click
from rich import box
from rich.table import Table
from rich.text import Text

from initium.cli.common import show
from initium.cli.options import checked
from initium.recipes.named import DEFAULTS, NAMED
from initium.recipes.reader import load
from initium.recipes.recipe import Recipe

__all__ = ["recipes"]


@click.command("recipes", short_help="List the named recipes, or print one.")
@click.argument("name", required=False, callback=checked(load))
def recipes(name: Recipe | None) -> None:
    """List the named recipes, or print the recipe NAME as TOML, to start a recipe file from it."""
    if name is not None:
        click.echo(name.text, nl=False)
        return
    table = Table("recipe", "default for", "description", "source", box=box.SIMPLE_HEAD, pad_edge=False)
    for known in NAMED:
        recipe = load(known)
        families = ", ".join(family for family, default in DEFAULTS.items() if default == known)
        table.add_row(*map(Text, (known, families, recipe.description, recipe.source)))
    show(table)
