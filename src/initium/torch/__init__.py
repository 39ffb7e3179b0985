"""initium for torch: `init` mirrors `torch.nn.init`, `reset_parameters` draws the defaults of its layers.

`recording` records how a model's own code initialises it. `patched` lets code that draws with torch draw with
initium.
"""

from __future__ import annotations

from initium.recording.own import own_starts
from initium.recording.tape.errors import RecordingError
from initium.recording.tape.recorder import recording
from initium.torch import init
from initium.torch.layers import default_rules, reset_parameters
from initium.torch.patched import patched

__all__ = [
    "RecordingError",
    "default_rules",
    "init",
    "own_starts",
    "patched",
    "recording",
    "reset_parameters",
]
