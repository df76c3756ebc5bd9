"""`VariationalEnsemble`: members drawn from a potential with noise on its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import Abilities, inference_copy
from ase_uq.potentials.base import Evaluation, Part, joined
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.variational.draws import SeparateDraws, SharingDraws
from ase_uq.potentials.variational.potential import VariationalPotential

# Of draws that do not share the body, as many go through it at once as have this many edges together: beyond, joining
# them saves nothing but takes memory.
MOST_EDGES = 20_000


class VariationalEnsemble(nn.Module):
    """M draws of a variational potential, frozen in weight space, about the potential of the mean weights.

    Member m is E(theta) + E(theta_m) - mean of E(theta_m): where the noise is large the mean over draws is biased and
    scatters, while theta is what was trained. The variance over members is that of the draws.

    `constants` (M, Z), eV, are added for every atom of an element; training sets them so that no draw shifts the
    energies of all its frames, and they are zero before.
    """

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

    def abilities(self) -> Abilities:
        """Return what the draws are: their mean is the potential of the mean weights, pinned to it."""
        return Abilities(
            elements=self.elements,
            shares_body=self.shares_body,
            pinned_mean=True,
            # One backward pass for all draws, right on average over steps.
            usual_forces_var="stochastic" if self.shares_body else "exact",
            seed=self.seed,
        )

    def underlying(self) -> Any:
        """Return the potential without its noise."""
        return self.potential.body

    def representative(self) -> VariationalPotential:
        """Return the variational potential."""
        return self.potential

    @property
    def std_error(self) -> float:
        """How well M draws know the standard deviation of the noise: 1/sqrt(2 (M - 1)), relative."""
        return float((2.0 * (self.n_members - 1)) ** -0.5)

    def energies(self, graph: Graph) -> Tensor:
        """Return the energies of all draws, (M, S) float64, eV."""
        if self.shares_body:
            raw = SharingDraws(self.potential, self._draws()).energies(graph)
        else:
            some = self._separate(graph, at_once=None)
            raw = torch.cat([each.energies(graph.copies(each.n_copies)).view(each.n_copies, -1) for each in some])
        return _about_the_first(raw) + self._constants(graph)

    def parts(self, graph: Graph, *, at_once: int | None = None) -> list[Part]:
        """Return the draws side by side as copies of the structures; none where one pass through the body does."""
        if self.shares_body:
            return []
        return [Part(each, each.n_copies) for each in self._separate(graph, at_once)]

    def joined(self, found: Sequence[Evaluation], graph: Graph) -> Evaluation:
        """Join evaluations of the draws, put them about that of the mean weights, and add their constants."""
        raw = joined(found)
        return Evaluation(
            energies=_about_the_first(raw.energies) + self._constants(graph),
            forces=_about_the_first(raw.forces),
            stresses=None if raw.stresses is None else _about_the_first(raw.stresses),
        )

    def units(self) -> list[VariationalPotential]:
        """Return the potential of a single draw, unless all draws go through the body together."""
        return [] if self.shares_body else [self.potential]

    def for_inference(self) -> VariationalEnsemble:
        """Return a copy with fixed weights, and tabulated radial functions where they have no noise."""
        twin = copy.deepcopy(self).requires_grad_(False)
        if self.shares_body:
            twin.potential.body = inference_copy(self.potential.body)
            # The copy of the body has brought a copy of the noise along; there must be one.
            for each in twin.potential.maps():
                each.noise = twin.potential.noise
        return twin

    def config(self) -> dict[str, Any]:
        """Return the potential, the number of draws and their seed, see `ase_uq.potentials.stored`."""
        return {"potential": self.potential, "n_members": self.n_members, "seed": self.seed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VariationalEnsemble:
        """Draw members of a potential."""
        return cls(**config)

    def _constants(self, graph: Graph) -> Tensor:
        species = self.potential.rates.species(graph)
        return graph.sum_over_atoms(self.constants.T.index_select(0, species)).T

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Files from before there were constants.
        state_dict.setdefault(f"{prefix}constants", torch.zeros_like(self.constants))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _draws(self) -> list[Tensor]:
        # (1 + M, n_in, n_out) each: the mean weights first.
        return [getattr(self, f"draws_{k}") for k in range(len(self.potential.maps()))]

    def _separate(self, graph: Graph, at_once: int | None) -> list[SeparateDraws]:
        size = max(1, MOST_EDGES // max(1, len(graph.senders)))
        if at_once is not None:
            size = min(size, at_once)
        return [
            SeparateDraws(self.potential, [drawn[first : first + size] for drawn in self._draws()])
            for first in range(0, self.n_members + 1, size)
        ]


def _about_the_first(values: Tensor) -> Tensor:
    # (1 + M, ...) to (M, ...).
    return values[1:] - values[1:].mean(dim=0) + values[0]
