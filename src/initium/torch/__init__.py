"""initium for torch: `initium.torch.init` stands in for `torch.nn.init`."""

from __future__ import annotations

from initium.torch import init

__all__ = ["init"]
