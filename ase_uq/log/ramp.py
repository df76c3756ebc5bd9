"""Runs whose target temperature goes from one value to another: they have no averages, and no temperature of their own.

The log says where the target began (`temperature_K`) and where it ends (`temperature_end_K`); it is there in such runs
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_uq.errors import InputError


def temperature_attributes(temperature_K: float | tuple[float, float]) -> dict[str, float]:
    """Return what a log says of a target temperature, or of two between which it goes, K.

    Raises
    ------
    InputError
        For one that is no positive number.
    """
    first, last = map(float, temperature_K if isinstance(temperature_K, tuple) else (temperature_K, temperature_K))
    for each in (first, last):
        if not (np.isfinite(each) and each > 0):
            raise InputError(f"`temperature_K` must be a positive number of kelvin, got {each}; pass the target.")
    return {"temperature_K": first} | ({} if first == last else {"temperature_end_K": last})


def ramp_of(attributes: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the temperatures between which the target of a run went, K; `None` for a single one."""
    if "temperature_end_K" not in attributes:
        return None
    return float(attributes["temperature_K"]), float(attributes["temperature_end_K"])


def told_ramp(attributes: Mapping[str, Any]) -> str:
    """Return a ramp in words, "" for a run without."""
    ramp = ramp_of(attributes)
    return "" if ramp is None else f"{ramp[0]:g} K to {ramp[1]:g} K"


def check_one_temperature(attributes: Mapping[str, Any], path: Path) -> None:
    """Refuse averages of a run whose temperature changes.

    Raises
    ------
    InputError
        With both temperatures.
    """
    if told := told_ramp(attributes):
        raise InputError(
            f"`{path}` must be of a run at one temperature for averages, its target went from {told}: such a run "
            "samples no ensemble; run on from its end at one temperature, under another log name."
        )
