"""Draws of a variational potential, frozen in weight space, as potentials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ase_uq.potentials.graph import Graph
from ase_uq.potentials.variational.potential import VariationalPotential


@dataclass(frozen=True, slots=True)
class _Draws:
    potential: VariationalPotential
    draws: Sequence[Tensor]

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.potential.cutoff


class SharingDraws(_Draws):
    """M draws that share the body, as a potential of M members.

    Attributes
    ----------
    potential
        One for which `shares_body` holds.
    draws
        (M, n_in, n_out) for each of its maps with noise.
    """

    @property
    def n_members(self) -> int:
        """Number of draws, M."""
        return len(self.draws[0])

    def energies(self, graph: Graph) -> Tensor:
        """Return the energies of all draws, (M, S) float64, eV."""
        with self.potential.frozen(self.draws):
            return self.potential.energies_from_one_body(graph, self.n_members)


class SeparateDraws(_Draws):
    """M draws of any variational potential, as one of a single member on a graph of M copies, one for each draw.

    Attributes
    ----------
    potential, draws
        As for `SharingDraws`.
    """

    @property
    def n_members(self) -> int:
        """A single member, which tells copies apart."""
        return 1

    @property
    def n_copies(self) -> int:
        """Number of copies, M, one a draw."""
        return len(self.draws[0])

    def energies(self, graph: Graph) -> Tensor:
        """Return (1, M S) float64, eV: first all structures of the first draw."""
        with self.potential.frozen(self.draws):
            return self.potential.energies(graph)
