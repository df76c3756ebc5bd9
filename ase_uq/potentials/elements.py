"""Which column of a table belongs to which element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_uq.errors import InputError


def element_indices(elements: Sequence[str]) -> Tensor:
    """Return atomic number to index among `elements`, -1 for the others.

    Raises
    ------
    InputError
        For what is not the symbol of an element.
    """
    table = torch.full((max(atomic_numbers.values()) + 2,), -1)
    for index, symbol in enumerate(elements):
        if symbol not in atomic_numbers or symbol == "X":
            raise InputError(f"`elements` must be chemical symbols, got {symbol!r}; write for example ['O', 'H'].")
        table[atomic_numbers[symbol]] = index
    return table


def species_of(numbers: Tensor, indices: Tensor, elements: Sequence[str]) -> Tensor:
    """Return the index of each atom's element, (N,), for atomic numbers (N,) and `element_indices`.

    Raises
    ------
    InputError
        For an element that is not among them.
    """
    species = indices.index_select(0, numbers.clamp(max=len(indices) - 1))
    # While energies are traced for compilation, with stand-ins for tensors, there are no values to look at.
    if type(species) is Tensor and bool((species < 0).any()):
        number = int(numbers[int(torch.argmin(species))])
        raise InputError(
            f"element with atomic number {number} is not among those the potential knows "
            f"({', '.join(elements)}); train with frames that contain it."
        )
    return species
