"""Constants of members: what each adds for every atom of an element, whatever its surroundings.

=======  =====================================================================
symbol   variable
=======  =====================================================================
n_sz     `counts[s, z]`, atoms of element z in structure s; N_s = sum_z n_sz
v_sk     `values[s, k]`, total energies, or features summed over atoms
c_zk     `composition_constants`: minimise sum_s (v_sk - sum_z n_sz c_zk)^2 / N_s^2
=======  =====================================================================

A constant cancels in every force, average and difference between frames of one composition, but errors of energies and
their spread over members are full of it. No loss on forces sees it, and one on energies leaves it to drift with the
last steps of the optimiser. It is therefore refitted when all else is done: the mean to the labels, every member to the
mean. Where compositions do not tell the elements apart, the smallest constants that fit are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_uq.potentials import ShallowEnsemble, VariationalEnsemble
from ase_uq.potentials.abilities import RefitsReference, underlying
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.graph import Graph
from ase_uq.training.batches import Batches

# Element counts are exact: singular values this far below the largest are rounding, not information.
_RANK_TOLERANCE = 1e-10


def composition_constants(counts: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit constants per element by least squares, structures counted per atom.

    Parameters
    ----------
    counts
        (S, Z), atoms of each element.
    values
        (S, n_values), sums over the atoms of a structure.

    Returns
    -------
    array
        (Z, n_values); of minimum norm where compositions leave a choice.
    """
    n_atoms = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.linalg.lstsq(counts / n_atoms, values / n_atoms, rcond=_RANK_TOLERANCE)[0])


def element_counts(graph: Graph, elements: Sequence[str]) -> Tensor:
    """Return how many atoms of each element every structure has, (S, Z) float64."""
    species = species_of(graph.numbers, element_indices(elements).to(graph.numbers.device), elements)
    return graph.sum_over_atoms(nn.functional.one_hot(species, len(elements)).to(torch.float64))


@torch.no_grad()
def refit_constants(potential: Any, data: Batches) -> None:
    """Refit the energies of atoms of a potential, or of the mean of members, to the labels, in place.

    Parameters
    ----------
    potential
        One that has such energies (`RefitsReference`), or with heads or noise on top of one; others are left alone.
    data
        The frames it was trained on.
    """
    body = underlying(potential)
    if not isinstance(body, RefitsReference):
        return
    errors = [
        (batch.labels.energies - potential.energies(batch.graph).mean(dim=0)).unsqueeze(1) for batch in data.in_order()
    ]
    constants = composition_constants(_counts(body, data), torch.cat(errors).cpu().numpy())
    body.move_reference(torch.from_numpy(constants[:, 0]))


@torch.no_grad()
def centre_heads(shallow: ShallowEnsemble, data: Batches) -> None:
    """Take what an average atom of each element adds out of every head, in place; forces stay as they are."""
    device = shallow.centre.device
    features = [shallow.potential.summed_features(batch.graph.to(device)) for batch in data.in_order()]
    centre = composition_constants(_counts(shallow, data), torch.cat(features).cpu().numpy())
    shallow.centre.copy_(torch.from_numpy(centre))


@torch.no_grad()
def centre_draws(draws: VariationalEnsemble, data: Batches) -> None:
    """Refit the constants of every draw to the mean over draws, and those of the mean to the labels, in place."""
    refit_constants(draws.potential, data)
    draws.constants.zero_()
    energies, labels = [], []
    for batch in data.in_order():
        energies.append(draws.energies(batch.graph).T)
        labels.append(batch.labels.energies)
    errors = torch.cat(labels).unsqueeze(1) - torch.cat(energies)
    if isinstance(underlying(draws), RefitsReference):
        # The mean of these is the body, which is right already.
        errors -= errors.mean(dim=1, keepdim=True)
    constants = composition_constants(_counts(draws, data), errors.cpu().numpy())
    draws.constants.copy_(torch.from_numpy(constants.T))


def _counts(potential: Any, data: Batches) -> NDArray[np.float64]:
    counts = [element_counts(batch.graph, potential.elements) for batch in data.in_order()]
    return torch.cat(counts).cpu().numpy()
