"""The device that models run on, and its precision."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lemur_mini.config import Config
from lemur_mini.errors import Mendable


class DeviceError(Mendable, RuntimeError):
    """A device that is asked for and not there; the message names those that are."""


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes cuda, then mps, then cpu. Raises DeviceError for one that this
    machine, or this build of torch, does not have."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    found = [device for device, known in (there | {"cpu": True}).items() if known]
    if name == "auto":
        return torch.device(found[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device; use {', '.join(found)}") from error
    if device.type not in found or (
        device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    ):
        raise DeviceError(f"no {name} on this machine; use {', '.join(found)}, or auto")
    return device


def autocast(config: Config, device: torch.device):
    """bf16 autocast where the configuration asks for it."""
    if config.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
