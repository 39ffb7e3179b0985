"""The entry point of the command line, with the list of commands."""

from __future__ import annotations

import click

from initium._version import __version__
from initium.cli.common import Commands
from initium.cli.init import init
from initium.cli.plan import plan
from initium.cli.plot import plot
from initium.cli.recipes import recipes

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="initium", message="%(prog)s %(version)s")
def main() -> None:
    """Initialise the weights of a model, with the same bits on every machine.

    MODEL is one of: a built-in architecture (gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-3-8b,
    llama-3-70b); a Hugging Face config.json or its folder; an existing .safetensors file or index, for its
    shapes.
    """


for _command in (init, plan, recipes, plot):
    main.add_command(_command)
