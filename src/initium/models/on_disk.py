"""Architectures of existing checkpoints: the shapes of safetensors files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from initium.io import read_checkpoint
from initium.models.architecture import CONFIG_NAME, Architecture
from initium.models.hugging_face import depth_of, layouts_by_name, read_config, width_of
from initium.specs import TensorSpec

__all__ = ["from_checkpoint"]


def from_checkpoint(path: str | Path) -> Architecture:
    """Return the architecture that an existing checkpoint has; no weights are read.

    A ``config.json`` beside it tells family, width and depth. Without one the depth is the number of
    layers that the names count, as in ``h.0.ln_1.weight``, ``h.1.ln_1.weight``.

    Parameters
    ----------
    path
        A ``.safetensors`` file or the index of shards.

    Raises
    ------
    FileNotFoundError
        If the file, or a shard that the index names, does not exist.
    initium.io.CheckpointError
        If the checkpoint is malformed or holds tensors of dtypes that initium does not write, other than
        integers and booleans.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    tensors, left_out = checkpoint.tensors, checkpoint.left_out
    beside = path.with_name(CONFIG_NAME)
    if not beside.is_file():
        return Architecture(str(path), "", tensors, depth=_counted_layers(tensors), left_out=left_out)
    config = read_config(beside)
    return Architecture(
        str(path),
        config["model_type"],
        tensors,
        depth=depth_of(config),
        width=width_of(config),
        layouts=layouts_by_name(config["model_type"], tensors),
        config=config,
        left_out=left_out,
    )


def _counted_layers(tensors: Sequence[TensorSpec]) -> int | None:
    """Return how many values the first number in the names takes, with all else the same."""
    layers = {match.groups() for tensor in tensors if (match := re.match(r"(.*?\.)(\d+)\.", tensor.name))}
    counts = Counter(prefix for prefix, _ in layers)
    return max(counts.values(), default=None)
