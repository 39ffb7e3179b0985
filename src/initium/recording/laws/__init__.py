"""From a tape to laws: how each tensor of a recorded model starts."""
