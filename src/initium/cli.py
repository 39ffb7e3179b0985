"""The command line: ``initium init``, ``plan``, ``recipes`` and ``plot``."""

from __future__ import annotations

import errno
import fnmatch
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

try:
    import click
    from rich import box
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Table
    from rich.text import Text

    from initium import io
except ModuleNotFoundError as error:
    sys.exit(f"initium: the command line needs {error.name}; install it with: pip install 'initium[cli]'")

from initium import __version__, architectures, dtypes, recipes
from initium.architectures import CONFIG_NAME, Architecture
from initium.backends import backend_for, check_device
from initium.boxes import Box
from initium.checks import check_choice, check_seed
from initium.destinations import destination_of
from initium.kernels.constants import STREAM_VERSION
from initium.plan import Job, plan
from initium.recipes import Recipe
from initium.rules import Assignment
from initium.specs import TensorSpec
from initium.streams import stream_id

__all__ = ["main"]

# --- errors -------------------------------------------------------------------------------------------------


class _UsageError(click.ClickException):
    """A wrong command line, told in one line."""

    exit_code = 2


#: What click 8.2 and later raises to show the help of a group.
_HELP_WITHOUT_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except _HELP_WITHOUT_ARGUMENTS:
        raise
    except (click.exceptions.Exit, click.Abort):
        raise  # both are RuntimeErrors by which click leaves
    except click.UsageError as error:
        raise _UsageError(" ".join(error.format_message().split())) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # whoever read the output has enough; click ends in silence
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise click.ClickException(text) from error
    except (ValueError, TypeError, ImportError, RuntimeError, MemoryError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


class _Commands(click.Group):
    """A group that shows errors in one line, without a traceback."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _one_line_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)


#: Columns of what is no terminal.
_PIPE_WIDTH = 10_000

# --- options ------------------------------------------------------------------------------------------------


def _checked(check: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that makes a usage error of an error of `check`."""

    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(value)
        except (ValueError, TypeError) as error:
            if type(error) not in (ValueError, TypeError):
                raise  # a malformed file is no wrong use
            raise click.BadParameter(str(error), ctx, parameter) from error

    return callback


_UNITS: dict[str, int] = {"": 1, "B": 1, **{f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{p}IB": 1024**n for n, p in enumerate("KMGT", 1)}


def _bytes(text: str) -> int:
    """Return a number of bytes: ``5GB`` is 5e9, ``5GiB`` is 5 * 2**30."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip(), re.ASCII | re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is no size; expected a number with a unit such as 500MB, 5GB or 2GiB")
    size = round(Decimal(match[1]) * _UNITS[match[2].upper()])
    if size < 1:
        raise ValueError(f"{text!r} is less than a byte")
    return size


_model = click.argument("model", callback=_checked(architectures.resolve_model))
_recipe = click.option(
    "--recipe",
    metavar="NAME|FILE.toml",
    callback=_checked(recipes.load),
    help="How each tensor is drawn; see 'initium recipes'.  [default: by the model's family]",
)
_dtype = click.option(
    "--dtype",
    metavar="|".join(dtypes.DTYPES),
    callback=_checked(lambda dtype: dtypes.lookup(dtype).name),
    help="Of all tensors.  [default: the recipe's, else the model's own]",
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="initium", message="%(prog)s %(version)s")
def main() -> None:
    """Initialise the weights of a model, with the same bits on every machine.

    MODEL is a built-in architecture (gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-3-8b, llama-3-70b), a
    Hugging Face config.json or its folder, or an existing .safetensors file or index, for its shapes.
    """


# --- what all commands need ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """A model, the recipe for it, and what each of its tensors gets."""

    model: Architecture
    recipe: Recipe
    assignments: Sequence[Assignment]


def _task(model: Architecture, recipe: Recipe | None, dtype: str | None) -> _Task:
    if not model.tensors:
        others = f", only integers and booleans such as {model.left_out[0]!r}" if model.left_out else ""
        raise ValueError(f"{model.name} has no weights to draw{others}")
    chosen = _default_recipe(model) if recipe is None else recipe
    wanted = dtype or chosen.dtype
    model = model if wanted is None else model.with_dtype(wanted)
    assigned = chosen.assign(model)
    for rule in assigned.unused:
        click.echo(f"Warning: {rule.where}: no tensor is left for this rule", err=True)
    return _Task(model, chosen, assigned.assignments)


def _default_recipe(model: Architecture) -> Recipe:
    if model.family not in recipes.DEFAULTS:
        family = f"family {model.family!r}" if model.family else "unknown family"
        raise click.UsageError(
            f"{model.name} is of {family}, which has no recipe of its own; choose one with "
            f"--recipe: {', '.join(recipes.NAMED)}, or a .toml file"
        )
    return recipes.load(recipes.DEFAULTS[model.family])


# --- init ---------------------------------------------------------------------------------------------------


@main.command(short_help="Write initialised weights.")
@_model
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A .safetensors file, or a folder that gets model.safetensors or shards, and config.json.",
)
@_recipe
@click.option(
    "--seed", type=int, callback=_checked(check_seed), help="In [0, 2**64).  [default: the recipe's, else 0]"
)
@_dtype
@click.option(
    "--shard-size",
    metavar="SIZE",
    callback=_checked(_bytes),
    help="Largest size of a file, such as 5GB.  [default: 5GB in a folder, else no limit]",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option(
    "--device",
    default="cpu",
    callback=_checked(check_device),
    help="Where to draw: cpu, cuda or cuda:N.  [default: cpu]",
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

    The output appears under its name when it is whole; memory stays at some tens of MB, whatever its size.
    """
    task = _task(model, recipe, dtype)
    if seed is None:
        seed = task.recipe.seed or 0
    kept = {a.name: a for a in task.assignments if a.fill is not None}
    tensors = [tensor for tensor in task.model.tensors if tensor.name in kept]
    if not tensors:
        raise ValueError(f"the recipe {task.recipe.name} skips all tensors of {task.model.name}")
    fill = _filler(tensors, [kept[tensor.name] for tensor in tensors], seed, threads, device)
    companions = _companions(task.model, output)
    start = time.perf_counter()
    with _progress(output.name, sum(tensor.nbytes for tensor in tensors)) as progress:
        written = io.write_checkpoint(
            output,
            tensors,
            fill,
            metadata=_metadata(task, seed),
            companions=companions,
            shard_size=shard_size,
            overwrite=overwrite,
            progress=progress,
        )
    _tell(written, tensors, task, seed, time.perf_counter() - start)


def _filler(
    tensors: Sequence[TensorSpec],
    assignments: Sequence[Assignment],
    seed: int,
    threads: int | None,
    device: str,
) -> Callable[[list[io.Piece]], None]:
    """Return what draws the pieces of a buffer, all at once."""
    backend = backend_for([device])
    streams = [stream_id(tensor.name) for tensor in tensors]
    fills = [assignment.fill for assignment in assignments]

    def job(piece: io.Piece) -> Job:
        # A run of elements in row-major order is a box of the flattened tensor: indices are the same.
        drawn = fills[piece.tensor]
        assert drawn is not None
        run = Box(piece.values.shape, piece.start, (1,))
        return Job(streams[piece.tensor], drawn, run, destination_of(piece.values))

    if backend.name == "cuda":
        from initium.backends.cuda import fill_host

        return lambda pieces: fill_host(map(job, pieces), seed, device)
    return lambda pieces: backend.run(plan(map(job, pieces), seed), threads)


def _companions(model: Architecture, output: Path) -> dict[str, str]:
    if model.config is None or not io.is_folder(output):
        return {}
    return {CONFIG_NAME: json.dumps(model.config, indent=2) + "\n"}


def _metadata(task: _Task, seed: int) -> dict[str, str]:
    """Return what a file says of its own making; values are strings, as the format demands."""
    variables = {"depth": task.model.depth, "width": task.model.width}
    rules = [rule.describe(variables) for rule in task.recipe.rules]
    return {
        "format": "pt",
        "initium.version": __version__,
        "initium.stream_version": str(STREAM_VERSION),
        "initium.seed": str(seed),
        "initium.recipe": task.recipe.name,
        "initium.rules": json.dumps(rules),
    }


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Show a bar with the bytes written, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task(name, total=total)
        yield lambda nbytes: bar.advance(shown, nbytes)


def _tell(written: io.Written, tensors: Sequence[TensorSpec], task: _Task, seed: int, seconds: float) -> None:
    first = written.files[0]
    what = str(first) if written.index is None else f"{written.index} and {len(written.files)} shards"
    click.echo(
        f"{what}: {_count(tensors)}, {_human(written.nbytes)} in {seconds:.1f} s "
        f"({_human(written.nbytes / seconds)}/s); recipe {task.recipe.name}, seed {seed}"
    )
    _tell_left_out(task)


def _tell_left_out(task: _Task) -> None:
    skipped = sum(assignment.fill is None for assignment in task.assignments)
    parts = [f"{skipped} tensor{'s' if skipped > 1 else ''} that the recipe skips"] if skipped else []
    if buffers := task.model.left_out:
        plural = "s" if len(buffers) > 1 else ""
        parts.append(f"{len(buffers)} integer buffer{plural}, such as {buffers[0]}")
    if parts:
        click.echo(f"not written: {', '.join(parts)}")


def _count(tensors: Sequence[TensorSpec]) -> str:
    names = "/".join(dict.fromkeys(tensor.dtype for tensor in tensors))
    return f"{len(tensors)} tensors, {sum(tensor.size for tensor in tensors):,} parameters of {names}"


def _human(nbytes: float) -> str:
    """Return a number of bytes in decimal units, as in ``5GB``."""
    power = next((n for n in range(4) if nbytes < 999.5 * 1000**n), 4)
    return f"{nbytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


# --- plan ---------------------------------------------------------------------------------------------------


@main.command("plan", short_help="Show what would be drawn.")
@_model
@_recipe
@_dtype
def plan_command(model: Architecture, recipe: Recipe | None, dtype: str | None) -> None:
    """Show what 'init' would draw for each tensor of MODEL; no weights are made."""
    task = _task(model, recipe, dtype)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("tensor", "shape", "dtype", "rule", "distribution"):
        table.add_column(heading, overflow="fold")
    for heading in ("fan in", "fan out", "std", "bytes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for tensor, assignment in zip(task.model.tensors, task.assignments, strict=True):
        table.add_row(*map(Text, _row(task.model, tensor, assignment)))
    _show(table)
    kept = [tensor for tensor, a in zip(task.model.tensors, task.assignments, strict=True) if a.fill]
    click.echo(
        f"{task.model.name}: {_count(kept)}, {sum(tensor.nbytes for tensor in kept):,} bytes; "
        f"recipe {task.recipe.name}"
    )
    _tell_left_out(task)


def _row(model: Architecture, tensor: TensorSpec, assignment: Assignment) -> Sequence[str]:
    fan_in = fan_out = std = "-"
    if len(tensor.shape) > 1:
        fans = assignment.fans or model.layout(tensor.name).fans(tensor.shape)
        fan_in, fan_out = (f"{fan:,.10g}" for fan in fans)
    if assignment.fill is not None:
        std = f"{assignment.fill.std:.4g}"
    shape = " x ".join(map(str, tensor.shape)) or "scalar"
    nbytes = tensor.nbytes if assignment.fill is not None else 0
    distribution = str(assignment.fill or "skip")
    return (
        *(tensor.name, shape, tensor.dtype, assignment.rule.label, distribution),
        *(fan_in, fan_out, std, f"{nbytes:,}"),
    )


def _show(table: Table) -> None:
    """Print a table; in a file or pipe no line breaks, however long."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)


# --- recipes ------------------------------------------------------------------------------------------------


@main.command("recipes", short_help="List the named recipes, or print one.")
@click.argument("name", required=False, callback=_checked(recipes.load))
def recipes_command(name: Recipe | None) -> None:
    """List the named recipes, or print the recipe NAME as TOML: a start for one of your own."""
    if name is not None:
        click.echo(name.text, nl=False)
        return
    table = Table("recipe", "default for", "what it does", "source", box=box.SIMPLE_HEAD, pad_edge=False)
    for known in recipes.NAMED:
        recipe = recipes.load(known)
        families = ", ".join(family for family, default in recipes.DEFAULTS.items() if default == known)
        table.add_row(*map(Text, (known, families, recipe.description, recipe.source)))
    _show(table)


# --- plot ---------------------------------------------------------------------------------------------------

_PICTURES = (".png", ".svg", ".pdf")


def _picture(path: str) -> Path:
    if Path(path).suffix.lower() not in _PICTURES:
        raise ValueError(f"{path!r} is no picture; expected a name that ends in {', '.join(_PICTURES)}")
    return Path(path)


def _known_initializer(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        check_choice("initializer", name, tuple(recipes.INITIALIZERS))
    return names


_initializers = click.option(
    "--init",
    "initializers",
    metavar="NAME",
    multiple=True,
    callback=_checked(_known_initializer),
    help="An initializer of the catalogue, as in recipes; may be given several times.",
)
_output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    callback=_checked(_picture),
    help="A .png, .svg or .pdf file.",
)


def _save(figure: Any, output: Path) -> None:
    """Write a figure under a temporary name, and give it its own when it is whole."""
    with tempfile.NamedTemporaryFile(dir=output.parent, suffix=output.suffix, delete=False) as file:
        unfinished = Path(file.name)
    try:
        figure.savefig(unfinished, dpi=150)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    click.echo(f"{output}", err=True)


@main.group("plot", short_help="Draw pictures of initializers and of weights.")
def plot_group() -> None:
    """Draw pictures of initializers and of weights; needs the extra 'plot'."""


@plot_group.command("spread")
@_initializers
@click.option("--quantity", type=click.Choice(["bounds", "std"]), default="bounds", show_default=True)
@click.option(
    "--fan-in", "most", type=click.IntRange(min=1), default=100, show_default=True, help="The largest."
)
@click.option("--fan-out", type=click.IntRange(min=1), help="[default: equal to fan_in]")
@_output
def plot_spread_command(
    initializers: tuple[str, ...], quantity: str, most: int, fan_out: int | None, output: Path
) -> None:
    """Draw bounds or std against fan_in."""
    from initium import plots

    chosen = {"initializers": initializers} if initializers else {}
    _save(plots.plot_spread(**chosen, fan_in=range(1, most + 1), fan_out=fan_out, quantity=quantity), output)


@plot_group.command("signal")
@_initializers
@click.option(
    "--activation", "activations", metavar="NAME", multiple=True, help="relu, tanh, gelu, ...; several."
)
@click.option("--depth", type=click.IntRange(min=1), default=50, show_default=True, help="Layers.")
@click.option("--width", type=click.IntRange(min=1), default=256, show_default=True, help="Units of a layer.")
@click.option("--seed", type=int, default=0, show_default=True, callback=_checked(check_seed))
@_output
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


@plot_group.command("layers")
@click.argument("checkpoint", metavar="FILE.safetensors")
@click.option("--match", default="*", show_default=True, help="A glob of the tensors to draw.")
@click.option("--limit", type=click.IntRange(min=1), default=24, show_default=True, help="Tensors at most.")
@_output
def plot_layers_command(checkpoint: str, match: str, limit: int, output: Path) -> None:
    """Draw histograms of the weights in a checkpoint."""
    from safetensors import safe_open

    from initium import plots

    names = [t.name for t in io.read_checkpoint(checkpoint).tensors if fnmatch.fnmatchcase(t.name, match)]
    if not names:
        raise ValueError(f"{checkpoint}: no tensor's name matches {match!r}")
    with safe_open(checkpoint, framework="numpy") as file:
        weights = {name: file.get_tensor(name) for name in names[:limit]}
    _save(plots.plot_histograms(weights), output)
    if len(names) > limit:
        click.echo(f"{limit} of {len(names)} tensors; see --match and --limit", err=True)
