"""`DeepEnsemble`: M potentials that share nothing but the graph."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.base import Evaluation, Potential, evaluate, joined
from ase_uq.potentials.equivariant import EquivariantPotential
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.memory import MemoryCap
from ase_uq.potentials.stack import MemberStack, stackable

# Edges times channels that are worth being evaluated together; measured with benchmarks/overhead_per_step.py.
EDGE_VALUES = 60_000


class DeepEnsemble(nn.Module):
    """Independent members of one cut-off, evaluated on one graph.

    Parameters
    ----------
    potentials
        At least two single-member potentials (torch modules) with equal cut-offs and elements.

    Raises
    ------
    InputError
        For fewer than two members, or members that do not fit together.
    """

    def __init__(self, potentials: Sequence[Potential]) -> None:
        super().__init__()
        if len(potentials) < 2:
            raise InputError(f"`potentials` must hold at least 2 members, got {len(potentials)}; add members.")
        for name in ("cutoff", "elements"):
            values = [getattr(potential, name) for potential in potentials]
            if any(value != values[0] for value in values):
                raise InputError(f"`potentials` must share one {name}, got {values}; train them with equal settings.")
        self.members = nn.ModuleList(potentials)  # type: ignore[arg-type]
        # By number of members. A list, so that they are no part of the state: they are copies of the weights.
        self._stacks: dict[int, list[MemberStack]] = {}
        self.memory_cap: MemoryCap | None = None

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.members[0].cutoff  # type: ignore[return-value]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols the members know."""
        return self.members[0].elements  # type: ignore[return-value]

    @property
    def n_members(self) -> int:
        """Number of members, M."""
        return len(self.members)

    def energies(self, graph: Graph) -> Tensor:
        """Return member energies, (M, S) float64, eV."""
        return torch.cat([member.energies(graph) for member in self.members])  # type: ignore[operator]

    def for_inference(self) -> DeepEnsemble:
        """Return copies of the members with fixed weights, prepared for evaluation only, see there."""
        members: list[Any] = list(self.members)
        if all(isinstance(member, EquivariantPotential) for member in members):
            # Equally fine tables, so that members can be stacked; none where one member is better without.
            cells = [member.radial_cells() for member in members]
            return DeepEnsemble([member.for_inference(max(cells) if all(cells) else 0) for member in members])
        return DeepEnsemble([copy.deepcopy(member).requires_grad_(False) for member in members])

    def evaluate_members(self, graph: Graph, *, stress: bool = False) -> Evaluation:
        """Evaluate members side by side where that pays, in groups that fit the cache; otherwise one after another.

        Members that are still trainable are never stacked, because a stack is a copy of their weights.
        """
        size = self._group_size(graph)
        if size == 1:
            return joined([evaluate(member, graph, stress=stress) for member in self.members])  # type: ignore[arg-type]
        if size not in self._stacks:
            groups = [list(self.members)[start : start + size] for start in range(0, self.n_members, size)]
            self._stacks = {size: [MemberStack(group) for group in groups]}  # type: ignore[arg-type]
        return joined([stack.evaluate(graph, stress=stress) for stack in self._stacks[size]])

    def _group_size(self, graph: Graph) -> int:
        values = max(len(graph.senders), 1) * self.members[0].config().get("channels", 1)  # type: ignore[operator]
        size = min(self.n_members, EDGE_VALUES // values)
        if self.memory_cap is not None:
            size = min(size, self.memory_cap.members_at_once(graph))
        return size if size > 1 and stackable(list(self.members)) else 1

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build the same architecture."""
        return {"members": [member.config() for member in self.members]}  # type: ignore[operator]
