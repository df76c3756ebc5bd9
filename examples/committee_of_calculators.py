"""Uncertainty from any ASE calculators: EMT and two Lennard-Jones potentials describe one copper crystal.

NVE, NVT and NPT with an ordinary trajectory, the uncertainty log and running averages attached; then the error bars.
"""

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet

from ase_uq import CommitteeUncertainty, OnlineReweighter, UncertaintyLogger, UQCalculator
from ase_uq.averages import of_run


def members():
    """Return fresh members. A correction shared by all, such as dispersion, is added inside each of them."""
    pair = {"sigma": 2.28, "rc": 6.0, "smooth": True}
    correction = {"sigma": 3.0, "epsilon": 0.005, "rc": 6.0}
    potentials = [EMT(), LennardJones(epsilon=0.40, **pair), LennardJones(epsilon=0.42, **pair)]
    return [SumCalculator([potential, LennardJones(**correction)]) for potential in potentials]


def dynamics(ensemble, atoms, timestep):
    """Return ASE dynamics of an ensemble."""
    if ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if ensemble == "nvt":
        return Langevin(atoms, timestep, temperature_K=300, friction=0.02 / units.fs, fixcm=False, rng=rng)
    return IsotropicMTKNPT(
        atoms, timestep, temperature_K=300, pressure_au=0, tdamp=100 * units.fs, pdamp=1000 * units.fs
    )


# EMT counts its energies from the perfect crystal, Lennard-Jones from single atoms: a zero in common for all members.
crystal = bulk("Cu", cubic=True)
rng = np.random.default_rng(0)
observables = {"neighbour distance": lambda atoms: atoms.get_distance(0, 1, mic=True)}
for ensemble in ("nve", "nvt", "npt"):
    atoms = crystal.repeat(2)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * 300)[:, None])
    atoms.calc = UQCalculator(CommitteeUncertainty(members(), align=[crystal]))
    dyn = dynamics(ensemble, atoms, 2.0 * units.fs)
    online = OnlineReweighter(atoms, temperature_K=300.0, observables=observables)
    with (
        Trajectory(f"{ensemble}.traj", "w", atoms) as trajectory,
        UncertaintyLogger(
            f"{ensemble}.h5", atoms, dyn=dyn, temperature_K=300.0, ensemble=ensemble, observables=observables
        ) as log,
    ):
        for observer in (trajectory, log, online):
            dyn.attach(observer, interval=1)
        dyn.run(60)
    results = atoms.calc.results
    print(f"{ensemble}: energy {results['energy']:.3f} ± {results['energy_var'] ** 0.5:.3f} eV")
    print(f"     largest force std {atoms.calc.prediction.force_std_norm.max():.3f} eV/Å")

for name, result in of_run("nvt.h5", method="cea").items():
    print(f"{name}: {result.mean:.4f} ± {result.std_sampling:.4f} (sampling) ± {result.std_model:.4f} (model) Å")
    print("\n".join(f"  warning: {warning}" for warning in result.warnings))
