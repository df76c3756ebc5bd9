"""`VariationalEnsemble`: members drawn from a potential with noise on its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.base import Evaluation, evaluate, joined
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.memory import MemoryCap
from ase_uq.potentials.variational.potential import VariationalPotential

# Of draws that do not share the body, as many go through it at once as have this many edges together: beyond, joining
# them saves nothing but takes memory.
MOST_EDGES = 20_000


class VariationalEnsemble(nn.Module):
    """S draws of a variational potential, frozen in weight space, about the potential of the mean weights.

    Member s is E(theta) + E(theta_s) - mean of E(theta_s): where the noise is large the mean over draws is biased and
    scatters, while theta is what was trained. The variance over members is that of the draws.

    `constants` (S, Z), eV, are added for every atom of an element; training sets them so that no draw shifts the
    energies of all its frames, and they are zero before.
    """

    pinned_mean = True
    """The mean over draws is the potential of the mean weights, and carries nothing of their scatter."""
    constants: Tensor

    def __init__(self, potential: VariationalPotential, n_members: int = 8, *, seed: int = 0) -> None:
        super().__init__()
        if n_members < 2:
            raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 8 or more is usual.")
        self.potential, self.seed, self._n_members = potential, seed, n_members
        dtype = next(potential.rates.parameters()).dtype
        for k, drawn in enumerate(potential.draws(n_members, torch.Generator().manual_seed(seed))):
            # Part of the state, and so of the file and its hash: generators differ between versions of torch.
            # The mean weights first.
            self.register_buffer(f"draws_{k}", torch.cat([torch.zeros_like(drawn[:1]), drawn]).to(dtype))
        constants = torch.zeros(n_members, len(potential.elements), dtype=torch.float64)
        self.register_buffer("constants", constants)
        self.memory_cap: MemoryCap | None = None

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        return self.potential.elements

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        return self.potential.scale

    @property
    def n_members(self) -> int:
        """Number of members that were drawn, M."""
        return self._n_members

    @property
    def shares_body(self) -> bool:
        """Whether draws differ in nothing before the readouts."""
        return self.potential.shares_body

    @property
    def usual_forces_var(self) -> str:
        """What a long run takes where nothing is said: one backward pass for all draws, right on average over steps."""
        return "stochastic" if self.shares_body else "exact"

    @property
    def std_error(self) -> float:
        """How well S draws know the standard deviation of the noise: 1/sqrt(2 (S - 1)), relative."""
        return float((2.0 * (self.n_members - 1)) ** -0.5)

    def energies(self, graph: Graph) -> Tensor:
        """Return the energies of all draws, (S, structures) float64, eV."""
        if self.shares_body:
            with self.potential.frozen(self._draws()):
                found = _about_the_first(self.potential.energies_from_one_body(graph, self.n_members + 1))
            return found + self._constants(graph)
        parts = []
        for some in self._parts(graph):
            with self.potential.frozen(some):
                parts.append(self.potential.energies(graph.copies(len(some[0]))).view(len(some[0]), -1))
        return _about_the_first(torch.cat(parts)) + self._constants(graph)

    def evaluate_members(self, graph: Graph, *, stress: bool = False) -> Evaluation:
        """Evaluate all draws: in one pass through the body they share, or side by side as copies of the structures."""
        if self.shares_body:
            return evaluate(_Energies(self), graph, stress=stress)
        parts = []
        for some in self._parts(graph):
            with self.potential.frozen(some):
                n_draws = len(some[0])
                found = evaluate(self.potential, graph.copies(n_draws), stress=stress)
                parts.append(
                    Evaluation(
                        energies=found.energies.view(n_draws, -1),
                        forces=found.forces.view(n_draws, -1, 3),
                        stresses=None if found.stresses is None else found.stresses.view(n_draws, -1, 6),
                    )
                )
        found = joined(parts)
        return Evaluation(
            energies=_about_the_first(found.energies) + self._constants(graph),
            forces=_about_the_first(found.forces),
            stresses=None if found.stresses is None else _about_the_first(found.stresses),
        )

    def for_inference(self) -> VariationalEnsemble:
        """Return a copy with fixed weights, and tabulated radial functions where they have no noise."""
        twin = copy.deepcopy(self).requires_grad_(False)
        if self.shares_body:
            twin.potential.body = self.potential.body.for_inference()
            # The copy of the body has brought a copy of the noise along; there must be one.
            for each in twin.potential.maps():
                each.noise = twin.potential.noise
        return twin

    def config(self) -> dict[str, Any]:
        """Return what builds the same architecture and the same draws."""
        return {"potential": self.potential.config(), "n_members": self.n_members, "seed": self.seed}

    def _constants(self, graph: Graph) -> Tensor:
        species = self.potential.rates.species(graph)
        return graph.sum_over_atoms(self.constants.T.index_select(0, species)).T

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Files from before there were constants.
        state_dict.setdefault(f"{prefix}constants", torch.zeros_like(self.constants))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _draws(self) -> list[Tensor]:
        # (1 + S, n_in, n_out) each: the mean weights first.
        return [getattr(self, f"draws_{k}") for k in range(len(self.potential.maps()))]

    def _parts(self, graph: Graph) -> Iterator[list[Tensor]]:
        at_once = max(1, MOST_EDGES // max(1, len(graph.senders)))
        if self.memory_cap is not None:
            at_once = min(at_once, self.memory_cap.members_at_once(graph))
        for first in range(0, self.n_members + 1, at_once):
            yield [drawn[first : first + at_once] for drawn in self._draws()]


class _Energies:
    """The draws as a potential without a way of its own to evaluate them."""

    def __init__(self, ensemble: VariationalEnsemble) -> None:
        self.energies, self.cutoff, self.n_members = ensemble.energies, ensemble.cutoff, ensemble.n_members


def _about_the_first(values: Tensor) -> Tensor:
    # (1 + S, ...) to (S, ...).
    return values[1:] - values[1:].mean(dim=0) + values[0]
