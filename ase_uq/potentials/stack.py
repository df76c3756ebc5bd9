"""`MemberStack`: several equal potentials side by side, one forward and one backward pass for all.

A copy of the graph for each member, and every linear map a batched product over members. On small systems, where the
number of tensor operations is what costs, M members take little longer than one; on large ones nothing is won.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.potentials.abilities import Stackable
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.radial_table import RadialTable


def stackable(members: Iterable[Any]) -> bool:
    """Return whether members differ in nothing but their weights, and those are fixed; see `Stackable`."""
    likenesses = [member.likeness() if isinstance(member, Stackable) else None for member in members]
    return likenesses[0] is not None and all(each == likenesses[0] for each in likenesses)


class MemberStack(nn.Module):
    """The members as one potential of a single member, on a graph that holds a copy of the structures for each.

    Parameters
    ----------
    members
        Equivariant potentials for which `stackable` holds; their weights are copied.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        self.n_stacked = len(members)
        self.first = copy.deepcopy(members[0])
        of_members = [dict(member.network.named_parameters()) for member in members]
        for name, parameter in self.first.network.named_parameters():
            parameter.data = torch.cat([of_member[name].data for of_member in of_members])
        tables = [member.network.table for member in members if member.network.table is not None]
        if tables:
            self.first.network.table = RadialTable.joined(tables)
        self.register_buffer("readouts", torch.stack([member.readout() for member in members]))
        self.register_buffer("references", torch.stack([member.shifts for member in members]))

    readouts: Tensor
    references: Tensor
    n_members = 1

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return float(self.first.cutoff)

    def energies(self, graph: Graph) -> Tensor:
        """Return (1, M S) float64, eV, for a graph of M copies: first all structures of member 0."""
        features = self.first.summed_features(graph).unflatten(0, (self.n_stacked, -1))
        shifts = self.references.repeat_interleave(len(graph.numbers) // self.n_stacked, dim=0)
        shifts = shifts.gather(1, self.first.species(graph).unsqueeze(1)).squeeze(1)
        energies = torch.einsum("msf,mf->ms", features, self.readouts)
        return (energies.flatten() + graph.sum_over_atoms(shifts)).unsqueeze(0)
