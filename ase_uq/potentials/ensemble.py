"""`DeepEnsemble`: M potentials that share nothing but the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.graph import Graph
from ase_uq.potentials.base import Potential


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
        """M."""
        return len(self.members)

    def energies(self, graph: Graph) -> Tensor:
        """Return member energies, (M, S) float64, eV."""
        return torch.cat([member.energies(graph) for member in self.members])  # type: ignore[operator]

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build the same architecture."""
        return {"members": [member.config() for member in self.members]}  # type: ignore[operator]
