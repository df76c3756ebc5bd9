"""`LabelNoise`: the aleatoric part of an evaluation, for potentials that model the noise of their labels.

It is no noise of weights, which makes members (`ase_uq.potentials.variational`): it stays when members are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from ase_uq.potentials.graph import Graph


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """Variances of the noise; a part that is not modelled is `None`.

    Attributes
    ----------
    energies
        (S,), eV^2, of total energies.
    forces
        (N, 3), (eV/Å)^2, per component.
    stresses
        (S, 6), (eV/Å^3)^2; what it says of a structure without a periodic cell is not used.
    """

    energies: Tensor | None = None
    forces: Tensor | None = None
    stresses: Tensor | None = None


@runtime_checkable
class NoisyPotential(Protocol):
    """An optional ability of potentials: the noise of the labels, which may depend on the structure."""

    def label_noise(self, graph: Graph) -> LabelNoise:
        """Return the variances for the structures of a graph."""
        ...
