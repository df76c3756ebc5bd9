"""`RunSeries`: what the checks of a run look at, kept while it goes on, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.units import fs

from ase_uq.log.columns import EXPLODED
from ase_uq.log.ensembles import ensemble_of
from ase_uq.log.explosion import explosion_of
from ase_uq.log.reader import RunLog

_CAPACITY = 4096


def attributes_of_dynamics(dyn: Any, temperature_K: float) -> dict[str, Any]:
    """Return what dynamics say of a run, as a log has it; `None` says nothing."""
    name, pressure = ensemble_of(dyn)
    found: dict[str, Any] = {"temperature_K": temperature_K, "ensemble": name}
    if pressure is not None:
        found["pressure_GPa"] = pressure
    if dyn is None:
        return found
    atoms, timestep = getattr(dyn, "atoms", None), getattr(dyn, "dt", None)
    if atoms is not None and timestep is not None:
        masses = json.dumps({"atoms": {"masses": atoms.get_masses().tolist()}})
        found |= {"timestep_fs": float(timestep) / fs, "numbers": atoms.numbers.copy(), "definition": masses}
    return {**found, "dynamics": type(dyn).__name__}


class RunSeries:
    """Energies and temperatures of frames; every other one is dropped whenever there are too many.

    An explosion is seen in every frame. `attributes` are those of a log, as far as they are known before there are any.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = attributes
        self._exploded = ""
        self._rows: list[tuple[float, ...]] = []
        self._stride = 1
        self._n_calls = 0

    def add(
        self,
        *,
        energy: float,
        kinetic_energy: float,
        temperature_K: float,
        volume: float,
        weight: float | None,
        bias_energy: float | None,
    ) -> None:
        """Take a frame, in the units of the log."""
        if self._n_calls == 0:
            self._explosion = explosion_of(self._attributes, biased=bias_energy is not None)
        if not self._exploded and (found := self._explosion.see(energy, kinetic_energy, temperature_K, volume)):
            self._exploded = f"in frame {self._n_calls} {found}"
        if self._n_calls % self._stride == 0:
            absent = [np.nan if value is None else value for value in (weight, bias_energy)]
            self._rows.append((self._n_calls, energy, kinetic_energy, temperature_K, volume, *absent))
            if len(self._rows) == _CAPACITY:
                self._rows, self._stride = self._rows[::2], 2 * self._stride
        self._n_calls += 1

    def run(self, attributes: Mapping[str, Any]) -> RunLog | None:
        """Return the frames as a log has them, one unit of time apart; `None` before the first."""
        if not self._rows:
            return None
        call, energy, kinetic, temperature, volume, weight, bias = np.array(self._rows, dtype=np.float64).T
        return RunLog(
            path=Path(),
            attributes={**attributes, EXPLODED: self._exploded},
            step=call.astype(np.int64),
            time_fs=call,
            energy=energy,
            kinetic_energy=kinetic,
            temperature_K=temperature,
            volume=volume,
            observables={},
            units={},
            weight=None if np.isnan(weight).any() else weight,
            bias_energy=None if np.isnan(bias).any() else bias,
        )
