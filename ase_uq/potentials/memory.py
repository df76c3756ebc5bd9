"""How much memory an evaluation takes, and a cap on it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from ase.build import bulk
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.graph import Graph, build_graph

GIGABYTE = 1e9
# Largest use over what is kept for the backward pass, as measured: 1.1 to 1.5.
PEAK = 1.5


@dataclass(frozen=True, slots=True)
class MemoryCap:
    """The most memory that an evaluation may take beyond the model.

    Attributes
    ----------
    limit
        Bytes.
    per_edge, per_atom
        Bytes that an evaluation with forces takes for every member evaluated at a time.
    """

    limit: float
    per_edge: float
    per_atom: float

    @classmethod
    def of(cls, potential: Any, gigabytes: float) -> MemoryCap:
        """Return a cap for a potential, a torch module that knows its `elements`.

        Raises
        ------
        InputError
            For a limit that is not positive.
        """
        if not (math.isfinite(gigabytes) and gigabytes > 0):
            raise InputError(f"`memory_limit` must be positive, in GB, got {gigabytes}; use None for no limit.")
        # Two small crystals: one whose atoms do not see each other, and one as dense as liquids are.
        sparse, dense = (
            build_graph(bulk(potential.elements[0], "fcc", a=a * potential.cutoff).repeat(2), potential.cutoff)
            for a in (3.0, 0.8)
        )
        per_atom = _kept(potential, sparse) / len(sparse.positions)
        per_edge = (_kept(potential, dense) - per_atom * len(dense.positions)) / len(dense.senders)
        return cls(GIGABYTE * gigabytes, PEAK * per_edge, PEAK * per_atom)

    def needed(self, *graphs: Graph) -> float:
        """Return the bytes that one member takes on these structures together."""
        return sum(self.per_edge * len(graph.senders) + self.per_atom * len(graph.positions) for graph in graphs)

    def members_at_once(self, graph: Graph) -> int:
        """Return how many members may be evaluated side by side.

        Raises
        ------
        InputError
            If not even one may.
        """
        needed = self.needed(graph)
        if needed > self.limit:
            raise InputError(
                f"`memory_limit` must be at least {needed / GIGABYTE:.2g} GB for one member on these "
                f"{graph.positions.shape[0]} atoms, got {self.limit / GIGABYTE:.2g}; raise it, or use a smaller cell."
            )
        return int(self.limit / needed)


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
