"""Names of devices: ``"cpu"``, and ``"cuda:N"`` for NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

from initium.memory import cuda

__all__ = ["check_device", "is_on"]


def check_device(device: Any) -> str:
    """Return the name of a device that memory can be allocated on: ``"cpu"``, or ``"cuda:N"``.

    Raises
    ------
    ValueError
        If there is no such device.
    ImportError, RuntimeError
        If the device is a GPU, and CuPy or the driver is missing.
    """
    if device == "cpu":
        return "cpu"
    if isinstance(device, str) and device.partition(":")[0] == "cuda":
        return cuda.device_name(device)
    raise ValueError(f"device={device!r} is unknown; expected 'cpu', 'cuda' or 'cuda:N'")


def is_on(device: str, place: str) -> bool:
    """Return whether memory at `place` is on `device`; ``"cuda"`` without a number matches every GPU."""
    return place == check_device(device) or place.partition(":")[0] == device
