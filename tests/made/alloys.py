"""Alloys labelled by EMT, and the sizes of potentials that learn them in seconds."""

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT

from ase_uq.training import Frame

SMALL = {"cutoff": 3.5, "channels": 8, "radial_width": 16, "n_layers": 1, "l_max": 1}


def emt_frames(n=24, elements=("Cu", "Au"), seed=0):
    """Rattled and strained alloys labelled by EMT: real forces and stresses, in milliseconds."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[:] = rng.choice(elements, 4)
        atoms.set_cell(atoms.cell.array @ (1.05 * np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.08, size=(4, 3))
        atoms.calc = EMT()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.info["REF_stress"] = atoms.get_stress()
        atoms.info["config_type"] = "alloy"
        atoms.calc = None
        frames.append(atoms)
    return frames


def labelled(n, seed):
    return [
        Frame(atoms, atoms.info["REF_energy"], atoms.arrays["REF_forces"], atoms.info["REF_stress"], "alloy")
        for atoms in emt_frames(n, seed=seed)
    ]
