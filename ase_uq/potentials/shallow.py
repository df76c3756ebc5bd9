"""`ShallowEnsemble`: one body and M last layers.

======  ======================================================================
symbol  variable
======  ======================================================================
F       `summed_features`, last-layer features of a structure, (S, F)
w       `readout()` of the body, (F,)
d_m     `deviations()[:, m]`, (F, M): what head m adds, with mean 0 over heads
c_z     `centre[z]`, (Z, F): features of an average atom of each element in training, zero before
E_m     reference + F . w + (F - sum_i c_z(i)) . d_m
======  ======================================================================

The heads are kept as deviations from the last layer of the body, so the member mean *is* the body, to the last digit.
An average atom is left alone by them: what a head adds to the energies of all frames of a composition is no error of
forces, and nothing in training would hold it down.

References
----------
Kellner & Ceriotti, Mach. Learn.: Sci. Technol. 5, 035006 (2024), arXiv:2402.16621.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.base import FeaturePotential, SupportsInference
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.graph import Graph


class ShallowEnsemble(nn.Module):
    """M energies at the price of one: only the last layer has members.

    Parameters
    ----------
    potential
        The body, a torch module with last-layer features, such as `EquivariantPotential`.
    n_members
        M, at least 2.
    seed
        Of the initial heads, which scatter by as much as the last layer of the body is large.
    deviations
        (F, M), eV: heads to start from instead, as what each adds to the last layer of the body.
    exact_spread
        Whether the heads have the covariance of infinitely many, as `ase_uq.models.llpr` makes them with M > F.

    Raises
    ------
    InputError
        For fewer than two members or a potential without features.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_uq.potentials.graph import build_graph
    >>> from ase_uq.potentials import EquivariantPotential
    >>> body = EquivariantPotential(elements=["O", "H"], cutoff=4.0, channels=8)
    >>> ensemble = ShallowEnsemble(body, n_members=16)
    >>> ensemble.energies(build_graph(molecule("H2O"), 4.0)).shape
    torch.Size([16, 1])
    """

    shares_body = True
    pinned_mean = True
    """The mean over heads is the body, and carries nothing of their scatter."""
    centre: Tensor
    indices: Tensor

    def __init__(
        self,
        potential: FeaturePotential,
        n_members: int = 8,
        *,
        seed: int = 0,
        deviations: Tensor | None = None,
        exact_spread: bool = False,
    ) -> None:
        super().__init__()
        self.exact_spread = exact_spread
        if n_members < 2:
            raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 8 or more is usual.")
        if not isinstance(potential, FeaturePotential):
            raise InputError(
                f"`potential` must have last-layer features, {type(potential).__name__} has none; "
                "use EquivariantPotential."
            )
        if deviations is None:
            size = potential.readout().detach().square().mean().sqrt()
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(potential.n_features, n_members, generator=generator, dtype=torch.float64)
            deviations = drawn * size
        self.potential = potential
        self.heads = nn.Parameter(deviations / potential.scale)
        centre = torch.zeros(len(potential.elements), potential.n_features, dtype=torch.float64)
        self.register_buffer("centre", centre)
        self.register_buffer("indices", element_indices(potential.elements), persistent=False)

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols the body knows."""
        return self.potential.elements

    @property
    def scale(self) -> Tensor:
        """Force scale of the body, eV/Å."""
        return self.potential.scale

    @property
    def n_members(self) -> int:
        """Number of members, M, which is that of the heads."""
        return self.heads.shape[1]

    def deviations(self) -> Tensor:
        """Return what each head adds to the last layer of the body, (F, M) float64, eV; the mean over heads is 0."""
        return (self.heads - self.heads.mean(dim=1, keepdim=True)) * self.scale

    def energies(self, graph: Graph) -> Tensor:
        """Return member energies, (M, S) float64, eV."""
        features = self.potential.summed_features(graph)
        mean = features @ self.potential.readout() + self.potential.reference_energies(graph)
        deviations = self.deviations()
        species = species_of(graph.numbers, self.indices, self.elements)
        constants = graph.sum_over_atoms((self.centre @ deviations).index_select(0, species))
        return mean + (features @ deviations - constants).T

    def for_inference(self) -> ShallowEnsemble:
        """Return a copy with fixed weights and the body prepared for evaluation only, see there."""
        twin = copy.deepcopy(self).requires_grad_(False)
        if isinstance(self.potential, SupportsInference):
            twin.potential = self.potential.for_inference()
        return twin

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Files from before there were centres.
        state_dict.setdefault(f"{prefix}centre", torch.zeros_like(self.centre))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def config(self) -> dict[str, Any]:
        """Return what is needed to build the same architecture."""
        exact = {"exact_spread": True} if self.exact_spread else {}
        return {"potential": self.potential.config(), "n_members": self.n_members, **exact}
