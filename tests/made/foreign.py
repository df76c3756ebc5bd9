"""A message-passing potential as others write them, on e3nn's own layers: it knows nothing of ours but the graph."""

import torch
from e3nn import o3
from e3nn.nn import FullyConnectedNet
from torch import nn

from ase_uq.potentials.elements import element_indices, species_of


class ForeignPotential(nn.Module):
    """One message of scalars and vectors, mixed, squared to scalars and read out by three kinds of layers."""

    n_members = 1
    cutoff = 4.0

    def __init__(self, elements=("C", "H", "O"), channels=6, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            self.elements = tuple(elements)
            self.scale = torch.ones(())
            self.indices = element_indices(elements)
            irreps = o3.Irreps(f"{channels}x0e + {channels}x1o")
            self.embedding = nn.Embedding(len(elements), channels)
            self.harmonics = o3.SphericalHarmonics("0e + 1o", True, "component")
            self.product = o3.FullyConnectedTensorProduct(f"{channels}x0e", "0e + 1o", irreps, shared_weights=False)
            self.radial = FullyConnectedNet([5, 12, self.product.weight_numel], torch.nn.functional.silu)
            self.mixer = o3.Linear(irreps, irreps)
            self.norm = o3.Norm(irreps)
            self.readout = nn.Sequential(nn.Linear(2 * channels, 8), nn.SiLU())
            self.last = o3.Linear("8x0e", "0e")
        finally:
            torch.set_default_dtype(before)

    def energies(self, graph):
        vectors = graph.edge_vectors()
        x = torch.linalg.vector_norm(vectors, dim=1, keepdim=True) / self.cutoff
        waves = torch.sin(torch.arange(1, 6, dtype=torch.float64) * torch.pi * x) * (1 - x) ** 3
        sent = self.embedding(species_of(graph.numbers, self.indices, self.elements))[graph.senders]
        messages = self.product(sent, self.harmonics(vectors), self.radial(waves))
        atoms = messages.new_zeros(len(graph.numbers), messages.shape[1]).index_add(0, graph.receivers, messages)
        of_atoms = self.last(self.readout(self.norm(self.mixer(atoms))))
        return graph.sum_over_atoms(of_atoms).T
