"""``initium plot``: pictures of initializers and of weights."""

from __future__ import annotations

import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

import click

from initium import io
from initium.checks import check_seed
from initium.cli import options
from initium.cli.options import checked
from initium.cli.report import work_is_done

__all__ = ["plot"]


def _save(figure: Any, output: Path) -> None:
    picture = BytesIO()
    figure.savefig(picture, format=output.suffix[1:].lower(), dpi=150)
    io.replace_file(output, picture.getvalue())
    with work_is_done():
        click.echo(f"{output}", err=True)


@click.group("plot", short_help="Draw pictures of initializers and of weights.")
def plot() -> None:
    """Draw pictures of initializers and of weights; needs the extra 'plot'."""


@plot.command("spread")
@options.initializers
@click.option("--quantity", type=click.Choice(["bounds", "std"]), default="bounds", show_default=True)
@click.option(
    "--fan-in", "most", type=click.IntRange(min=1), default=100, show_default=True, help="The largest fan_in."
)
@click.option("--fan-out", type=click.IntRange(min=1), help="[default: equal to fan_in]")
@options.picture
def plot_spread_command(
    initializers: tuple[str, ...], quantity: str, most: int, fan_out: int | None, output: Path
) -> None:
    """Draw bounds or std against fan_in."""
    from initium import plots

    chosen = {"initializers": initializers} if initializers else {}
    _save(plots.plot_spread(**chosen, fan_in=range(1, most + 1), fan_out=fan_out, quantity=quantity), output)


@plot.command("signal")
@options.initializers
@click.option(
    "--activation",
    "activations",
    metavar="NAME",
    multiple=True,
    help="The name of an activation, such as relu; can be repeated.",
)
@click.option("--depth", type=click.IntRange(min=1), default=50, show_default=True, help="Number of layers.")
@click.option("--width", type=click.IntRange(min=1), default=256, show_default=True, help="Units per layer.")
@click.option("--seed", type=int, default=0, show_default=True, callback=checked(check_seed))
@options.picture
def plot_signal_command(
    initializers: tuple[str, ...],
    activations: tuple[str, ...],
    depth: int,
    width: int,
    seed: int,
    output: Path,
) -> None:
    """Draw the variance of activations and gradients through depth."""
    from initium import plots

    chosen: dict[str, Any] = {"initializers": initializers} if initializers else {}
    chosen |= {"activations": activations} if activations else {}
    _save(plots.plot_signal(**chosen, depth=depth, width=width, seed=seed), output)


@plot.command("layers")
@click.argument("checkpoint", metavar="FILE.safetensors")
@click.option("--match", default="*", show_default=True, help="A glob for the names of the tensors.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="The largest number of tensors.",
)
@options.picture
def plot_layers_command(checkpoint: str, match: str, limit: int, output: Path) -> None:
    """Draw histograms of the weights in a checkpoint."""
    from safetensors import safe_open

    from initium import plots

    names = [t.name for t in io.read_checkpoint(checkpoint).tensors if fnmatch.fnmatchcase(t.name, match)]
    if not names:
        raise ValueError(f"{checkpoint}: no tensor name matches {match!r}")
    with safe_open(checkpoint, framework="numpy") as file:
        weights = {name: file.get_tensor(name) for name in names[:limit]}
    _save(plots.plot_histograms(weights), output)
    if len(names) > limit:
        with work_is_done():
            click.echo(f"{limit} of {len(names)} tensors; see --match and --limit", err=True)
