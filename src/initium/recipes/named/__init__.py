"""The named recipes: one TOML file each; `initium.recipes.reader` documents the format."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

__all__ = ["DEFAULTS", "NAMED"]

_SUFFIX = ".toml"

#: The text of each named recipe.
NAMED: Mapping[str, str] = MappingProxyType(
    {
        name: (files(__package__) / f"{name}{_SUFFIX}").read_text("utf-8")
        for name in sorted(
            file.name.removesuffix(_SUFFIX)
            for file in files(__package__).iterdir()
            if file.name.endswith(_SUFFIX)
        )
    }
)

#: The default recipe of a family of models.
DEFAULTS: Mapping[str, str] = MappingProxyType({"gpt2": "gpt2", "llama": "llama"})
