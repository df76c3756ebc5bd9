"""Files of version 0.1 as its last commit with all modules in the root (d9b87fd) writes them, and the numbers it gave.

    git worktree add ../before d9b87fd
    PYTHONPATH=../before python tests/earlier/make.py tests/earlier

Kept beside this script; `test_earlier_files.py` and `tests/log/test_columns.py` read them with the present code.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from ase_uq.llpr import LLPRUncertainty, posterior_covariance

from ase_uq import CommitteeUncertainty, UncertaintyLogger, UQCalculator, WeightedBaseline, read_log, reweight, save
from ase_uq.members import MemberUncertainty
from ase_uq.observables import Histogram, MemberEnergies
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, ShallowEnsemble, make_variational, sample_members
from tests.logged_runs import distance, oscillator, record  # those of that commit

TINY = {
    "elements": ["Au", "Cu"],
    "cutoff": 3.5,
    "channels": 4,
    "n_layers": 1,
    "l_max": 1,
    "radial_width": 8,
    "n_radial": 3,
    "dtype": "float64",
}
LJ = {"rc": 5.0, "smooth": True}


def body(seed=0):
    made = EquivariantPotential(**TINY, seed=seed)
    made.set_reference(shifts=[-1.0, -0.7], scale=1.3, mean_neighbours=11.0)
    return made


def models():
    covariance = posterior_covariance(1e4 * torch.eye(body().n_features, dtype=torch.float64))
    return {
        "deep": MemberUncertainty(DeepEnsemble([body(seed) for seed in range(3)])),
        "shallow": MemberUncertainty(ShallowEnsemble(body(), 4, seed=1)),
        "llpr": LLPRUncertainty(body(), covariance),
        "blip": MemberUncertainty(sample_members(make_variational(body(), inputs="pair"), n_members=2, seed=3)),
    }


def structure():
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[2:] = "Au"
    atoms.positions += np.random.default_rng(0).normal(scale=0.1, size=(4, 3))
    return atoms


def described(model, atoms):
    found = model.predict(atoms)
    names = ("energy", "energy_var", "energy_members", "forces", "forces_var", "stress", "stress_var")
    values = {name: np.asarray(getattr(found, name)).tolist() for name in names}
    law = {"mean_share": model.mean_share, "dof": str(model.dof), "model_hash": model.model_hash}
    return {**values, **law, "alphas": [found.alpha, found.alpha_forces, found.alpha_stress]}


def run(path):
    """A short run on a weighted baseline, and its averages."""
    atoms = bulk("Ar", cubic=True)
    atoms.set_momenta(np.random.default_rng(1).normal(scale=0.5, size=(4, 3)))
    members = [LennardJones(sigma=sigma, epsilon=0.0104, **LJ) for sigma in (3.36, 3.38, 3.40, 3.44)]
    baseline = LennardJones(sigma=3.45, epsilon=0.012, **LJ)
    model = CommitteeUncertainty(members, alpha=1.4)
    atoms.calc = WeightedBaseline(UQCalculator(model), baseline, sigma_baseline=0.05)
    dyn = Langevin(
        atoms,
        5 * units.fs,
        temperature_K=60,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=np.random.default_rng(2),
    )
    options = {"store": ["positions"], "observables": {"r": lambda each: each.get_distance(0, 1)}}
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=60.0, overwrite=True, **options) as log:
        dyn.attach(log, interval=5)
        dyn.run(400)
    log = read_log(path)
    result = reweight(
        log.observables["r"], energy_members=log.energy_members, energy_reference=log.energy, temperature_K=60.0
    )
    names = ("mean", "std_sampling", "std_model", "std_total", "ess")
    last = {"energy": log.energy[-1], "weight": log.weight[-1], "energy_var": log.energy_var[-1]}
    return {
        "n_frames": log.n_frames,
        "average": {name: float(getattr(result, name)) for name in names},
        "interval": [float(end) for end in result.interval()] if hasattr(result, "interval") else None,
        "last": {name: float(value) for name, value in last.items()},
        "members": log.energy_members[-1].tolist(),
        "attributes": {name: log.attributes[name] for name in ("alpha", "mean_share", "dof", "driver", "n_members")},
    }


def of_observables(path):
    """A short run without a thermostat, which logs a histogram and an observable of members."""
    atoms, dyn = oscillator(alpha=1.3)
    bins = Histogram(distance, np.linspace(1.0, 2.0, 4), axis_name="r", axis_unit="Å")
    observables = {"r": (distance, "Å"), "bins": bins, "own": MemberEnergies()}
    record(path, atoms, dyn, 40, observables=observables, overwrite=True)


def main(folder):
    of_observables(folder / "observables.h5")
    atoms = structure()
    numbers = {
        "structure": {
            "symbols": list(atoms.symbols),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
        },
        "models": {},
        "run": run(folder / "run.h5"),
    }
    for name, model in models().items():
        # A model of the last layer comes back as the members that it is.
        calibrated = model.calibrated(1.5, {"alpha": 1.5, "data": "made up"}, alpha_forces=2.0)
        calibrated.training = {"method": name}
        save(calibrated, folder / f"{name}.pt")
        numbers["models"][name] = described(calibrated, atoms)
    (folder / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
