"""Functions that draw all weights of a model to disk: safetensors files, written while they are drawn."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initium import dtypes, io
from initium._version import __version__
from initium.backends.by_gpu import run_by_gpu
from initium.backends.progress import Reported, reporter
from initium.backends.run import run
from initium.checks import check_seed
from initium.fills.base import Fill
from initium.fills.orthogonal import OrthogonalFill
from initium.kernels.float_mode import in_default_mode
from initium.kernels.stream import STREAM_VERSION
from initium.memory.arrays import destination_of
from initium.memory.devices import check_device
from initium.models.architecture import CONFIG_NAME, Architecture
from initium.models.resolve import resolve_model
from initium.planning.jobs import Job, job_of
from initium.planning.plan import plan
from initium.planning.runs import Composite, Run
from initium.recipes.named import DEFAULTS, NAMED
from initium.recipes.reader import load
from initium.recipes.recipe import Recipe, RecipeRule
from initium.recipes.rules import Assignment, Own, UnusedRuleWarning
from initium.regions.boxes import Box
from initium.specs import TensorSpec

__all__ = [
    "CheckpointPlan",
    "InitialisedCheckpoint",
    "NoRecipeError",
    "init_checkpoint",
    "plan_checkpoint",
    "run_checkpoint",
]


class NoRecipeError(ValueError):
    """No recipe was given, and the model's family has no default recipe."""


@dataclass(frozen=True)
class CheckpointPlan:
    """The distribution of each tensor of a checkpoint.

    Attributes
    ----------
    model
        The architecture, in the dtype of the files.
    recipe
        The recipe that the rules come from.
    assignments
        Rule and distribution of each tensor, in the order of the model.
    unused
        Rules of a recipe file that match no remaining tensor.
    """

    model: Architecture
    recipe: Recipe
    assignments: tuple[Assignment, ...]
    unused: tuple[RecipeRule, ...]

    @property
    def drawn(self) -> list[tuple[TensorSpec, Fill]]:
        """The tensors that are written, each with its distribution; skipped tensors are not written."""
        pairs = zip(self.model.tensors, self.assignments, strict=True)
        return [(tensor, a.fill) for tensor, a in pairs if a.fill is not None]


@dataclass(frozen=True)
class InitialisedCheckpoint:
    """The result of `init_checkpoint`.

    Attributes
    ----------
    plan
        Rule and distribution of each tensor.
    written
        The files.
    seed
        The seed of the values.
    seconds
        Wall time of drawing and writing.
    """

    plan: CheckpointPlan
    written: io.Written
    seed: int
    seconds: float


@in_default_mode
def plan_checkpoint(
    model: Architecture | str | Path, recipe: Recipe | str | Path | None = None, *, dtype: Any = None
) -> CheckpointPlan:
    """Plan a call of `init_checkpoint` without drawing: the distribution of each tensor of a model.

    Parameters
    ----------
    model
        One of: the name of a built-in architecture (``"gpt2"``); a Hugging Face ``config.json`` or its folder
        (extra ``hf``); an existing ``.safetensors`` file or index, for its shapes; an `Architecture`.
    recipe
        The name of a recipe, a ``.toml`` file, or a `Recipe`; or ``"own"`` for the model's own
        initialisation: the code of transformers for its configuration. Default: ``"own"`` for a
        ``config.json``, else the recipe of the model's family.
    dtype
        The dtype of all tensors. Default: the dtype of the recipe, else of the model.

    Raises
    ------
    NoRecipeError
        If no recipe is given, and the model's family has no default recipe.
    ValueError
        If the model or the recipe is unknown, if the model has no tensors to draw, or if the recipe does not
        fit the model.

    Examples
    --------
    >>> from initium.checkpoint import plan_checkpoint
    >>> planned = plan_checkpoint("gpt2", dtype="bfloat16")
    >>> planned.recipe.name, len(planned.drawn)
    ('gpt2', 148)
    >>> tensor, fill = planned.drawn[0]
    >>> tensor.name, tensor.shape, str(fill)
    ('wte.weight', (50257, 768), 'normal(0, 0.02)')
    """
    known = model if isinstance(model, Architecture) else resolve_model(str(model))
    if not known.tensors:
        others = f", only integers and booleans such as {known.left_out[0]!r}" if known.left_out else ""
        raise ValueError(f"{known.name} has no weights to draw{others}")
    if recipe is None:
        recipe = _default_recipe(known)
    chosen = recipe if isinstance(recipe, Recipe) else load(recipe)
    wanted = chosen.dtype if dtype is None else dtypes.lookup(dtype).name
    if chosen.use_own or (known.is_of_config and any(rule.is_named for rule in chosen.rules)):
        return _with_own(known, chosen, wanted)
    in_dtype = known if wanted is None else known.with_dtype(wanted)
    assigned = chosen.assign(in_dtype)
    return CheckpointPlan(in_dtype, chosen, assigned.assignments, assigned.unused)


def _with_own(model: Architecture, recipe: Recipe, dtype: str | None) -> CheckpointPlan:
    """Plan a checkpoint of which some tensors start as the model's own code says."""
    from initium.recording.configuration import own_of_config
    from initium.recording.recipes import mixed

    known, starts = own_of_config(model, dtype)
    made = mixed(known, recipe, starts)
    return CheckpointPlan(replace(known, tensors=made.tensors), recipe, made.assignments, made.unused)


def _default_recipe(model: Architecture) -> str:
    if model.is_of_config:
        return "own"
    if model.family not in DEFAULTS:
        family = f"family {model.family!r}" if model.family else "an unknown family"
        raise NoRecipeError(
            f"{model.name}: {family} has no default recipe; choose a recipe: "
            f"{', '.join(NAMED)}, or a .toml file"
        )
    return DEFAULTS[model.family]


def init_checkpoint(
    model: Architecture | str | Path,
    output: str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    seed: int | None = None,
    dtype: Any = None,
    device: str = "cpu",
    threads: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    progress: Reported = False,
) -> InitialisedCheckpoint:
    """Write the initialised weights of a model to safetensors files, as ``initium init`` does.

    The files are written while the weights are drawn. Memory stays at two buffers of 16 MiB, also for large
    models. An orthogonal weight that is larger than a buffer also needs up to twice its size in float32.

    At all times, a reader finds the complete older output, the complete new one, or no output. An error or an
    interrupt leaves the older output. If a run is killed, the next run of the same output completes or undoes
    the switch to the new output. `initium.io.write_checkpoint` gives the details.

    Parameters
    ----------
    model, recipe, dtype
        See `plan_checkpoint`.
    output
        A name that ends in ``.safetensors``, or a folder. A folder gets ``model.safetensors``, or shards with
        an index, and ``config.json`` if the configuration is known.
    seed
        The Philox key, in [0, 2**64). Default: the seed of the recipe, else 0.
    device
        Where to draw: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    threads
        Number of CPU threads. Default: all available cores.
    shard_size
        Largest number of bytes of a file. Default: 5 GB in a folder, else no limit.
    overwrite
        Replace an existing output, including all its shards. A link is replaced, not its target.
    progress
        True for a progress bar (extra ``cli``), or a function that is called with (bytes written, bytes in
        all).

    Returns
    -------
    InitialisedCheckpoint
        The files, and the distribution of each tensor.

    Raises
    ------
    FileExistsError
        If the output exists already, if another run is writing it, if its path is not a regular file, or if
        an interrupted run left files that can neither be completed nor undone.
    TypeError, ValueError
        If an argument is wrong; nothing has been written then.
    OSError
        If the output cannot be written; an existing output stays unchanged.

    Warns
    -----
    UnusedRuleWarning
        If a rule of a recipe file matches no tensor.
    RuntimeWarning
        If an interrupted run was completed or undone; see `initium.io.write_checkpoint`.

    Examples
    --------
    >>> import tempfile
    >>> import initium as ini
    >>> from initium.checkpoint import init_checkpoint
    >>> from initium.models.architecture import Architecture
    >>> tensors = (ini.TensorSpec("h.0.fc.weight", (32, 8), "bfloat16"),)
    >>> model = Architecture("tiny", "", tensors)  # or a name, such as "gpt2"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = init_checkpoint(model, f"{folder}/tiny.safetensors", "normal", seed=7)
    ...     [file.name for file in made.written.files]
    ['tiny.safetensors']
    >>> [(tensor.name, str(fill)) for tensor, fill in made.plan.drawn]
    [('h.0.fc.weight', 'normal(0, 0.02)')]
    """
    planned = plan_checkpoint(model, recipe, dtype=dtype)
    for rule in planned.unused:
        warnings.warn(f"{rule.where}: no remaining tensor matches this rule", UnusedRuleWarning, stacklevel=2)
    return run_checkpoint(
        planned,
        output,
        seed=seed,
        device=device,
        threads=threads,
        shard_size=shard_size,
        overwrite=overwrite,
        progress=progress,
    )


@in_default_mode
def run_checkpoint(
    planned: CheckpointPlan,
    output: str | Path,
    *,
    seed: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    progress: Reported = False,
) -> InitialisedCheckpoint:
    """Draw and write the tensors of a `CheckpointPlan`; see `init_checkpoint`.

    Examples
    --------
    >>> import tempfile
    >>> import initium as ini
    >>> from initium.checkpoint import plan_checkpoint, run_checkpoint
    >>> from initium.models.architecture import Architecture
    >>> tensors = (ini.TensorSpec("h.0.fc.weight", (32, 8), "bfloat16"),)
    >>> planned = plan_checkpoint(Architecture("tiny", "", tensors), "normal")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_checkpoint(planned, f"{folder}/tiny.safetensors", seed=7).seed
    7
    """
    chosen = check_seed((planned.recipe.seed or 0) if seed is None else seed)
    if not planned.drawn:
        raise ValueError(f"the recipe {planned.recipe.name} skips all tensors of {planned.model.name}")
    tensors = [tensor for tensor, _ in planned.drawn]
    fill = _Filler(planned.drawn, chosen, threads, check_device(device))
    start = time.perf_counter()
    with reporter(progress, Path(output).name, in_bytes=True) as report:
        written = io.write_checkpoint(
            output,
            tensors,
            fill,
            metadata=_metadata(planned, chosen),
            companions=_companions(planned.model, output),
            shard_size=shard_size,
            overwrite=overwrite,
            progress=report,
        )
    return InitialisedCheckpoint(planned, written, chosen, time.perf_counter() - start)


def _companions(model: Architecture, output: str | Path) -> dict[str, str]:
    if model.config is None or not io.is_folder(output):
        return {}
    return {CONFIG_NAME: json.dumps(model.config, indent=2) + "\n"}


def _metadata(planned: CheckpointPlan, seed: int) -> dict[str, str]:
    """Return the metadata that reproduces a file; the format requires strings as values."""
    variables = {"depth": planned.model.depth, "width": planned.model.width}
    rules = [rule.describe(variables) for rule in planned.recipe.rules]
    laws = {a.name: str(a.fill) for a in planned.assignments if isinstance(a.initializer, Own)}
    return {
        "format": "pt",
        "initium.version": __version__,
        "initium.stream_version": str(STREAM_VERSION),
        "initium.seed": str(seed),
        # A path need not be valid Unicode.
        "initium.recipe": planned.recipe.name.encode(errors="backslashreplace").decode(),
        "initium.rules": json.dumps(rules),
        **({"initium.own": json.dumps(laws)} if laws else {}),
    }


# --- filling buffers ----------------------------------------------------------------------------------------


class _Filler:
    """Draws all pieces of a buffer in one call.

    An orthogonal matrix that extends over several buffers is made once, and kept until its last piece. So are
    the values of a tensor that runs do not make up.
    """

    def __init__(
        self, drawn: Sequence[tuple[TensorSpec, Fill]], seed: int, threads: int | None, device: str
    ) -> None:
        self._drawn, self._seed, self._threads, self._device = drawn, seed, threads, device
        self._matrices: dict[tuple[int, int], NDArray[Any]] = {}
        self._values: dict[int, NDArray[Any]] = {}
        self._runs = lru_cache(maxsize=64)(self._runs_of)

    def __call__(self, pieces: list[io.Piece]) -> None:
        """Fill the pieces, which come in the order of the file."""
        jobs: list[Job] = []
        parts: list[_Part] = []
        for piece in pieces:
            runs = self._runs(piece.tensor)
            if runs is None:
                self._copy_values(piece)
                continue
            for part_run, cut in _cut_by_runs(piece, runs):
                if not isinstance(part_run.fill, OrthogonalFill):
                    jobs.append(_job(part_run, cut.start, cut.values))
                    continue
                whole, partial = _by_matrices(cut, part_run)
                jobs += [_job(part_run, matrices.start, matrices.values) for matrices in whole]
                parts += partial
        # Matrices that exist already are copied first, to free their memory before new ones are made.
        waiting = [part for part in parts if not self._copied(part)]
        for part in waiting:
            dtype = dtypes.lookup(self._drawn[part.piece.tensor][0].dtype)
            made = np.empty(part.period, dtype.numpy)
            self._matrices[part.key] = made
            jobs.append(_job(part.run, part.first, made))
        self._run(jobs)
        for part in waiting:
            self._copied(part)

    def _runs_of(self, number: int) -> list[Run] | None:
        """Return the runs of a tensor; None if runs do not make it up."""
        tensor, fill = self._drawn[number]
        if isinstance(fill, Composite):
            return fill.runs()
        return [Run(0, tensor.size, fill, tensor.name)]

    def _copy_values(self, piece: io.Piece) -> None:
        """Copy a part of a tensor's values; make them at its first piece, and drop them after its last."""
        tensor, fill = self._drawn[piece.tensor]
        assert isinstance(fill, Composite)
        if piece.tensor not in self._values:
            self._values[piece.tensor] = fill.values(tensor.dtype, self._run)
        piece.values[...] = self._values[piece.tensor][piece.start : piece.stop]
        if piece.stop == tensor.size:
            del self._values[piece.tensor]

    def _copied(self, part: _Part) -> bool:
        """Copy a part of a matrix if the matrix exists; drop the matrix after its last element."""
        if part.key not in self._matrices:
            return False
        piece, begin = part.piece, part.piece.start - part.first
        piece.values[...] = self._matrices[part.key][begin : begin + len(piece.values)]
        if piece.stop == part.first + part.period:
            del self._matrices[part.key]
        return True

    def _run(self, jobs: list[Job]) -> None:
        if self._device == "cpu":
            run(plan(jobs, self._seed), threads=self._threads)
        else:
            run_by_gpu(jobs, self._seed, self._device)


@dataclass(frozen=True, eq=False)
class _Part:
    """A piece within one matrix; the matrix is elements [first, first + period) of the tensor."""

    piece: io.Piece
    run: Run
    first: int
    period: int

    @property
    def key(self) -> tuple[int, int]:
        return self.piece.tensor, self.first


def _cut_by_runs(piece: io.Piece, runs: list[Run]) -> Iterator[tuple[Run, io.Piece]]:
    """Yield the parts of a piece, each with its run."""
    for part_run in runs:
        start, stop = max(piece.start, part_run.start), min(piece.stop, part_run.stop)
        if start < stop:
            yield part_run, _cut(piece, start, stop)


def _by_matrices(piece: io.Piece, matrices: Run) -> tuple[list[io.Piece], list[_Part]]:
    """Split a piece of a run where matrices begin: into runs of whole matrices, and parts."""
    assert isinstance(matrices.fill, OrthogonalFill)
    period, origin = matrices.fill.period, matrices.first
    first = origin - -(piece.start - origin) // period * period
    last = origin + (piece.stop - origin) // period * period
    if first > last:  # within one matrix
        return [], [_Part(piece, matrices, last, period)]
    whole = [_cut(piece, first, last)] if first < last else []
    parts = []
    if piece.start < first:
        parts.append(_Part(_cut(piece, piece.start, first), matrices, first - period, period))
    if last < piece.stop:
        parts.append(_Part(_cut(piece, last, piece.stop), matrices, last, period))
    return whole, parts


def _cut(piece: io.Piece, start: int, stop: int) -> io.Piece:
    return io.Piece(piece.tensor, start, stop, piece.values[start - piece.start : stop - piece.start])


def _job(part: Run, start: int, values: NDArray[Any]) -> Job:
    # A run of elements in row-major order is a box of the flattened tensor, with the same indices.
    box = Box(values.shape, start - part.first, (1,))
    return job_of(part.name, part.fill, box, destination_of(values))
