"""Functions for all commands: errors in one line, tables, and readable numbers."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

import click
from rich.console import Console
from rich.table import Table

from initium.checkpoint import CheckpointPlan, NoRecipeError, plan_checkpoint
from initium.models.architecture import Architecture
from initium.recipes.recipe import Recipe
from initium.specs import TensorSpec

__all__ = ["Commands", "count", "human", "planned", "printable", "show", "show_left_out"]

# --- errors -------------------------------------------------------------------------------------------------


class _UsageError(click.ClickException):
    """A wrong command line, reported in one line."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """An interrupt, with the exit status of a command that SIGINT has ended."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        click.echo(f"\n{self.message}", file=file, err=True)


_LONGEST_ERROR = 2000

#: The exception of click 8.2 and later that shows the help of a group.
_HELP_WITHOUT_ARGUMENTS = getattr(click.exceptions, "NoArgsIsHelpError", ())


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except _HELP_WITHOUT_ARGUMENTS:
        raise
    except (click.exceptions.Exit, click.Abort):
        raise  # RuntimeErrors with which click ends a command
    except KeyboardInterrupt as error:
        raise _Interrupted("Aborted!") from error
    except click.UsageError as error:
        raise _UsageError(_one_line(error.format_message())) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # the reader of the pipe has stopped; click ends without a message
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise click.ClickException(_one_line(text)) from error
    except (ValueError, TypeError, ImportError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise click.ClickException(_one_line(str(error) or type(error).__name__)) from error


def _one_line(text: str) -> str:
    """Return the text of an error for a terminal: one line of limited length."""
    line = printable(" ".join(text.split()))
    more = len(line) - _LONGEST_ERROR
    return f"{line[:_LONGEST_ERROR]}... ({more:,} characters more)" if more > 0 else line


def printable(text: str) -> str:
    """Return a text with control characters and lone surrogates written as escapes, as ``repr`` does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Commands(click.Group):
    """A group of commands that shows errors in one line, without a traceback."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parse the command line."""
        with _one_line_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _one_line_errors():
            return super().invoke(ctx)


# --- plans --------------------------------------------------------------------------------------------------

_MOST_SECONDS = 60.0


@contextmanager
def _bounded_time(work: str) -> Iterator[None]:
    """Raise `ValueError` after `_MOST_SECONDS`: a regular expression can take exponential time.

    Only the main thread gets signals, and Windows has no timer; there the work is not bounded.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise ValueError(f"{work} takes more than {_MOST_SECONDS:g} s; expected simpler regular expressions")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def planned(model: Architecture, recipe: Recipe | None, dtype: str | None) -> CheckpointPlan:
    """Return the plan for a model, and warn about unused rules."""
    try:
        with _bounded_time("matching the rules with the tensors"):
            plan = plan_checkpoint(model, recipe, dtype=dtype)
    except NoRecipeError as error:
        raise click.UsageError(f"{error} (--recipe)") from error
    for rule in plan.unused:
        click.echo(f"Warning: {printable(rule.where)}: no remaining tensor matches this rule", err=True)
    return plan


def show_left_out(plan: CheckpointPlan) -> None:
    """Print which tensors are not written, if any."""
    skipped = sum(assignment.fill is None for assignment in plan.assignments)
    parts = [f"{skipped} tensor{'s' if skipped > 1 else ''} that the recipe skips"] if skipped else []
    if buffers := plan.model.left_out:
        plural = "s" if len(buffers) > 1 else ""
        parts.append(f"{len(buffers)} integer buffer{plural}, such as {printable(buffers[0])}")
    if parts:
        click.echo(f"not written: {', '.join(parts)}")


# --- numbers and tables -------------------------------------------------------------------------------------

#: Width of tables in a file or pipe.
_PIPE_WIDTH = 10_000


def count(tensors: Sequence[TensorSpec]) -> str:
    """Return the number of tensors and parameters, and their dtypes, as text."""
    names = "/".join(dict.fromkeys(tensor.dtype for tensor in tensors))
    return f"{len(tensors)} tensors, {sum(tensor.size for tensor in tensors):,} parameters of {names}"


def human(nbytes: float) -> str:
    """Return a number of bytes in decimal units, such as ``5 GB``."""
    power = next((n for n in range(4) if nbytes < 999.5 * 1000**n), 4)
    return f"{nbytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def show(table: Table) -> None:
    """Print a table; in a file or pipe, long lines are not broken."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)
