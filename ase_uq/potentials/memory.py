"""How much memory an evaluation takes, and a cap on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import KnowsElements
from ase_uq.potentials.graph import Graph, build_graph, collate

GIGABYTE = 1e9
# Largest use over what is kept for the backward pass, as measured: 1.1 to 1.5.
PEAK = 1.5


@dataclass(frozen=True, slots=True)
class MemoryCap:
    """The most memory that an evaluation may take beyond the model.

    Attributes
    ----------
    limit
        The most it may take, bytes.
    per_atom, per_edge, per_row
        Bytes that an evaluation with forces takes for every member evaluated at a time; rows are those of a table that
        is as wide for every atom as for the one with the most neighbours.
    """

    limit: float
    per_atom: float
    per_edge: float
    per_row: float

    @classmethod
    def of(cls, potential: Any, gigabytes: float) -> MemoryCap:
        """Return a cap for a potential, a torch module with `cutoff` and `elements`.

        Raises
        ------
        InputError
            For a limit that is not positive, or another kind of potential.
        """
        if not (isinstance(gigabytes, (int, float)) and math.isfinite(gigabytes) and gigabytes > 0):
            raise InputError(
                f"`memory_limit` must be a positive number of GB, got {gigabytes!r}; leave it out for no limit."
            )
        weights = list(potential.parameters()) if isinstance(potential, nn.Module) else []
        elements = potential.elements if isinstance(potential, KnowsElements) else None
        if not (weights and elements):
            raise InputError(
                f"`memory_limit` needs a torch module with `elements`, {type(potential).__name__} is not; leave it out."
            )
        # Three small systems tell the parts apart: atoms that see no other, a crystal as dense as liquids are, and both
        # together, where the lonely atoms have empty rows.
        lonely, dense = (
            build_graph(bulk(elements[0], "fcc", a=a * potential.cutoff).repeat(2), potential.cutoff)
            for a in (3.0, 0.8)
        )
        probes = [lonely, dense, collate([lonely, dense])]
        sizes = np.array([[len(graph.positions), len(graph.senders), _rows(graph)] for graph in probes])
        parts = np.linalg.solve(sizes, [_kept(potential, graph) for graph in probes])
        return cls(GIGABYTE * gigabytes, *(PEAK * float(part) for part in parts.clip(min=0.0)))

    def needed(self, *graphs: Graph) -> float:
        """Return the bytes that one member takes on these structures together."""
        n_atoms = sum(len(graph.positions) for graph in graphs)
        n_edges = sum(len(graph.senders) for graph in graphs)
        widest = max(len(graph.columns) for graph in graphs)
        return self.per_atom * n_atoms + self.per_edge * n_edges + self.per_row * n_atoms * widest

    def members_at_once(self, graph: Graph) -> int:
        """Return how many members may be evaluated side by side.

        Raises
        ------
        InputError
            If not even one may.
        """
        needed = self.needed(graph)
        if needed > self.limit:
            enough = 1.06 * needed / GIGABYTE  # more than two digits can take away
            raise InputError(
                f"`memory_limit` must be at least {enough:.2g} GB for one member on these {len(graph.positions)} "
                f"atoms, got {self.limit / GIGABYTE:.2g}; raise it, or use a smaller cell."
            )
        return int(self.limit / needed)


def _rows(graph: Graph) -> int:
    return len(graph.positions) * len(graph.columns)


def _kept(potential: Any, graph: Graph) -> int:
    """Bytes that are kept from the energies for their derivatives, the weights left out."""
    fixed = {each.untyped_storage().data_ptr() for each in (*potential.parameters(), *potential.buffers())}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    graph = graph.to(next(potential.parameters()).device)
    moving = replace(graph, positions=graph.positions.requires_grad_(True))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        energies = potential.energies(moving)  # alive to the end, so that no place is used twice
    del energies
    return sum(size for where, size in kept.items() if where not in fixed)
