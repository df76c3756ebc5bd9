"""Models of kinds that the package has not, or not yet: widths without members, and members with noise."""

import hashlib

import numpy as np
import torch
from ase.calculators.lj import LennardJones
from torch import nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import abilities_of
from ase_uq.potentials.label_noise import LabelNoise
from ase_uq.uncertainty.prediction import STANDARD, Prediction

LJ = {"sigma": 2.3, "epsilon": 0.15, "rc": 5.0, "smooth": True}


class WidthPerAtom:
    """One potential, and for every element how far its forces are uncertain: no members, and a file all the same.

    With `energy_width`, eV, the energy is uncertain by that times the root of N, and the stress by a thousandth of it.
    """

    def __init__(self, widths, *, energy_width=None, alpha=1.0, alpha_forces=None, alpha_stress=None, calibration=None):
        self.widths = {symbol: float(width) for symbol, width in widths.items()}
        self.energy_width = energy_width
        self.factors = {"alpha": alpha, "alpha_forces": alpha_forces, "alpha_stress": alpha_stress}
        self.calibration = calibration

    @property
    def implemented_properties(self):
        of_energy = () if self.energy_width is None else ("energy_var", "stress_var")
        return (*STANDARD, "forces_var", *of_energy)

    @property
    def model_hash(self):
        return hashlib.sha256(repr((self.widths, self.energy_width, self.factors)).encode()).hexdigest()

    def predict(self, atoms, properties=()):
        unknown = sorted(set(atoms.symbols) - set(self.widths))
        if unknown:
            raise InputError(f"`atoms` must hold only elements with a width, got {', '.join(unknown)}; give them one.")
        own, calculator = atoms.copy(), LennardJones(**LJ)
        own.calc = calculator
        width = np.array([self.widths[symbol] for symbol in own.symbols])
        energy_width, stress = self.energy_width, own.get_stress() if own.cell.rank == 3 else None
        return Prediction.from_variances(
            energy=own.get_potential_energy(),
            forces=own.get_forces(),
            stress=stress,
            forces_var=np.repeat(width[:, None] ** 2, 3, axis=1),
            energy_var=None if energy_width is None else energy_width**2 * len(own),
            stress_var=None if stress is None or energy_width is None else np.full(6, (1e-3 * energy_width) ** 2),
            **{name: factor for name, factor in self.factors.items() if factor is not None},
        )

    def calibrated(self, alpha, calibration, *, alpha_forces=None, alpha_stress=None):
        factors = {"alpha": alpha, "alpha_forces": alpha_forces, "alpha_stress": alpha_stress}
        return type(self)(self.widths, energy_width=self.energy_width, calibration=dict(calibration), **factors)

    def state(self):
        return {
            "symbols": list(self.widths),
            "widths": np.array(list(self.widths.values())),
            "energy_width": self.energy_width,
            "factors": self.factors,
            "calibration": self.calibration,
        }

    @classmethod
    def from_state(cls, state):
        widths = dict(zip(state["symbols"], state["widths"].tolist(), strict=True))
        return cls(widths, energy_width=state["energy_width"], calibration=state["calibration"], **state["factors"])


class NoisyPotential(nn.Module):
    """Any potential, and a noise of its labels: so much an atom, whatever the structure."""

    def __init__(self, potential, noise):
        super().__init__()
        self.potential = potential
        self.elements = potential.elements
        self.register_buffer("noise_std", torch.tensor(noise, dtype=torch.float64))

    @property
    def cutoff(self):
        return self.potential.cutoff

    @property
    def n_members(self):
        return self.potential.n_members

    def energies(self, graph):
        return self.potential.energies(graph)

    def abilities(self):
        return abilities_of(self.potential)

    def label_noise(self, graph):
        n_atoms = graph.n_atoms.to(torch.float64)
        variance = self.noise_std**2
        return LabelNoise(
            energies=variance * n_atoms,
            forces=(4.0 * variance).expand(len(graph.numbers), 3),
            stresses=(1e-4 * variance).expand(graph.n_structures, 6),
        )

    def config(self):
        return {"potential": self.potential, "noise": float(self.noise_std)}

    @classmethod
    def from_config(cls, config):
        return cls(**config)
