"""What surrounds an atom, in a few invariants, and how far it is from what surrounded atoms of the training set.

==========  ====================================================================
symbol      variable
==========  ====================================================================
A_i         neighbour density, sum_j g(r_ij) Y(r_ij), with radial functions g mixed at random for each element
d_i         `invariants`: A_i of degree 0 and the norms of those of higher degree, (N, D)
z_i         `forward`: d_i centred and whitened within the element of the atom, (N, D)
m_i         `beyond`: ln((1 + |z_i|^2/t)/2), t the mean of |z_i|^2 over the atoms of the element in the training
            frames: about zero or below among them, and unbounded outside
==========  ====================================================================

Nothing here is trained: the mixing is drawn once, the centring and whitening are those of the training frames. Before
any have been seen, all elements are taken for known; after, one that did not occur is far from everything.

References
----------
Whitened distance: P. C. Mahalanobis, Proc. Natl. Inst. Sci. India 2, 49 (1936). Random projections of densities:
Darby, Kermode and Csanyi, arXiv:2112.13055.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ase_uq.potentials.blocks import RadialBasis, spherical_harmonics
from ase_uq.potentials.graph import Graph

_CHANNELS, _N_RADIAL, _L_MAX = 8, 6, 2
# Of squared norms, so that they have derivatives at zero; of the variances, so that no direction is blown up.
_FLOOR, _RIDGE = 1e-4, 1e-3
# m of an element that did not occur.
_UNKNOWN = 7.0

DIMENSION = _CHANNELS * (_L_MAX + 1)


class Environments(nn.Module):
    """Whitened invariants of every atom.

    Parameters
    ----------
    n_elements, cutoff
        Of the potential; Å.
    generator
        Of the mixing.
    """

    mixing: Tensor
    centre: Tensor
    whitening: Tensor
    typical: Tensor
    known: Tensor

    def __init__(self, n_elements: int, cutoff: float, generator: torch.Generator) -> None:
        super().__init__()
        self.radial = RadialBasis(cutoff, _N_RADIAL)
        mixing = torch.randn(n_elements, _N_RADIAL, _CHANNELS, generator=generator, dtype=torch.float64)
        # In the state, and so in the file: generators differ between versions of torch.
        self.register_buffer("mixing", mixing / math.sqrt(_N_RADIAL))
        self.register_buffer("centre", torch.zeros(n_elements, DIMENSION, dtype=torch.float64))
        self.register_buffer("whitening", torch.eye(DIMENSION, dtype=torch.float64).repeat(n_elements, 1, 1))
        self.register_buffer("typical", torch.full((n_elements,), float(DIMENSION), dtype=torch.float64))
        self.register_buffer("known", torch.ones(n_elements, dtype=torch.float64))

    def forward(self, species: Tensor, graph: Graph, vectors: Tensor) -> Tensor:
        """Return z_i (N, D) for `species` (N,) and the edge vectors (E, 3) of the graph, which keep their gradient."""
        centred = self.invariants(species, graph, vectors) - self.centre.index_select(0, species)
        return torch.bmm(centred.unsqueeze(1), self.whitening.index_select(0, species)).squeeze(1)

    def beyond(self, species: Tensor, whitened: Tensor) -> Tensor:
        """Return m_i (N, 1) for z_i (N, D)."""
        typical, known = (each.index_select(0, species) for each in (self.typical, self.known))
        distance = torch.log1p(whitened.square().sum(dim=1) / typical) - math.log(2.0)
        return (known * distance + (1.0 - known) * _UNKNOWN).unsqueeze(1)

    def invariants(self, species: Tensor, graph: Graph, vectors: Tensor) -> Tensor:
        """Return the descriptors d_i of the atoms, (N, D)."""
        vectors = vectors.to(self.mixing.dtype)
        basis, envelope = self.radial(torch.linalg.vector_norm(vectors, dim=-1))
        mixing = self.mixing.index_select(0, species.index_select(0, graph.senders))
        radial = torch.bmm((basis * envelope).unsqueeze(1), mixing)
        harmonics = spherical_harmonics(vectors, _L_MAX).unsqueeze(1)
        density = torch.bmm(graph.table(harmonics).transpose(1, 2), graph.table(radial))
        degrees = [density[:, 0]]
        for degree in range(1, _L_MAX + 1):
            squares = density[:, degree**2 : (degree + 1) ** 2].square().mean(dim=1)
            degrees.append(torch.sqrt(squares + _FLOOR))
        return torch.cat(degrees, dim=1)

    @torch.no_grad()
    def learn(self, structures: Iterable[tuple[Tensor, Graph]]) -> None:
        """Take the centre and the whitening of every element from `species` and graphs of the training frames."""
        found = [(species, self.invariants(species, graph, graph.edge_vectors())) for species, graph in structures]
        species, invariants = (torch.cat(parts) for parts in zip(*found, strict=True))
        for element in range(len(self.centre)):
            own = invariants[species == element].to(torch.float64)
            self.known[element] = float(len(own) > 0)
            if not len(own):
                continue
            covariance = torch.cov(own.T, correction=0)
            mean_variance = covariance.diagonal().mean().clamp(min=_FLOOR)
            ridge = _RIDGE * mean_variance * torch.eye(DIMENSION, dtype=torch.float64, device=own.device)
            values, axes = torch.linalg.eigh(covariance + ridge)
            self.centre[element] = own.mean(dim=0)
            self.whitening[element] = axes / torch.sqrt(values)
            white = (own - self.centre[element].to(own)) @ self.whitening[element].to(own)
            self.typical[element] = white.square().sum(dim=1).mean().clamp(min=1.0)
