"""Where the values of an average come from: logged numbers, stored positions, or the energies of the members.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
U, V_b, w                                  `energy` without a bias, `energy_baseline`, `weight` of the log
V_i - U                                    `energy_members_minus_energy`
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 8 to 12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.units import GPa, kB

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.log.bias import LoggedBias
from ase_uq.log.columns import OBSERVABLES, key_of
from ase_uq.log.observables import axis_of, is_of_members, period_of
from ase_uq.log.parts import LogPart, dataset_of, finite, observed, stored_frames
from ase_uq.log.reader import VOLUME_TOLERANCE, OpenLog
from ase_uq.observables.observable import Observable
from ase_uq.observables.observing import Observing
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.gate import YES_OR_NO, Gate


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all observables of a pass.

    Attributes
    ----------
    method, target
        As for `of_run`.
    bias
        That of the runs.
    beta
        1/(kB T), 1/eV.
    """

    method: str
    target: str
    bias: LoggedBias
    beta: float


@dataclass(frozen=True, slots=True)
class Source:
    """Where values come from, and what is known of their average.

    Attributes
    ----------
    read
        Values (t, ...) of some frames of a part.
    unit, axis
        Of the average.
    of_members
        Whether the values are one for each member, (t, M, ...).
    function
        Of the averages, or `None`.
    gates
        Checks of its own.
    period
        Of values on a circle.
    """

    read: Callable[[LogPart, slice], Array]
    unit: str = ""
    axis: Axis | None = None
    of_members: bool = False
    function: Callable[[Any], Any] | None = None
    gates: tuple[Gate, ...] = ()
    period: float | None = None


def source_of(parts: Sequence[LogPart], name: str, settings: Settings) -> Source:
    """Values of a name: a logged observable, a number of the frame, or one made of the members' energies."""
    if name == "energy":
        return Source(lambda part, rows: _energies(part, rows, settings), "eV", of_members=True)
    if name == "heat_capacity" and OBSERVABLES + name not in parts[0].log.datasets:
        return _heat_capacity(parts[0].log, settings)
    dataset, key = dataset_of(parts, name, "observables"), key_of(name)
    return Source(
        lambda part, rows: part.log.datasets[key][rows].astype(np.float64),
        str(dataset.attrs.get("unit", "")),
        axis_of(dataset.attrs),
        is_of_members(dataset.attrs),
        period=period_of(dataset.attrs),
    )


def number_of(parts: Sequence[LogPart], name: str) -> Source:
    """Values of a logged number."""
    dataset, key = dataset_of(parts, name, "observable"), key_of(name)
    if dataset.ndim != 1:
        raise InputError(f"`observable` must be a number for a free energy, {name!r} has shape {dataset.shape[1:]}.")
    return Source(lambda part, rows: part.log.datasets[key][rows].astype(np.float64), str(dataset.attrs["unit"]))


def computed(log: OpenLog, name: str, observable: Observable) -> Source:
    """Values of an observable, worked out from stored positions."""
    if observable.of_members:
        raise InputError(
            "`compute` must be functions of the positions, got one that reads the members of a calculator; log it as "
            "an observable, or use 'energy'."
        )
    next(stored_frames(log, slice(0, 1)))
    observing = Observing({name: observable})
    return Source(
        lambda part, rows: observed(part.log, rows, observing),
        observable.unit,
        observable.axis,
        period=observable.period,
    )


def differences(log: OpenLog, rows: slice, settings: Settings) -> Array:
    """Energies of the members minus that of the driving potential, neither with the bias they share, (t, M), eV."""
    d: Array = log.datasets["energy_members_minus_energy"][rows]
    if settings.target == "model" and "weight" in log.datasets:
        w, v_b = log.datasets["weight"][rows], log.datasets["energy_baseline"][rows]
        if not np.all(w > 0):
            raise InputError(
                "`target` 'model' needs a weight of the model above 0 in every frame, the log has frames of the "
                "baseline alone, where the members' energies are not known; use 'driven'."
            )
        # d = w (V_i - V) and U - V_b = w (V - V_b), V being the mean over members and U the energy without a bias.
        d = d / w[:, None] + ((settings.bias.energy(log, rows) - v_b) * (1.0 / w - 1.0))[:, None]
    return finite("energy_members", d)


def _energies(part: LogPart, rows: slice, settings: Settings) -> Array:
    """Energies of the members the averages are taken under, without the bias, (t, M), eV."""
    energy = settings.bias.energy(part.log, rows)
    return np.asarray(energy[:, None] + differences(part.log, rows, settings))


def _heat_capacity(log: OpenLog, settings: Settings) -> Source:
    pressure = _held_pressure(log)
    # About the first energy, so that squares keep their digits.
    zero = float(log.datasets["energy"][0])

    def read(part: LogPart, rows: slice) -> Array:
        energies = _energies(part, rows, settings) - zero
        if pressure is not None:
            # Enthalpies, of which the fluctuations at constant pressure are made.
            energies = energies + pressure * part.log.datasets["volume"][rows][:, None]
        return np.stack([energies, energies**2], axis=-1)

    def function(m: Any) -> Any:
        # 1/(kB T^2) = kB beta^2
        return (m[1] - m[0] ** 2) * kB * settings.beta**2

    return Source(read, "eV/K", of_members=True, function=function, gates=(_heat_bath(log),))


def _heat_bath(log: OpenLog) -> Gate:
    ensemble = str(log.attributes.get("ensemble", "")).lower()
    failed = ensemble in ("nve", "nph")
    sentence = (
        f"the run was made as {ensemble}: the fluctuations of its energy are not those of a heat bath, and what they "
        "give is no heat capacity; run with a thermostat."
    )
    return Gate("heat capacity without a heat bath", float(failed), 0.0, YES_OR_NO, False, failed, sentence)


def _held_pressure(log: OpenLog) -> float | None:
    """Pressure whose work is part of the fluctuating energy, eV/Å^3; `None` at constant volume."""
    ensemble, volume = str(log.attributes.get("ensemble", "")).lower(), log.datasets["volume"][: log.n_frames]
    known = log.attributes.get("pressure_GPa")
    moves = bool(np.isfinite(volume).all() and np.ptp(volume) > VOLUME_TOLERANCE * volume.mean())
    if ensemble != "npt" and not moves:
        return None
    if known is None:
        raise InputError(
            f"`heat_capacity` of a run whose volume moves needs the pressure it was held at, {log.path} does not say; "
            "log dynamics that know their pressure (`dyn`), or run at constant volume."
        )
    return float(known) * GPa
