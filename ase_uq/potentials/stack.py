"""`MemberStack`: several equal potentials side by side, one forward and one backward pass for all.

A copy of the graph for each member, and every linear map a batched product over members. On small systems, where the
number of tensor operations is what costs, M members take little longer than one; on large ones nothing is won.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ase_uq.potentials.base import Evaluation, evaluate
from ase_uq.potentials.equivariant import EquivariantPotential
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.radial_table import RadialTable


def stackable(members: Sequence[nn.Module]) -> bool:
    """Return whether members differ in nothing but their weights, and those are fixed."""
    first = members[0]
    return all(
        type(member) is type(first) is EquivariantPotential  # a subclass may do anything
        and {**member.config(), "seed": 0} == {**first.config(), "seed": 0}
        and torch.equal(member.mean_neighbours, first.mean_neighbours)
        and _cells(member) == _cells(first)
        and not any(parameter.requires_grad for parameter in member.parameters())
        for member in members
    )


def _cells(member: EquivariantPotential) -> int | None:
    return None if member.network.table is None else member.network.table.n_cells


class MemberStack(nn.Module):
    """The members as one potential of a single member, on a graph that holds a copy of the structures for each.

    Parameters
    ----------
    members
        Potentials for which `stackable` holds; their weights are copied.
    """

    def __init__(self, members: Sequence[EquivariantPotential]) -> None:
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
        return self.first.cutoff

    def energies(self, graph: Graph) -> Tensor:
        """Return (1, M S) float64, eV, for a graph of M copies: first all structures of member 0."""
        features = self.first.summed_features(graph).unflatten(0, (self.n_stacked, -1))
        shifts = self.references.repeat_interleave(len(graph.numbers) // self.n_stacked, dim=0)
        shifts = shifts.gather(1, self.first.species(graph).unsqueeze(1)).squeeze(1)
        energies = torch.einsum("msf,mf->ms", features, self.readouts)
        return (energies.flatten() + graph.sum_over_atoms(shifts)).unsqueeze(0)

    def evaluate(self, graph: Graph, *, stress: bool) -> Evaluation:
        """Return energies, forces and stresses of every member on one graph."""
        found = evaluate(self, graph.copies(self.n_stacked), stress=stress)
        return Evaluation(
            energies=found.energies.view(self.n_stacked, -1),
            forces=found.forces.view(self.n_stacked, -1, 3),
            stresses=None if found.stresses is None else found.stresses.view(self.n_stacked, -1, 6),
        )
