"""initium for torch: `init` stands in for `torch.nn.init`; `reset_parameters` draws torch's layers anew."""

from __future__ import annotations

from initium.torch import init
from initium.torch.layers import default_rules, reset_parameters

__all__ = ["default_rules", "init", "reset_parameters"]
