"""A pair potential fitted to energies and forces: how far two-body physics goes on a data set.

The pair functions are cubic splines on a uniform grid that end at the cut-off with value, slope and curvature zero;
below the shortest distance of the training frames they go on as straight lines. They are written in smooth ramps, which
fall as a straight line and stay zero from a grid point on: a ridge on their coefficients is a ridge on curvature, so
distances that no frame has are bridged by a straight line. Everything is linear in the coefficients, the fit is one
ridge regression, and the energy per atom of each element is eliminated from it, never penalised.

=============  =====================================================================================
symbol         variable
=============  =====================================================================================
E              sum_z n_z e_z + sum_{i<j} phi_{z_i z_j}(r_ij)
e_z            `shifts[z]`
phi_p(r)       sum_k c_pk R_k(x), x = (r - r_p) / (cutoff - r_p), for the pair of elements p
r_p            `PairBasis.shortest[p]`
R_k            sum_{j <= k} (k + 1 - j) B_j / K, the ramp; B_j cubic B-splines on K intervals of [0, 1]
K              `n_functions`
c              `coefficients`, (P,), P = pairs of elements times K
A              `energy_rows`, (S, P): sum_{i<j} R_k(x_ij)
D              force design, (N, 3, P): minus the gradient of a row of A
sE, sF         `scales()`: root mean square of the labels, of the energies per atom after the shifts
loss           |E/N - model|^2 / (S sE^2) + |F - D c|^2 / (components sF^2), the unexplained parts
=============  =====================================================================================

References
----------
Xie, Rupp, Hennig, npj Comput. Mater. 9, 162 (2023), arXiv:2110.00624: pair potentials in cubic B-splines by linear
regression with a penalty on second differences.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.linalg import solve
from scipy.sparse import csr_array

from ase_uq.errors import InputError
from ase_uq.potentials.graph import build_graph
from ase_uq.structures.frames import Frame, split_frames
from ase_uq.structures.offsets import fit_offsets, offset_energy
from ase_uq.uncertainty.prediction import Prediction

Array = NDArray[np.float64]
RIDGES = tuple(10.0 ** (k / 2) for k in range(-24, 1))
# Labels that hardly vary must not be fitted beyond the digits they are given with (eV/atom, eV/Å).
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, slots=True)
class PairBasis:
    """Radial functions of every pair of elements.

    Attributes
    ----------
    elements
        Atomic numbers, ascending.
    shortest
        Distance in Å below which the functions of a pair are straight lines, for all pairs of `elements` in the order
        of `itertools.combinations_with_replacement`.
    cutoff
        Å.
    n_functions
        Functions of each pair.
    """

    elements: tuple[int, ...]
    shortest: tuple[float, ...]
    cutoff: float
    n_functions: int

    @classmethod
    def for_structures(cls, structures: Sequence[Atoms], *, cutoff: float, n_functions: int) -> PairBasis:
        """Take the elements and the shortest distance of each pair from structures.

        Raises
        ------
        InputError
            For no structures, fewer than one function, or a cut-off no longer than the shortest distance.
        """
        if not structures:
            raise InputError("`structures` must hold at least one structure to set up a basis, got none; pass some.")
        if n_functions < 1:
            raise InputError(f"`n_functions` must be at least 1, got {n_functions}; 30 is usual.")
        elements = tuple(sorted({int(z) for atoms in structures for z in atoms.numbers}))
        pairs = list(combinations_with_replacement(elements, 2))
        # The ridge sets the coefficients of a pair that never meets to zero: any range will do for it.
        empty = cls(elements, (0.0,) * len(pairs), cutoff, n_functions)
        shortest = np.full(len(pairs), np.inf)
        for atoms in structures:
            distances, _, _, kinds = empty._edges(atoms)
            np.minimum.at(shortest, kinds, distances)
        if not np.isfinite(shortest).any() or shortest[np.isfinite(shortest)].max() >= cutoff:
            raise InputError(
                f"`cutoff` must be longer than the shortest distance of each pair, got {cutoff} Å; raise it."
            )
        shortest[~np.isfinite(shortest)] = 0.0
        return cls(elements, tuple(shortest.tolist()), cutoff, n_functions)

    @property
    def n_coefficients(self) -> int:
        """P."""
        return len(self.shortest) * self.n_functions

    def design(self, atoms: Atoms) -> tuple[Array, Array]:
        """Return the energy row (P,) and the force design (N, 3, P), 1/Å, of one structure.

        Raises
        ------
        InputError
            For an element that the basis does not have.
        """
        distances, directions, receivers, kinds = self._edges(atoms)
        values, slopes = self._radial(distances, kinds)
        columns = kinds[:, None] * self.n_functions + np.arange(self.n_functions)
        # Every pair stands in both directions, hence the half.
        row: Array = np.zeros(self.n_coefficients)
        np.add.at(row, columns, 0.5 * values)
        n_edges = len(distances)
        starts = np.arange(n_edges + 1) * self.n_functions
        per_edge = csr_array((slopes.ravel(), columns.ravel(), starts), shape=(n_edges, self.n_coefficients))
        components = 3 * receivers[:, None] + np.arange(3)
        edges = np.repeat(np.arange(n_edges), 3)
        pull = csr_array((directions.ravel(), (components.ravel(), edges)), shape=(3 * len(atoms), n_edges))
        forces: Array = (pull @ per_edge).toarray().reshape(len(atoms), 3, self.n_coefficients)
        return row, forces

    def _edges(self, atoms: Atoms) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.int64]]:
        """Return distance, unit vector from centre to neighbour, centre and kind of pair of every directed edge."""
        unknown = sorted({int(z) for z in atoms.numbers} - set(self.elements))
        if unknown:
            raise InputError(
                f"`atoms` must hold elements of the fit only, got {', '.join(chemical_symbols[z] for z in unknown)}; "
                "fit on frames that contain them."
            )
        graph = build_graph(atoms, self.cutoff)
        vectors = graph.edge_vectors().numpy()
        receivers, senders = graph.receivers.numpy(), graph.senders.numpy()
        distances = np.linalg.norm(vectors, axis=1)
        species = np.searchsorted(self.elements, atoms.numbers)
        kind_of = np.empty((len(self.elements), len(self.elements)), dtype=np.int64)
        for kind, (a, b) in enumerate(combinations_with_replacement(range(len(self.elements)), 2)):
            kind_of[a, b] = kind_of[b, a] = kind
        return distances, vectors / distances[:, None], receivers, kind_of[species[receivers], species[senders]]

    def _radial(self, distances: Array, kinds: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return the functions and their slopes (1/Å) at each edge, (E, n_functions)."""
        k = self.n_functions
        # The last three splines of the grid reach beyond the cut-off: without them all ends smoothly at x = 1.
        ramps = np.zeros((k + 3, k))
        ramps[:k] = np.maximum(np.arange(1, k + 1) - np.arange(k)[:, None], 0) / k
        splines = BSpline((np.arange(k + 7) - 3) / k, ramps, 3)
        start = np.asarray(self.shortest)[kinds]
        width = self.cutoff - start
        x = (distances - start) / width
        inside = np.clip(x, 0.0, 1.0)
        slopes = splines.derivative()(inside)
        return splines(inside) + slopes * (x - inside)[:, None], slopes / width[:, None]


@dataclass(frozen=True, slots=True)
class PairPotential:
    """A fitted pair potential.

    Attributes
    ----------
    basis
        Its radial functions.
    shifts
        Energy per atom of each element, eV, by symbol.
    coefficients
        (P,), eV.
    ridge
        Penalty it was fitted with, relative to the mean diagonal of the normal equations.
    """

    basis: PairBasis
    shifts: dict[str, float]
    coefficients: Array
    ridge: float

    def predict(self, atoms: Atoms, properties: Collection[str] = ()) -> Prediction:  # noqa: ARG002
        """Return energy and forces, without an uncertainty; `properties` is a hint that it can do without.

        Raises
        ------
        InputError
            For an element that was not in the fit.
        """
        row, forces = self.basis.design(atoms)
        energy = offset_energy(atoms, self.shifts) + float(row @ self.coefficients)
        return Prediction(energy, forces @ self.coefficients)


@dataclass(slots=True)
class NormalEquations:
    """Sums over frames that the fit needs; forces enter as products only, never as one large matrix.

    Attributes
    ----------
    basis
        The functions that are fitted.
    force_gram, force_projection
        (P, P) and (P,): D^T D and D^T F.
    force_square, n_components
        Sum of F^2 and the number of terms.
    energy_rows
        One row of A for each frame.
    frames
        The frames that were added.
    """

    basis: PairBasis
    force_gram: Array
    force_projection: Array
    force_square: float
    n_components: int
    energy_rows: list[Array]
    frames: list[Frame]

    @classmethod
    def empty(cls, basis: PairBasis) -> NormalEquations:
        """Return sums over no frames."""
        p = basis.n_coefficients
        return cls(basis, np.zeros((p, p)), np.zeros(p), 0.0, 0, [], [])

    def add(self, frame: Frame, row: Array, forces: Array) -> None:
        """Add a frame with its `PairBasis.design`."""
        flat = forces.reshape(-1, len(row))
        self.force_gram += flat.T @ flat
        self.force_projection += flat.T @ frame.forces.ravel()
        self.force_square += float((frame.forces**2).sum())
        self.n_components += frame.forces.size
        self.energy_rows.append(row)
        self.frames.append(frame)

    def solve(self, ridge: float) -> tuple[dict[str, float], Array]:
        """Return the shifts and the coefficients (P,) that minimise loss + ridge mean(diagonal) |c|^2."""
        n_atoms, fractions = _fractions(self.frames)
        rows = _without(fractions, np.array(self.energy_rows) / n_atoms[:, None])
        labels = _without(fractions, _energies(self.frames) / n_atoms)
        energy_scale, force_scale = self.scales()
        energy_weight = 1.0 / (len(labels) * energy_scale**2)
        force_weight = 1.0 / (self.n_components * force_scale**2)
        gram = energy_weight * rows.T @ rows + force_weight * self.force_gram
        projection = energy_weight * rows.T @ labels + force_weight * self.force_projection
        penalty = ridge * max(float(np.trace(gram)) / len(gram), np.finfo(float).tiny)
        coefficients = solve(gram + penalty * np.eye(len(gram)), projection, assume_a="pos")
        return self.shifts(coefficients), coefficients

    def shifts(self, coefficients: Array) -> dict[str, float]:
        """Return the best energy per atom of each element for given coefficients, eV, by symbol."""
        return fit_offsets(
            [frame.atoms for frame in self.frames],
            model_energies=_energies(self.frames),
            baseline_energies=np.array(self.energy_rows) @ coefficients,
        )

    def scales(self) -> tuple[float, float]:
        """Return sE, eV/atom, and sF, eV/Å."""
        n_atoms, fractions = _fractions(self.frames)
        residual = _without(fractions, _energies(self.frames) / n_atoms)
        energy_scale = float(np.sqrt(np.mean(residual**2)))
        force_scale = float(np.sqrt(self.force_square / self.n_components))
        return max(energy_scale, _SMALLEST_SCALE), max(force_scale, _SMALLEST_SCALE)


def fit_pair_potential(
    frames: Sequence[Frame],
    *,
    cutoff: float,
    n_functions: int = 30,
    ridges: Sequence[float] = RIDGES,
    held_out_fraction: float = 0.2,
    seed: int = 0,
) -> PairPotential:
    """Fit a pair potential to energies and forces.

    Parameters
    ----------
    frames
        Training frames. A random part of them chooses the ridge; the final fit takes all.
    cutoff
        Å.
    n_functions
        Splines for each pair of elements.
    ridges
        Penalties to choose from, relative to the mean diagonal of the normal equations, all above zero. The one with
        the smallest product of the mean squared errors, of energies and of forces, on the held-out part is taken.
    held_out_fraction, seed
        The part that chooses the ridge, and how it is drawn.

    Raises
    ------
    InputError
        For fewer than two frames, no ridges or one that is not positive, or a cut-off too short.
    """
    if len(ridges) == 0 or not all(ridge > 0 for ridge in ridges):
        raise InputError(f"`ridges` must hold penalties above 0, got {tuple(ridges)}; 1e-8 is a small one.")
    fitted, held_out = split_frames(frames, valid_fraction=held_out_fraction, seed=seed)
    basis = PairBasis.for_structures([frame.atoms for frame in frames], cutoff=cutoff, n_functions=n_functions)
    equations = NormalEquations.empty(basis)
    for frame in fitted:
        equations.add(frame, *basis.design(frame.atoms))
    trials = [equations.solve(ridge) for ridge in ridges]
    shifts, coefficients = zip(*trials, strict=True)
    losses = np.zeros((len(held_out), len(ridges), 2))
    for loss, frame in zip(losses, held_out, strict=True):
        design = basis.design(frame.atoms)
        loss[:] = _squares(frame, design, shifts, np.array(coefficients).T)
        equations.add(frame, *design)
    # The product, not the loss: a few held-out energies scatter so much that their sum would decide over all forces.
    ridge = ridges[int(np.argmin(losses.sum(axis=0).prod(axis=1)))]
    return PairPotential(basis, *equations.solve(ridge), ridge)


def _squares(
    frame: Frame, design: tuple[Array, Array], shifts: Sequence[dict[str, float]], coefficients: Array
) -> Array:
    """Return the squared errors of a frame for each trial, (R, 2): energy per atom, sum over force components."""
    row, forces = design
    offsets = np.array([_offset_of_known(frame.atoms, trial) for trial in shifts])
    energy = (frame.energy - offsets - row @ coefficients) / len(frame.atoms)
    force = frame.forces[:, :, None] - forces @ coefficients
    return np.stack([energy**2, (force**2).sum(axis=(0, 1))], axis=1)


def _offset_of_known(atoms: Atoms, shifts: dict[str, float]) -> float:
    # An element that only the held-out part has gets no shift: a crude energy, but the same for every trial.
    return sum(shifts.get(symbol, 0.0) for symbol in atoms.symbols)


def _energies(frames: Sequence[Frame]) -> Array:
    return np.array([frame.energy for frame in frames])


def _fractions(frames: Sequence[Frame]) -> tuple[Array, Array]:
    """Return atoms (S,) and the fraction of each element (S, Z)."""
    elements = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    counts = np.array([[np.count_nonzero(frame.atoms.numbers == z) for z in elements] for frame in frames], float)
    n_atoms = counts.sum(axis=1)
    return n_atoms, counts / n_atoms[:, None]


def _without(fractions: Array, values: Array) -> Array:
    """Return what is left of values (S,) or (S, P) after the best energy per atom of each element."""
    return values - fractions @ np.linalg.lstsq(fractions, values, rcond=1e-10)[0]
