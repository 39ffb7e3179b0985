"""``initium init``: write initialised weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from initium.checkpoint import InitialisedCheckpoint, run_checkpoint
from initium.checks import check_seed
from initium.cli import options
from initium.cli.common import count, human, planned, printable, show_left_out
from initium.cli.options import checked
from initium.cli.report import work_is_done
from initium.memory.devices import check_device
from initium.models.architecture import Architecture
from initium.recipes.recipe import Recipe

__all__ = ["init"]


def _output(path: str) -> Path:
    if not path:
        raise ValueError("'' is empty; expected a .safetensors file or a folder")
    return Path(path)


@click.command(short_help="Write initialised weights.")
@options.model
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="PATH",
    callback=checked(_output),
    help="A .safetensors file, or a folder for model.safetensors or shards, and config.json.",
)
@options.recipe
@click.option(
    "--seed",
    type=int,
    callback=checked(check_seed),
    help="The seed, in [0, 2**64).  [default: of the recipe, else 0]",
)
@options.dtype
@click.option(
    "--shard-size",
    metavar="SIZE",
    callback=checked(options.size),
    help="The largest size of a file, such as 5GB.  [default: 5GB in a folder, else no limit]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Number of CPU threads.  [default: all cores]")
@click.option(
    "--device",
    default="cpu",
    callback=checked(check_device),
    help="The device that draws: cpu, cuda or cuda:N.  [default: cpu]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
def init(
    model: Architecture,
    output: Path,
    recipe: Recipe | None,
    seed: int | None,
    dtype: str | None,
    shard_size: int | None,
    threads: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Write the initialised weights of MODEL to safetensors files.

    The files get their names when all of them are complete. Memory stays at some tens of MB, also for large
    models. An orthogonal weight that is larger than a buffer also needs up to twice its size in float32.
    """
    plan = planned(model, recipe, dtype)
    with _warnings_in_one_line():
        made = run_checkpoint(
            plan,
            output,
            seed=seed,
            device=device,
            threads=threads,
            shard_size=shard_size,
            overwrite=overwrite,
            progress=Console(stderr=True).is_terminal,
        )
    with work_is_done():
        _show_written(made)
        show_left_out(plan)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any) -> None:
        with work_is_done():
            click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _show_written(made: InitialisedCheckpoint) -> None:
    written, tensors = made.written, [tensor for tensor, _ in made.plan.drawn]
    first = written.files[0]
    what = str(first) if written.index is None else f"{written.index} and {len(written.files)} shards"
    text = (
        f"{what}: {count(tensors)}, {human(written.nbytes)} in {made.seconds:.1f} s "
        f"({human(written.nbytes / made.seconds)}/s); recipe {made.plan.recipe.name}, seed {made.seed}"
    )
    click.echo(printable(text))
