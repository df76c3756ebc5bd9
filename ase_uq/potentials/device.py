"""The device on which tensors live, checked."""

from __future__ import annotations

import re

import torch

from ase_uq.errors import InputError


def checked_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises
    ------
    InputError
        For any other name than cpu, cuda or cuda:N, or a GPU that is not there.
    """
    if not isinstance(name, str) or re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise InputError(f"`device` must be cpu, cuda or cuda:0, got {name!r}; choose one.")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"it sees {count}" if count else "there is none"
        raise InputError(f"`device` {name!r} needs a GPU that torch can see, and {there}; use 'cpu'.")
    return device
