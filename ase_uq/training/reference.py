"""Constants of a training set: energy shift per element, force scale, neighbours per atom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ase_uq.errors import InputError
from ase_uq.potentials.graph import build_graph
from ase_uq.structures.frames import Frame
from ase_uq.structures.offsets import fit_offsets, offset_energy

# eV per atom by which a label may miss the least-squares fit; beyond it something else was labelled.
MAX_RESIDUAL = 50.0


@dataclass(frozen=True, slots=True)
class Reference:
    """What a potential needs to know of its data: eV by element, eV/Å, neighbours per atom."""

    elements: tuple[str, ...]
    shifts: tuple[float, ...]
    scale: float
    mean_neighbours: float


def fit_reference(frames: Sequence[Frame], *, cutoff: float) -> Reference:
    """Fit the shift of each element by least squares, and take the scale from the forces.

    Parameters
    ----------
    frames
        Training frames.
    cutoff
        Å, for the mean number of neighbours.

    Raises
    ------
    InputError
        If an energy lies absurdly far from the fit, or all forces vanish.
    """
    structures = [frame.atoms for frame in frames]
    energies = np.array([frame.energy for frame in frames])
    shifts = fit_offsets(structures, model_energies=energies, baseline_energies=np.zeros(len(frames)))
    fitted = np.array([offset_energy(atoms, shifts) for atoms in structures])
    residual = np.abs(energies - fitted) / [len(atoms) for atoms in structures]
    if residual.max() > MAX_RESIDUAL:
        raise InputError(
            f"training frame {int(residual.argmax())}: its energy of {energies[residual.argmax()]:.6g} eV lies "
            f"{residual.max():.4g} eV per atom off the least-squares fit (at most {MAX_RESIDUAL:g}); "
            "check its units and its level of theory."
        )
    scale = float(np.sqrt(np.mean(np.concatenate([frame.forces.ravel() for frame in frames]) ** 2)))
    if scale == 0.0:
        raise InputError("the training forces must not all vanish; check the forces key.")
    graphs = [build_graph(frame.atoms, cutoff) for frame in frames[:100]]
    neighbours = sum(len(graph.senders) for graph in graphs) / sum(len(graph.positions) for graph in graphs)
    elements = tuple(sorted(shifts))
    return Reference(elements, tuple(shifts[e] for e in elements), scale, max(neighbours, 1.0))
