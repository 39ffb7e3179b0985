"""From the user's name or path of a model to its architecture."""

from __future__ import annotations

from pathlib import Path

from initium.models.architecture import CONFIG_NAME, Architecture
from initium.models.built_in import BUILT_IN, built_in
from initium.models.hugging_face import from_config
from initium.models.on_disk import from_checkpoint

__all__ = ["resolve_model"]


def resolve_model(argument: str) -> Architecture:
    """Return the architecture for a name or a path.

    Parameters
    ----------
    argument
        A built-in name, a ``config.json`` or another ``.json`` file with a configuration, a
        ``.safetensors`` file, an index of shards, or a folder that holds one of these files.

    Raises
    ------
    ValueError
        If the argument is something else.
    """
    if argument in BUILT_IN:
        return built_in(argument)
    path = Path(argument)
    if argument and path.is_dir():
        names = (CONFIG_NAME, "model.safetensors.index.json", "model.safetensors")
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise ValueError(f"model={argument!r} is a folder; expected one of {', '.join(names)} in it")
        path = found[0]
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        return from_checkpoint(path)
    if path.name.endswith(".json"):
        return from_config(path)
    raise ValueError(
        f"model={argument!r} is unknown; expected one of {', '.join(BUILT_IN)}, a config.json or its folder, "
        "a .safetensors file or a .safetensors.index.json"
    )
