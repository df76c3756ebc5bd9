"""A crude potential that is fitted in a second: what the labels of a set say about each other, before any training.

=======  ==========================================================================================
symbol   variable
=======  ==========================================================================================
d_ij     `distances`, of directed edges, j seen from i
f(d)     (1 - d^2 / R^2)^2, the cut-off at R = 5 Å
phi_ak   exp(-k 0.6 (d - 2)) f(d), k = 1..6, for every pair a of elements
rho_il   sum_j exp(-l (d_ij - 2)) f(d_ij), l = 1, 2
B        `basis` (P,): sum_ij phi_ak / 2 for all a, k; sum_i sqrt(rho_il) for all elements and l
G        `slopes` (E, p): dB_p / dd_ij of edges
c        `coefficients` (P,), of B, and one constant per element
=======  ==========================================================================================

Everything is linear in c: energies E = constants + B.c, forces, and V stress = sum_ij (G.c) d_ij n n^T with the unit
vectors n. Pairs and a density that is known beforehand (Finnis-Sinclair) are no good potential, but they tell the sign
and the unit of a stress from energies and forces, and what an energy should be to some 10 to 100 meV per atom.

References
----------
Finnis and Sinclair, Philos. Mag. A 50, 45 (1984), doi:10.1080/01418618408244210.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy import sparse

from ase_uq.arrays import Array
from ase_uq.potentials.base import VOIGT_COLUMNS, VOIGT_ROWS
from ase_uq.potentials.graph import build_graph
from ase_uq.structures.frames import Frame

CUTOFF, NEAR = 5.0, 2.0  # Å
PAIR_DECAYS = (0.6, 1.2, 1.8, 2.4, 3.0, 3.6)  # 1/Å
DENSITY_DECAYS = (1.0, 2.0)
# Frames and atoms a frame whose forces are fitted; frames whose energies are.
FORCE_FRAMES, FORCE_ATOMS, ENERGY_FRAMES = 60, 10, 300
# Weight of the energies where the coefficients are left to the forces.
FORCES_ALONE = 1e-3
_RIDGE = 1e-3
_LEAST_DENSITY = 1e-6
# Of the largest norm of a column: pairs of elements that the frames hardly have.
_RESOLUTION = 1e-6


@dataclass(frozen=True, slots=True)
class Crude:
    """Constants (Z,) of the elements and coefficients (P,) of the basis, eV."""

    elements: tuple[str, ...]
    constants: Array
    coefficients: Array

    def energies(self, structures: Sequence[Atoms]) -> Array:
        """Return energies, (S,) eV."""
        return np.array(
            [
                counts(atoms, self.elements) @ self.constants + Basis(atoms, self.elements).values @ self.coefficients
                for atoms in structures
            ]
        )

    def stress(self, atoms: Atoms) -> Array:
        """Return the stress of a periodic structure, (6,) eV/Å^3."""
        return np.asarray(Basis(atoms, self.elements).virials() @ self.coefficients / atoms.get_volume())


class Basis:
    """The basis of one structure: `values` (P,), and what forces and virials are made of."""

    def __init__(self, atoms: Atoms, elements: Sequence[str]) -> None:
        graph = build_graph(atoms, CUTOFF)
        vectors = graph.edge_vectors().numpy()
        self.receivers, self.senders = graph.receivers.numpy(), graph.senders.numpy()
        self.n_atoms, self.n_elements = len(atoms), len(elements)
        self.species = np.array([elements.index(symbol) for symbol in atoms.symbols])
        self.distances = np.linalg.norm(vectors, axis=1)
        self.normals = vectors / np.maximum(self.distances, 1e-9)[:, None]
        self.values = np.zeros(size_of_basis(len(elements)))
        self.parts: list[tuple[slice, NDArray[np.intp], Array]] = []
        self._add_pairs()
        self._add_densities()

    def forces(self, chosen: NDArray[np.intp]) -> Array:
        """Return the forces on some atoms, (len(chosen), 3, P)."""
        found = np.zeros((len(chosen), 3, len(self.values)))
        for columns, edges, slopes in self.parts:
            rows = np.concatenate([self.receivers[edges], self.senders[edges]])
            places, ones = np.arange(len(edges)), np.ones(len(edges))
            ends = sparse.csr_matrix(
                (np.concatenate([ones, -ones]), (rows, np.concatenate([places, places]))), (self.n_atoms, len(edges))
            )[chosen]
            for axis in range(3):
                found[:, axis, columns] = ends @ (slopes * self.normals[edges, axis, None])
        return found

    def virials(self) -> Array:
        """Return the derivatives by strain, (6, P) in Voigt order."""
        found = np.zeros((6, len(self.values)))
        for columns, edges, slopes in self.parts:
            n = self.normals[edges]
            outer = (n[:, VOIGT_ROWS] * n[:, VOIGT_COLUMNS] * self.distances[edges, None]).T
            found[:, columns] = outer @ slopes
        return found

    def _decays(self, rates: Sequence[float]) -> tuple[Array, Array]:
        """Return decaying functions of the distances with their slopes, both (E, len(rates))."""
        d, decays = self.distances[:, None], np.array(rates)
        x = d / CUTOFF
        shell, slope = (1.0 - x**2) ** 2, -4.0 * x * (1.0 - x**2) / CUTOFF
        falling = np.exp(-decays * (d - NEAR))
        return falling * shell, falling * (slope - decays * shell)

    def _add_pairs(self) -> None:
        values, slopes = self._decays(PAIR_DECAYS)
        one, other = self.species[self.receivers], self.species[self.senders]
        low, high = np.minimum(one, other), np.maximum(one, other)
        kinds = [(a, b) for a in range(self.n_elements) for b in range(a, self.n_elements)]
        for k, (a, b) in enumerate(kinds):
            edges = np.flatnonzero((low == a) & (high == b))
            columns = slice(k * len(PAIR_DECAYS), (k + 1) * len(PAIR_DECAYS))
            self.values[columns] = 0.5 * values[edges].sum(axis=0)
            if len(edges):
                self.parts.append((columns, edges, 0.5 * slopes[edges]))

    def _add_densities(self) -> None:
        values, slopes = self._decays(DENSITY_DECAYS)
        start = len(self.values) - self.n_elements * len(DENSITY_DECAYS)
        for k in range(len(DENSITY_DECAYS)):
            density = np.bincount(self.receivers, values[:, k], minlength=self.n_atoms)
            root = np.sqrt(density + _LEAST_DENSITY)
            for a in range(self.n_elements):
                column = start + k * self.n_elements + a
                of_element = self.species == a
                edges = np.flatnonzero(of_element[self.receivers])
                self.values[column] = root[of_element].sum()
                if len(edges):
                    slope = slopes[edges, k] / (2.0 * root[self.receivers[edges]])
                    self.parts.append((slice(column, column + 1), edges, slope[:, None]))


def size_of_basis(n_elements: int) -> int:
    """Number of parameters of the fit, P."""
    return n_elements * (n_elements + 1) // 2 * len(PAIR_DECAYS) + n_elements * len(DENSITY_DECAYS)


def force_components(sizes: Sequence[int]) -> int:
    """Number of components of forces that are fitted to frames of so many atoms."""
    return sum(3 * min(size, FORCE_ATOMS) for size in sizes[:FORCE_FRAMES])


def counts(atoms: Atoms, elements: Sequence[str]) -> Array:
    """Return how many atoms of each element there are, (Z,)."""
    return np.array([np.count_nonzero(atoms.symbols == symbol) for symbol in elements], dtype=np.float64)


class Equations:
    """What energies per atom and forces of frames say of the coefficients, ready to be solved several times.

    The first 60 frames with forces give some each, all give their energies: shuffle them, and pass no more than 300,
    of which some have forces.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.elements = tuple(sorted({symbol for frame in frames for symbol in frame.atoms.symbols}))
        known = np.concatenate([frame.forces.ravel() for frame in frames if frame.forces is not None])
        self.scale = float(np.sqrt(np.mean(known**2))) or 1.0
        rng = np.random.default_rng(0)
        energies, forces, labels = list[Array](), list[Array](), list[Array]()
        for frame in frames:
            basis = Basis(frame.atoms, self.elements)
            energies.append(np.concatenate([counts(frame.atoms, self.elements), basis.values]) / len(frame.atoms))
            if frame.forces is not None and len(forces) < FORCE_FRAMES:
                chosen = rng.permutation(len(frame.atoms))[:FORCE_ATOMS]
                weight = 1.0 / np.sqrt(3.0 * len(chosen))
                forces.append(basis.forces(chosen).reshape(3 * len(chosen), -1) * weight)
                labels.append(frame.forces[chosen].ravel() * weight)
        self.energy_rows = np.array(energies)
        self.energies = np.array([frame.energy / len(frame.atoms) for frame in frames])
        found = np.concatenate(forces)
        self.force_rows = np.concatenate([np.zeros((len(found), len(self.elements))), found], axis=1)
        self.forces = np.concatenate(labels)

    def solve(self, *, moved: NDArray[np.bool_] | None = None, energy_weight: float = 1.0) -> tuple[Crude, float]:
        """Solve by least squares, an energy of a frame counting as much as its forces, in units of their scale.

        Parameters
        ----------
        moved
            (S,), frames whose energies have another zero, which is fitted too, eV per atom.
        energy_weight
            Of the energies; small, it leaves the coefficients to the forces.

        Returns
        -------
        (Crude, float)
            The fit, and that zero less the one of the other frames.
        """
        extra = np.zeros(len(self.energies)) if moved is None else moved.astype(np.float64)
        rows = np.concatenate(
            [
                np.column_stack([self.energy_rows, extra]) * energy_weight,
                np.column_stack([self.force_rows, np.zeros(len(self.force_rows))]),
            ]
        )
        labels = np.concatenate([self.energies * energy_weight, self.forces]) / self.scale
        # Columns of unit norm under a ridge, so that what the frames do not determine stays small.
        norms = np.sqrt((rows**2).sum(axis=0))
        norms = np.maximum(norms, _RESOLUTION * norms.max())
        width = rows.shape[1]
        padded = np.concatenate([rows / norms, _RIDGE * np.eye(width)])
        solution = (
            self.scale * np.linalg.lstsq(padded, np.concatenate([labels, np.zeros(width)]), rcond=None)[0] / norms
        )
        n = len(self.elements)
        return Crude(self.elements, solution[:n], solution[n:-1]), float(solution[-1])

    @property
    def per_coefficient(self) -> float:
        """Components of forces for each coefficient."""
        return float(len(self.forces) / self.energy_rows.shape[1])

    def against(self, crude: Crude) -> tuple[Array, Array]:
        """Return energies, and those of a fit, eV per atom, less what is constant for a composition.

        Between compositions forces say nothing: both are of the frames whose composition is that of another one, too.
        """
        shares = self.energy_rows[:, : len(self.elements)]
        both = np.column_stack([self.energies, self.energy_rows[:, len(self.elements) :] @ crude.coefficients])
        _, kind, count = np.unique(shares.round(9), axis=0, return_inverse=True, return_counts=True)
        kind = kind.ravel()
        means = np.zeros((len(count), 2))
        np.add.at(means, kind, both)
        both = (both - (means / count[:, None])[kind])[count[kind] > 1]
        return both[:, 0], both[:, 1]

    def misfit_of_forces(self, crude: Crude) -> float:
        """Return the rms error of the forces of a fit over their rms."""
        error = self.force_rows @ np.concatenate([crude.constants, crude.coefficients]) - self.forces
        return float(np.sqrt(np.sum(error**2) / max(np.sum(self.forces**2), 1e-300)))

    def residuals(self, crude: Crude) -> Array:
        """Return energies less those of a fit, (S,) eV per atom."""
        return np.asarray(self.energies - self.energy_rows @ np.concatenate([crude.constants, crude.coefficients]))
