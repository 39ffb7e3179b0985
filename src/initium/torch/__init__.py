"""initium for torch: `init` mirrors `torch.nn.init`, `reset_parameters` draws the defaults of its layers."""

from __future__ import annotations

from initium.torch import init
from initium.torch.layers import default_rules, reset_parameters

__all__ = ["default_rules", "init", "reset_parameters"]
