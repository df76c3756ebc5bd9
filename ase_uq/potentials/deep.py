"""`DeepEnsemble`: M potentials that share nothing but the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import Compilable, KnowsElements, Stackable, inference_copy
from ase_uq.potentials.base import Evaluation, Part, Potential, joined
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.stack import stackable

# Edges times channels that are worth being evaluated together; measured with benchmarks/overhead_per_step.py.
EDGE_VALUES = 60_000


class DeepEnsemble(nn.Module):
    """Independent members of one cut-off, evaluated on one graph.

    Parameters
    ----------
    potentials
        At least two potentials of one member, any that `ase_uq.testing.assert_potential` passes, with equal cut-offs;
        those that know some elements only must know the same ones. Members that are torch modules move along to other
        devices and have a place in the state.

    Raises
    ------
    InputError
        For fewer than two members, or members that do not fit together.
    """

    def __init__(self, potentials: Sequence[Potential]) -> None:
        super().__init__()
        if len(potentials) < 2:
            raise InputError(f"`potentials` must hold at least 2 members, got {len(potentials)}; add members.")
        strange = [type(each).__name__ for each in potentials if not isinstance(each, Potential)]
        if strange:
            raise InputError(
                f"`potentials` must have `cutoff`, `n_members` and `energies(graph)`, got {', '.join(strange)}; check "
                "yours with ase_uq.testing.assert_potential."
            )
        counts = [potential.n_members for potential in potentials]
        if set(counts) != {1}:
            raise InputError(
                f"`potentials` must have one member each, got {counts}; what a deep ensemble of such knows of its "
                "mean cannot be told from its spread, use one of them."
            )
        known = [each.elements for each in potentials if isinstance(each, KnowsElements) and each.elements is not None]
        for name, values in (("cutoff", [float(each.cutoff) for each in potentials]), ("elements", known)):
            if any(value != values[0] for value in values):
                raise InputError(f"`potentials` must share one {name}, got {values}; train them with equal settings.")
        self._elements = tuple(known[0]) if known else None
        self.members = nn.ModuleList(each if isinstance(each, nn.Module) else _Plain(each) for each in potentials)
        first = self.members[0]
        self._values_per_edge = first.values_per_edge() if isinstance(first, Stackable) else 0
        # Whether members can be stacked, where it is known once and for all.
        self._stackable: bool | None = None
        # The stacks in use, for the number of members in each. A tuple, so that they are no part of the state: they are
        # copies of the weights.
        self._stacks: tuple[int, tuple[Part, ...]] = (0, ())

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.members[0].cutoff  # type: ignore[return-value]

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Chemical symbols the members know, or `None` if they do not say."""
        return self._elements

    @property
    def n_members(self) -> int:
        """Number of members, M."""
        return len(self.members)

    def energies(self, graph: Graph) -> Tensor:
        """Return member energies, (M, S) float64, eV."""
        return torch.cat([member.energies(graph) for member in self.members])  # type: ignore[operator]

    def representative(self) -> Any:
        """Return the first member."""
        return self.members[0]

    def for_inference(self) -> DeepEnsemble:
        """Return copies of the members with fixed weights, prepared for evaluation only, see there."""
        members: list[Any] = list(self.members)
        first = members[0]
        alike = isinstance(first, Stackable) and all(type(member) is type(first) for member in members)
        twin = DeepEnsemble(first.prepared(members) if alike else [inference_copy(member) for member in members])
        twin._stackable = stackable(twin.members)
        return twin

    def parts(self, graph: Graph, *, at_once: int | None = None) -> Sequence[Part]:
        """Return members side by side where that pays, in groups that fit the cache; otherwise one after another.

        Members that are still trainable are never stacked, because a stack is a copy of their weights.
        """
        size = self._group_size(graph, at_once)
        members: list[Any] = list(self.members)
        if size == 1:
            return [Part(member) for member in members]
        found, stacks = self._stacks  # at once: another thread may want groups of another size
        if found != size:
            groups = [members[start : start + size] for start in range(0, len(members), size)]
            stacks = tuple(Part(type(group[0]).stacked(group), len(group)) for group in groups)
            self._stacks = size, stacks
        return stacks

    def joined(self, found: Sequence[Evaluation], graph: Graph) -> Evaluation:  # noqa: ARG002
        """Join evaluations of the members."""
        return joined(found)

    def units(self) -> list[Any]:
        """Return the members: each is evaluated by itself."""
        return self._given()

    def _given(self) -> list[Any]:
        return [member.plain if isinstance(member, _Plain) else member for member in self.members]

    def _group_size(self, graph: Graph, at_once: int | None) -> int:
        if not self._values_per_edge:
            return 1
        size = min(self.n_members, EDGE_VALUES // (max(len(graph.senders), 1) * self._values_per_edge))
        if at_once is not None:
            size = min(size, at_once)
        if size <= 1:
            return 1
        return size if (stackable(self.members) if self._stackable is None else self._stackable) else 1

    def compilable_parts(self) -> list[Any]:
        """Return the members if one package serves them all."""
        compilable = all(isinstance(member, Compilable) and member.compilable_parts() for member in self.members)
        return list(self.members) if compilable and stackable(self.members) else []

    def architecture(self) -> Mapping[str, Any]:
        """Return that of the members."""
        first: Any = self.members[0]
        return {"members": first.architecture()}

    def config(self) -> dict[str, Any]:
        """Return the members, see `ase_uq.potentials.stored`."""
        return {"members": self._given()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DeepEnsemble:
        """Build the members and join them."""
        return cls(config["members"])


class _Plain(nn.Module):
    """A potential that is no module in the place of one; it is never copied, for it has no weights that torch knows."""

    n_members = 1

    def __init__(self, plain: Potential) -> None:
        super().__init__()
        self.plain, self.cutoff = plain, plain.cutoff

    def energies(self, graph: Graph) -> Tensor:
        return self.plain.energies(graph)

    def for_inference(self) -> _Plain:
        return self
