"""A model's own initialisation from its configuration, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from initium.models.architecture import Architecture
from initium.models.built_in import BUILT_IN
from initium.models.hugging_face import architecture_of, build
from initium.recording.laws.start import Start
from initium.recording.own import own_starts
from initium.recording.tape.recorder import recording
from initium.specs import TensorSpec

__all__ = ["own_of_config"]


def own_of_config(model: Architecture, dtype: str | None = None) -> tuple[Architecture, Mapping[str, Start]]:
    """Return a model in a dtype, and how each of its tensors starts by the code of transformers.

    Parameters
    ----------
    model
        An architecture whose configuration is known.
    dtype
        The dtype of all tensors. Default: those of the model.

    Raises
    ------
    initium.recording.tape.errors.RecordingError
        If it cannot be recorded how a tensor starts.
    ModuleNotFoundError
        If transformers or torch is missing.
    ValueError
        If the configuration is not known, if transformers cannot build the model, or if the model lacks a
        tensor of the file that `model` describes, or has it in another shape.
    """
    if model.config is None:
        raise ValueError(
            f"{model.name} has no configuration; expected one for the model's own initialisation"
        )
    wanted = model if dtype is None else model.with_dtype(dtype)
    path, config = Path(model.name), dict(wanted.config or {})
    built = build(path, config, recording)
    starts = own_starts(built)
    if model.is_of_config or model.name in BUILT_IN:
        return _with_integers(architecture_of(path, config, built), starts), starts
    for tensor in wanted.tensors:
        start = starts.get(tensor.name)
        if start is None or start.shape != tensor.shape:
            has = "no such tensor" if start is None else f"the shape {start.shape}"
            raise ValueError(
                f"tensor {tensor.name!r} has shape {tensor.shape} in {model.name}, and the model of its "
                f"configuration has {has}"
            )
    return wanted, starts


def _with_integers(model: Architecture, starts: Mapping[str, Start]) -> Architecture:
    """Return a model with its buffers of integers and booleans, which its own code sets."""
    others = tuple(TensorSpec(name, starts[name].shape, starts[name].dtype) for name in model.left_out)
    return replace(model, tensors=model.tensors + others, left_out=())
