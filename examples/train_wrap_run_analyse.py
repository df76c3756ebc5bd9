"""The whole path in Python, on the DFT labels of ammonia that come with the package; less than a minute.

The command `ase-uq demo` does the same with more training, longer runs and a report.
"""

from importlib.resources import files

import numpy as np
from ase import units
from ase.io import read
from ase.md.langevin import Langevin

import ase_uq
from ase_uq.averages import of_run
from ase_uq.members import MemberUncertainty
from ase_uq.observables import distance, umbrella
from ase_uq.training import FitSettings, read_frames, train_members
from ase_uq.validation.residuals import residuals, with_factors

data = files("ase_uq") / "data" / "ammonia"
train, valid = read_frames(data / "train.xyz"), read_frames(data / "valid.xyz")

# 1 train: half of the held-out frames choose the best weights, the other half calibrates.
ensemble = train_members(
    train,
    valid[::2],
    n_members=4,
    settings=FitSettings(epochs=20, batch_size=10, learning_rate=0.02),
    config={"cutoff": 4.0, "channels": 16, "n_layers": 1, "radial_width": 32},
    subsample=0.8,
)
model = MemberUncertainty(ensemble)
factors = residuals(model, valid[1::2]).factors()
model = with_factors(model, factors)
ase_uq.save(model, "ammonia.pt")
for name, fitted in factors.items():
    print(f"alpha of {name} = {fitted.alpha:.2f} ± {fitted.alpha_std_error:.2f}")

# 2 wrap
atoms = read(data / "start.xyz")
atoms.calc = ase_uq.UQCalculator(ase_uq.load("ammonia.pt"))

# 3 run: ordinary ASE dynamics; the log and the running averages only look at what was computed anyway.
rng = np.random.default_rng(0)
observables = {
    "bond_length": (lambda atoms: distance(atoms, 0, 1), "Å"),
    "umbrella_angle": (lambda atoms: umbrella(atoms, 0, 1, 2, 3), "°"),
}
dyn = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False, rng=rng)
with ase_uq.UncertaintyLogger("run.h5", atoms, dyn=dyn, temperature_K=300.0, observables=observables) as log:
    dyn.attach(log, interval=1)
    dyn.run(400)

# 4 analyse
for name, result in of_run("run.h5").items():
    low, high = result.interval(0.95)
    print(f"{name} = {result.mean:.4f} ± {result.std_sampling:.4f} (sampling) ± {result.std_model:.4f} (model)")
    print(f"one standard deviation each; 95 % interval {low:.4f} to {high:.4f}")
