"""`Explosion`: tells a run that explodes from one that is hot, relaxes or reacts, by energies that its log has, too.

Too long a time step, or a hole in a potential, gives atoms energy that no thermostat supplied. Kinetic energy alone
does not show it: a bad start that relaxes, a reaction and a hot start have much of it. They convert what is there,
while an explosion creates energy. Of a run at temperature T:

=============================  =========================================================================================
quantity                       what is far outside
=============================  =========================================================================================
K, kinetic energy              more than `limit` times what chance gives at T in 1e12 frames (f degrees of freedom:
                               K/kT is half a chi-square of f), so that few atoms may fluctuate as they do
E + K + P V, its rise since    at least half of the K that is too much: else it was potential energy of the start, and
the start                      the run relaxes
E, its fall                    or 8 eV an atom below all that was seen before, more than molecules gain by their bonds
E + K + P V, its rise          by itself, if it is `limit` times 17 kT an atom on top of that K: what is rarer than
                               exp(-50) happens in no run. Not where something else works on the atoms, as a bias does,
                               which may also add 1 eV an atom to K.
=============================  =========================================================================================

T is the target, the higher one of a ramp, or that of the first frame where it starts far hotter. A time step in which a
thermal atom flies past its neighbours needs no frames to be judged: what it explodes into may well be calm, atoms alone
in the vacuum.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from ase.units import GPa, fs, kB
from scipy.stats import chi2

from ase_uq.log.columns import EXPLODED

if TYPE_CHECKING:
    from ase_uq.log.reader import RunLog

LIMIT = 3.0
_CHANCE, _HOT_START = 1e-12, 1e-6
_CREATED = 0.5  # of the kinetic energy that is too much
_DEEPEST = 8.0  # eV an atom
_SUPPLY = 17.0  # kT an atom, times the limit
_WORK = 1.0  # eV an atom: what a spring that is let go may give to atoms
_SETTLED = 50  # frames
_FARTHEST = 0.5  # Å in a step: a third of a bond of hydrogen, and far beyond what any integrator follows
_OF_AN_ATOM = float(chi2.isf(_CHANCE, 3))


class Explosion:
    """Watches a run, frame by frame.

    Parameters
    ----------
    temperature_K
        Target; NaN where there is none.
    worked_on
        Whether something else than a thermostat works on the atoms, as a bias or a switch of potentials does.
    pressure
        Of a barostat, eV/Å^3.
    limit
        How far outside is too far, in units of what chance gives.
    """

    def __init__(
        self, temperature_K: float, *, worked_on: bool = False, pressure: float = 0.0, limit: float = LIMIT
    ) -> None:
        self.worked_on, self.limit = worked_on, limit
        self._target, self._pressure = temperature_K, pressure
        self._start, self._thermal, self._most = math.nan, math.nan, math.inf
        self._degrees = 0.0
        self._lowest, self._n_settled = math.inf, 0

    def see(self, energy: float, kinetic_energy: float, temperature_K: float, volume: float = math.nan) -> str:
        """Take a frame, and return what shows that the run has exploded; "" for a sound frame.

        Parameters
        ----------
        energy, kinetic_energy, temperature_K, volume
            As a log has them: eV, eV, K, Å^3 (NaN without a cell).
        """
        total = self._total(energy, kinetic_energy, volume)
        if not math.isfinite(energy + kinetic_energy):
            return f"its energy is {energy + kinetic_energy} eV"
        if math.isnan(self._start):
            self._start = total
        if not self._degrees and not self._begin(kinetic_energy, temperature_K):
            return ""
        if kinetic_energy > self._most:
            return self._hot(energy, kinetic_energy, total - self._start)
        self._lowest, self._n_settled = min(self._lowest, energy), self._n_settled + 1
        return self._risen(total - self._start)

    def warmed_to(self, temperature_K: float) -> None:
        """Tell that the target is or was this high."""
        if self._degrees and kB * temperature_K > self._thermal:
            self._set(kB * temperature_K)

    def may_have(self, energy: Any, kinetic_energy: Any, volume: Any) -> bool:
        """Whether any of many frames (T,) could be one, given the first: a quick look."""
        total = self._total(energy, kinetic_energy, volume)
        beyond = (kinetic_energy > self._most) | (total - self._start > self._highest) | ~np.isfinite(total)
        return bool(beyond.any())

    @property
    def fastest(self) -> float:
        """Most kinetic energy that a single atom may have, eV."""
        return self.limit * 0.5 * _OF_AN_ATOM * self._thermal if self._degrees else math.inf

    @property
    def _highest(self) -> float:
        """Most that the total energy may rise by, eV."""
        return math.inf if self.worked_on else self._most + self.limit * _SUPPLY * self._atoms * self._thermal

    @property
    def _atoms(self) -> float:
        """Those that move."""
        return max(self._degrees / 3.0, 1.0)

    def _total(self, energy: Any, kinetic_energy: Any, volume: Any) -> Any:
        work = self._pressure * volume if self._pressure else 0.0
        return energy + kinetic_energy + work

    def _begin(self, kinetic_energy: float, temperature_K: float) -> bool:
        if not temperature_K > 0:
            return False  # nothing moves yet
        self._degrees = 2.0 * kinetic_energy / (kB * temperature_K)
        thermal = kB * self._target if self._target > 0 else 0.0
        hot = 2.0 * kinetic_energy > chi2.isf(_HOT_START, self._degrees) * thermal
        self._set(kB * temperature_K if hot else thermal)
        return True

    def _set(self, thermal: float) -> None:
        self._thermal = thermal
        work = _WORK * self._atoms if self.worked_on else 0.0
        self._most = self.limit * 0.5 * float(chi2.isf(_CHANCE, self._degrees)) * thermal + work

    def _hot(self, energy: float, kinetic_energy: float, rise: float) -> str:
        excess = kinetic_energy - 0.5 * self._degrees * self._thermal
        to_kelvin = 2.0 / (self._degrees * kB)
        hot = (
            f"its temperature is {to_kelvin * kinetic_energy:.0f} K, where {self._thermal / kB:.0f} K allow at most "
            f"{to_kelvin * self._most:.0f} K"
        )
        if rise > _CREATED * excess:
            return f"{hot}, and its total energy has risen by {rise:.3g} eV"
        fall = self._lowest - energy
        if self._n_settled >= _SETTLED and fall > _DEEPEST * self._atoms:
            return f"{hot}, and its potential energy has fallen by {fall:.3g} eV, below all that chemistry gives"
        return ""

    def _risen(self, rise: float) -> str:
        if rise > self._highest:
            return (
                f"its total energy has risen by {rise:.3g} eV, where {self._thermal / kB:.0f} K allow at most "
                f"{self._highest:.3g} eV"
            )
        return ""


def explosion_of(attributes: Mapping[str, Any], *, biased: bool, limit: float = LIMIT) -> Explosion:
    """Return a watch over the run of a log with these attributes."""
    # Of a ramp the hotter end counts.
    targets = [float(attributes.get(name, math.nan)) for name in ("temperature_K", "temperature_end_K")]
    return Explosion(
        max((each for each in targets if each > 0), default=math.nan),
        worked_on=biased or str(attributes.get("driver", "")) == "threshold_switch",
        pressure=float(attributes.get("pressure_GPa", 0.0)) * GPa,
        limit=limit,
    )


def exploded(run: RunLog) -> str:
    """Return what shows that a run has exploded, and when; "" for a sound one.

    What the driver of the run has said of it goes before what the columns show.
    """
    if run.attributes.get(EXPLODED):
        return str(run.attributes[EXPLODED])
    if found := _too_long_a_step(run.attributes):
        return found
    watch = explosion_of(run.attributes, biased=run.bias_energy is not None)
    rows = (run.energy, run.kinetic_energy, run.temperature_K, run.volume)
    moving = np.flatnonzero(run.temperature_K > 0)
    if not len(moving):
        return ""
    # The first frame, and the first that moves, say what all others are compared with.
    first = int(moving[0])
    for t in dict.fromkeys((0, first)):
        watch.see(*(float(each[t]) for each in rows))
    if not watch.may_have(run.energy, run.kinetic_energy, run.volume):
        return ""
    watch = explosion_of(run.attributes, biased=run.bias_energy is not None)
    for t in range(run.n_frames):
        found = watch.see(*(float(each[t]) for each in rows))
        if found:
            return f"at step {run.step[t]} {found}"
    return ""


def _too_long_a_step(attributes: Mapping[str, Any]) -> str:
    """Return how far thermal atoms fly in a time step, where that is past their neighbours; "" else."""
    numbers, kelvin = attributes.get("numbers"), float(attributes.get("temperature_K", math.nan))
    # Without dynamics the time step is that between frames.
    if numbers is None or not attributes.get("dynamics") or not kelvin > 0:
        return ""
    masses = _masses(attributes)
    lightest = int(np.argmin(masses))
    timestep = float(attributes.get("timestep_fs", 0.0))
    far = timestep * fs * math.sqrt(3.0 * kB * kelvin / float(masses[lightest]))
    if far <= _FARTHEST:
        return ""
    symbol = chemical_symbols[int(numbers[lightest])]
    return (
        f"at {kelvin:g} K an atom of {symbol} flies {far:.2g} Å in a time step of {timestep:g} fs, past its neighbours"
    )


def _masses(attributes: Mapping[str, Any]) -> Any:
    with suppress(ValueError, KeyError, TypeError):
        masses = np.array(json.loads(attributes["definition"])["atoms"]["masses"], dtype=np.float64)
        if masses.shape == np.shape(attributes["numbers"]) and (masses > 0).all():
            return masses
    return atomic_masses[attributes["numbers"]]
