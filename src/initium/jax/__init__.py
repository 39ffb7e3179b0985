"""initium for JAX: `initium.jax.initializers` mirrors `jax.nn.initializers`."""

from __future__ import annotations

from initium.jax import initializers

__all__ = ["initializers"]
