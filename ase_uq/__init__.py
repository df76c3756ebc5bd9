"""ase_uq: uncertainty for molecular dynamics in ASE, on the fly.

The names below are loaded when they are first used: importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_uq.baseline import WeightedBaseline
    from ase_uq.bias import BiasedCalculator
    from ase_uq.calculator import UQCalculator, copy_uncertainty
    from ase_uq.checkpoint import load, save
    from ase_uq.committee import CommitteeUncertainty
    from ase_uq.errors import InputError, RunError
    from ase_uq.log_reweighting import reweight_log
    from ase_uq.logger import UncertaintyLogger
    from ase_uq.online import OnlineReweighter
    from ase_uq.prediction import Prediction, UncertaintyModel
    from ase_uq.reweighting import combine, difference, reweight
    from ase_uq.runlog import read_log
    from ase_uq.threshold import ThresholdSwitch

__version__ = "0.1.0"

_HOMES = {
    "BiasedCalculator": "bias",
    "CommitteeUncertainty": "committee",
    "InputError": "errors",
    "OnlineReweighter": "online",
    "Prediction": "prediction",
    "RunError": "errors",
    "ThresholdSwitch": "threshold",
    "UQCalculator": "calculator",
    "UncertaintyLogger": "logger",
    "UncertaintyModel": "prediction",
    "WeightedBaseline": "baseline",
    "combine": "reweighting",
    "copy_uncertainty": "calculator",
    "difference": "reweighting",
    "load": "checkpoint",
    "read_log": "runlog",
    "reweight": "reweighting",
    "reweight_log": "log_reweighting",
    "save": "checkpoint",
}
__all__ = [
    "BiasedCalculator",
    "CommitteeUncertainty",
    "InputError",
    "OnlineReweighter",
    "Prediction",
    "RunError",
    "ThresholdSwitch",
    "UQCalculator",
    "UncertaintyLogger",
    "UncertaintyModel",
    "WeightedBaseline",
    "combine",
    "copy_uncertainty",
    "difference",
    "load",
    "read_log",
    "reweight",
    "reweight_log",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ase_uq' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ase_uq.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
