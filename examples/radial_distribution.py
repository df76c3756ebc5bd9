"""From a trained model to g(r) of molten copper with a band for each error; EMT stands in for the first principles."""

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import Trajectory
from ase.md.langevin import Langevin

import ase_uq
from ase_uq.members import MemberUncertainty
from ase_uq.observables import RadialDistribution
from ase_uq.report.profile import save_profile
from ase_uq.training import FitSettings, read_frames, train_members


def melt(calculator, kelvin, seed):
    """Return 32 atoms at the density of the liquid and dynamics that melt them."""
    atoms, rng = bulk("Cu", cubic=True, a=3.85).repeat(2), np.random.default_rng(seed)
    atoms.calc = calculator
    return atoms, Langevin(atoms, 3 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, fixcm=False, rng=rng)


atoms, dyn = melt(EMT(), 2500, seed=0)
with Trajectory("labels.traj", "w", atoms) as labels:  # with frames of your own, run `ase-uq train`
    dyn.attach(labels, interval=10)
    dyn.run(500)
frames, settings = read_frames("labels.traj"), FitSettings(epochs=30, batch_size=4, learning_rate=0.01)
config = {"cutoff": 4.5, "channels": 8, "n_layers": 1}
committee = train_members(frames[::2], frames[1::2], n_members=4, settings=settings, config=config)
atoms, dyn = melt(ase_uq.UQCalculator(MemberUncertainty(committee)), 1800, seed=9)
dyn.run(100)  # equilibration
rdf = RadialDistribution("Cu", "Cu", r_max=3.8, n_bins=50)
online = ase_uq.OnlineReweighter(atoms, temperature_K=1800.0, observables={"g": rdf})
dyn.attach(online, interval=2)
dyn.run(400)
g = online.results()["g"]
print(*g.warnings, f"g({rdf.centres[30]:.2f} Å) = {g.mean[30]:.3f} ± {g.std_total[30]:.3f}", sep="\n")
save_profile("rdf.png", g, rdf.axis, name="g(r) of copper at 1800 K", unit="1")
