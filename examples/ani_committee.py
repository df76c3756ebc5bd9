"""A published committee, trained by nobody here: the eight networks of ANI-1x as ASE calculators.

    python examples/ani_committee.py FOLDER_OF_3BPA

Aligned and calibrated on half of the frames of 3BPA at 300 K, which have the level of theory it was trained on
(ωB97X/6-31G(d)); scored on the other half and at 600 K; then run, with error bars on averages. Half a minute.
Needs `pip install "ase-uq[ani]"`: the networks come with that package.
"""

import sys

import numpy as np
import torchani
from ase import units
from ase.md.langevin import Langevin

from ase_uq import CommitteeUncertainty, UncertaintyLogger, UQCalculator
from ase_uq.averages import of_run
from ase_uq.observables import angle, distance
from ase_uq.training import read_frames
from ase_uq.validation.residuals import residuals, with_factors

cool, hot = (read_frames(f"{sys.argv[1]}/test_{kelvin}K.xyz.gz") for kelvin in (300, 600))
known, unknown = cool[::2], {"300 K": cool[1::2], "600 K": hot}
networks = [network.ase() for network in torchani.models.ANI1x(periodic_table_index=True).double()]
one_zero = [frame.atoms for frame in known[::4]]


# 1 wrap and calibrate: energies without what is constant for a molecule, forces with a factor of their own
model = CommitteeUncertainty(networks, align=one_zero)
factors = residuals(model, known).factors()
model = with_factors(model, factors)
for name, fitted in factors.items():
    print(f"alpha of {name} = {fitted.alpha:.2f} ± {fitted.alpha_std_error:.2f}")

# 2 score
for name, frames in unknown.items():
    found = residuals(model, frames)
    for quantity, unit, score in (
        ("centred energy", "meV/atom", found.energy_scores(centred=True)),
        ("forces", "meV/Å", found.force_scores()),
    ):
        shares = f"{score.within_1_sigma:.0%} within 1 sigma, {score.within_196_sigma:.0%} within 1.96"
        held = f"intervals of 68 and 95 % hold {score.coverage_68:.0%} and {score.coverage_95:.0%}"
        print(f"{name}, {quantity}: RMSE {1e3 * score.rmse:.1f} {unit}, {shares}; {held}")

# 3 run
atoms, rng = cool[0].atoms.copy(), np.random.default_rng(0)
atoms.calc = UQCalculator(model)
atoms.set_momenta(rng.normal(size=(27, 3)) * np.sqrt(atoms.get_masses() * units.kB * 300)[:, None])
observables = {
    "C-O bond": (lambda atoms: distance(atoms, 1, 5), "Å"),
    "C-O-C angle": (lambda atoms: angle(atoms, 1, 5, 13), "°"),
}
dyn = Langevin(atoms, 1.0 * units.fs, temperature_K=300, friction=0.02 / units.fs, fixcm=False, rng=rng)
with UncertaintyLogger("ani.h5", atoms, dyn=dyn, temperature_K=300.0, observables=observables) as log:
    dyn.attach(log, interval=1)
    dyn.run(200)

# 4 analyse
for name, result in of_run("ani.h5").items():
    bars = f"± {result.std_sampling:.4f} (sampling) ± {result.std_model:.4f} (model)"
    print(f"{name} = {result.mean:.4f} {bars} {result.unit}")
