"""A trained MACE model gets an uncertainty: BLIP fine-tuning, then dynamics with an error bar at every step.

    python examples/blip_of_mace.py MODEL FRAMES

MODEL is what MACE's training wrote, FRAMES are labelled frames like those it learned. Needs mace-torch; the README says
how to install it.
"""

import sys

import mace  # before e3nn: it lets torch read the constants of the version of e3nn that it needs
import numpy as np
import torch
from ase import units
from ase.md.langevin import Langevin

import ase_uq
from ase_uq.members import MemberUncertainty
from ase_uq.potentials import make_variational
from ase_uq.training import FitSettings, read_frames, split_frames
from ase_uq.training.variational import train_variational
from ase_uq.validation.residuals import residuals, with_factors

model = torch.load(sys.argv[1], map_location="cpu", weights_only=False)  # runs code: only files that you trust
train, valid = split_frames(read_frames(sys.argv[2]), valid_fraction=0.2, seed=0)
potential = make_variational(model, layers=["readout"], initial_dropout=5e-5, max_dropout=0.1)
settings = FitSettings(epochs=4, learning_rate=0.002)
draws = train_variational(train, valid, n_members=8, settings=settings, start=potential)
blip = MemberUncertainty(draws)
factors = residuals(blip, valid).factors()
blip = with_factors(blip, factors)
found = ", ".join(f"alpha of {name} {fit.alpha:.2f} ± {fit.alpha_std_error:.2f}" for name, fit in factors.items())
print(f"mace {mace.__version__}, {found}")

atoms = valid[0].atoms.copy()
atoms.calc = ase_uq.UQCalculator(blip)
rng = np.random.default_rng(0)
dyn = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng)
dyn.attach(lambda: print(f"{atoms.get_potential_energy():.3f} ± {atoms.calc.results['energy_var'] ** 0.5:.3f} eV"))
dyn.run(10)
