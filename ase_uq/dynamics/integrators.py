"""The integrators of runs: one entry of `INTEGRATORS` for each way to move atoms.

=======================  ========================================================================================
key                      what it is
=======================  ========================================================================================
`nve`                    velocity Verlet
`nvt`                    Langevin
`npt mtk`                Nosé-Hoover chains on atoms and cell, isotropic, and a Langevin thermostat on the drift
`npt langevin`           Langevin-Hoover on atoms and cell, isotropic, BAOAB
=======================  ========================================================================================

Both barostats give the cell the mass 3 (N + 1) kB T tau^2. ASE's barostat of Berendsen is not among them: it samples no
ensemble.

References
----------
Martyna, Tobias and Klein, J. Chem. Phys. 101, 4177 (1994): `npt mtk`, and the mass of the cell.
Quigley and Probert, J. Chem. Phys. 120, 11432 (2004): `npt langevin`.
Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013): BAOAB.
Tuckerman et al., J. Chem. Phys. 115, 1678 (2001): what chains conserve where no force comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import InputError

try:
    from ase.md.langevinbaoab import LangevinBAOAB
except ImportError:  # before ASE 3.27
    LangevinBAOAB = None  # type: ignore[assignment,misc]

Make = Callable[[Atoms, MDSettings, np.random.Generator], MolecularDynamics]


@dataclass(frozen=True, slots=True)
class Integrator:
    """A way to move atoms.

    Attributes
    ----------
    make
        Constructs it of the atoms, with their calculator, the settings and the generator of its random numbers.
    heat
        Gives it another target temperature, K; `None` where it has none.
    variables
        Attributes that it carries from step to step beside the atoms and the generator: a restart needs them.
    of_pressure
        Whether it moves the cell.
    """

    make: Make
    heat: Callable[[Any, float], None] | None = None
    variables: tuple[str, ...] = ()
    of_pressure: bool = False

    def made(self, atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
        """Construct it.

        Raises
        ------
        InputError
            For atoms or a calculator that cannot be run at constant pressure.
        """
        if self.of_pressure:
            _check_pressure(atoms)
        return self.make(atoms, settings, rng)

    def state(self, dynamics: MolecularDynamics) -> dict[str, NDArray[np.float64]]:
        """Return copies of its variables."""
        return {name: np.array(reduce(getattr, name.split("."), dynamics), np.float64) for name in self.variables}

    def restore(self, dynamics: MolecularDynamics, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Put variables back.

        Raises
        ------
        InputError
            If some are missing.
        """
        missing = [name for name in self.variables if name not in state]
        if missing:
            raise InputError(
                f"the state of the run lacks {', '.join(missing)} of {type(dynamics).__name__}; put a whole copy of it "
                "back, or run anew under another log name."
            )
        for name in self.variables:
            *path, last = name.split(".")
            value = state[name]
            setattr(reduce(getattr, path, dynamics), last, value.copy() if value.ndim else value[()])


class MTKWithDrift(IsotropicMTKNPT):
    """ASE's `IsotropicMTKNPT` whose centre of mass has a Langevin thermostat of its own.

    The chains scale all momenta alike, so that no force and no chain ever exchanges energy between the drift of all
    atoms and their motion about it. From rest, 3 N - 3 momenta get the energy of 3 N; from a drift as large as what the
    chains made of it while the atoms warmed up, they may get half. Drawn anew in the time constant of the thermostat,
    drift and atoms have the energies that they should, and the chains keep the density of both.

    Parameters
    ----------
    rng
        Of the drift.
    **options
        Those of `IsotropicMTKNPT`.
    """

    def __init__(self, atoms: Atoms, timestep: float, *, rng: np.random.Generator, **options: Any) -> None:
        super().__init__(atoms, timestep, **options)
        self.rng = rng
        self._kept = float(np.exp(-timestep / options["tdamp"]))

    def step(self) -> None:
        """Do a step of atoms, chains and cell, then one of the drift."""
        super().step()
        mass = float(self.masses.sum())
        drift = self._p.sum(axis=0)
        noise = np.sqrt((1.0 - self._kept**2) * mass * self._kT) * self.rng.standard_normal(3)
        self._p = self._p + self.masses * (((self._kept - 1.0) * drift + noise) / mass)
        self._update_atoms()


def integrator_of(settings: MDSettings) -> Integrator:
    """Return the integrator of these settings."""
    return INTEGRATORS[settings.ensemble if settings.barostat is None else f"{settings.ensemble} {settings.barostat}"]


def _check_pressure(atoms: Atoms) -> None:
    needs = "`ensemble` 'npt' needs"
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise InputError(
            f"{needs} `atoms` that are periodic in three directions, got pbc {atoms.pbc.tolist()} and cell vectors of "
            f"{atoms.cell.lengths().round(3).tolist()} Å; run them as 'nvt', or set cell and pbc."
        )
    if atoms.constraints:
        names = ", ".join(type(each).__name__ for each in atoms.constraints)
        raise InputError(f"{needs} `atoms` without constraints, got {names}; drop them, or run them as 'nvt'.")
    # The evaluation of the first step, in the order of every step.
    atoms.get_forces()
    if "stress" not in atoms.calc.results:
        raise InputError(
            f"{needs} a `calculator` with a stress, {_named(atoms.calc)} gives none for these atoms; use a model (and "
            "a baseline) that does, or run them as 'nvt'."
        )


def _named(calculator: Any) -> str:
    parameters = calculator.parameters
    inner = " on ".join(str(parameters[name]) for name in ("model", "baseline") if parameters.get(name))
    return f"{type(calculator).__name__} of {inner}" if inner else type(calculator).__name__


def _verlet(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:  # noqa: ARG001
    return VelocityVerlet(atoms, settings.timestep_fs * units.fs)


def _langevin(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
    # fixcm would sample a slightly wrong distribution; the centre of mass may move.
    return Langevin(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=settings.temperature_K,
        friction=_friction(settings),
        fixcm=False,
        rng=rng,
    )


def _mtk(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
    return MTKWithDrift(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=settings.temperature_K,
        pressure_au=_number(settings.pressure_GPa) * units.GPa,
        tdamp=_number(settings.thermostat_fs) * units.fs,
        pdamp=_number(settings.barostat_fs) * units.fs,
        rng=rng,
    )


def _langevin_hoover(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
    if LangevinBAOAB is None:
        raise InputError("`barostat` 'langevin' needs ASE 3.27 or later; upgrade ase, or take 'mtk'.")
    tau = _number(settings.barostat_fs) * units.fs
    made: MolecularDynamics = LangevinBAOAB(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=settings.temperature_K,
        # Of a stress, whose sign is the other one.
        externalstress=-_number(settings.pressure_GPa) * units.GPa,
        hydrostatic=True,
        T_tau=1.0 / _friction(settings),
        P_tau=tau,
        P_mass=3.0 * (len(atoms) + 1) * units.kB * settings.temperature_K * tau**2,
        rng=rng,
    )
    return made


def _friction(settings: MDSettings) -> float:
    return settings.friction_per_ps / (1000.0 * units.fs)


def _number(value: float | None) -> float:
    assert value is not None  # of settings for npt
    return value


def _heat(dynamics: Any, temperature_K: float) -> None:
    dynamics.set_temperature(temperature_K=temperature_K)


def _heat_chains(dynamics: Any, temperature_K: float) -> None:
    # The masses of the chains stay: what they are decides how fast a temperature is reached, not which.
    dynamics._temperature_K, dynamics._kT = temperature_K, units.kB * temperature_K
    for part in (dynamics._thermostat, dynamics._barostat):
        part._kT = dynamics._kT


_CHAINS = ("_thermostat._eta", "_thermostat._p_eta", "_barostat._xi", "_barostat._p_xi")
INTEGRATORS: Mapping[str, Integrator] = {
    "nve": Integrator(_verlet),
    "nvt": Integrator(_langevin, _heat),
    "npt mtk": Integrator(
        _mtk,
        _heat_chains,
        ("_cell0", "_volume0", "_eps", "_p_eps", *_CHAINS),
        of_pressure=True,
    ),
    # The force on the cell is that of momenta in the middle of a step.
    "npt langevin": Integrator(_langevin_hoover, _heat, ("p_eps", "force_eps"), of_pressure=True),
}
