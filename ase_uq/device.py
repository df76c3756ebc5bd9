"""Where tensors live."""

from __future__ import annotations

import torch

from ase_uq.errors import InputError


def checked_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises
    ------
    InputError
        For a name torch does not know, or a GPU that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise InputError(f"`device` must be cpu, cuda or cuda:0, got {name!r}; choose one.") from e
    missing = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if missing:
        raise InputError(f"`device` {name!r} needs a GPU that torch can see, and there is none; use 'cpu'.")
    return device
