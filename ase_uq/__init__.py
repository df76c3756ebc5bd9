"""ase_uq: uncertainty for molecular dynamics in ASE, on the fly.

The names below are loaded when they are first used: importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_uq.averages import reweight_log
    from ase_uq.averages.online import OnlineReweighter
    from ase_uq.calculators.baseline import WeightedBaseline
    from ase_uq.calculators.bias import BiasedCalculator
    from ase_uq.calculators.calculator import UQCalculator
    from ase_uq.calculators.carried import copy_uncertainty
    from ase_uq.calculators.committee import CommitteeUncertainty
    from ase_uq.calculators.threshold import ThresholdSwitch
    from ase_uq.errors import InputError, RunError
    from ase_uq.log.logger import UncertaintyLogger
    from ase_uq.log.reader import read_log
    from ase_uq.models.checkpoint import load, save
    from ase_uq.reweighting import combine, difference, reweight
    from ase_uq.reweighting.free_energy import free_energy_profile
    from ase_uq.reweighting.multistate import mbar_log_weights
    from ase_uq.uncertainty.prediction import Prediction, UncertaintyModel
    from ase_uq.validation.residuals import residuals

__version__ = "0.1.0"

_HOMES = {
    "BiasedCalculator": "calculators.bias",
    "CommitteeUncertainty": "calculators.committee",
    "InputError": "errors",
    "OnlineReweighter": "averages.online",
    "Prediction": "uncertainty.prediction",
    "RunError": "errors",
    "ThresholdSwitch": "calculators.threshold",
    "UQCalculator": "calculators.calculator",
    "UncertaintyLogger": "log.logger",
    "UncertaintyModel": "uncertainty.prediction",
    "WeightedBaseline": "calculators.baseline",
    "combine": "reweighting",
    "copy_uncertainty": "calculators.carried",
    "difference": "reweighting",
    "free_energy_profile": "reweighting.free_energy",
    "load": "models.checkpoint",
    "mbar_log_weights": "reweighting.multistate",
    "read_log": "log.reader",
    "residuals": "validation.residuals",
    "reweight": "reweighting",
    "reweight_log": "averages",
    "save": "models.checkpoint",
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
    "free_energy_profile",
    "load",
    "mbar_log_weights",
    "read_log",
    "residuals",
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
