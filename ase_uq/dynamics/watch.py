"""`Watch`: ends a run that explodes, at the step at which it does.

What a log knows, too, is looked at as whoever reads it will, by `ase_uq.log.explosion`. Beside that single
atoms may show it long before the whole system is hot: two that are new to each other, far closer than any chemistry
brings them, one of them faster than chance makes it; or one that in a single step goes half of the way to its
neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.md.md import MolecularDynamics
from ase.neighborlist import natural_cutoffs, neighbor_list

from ase_uq.calculators.driven import added_energy, temperature
from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import InputError, NotFiniteError, RunError
from ase_uq.log.continuation import exploded_in
from ase_uq.log.definition import temperature_of
from ase_uq.log.ensembles import ensemble_of
from ase_uq.log.explosion import LIMIT, Explosion, explosion_of
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import open_log

CLOSEST = 0.4  # of the sum of covalent radii: tens of eV in any real potential
JUMP = 0.5  # of the way to the neighbour
_MOST_FAST = 8  # atoms that are looked at
_SETTLED_STEPS, _SETTLED_FS = 50, 50.0


class ExplodedError(RunError):
    """The run has exploded."""


class Watch:
    """Looks at every step of a run; call it after one.

    Parameters
    ----------
    dynamics, logger
        Of the run.
    settings
        `explosion_limit` 0 looks at nothing.
    restart
        Whether the log has earlier parts, with whose first frame all is compared.

    Raises
    ------
    InputError
        For a restart of a run that has exploded.
    """

    def __init__(
        self, dynamics: MolecularDynamics, logger: UncertaintyLogger, settings: MDSettings, *, restart: bool
    ) -> None:
        self._dynamics, self._logger, self._settings = dynamics, logger, settings
        self._limit = settings.explosion_limit
        self._explosion: Explosion | None = None
        self._apart = False
        self._first = self._logged() if restart and self._limit > 0 else None

    def __call__(self, step: int) -> None:
        """Look at the atoms as they are.

        Raises
        ------
        RunError
            For a run that has exploded; its log says so, too.
        """
        if self._limit <= 0:
            return
        if self._explosion is None:
            self._explosion = self._begun()
        found = self._of_energies() or self._of_a_pair() or self._of_a_jump()
        if found:
            raise self.ended(f"at step {step} {found}")

    def of_numbers(self, error: NotFiniteError, step: int) -> ExplodedError:
        """Return the error of a run that was ended by a number that is not finite, after so many whole steps."""
        return self.ended(f"after step {step} {str(error).partition(';')[0]}")

    def ended(self, found: str) -> ExplodedError:
        """Mark the log, and return the error that says what was found."""
        logged = self._logger.mark_exploded(found)
        left = f"the log {self._logger.path} is kept and says so" if logged else "nothing was logged yet"
        return ExplodedError(
            f"the run exploded: {found}; {left}; start again with a shorter `timestep_fs` (now "
            f"{self._settings.timestep_fs:g} fs) or from a relaxed structure, or, if it was meant, with a larger "
            "`explosion_limit`."
        )

    @property
    def _atoms(self) -> Atoms:
        return self._dynamics.atoms

    def _logged(self) -> tuple[float, float, float, float] | None:
        path = self._logger.path
        found = exploded_in(path)
        if found:
            raise InputError(
                f"`restart` needs a run that is sound, that of {path} exploded: {found}; start a new one with a "
                "shorter `timestep_fs`, or go on all the same with explosion_limit=0."
            )
        with open_log(path, read=()) as log:
            if log.n_frames == 0:
                return None
            names = ("energy", "kinetic_energy", "temperature_K", "volume")
            energy, kinetic, kelvin, volume = (float(log.datasets[name][:1][0]) for name in names)
        return energy, kinetic, kelvin, volume

    def _begun(self) -> Explosion:
        known = {
            "temperature_K": self._settings.temperature_K,
            "driver": getattr(self._atoms.calc, "driver", "model"),
            "pressure_GPa": ensemble_of(self._dynamics).pressure_GPa or 0.0,
        }
        explosion = explosion_of(known, biased=added_energy(self._atoms) is not None, limit=self._limit)
        if self._first is not None:
            explosion.see(*self._first)
        explosion.see(*self._frame())
        explosion.warmed_to(temperature_of(self._dynamics))
        # Atoms that lie on each other, or are fast, from the start on show nothing.
        close = len(neighbor_list("i", self._atoms, natural_cutoffs(self._atoms, mult=CLOSEST)))
        self._apart = not close and not (_kinetic_energies(self._atoms) > explosion.fastest).any()
        self._calm, self._n_seen = self._apart, 0
        self._before, self._free = _places(self._atoms), _to_neighbours(self._atoms)
        return explosion

    def _frame(self) -> tuple[float, float, float, float]:
        atoms, calculator = self._atoms, self._atoms.calc
        added = added_energy(atoms)
        energy = float(calculator.results["energy"]) + (0.0 if added is None else added.of_constraints)
        kinetic = float(atoms.get_kinetic_energy())
        volume = float(atoms.get_volume()) if atoms.cell.rank == 3 else np.nan
        return energy, kinetic, temperature(atoms, kinetic), volume

    def _of_energies(self) -> str:
        assert self._explosion is not None
        frame = self._frame()
        found = self._explosion.see(*frame)
        if found:
            # A ramp may have heated it.
            self._explosion.warmed_to(temperature_of(self._dynamics))
            found = self._explosion.see(*frame)
        return found

    def _of_a_jump(self) -> str:
        (positions, cell), (before, cell_before) = _places(self._atoms), self._before
        self._before = positions, cell
        if not np.array_equal(cell, cell_before):
            # A barostat moves them with the cell.
            before = before @ np.linalg.solve(cell_before, cell)
        moved = np.sqrt(((positions - before) ** 2).sum(axis=1))
        ratio = moved / self._free
        i = int(ratio.argmax())
        if not self._apart or ratio[i] < JUMP * self._limit / LIMIT:
            return ""
        return (
            f"atom {i} ({self._atoms.symbols[i]}) has moved by {moved[i]:.3g} Å in one step, its neighbour was "
            f"{self._free[i]:.3g} Å away at the start"
        )

    def _of_a_pair(self) -> str:
        assert self._explosion is not None
        energies = _kinetic_energies(self._atoms)
        fast = np.flatnonzero(energies > self._explosion.fastest)
        self._n_seen += 1
        if not self._calm or not len(fast):
            return ""
        if self._n_seen < max(_SETTLED_STEPS, _SETTLED_FS / self._settings.timestep_fs):
            # The start is released: atoms that fall together then do so by energy that was there.
            self._calm = False
            return ""
        self._explosion.warmed_to(temperature_of(self._dynamics))
        for i in fast[np.argsort(-energies[fast])][:_MOST_FAST]:
            if energies[i] > self._explosion.fastest and (found := _on_another(self._atoms, int(i))):
                return f"{found}, one of them with {energies[i]:.3g} eV of kinetic energy"
        return ""


def _places(atoms: Atoms) -> tuple[Any, Any]:
    return atoms.positions.copy(), atoms.cell.array.copy()


def _kinetic_energies(atoms: Atoms) -> Any:
    momenta = atoms.get_momenta()
    return 0.5 * (momenta**2).sum(axis=1) / atoms.get_masses()


def _to_neighbours(atoms: Atoms) -> Any:
    """Distance of each atom from its nearest neighbour, or the sum of their covalent radii where that is longer."""
    radii = covalent_radii[atoms.numbers]
    free = np.full(len(atoms), np.inf)
    i, j, distance = neighbor_list("ijd", atoms, 3.0 * radii)
    np.minimum.at(free, i, np.maximum(distance, radii[i] + radii[j]))
    return free


def _on_another(atoms: Atoms, i: int) -> str:
    others = np.delete(np.arange(len(atoms)), i)
    if not len(others):
        return ""
    distances = atoms.get_distances(i, others, mic=bool(atoms.pbc.any()))
    radii = covalent_radii[atoms.numbers]
    shares = distances / (radii[i] + radii[others])
    nearest = int(shares.argmin())
    if shares[nearest] >= CLOSEST:
        return ""
    j = int(others[nearest])
    return (
        f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {distances[nearest]:.3g} Å apart, "
        f"{shares[nearest]:.2g} of the sum of their covalent radii"
    )
