"""Constants of a training set: energy shift per element, force scale, neighbours per atom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ase_uq.errors import InputError
from ase_uq.potentials.graph import build_graph
from ase_uq.structures.frames import Frame
from ase_uq.structures.isolated import check_covered
from ase_uq.structures.offsets import fit_offsets, offset_energy
from ase_uq.training.energy_residuals import MAX_RESIDUAL, check_residuals


@dataclass(frozen=True, slots=True)
class Reference:
    """What a potential needs to know of its data: eV by element, eV/Å, neighbours per atom."""

    elements: tuple[str, ...]
    shifts: tuple[float, ...]
    scale: float
    mean_neighbours: float


def fit_reference(
    frames: Sequence[Frame],
    *,
    cutoff: float,
    e0s: Mapping[str, float] | None = None,
    max_residual: float = MAX_RESIDUAL,
) -> Reference:
    """Fit the shift of each element by least squares, and take the scale from the forces.

    Parameters
    ----------
    frames
        Training frames.
    cutoff
        Å, for the mean number of neighbours.
    e0s
        Energies of isolated atoms by element, eV: shifts are these and one number for all elements, what an atom is
        bound by. Elements are then told apart where compositions do not.
    max_residual
        eV per atom, see `check_residuals`.

    Raises
    ------
    InputError
        If an energy lies absurdly far from the others, an element has no energy in `e0s`, or all forces vanish.
    """
    known = [frame for frame in frames if frame.has_energy] or list(frames)
    check_residuals(known, max_residual=max_residual)
    shifts = _shifts(known, e0s)
    # Elements that no energy is known of.
    shifts |= {symbol: 0.0 for frame in frames for symbol in frame.atoms.symbols if symbol not in shifts}
    forces = [frame.forces.ravel() for frame in frames if frame.forces is not None]
    scale = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else 0.0
    if scale == 0.0:
        raise InputError("the training forces must not all vanish; check the forces key.")
    graphs = [build_graph(frame.atoms, cutoff) for frame in frames[:100]]
    neighbours = sum(len(graph.senders) for graph in graphs) / sum(len(graph.positions) for graph in graphs)
    elements = tuple(sorted(shifts))
    return Reference(elements, tuple(shifts[e] for e in elements), scale, max(neighbours, 1.0))


def _shifts(frames: Sequence[Frame], e0s: Mapping[str, float] | None) -> dict[str, float]:
    structures, energies = [frame.atoms for frame in frames], [frame.energy for frame in frames]
    if e0s is None:
        return fit_offsets(structures, model_energies=energies, baseline_energies=np.zeros(len(frames)))
    elements = {symbol for atoms in structures for symbol in atoms.symbols}
    check_covered(e0s, elements)
    bound = [
        (energy - offset_energy(atoms, e0s)) / len(atoms) for atoms, energy in zip(structures, energies, strict=True)
    ]
    return {symbol: e0s[symbol] + float(np.mean(bound)) for symbol in elements}
