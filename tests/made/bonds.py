"""Morse bonds between all atoms, of members that differ a little: any system that binds, in microseconds."""

import numpy as np

from ase_uq.calculators.calculator import UQCalculator
from ase_uq.uncertainty.prediction import STANDARD, Prediction


class Bonds:
    """M members; depth (eV), length (Å) and width (1/Å) of the bonds.

    After 150 evaluations what is closer than `hole` (Å) falls without end; after `sound_for` energies are not numbers.
    """

    implemented_properties = (*STANDARD, "energy_var", "forces_var", "energy_members", "forces_members")

    def __init__(self, *, depth=4.0, length=1.1, width=2.0, n_members=3, hole=0.0, sound_for=None):
        self.depths = depth * np.linspace(0.99, 1.01, n_members)
        self.length, self.width, self.hole, self.sound_for, self.n = length, width, hole, sound_for, 0
        self.model_hash = f"bonds {depth} {length} {width} {n_members} {hole} {sound_for}"

    def predict(self, atoms, properties=()):
        self.n += 1
        apart = atoms.positions[:, None] - atoms.positions[None]
        r = np.sqrt((apart**2).sum(axis=2)) + np.eye(len(atoms))
        x = np.where(np.eye(len(atoms)), 0.0, np.exp(-self.width * (r - self.length)))
        energy, slope = x**2 - 2 * x, -2 * self.width * (x**2 - x)
        inside = (r < self.hole) & (x > 0) & (self.n > 150)
        energy = np.where(inside, energy - 50 * (self.hole - r), energy)
        slope = np.where(inside, slope + 50, slope)
        if self.sound_for is not None and self.n > self.sound_for:
            energy = energy * np.nan
        forces = -(slope / r)[:, :, None] * apart
        return Prediction.from_members(
            energies=0.5 * self.depths * energy.sum(), forces=self.depths[:, None, None] * forces.sum(axis=1)
        )


def bound(**options):
    """A calculator of them."""
    return UQCalculator(Bonds(**options), forces_var="off")
