"""Architectures from existing checkpoints: the names and shapes in safetensors files."""

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
    """Return the architecture of an existing checkpoint, without reading weights.

    Family, width and depth come from a ``config.json`` in the same folder. Without this file, the depth is
    the number of layers in the names, such as ``h.0.ln_1.weight`` and ``h.1.ln_1.weight``.

    Parameters
    ----------
    path
        A ``.safetensors`` file or the index of shards.

    Raises
    ------
    FileNotFoundError
        If the file, or a shard in the index, does not exist.
    initium.io.CheckpointError
        If the checkpoint is malformed, or holds a tensor whose dtype initium neither writes nor leaves out
        (integers and booleans are left out).
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
    """Return the largest number of layers that follow one prefix; None if no name has a layer number."""
    layers = {match.groups() for tensor in tensors if (match := re.match(r"(.*?\.)(\d+)\.", tensor.name))}
    counts = Counter(prefix for prefix, _ in layers)
    return max(counts.values(), default=None)
