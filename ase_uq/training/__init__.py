"""Training: labelled frames in, a model with uncertainty out.

The names below are loaded when they are first used, so that the options of a training can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_uq.structures.frames import Frame, read_frames, read_structures, split_frames
    from ase_uq.training.apart import train_members
    from ase_uq.training.blip import Blip
    from ase_uq.training.deep import Deep
    from ase_uq.training.method import Method
    from ase_uq.training.run import TrainingRun
    from ase_uq.training.settings import FitSettings
    from ase_uq.training.shallow import Shallow

_HOMES = {
    "Blip": "training.blip",
    "Deep": "training.deep",
    "FitSettings": "training.settings",
    "Frame": "structures.frames",
    "Method": "training.method",
    "Shallow": "training.shallow",
    "TrainingRun": "training.run",
    "read_frames": "structures.frames",
    "read_structures": "structures.frames",
    "split_frames": "structures.frames",
    "train_members": "training.apart",
}
__all__ = [
    "Blip",
    "Deep",
    "FitSettings",
    "Frame",
    "Method",
    "Shallow",
    "TrainingRun",
    "read_frames",
    "read_structures",
    "split_frames",
    "train_members",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ase_uq.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ase_uq.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
