"""The smallest architecture that can be trained and stored: what a new one has to bring, and no more."""

import torch
from torch import nn

from ase_uq.potentials.elements import element_indices, species_of


class ToyPotential(nn.Module):
    """Gaussians of the distances to each element, linear in which are the energies of atoms."""

    n_members = 1

    def __init__(self, elements, cutoff=3.5, *, n_radial=4, seed=0):
        super().__init__()
        self._config = {"elements": list(elements), "cutoff": cutoff, "n_radial": n_radial, "seed": seed}
        self.elements, self.cutoff, self.n_radial = tuple(elements), cutoff, n_radial
        generator = torch.Generator().manual_seed(seed)
        n = len(self.elements)
        self.width = nn.Parameter(torch.ones(n, dtype=torch.float64))
        self.weights = nn.Parameter(torch.randn(n * n * n_radial, generator=generator, dtype=torch.float64) / 10)
        self.register_buffer("indices", element_indices(elements), persistent=False)
        self.register_buffer("shifts", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    # TrainablePotential

    def config(self):
        return dict(self._config)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    @property
    def has_reference(self):
        return float(self.scale) != 1.0

    def set_reference(self, *, shifts, scale, mean_neighbours):
        self.shifts.copy_(torch.as_tensor(shifts))
        self.scale.fill_(scale)

    def energies(self, graph):
        return (self.summed_features(graph) @ self.readout() + self.reference_energies(graph)).unsqueeze(0)

    # FeaturePotential: for shallow ensembles, and last layers by least squares

    @property
    def n_features(self):
        return len(self.weights)

    def features(self, graph):
        n, species = len(self.elements), self._species(graph)
        distances = torch.linalg.vector_norm(graph.edge_vectors(), dim=1, keepdim=True)
        centres = torch.linspace(0.5, self.cutoff, self.n_radial, dtype=torch.float64)
        sent = species[graph.senders]
        of_edges = torch.exp(-(((distances - centres) * self.width[sent].unsqueeze(1)) ** 2))
        of_edges = of_edges * (1.0 - distances / self.cutoff) ** 3
        rows = graph.receivers * n * n + species[graph.receivers] * n + sent
        return (
            of_edges.new_zeros(len(species) * n * n, self.n_radial).index_add(0, rows, of_edges).view(len(species), -1)
        )

    def summed_features(self, graph):
        return graph.sum_over_atoms(self.features(graph))

    def readout(self):
        return self.weights * self.scale

    def reference_energies(self, graph):
        return graph.sum_over_atoms(self.shifts[self._species(graph)])

    # RefitsReference and RefitsReadout: the last steps of a training

    @torch.no_grad()
    def move_reference(self, step):
        self.shifts.add_(step)

    @torch.no_grad()
    def move_readout(self, step):
        self.weights.add_(step / self.scale)

    def _species(self, graph):
        return species_of(graph.numbers, self.indices, self.elements)
