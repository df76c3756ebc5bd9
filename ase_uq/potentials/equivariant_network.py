"""The network of `EquivariantPotential`: messages, products on the atoms, and what the last layers see.

The symbols are those of `ase_uq.potentials.equivariant`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.potentials.blocks import MLP, Coupling, DegreeLinear, RadialBasis, spherical_harmonics
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.radial_table import RadialTable


class Network(nn.Module):
    """The part that runs in the chosen precision: graph -> features of each atom, linear in which are the energies.

    With G groups, see `blocks`, atoms and edges of the graph come in G equal blocks.
    """

    def __init__(
        self,
        n_elements: int,
        generator: torch.Generator,
        *,
        cutoff: float,
        channels: int,
        l_max: int,
        hidden_l_max: int,
        n_layers: int,
        body_order: int,
        n_radial: int,
        radial_width: int,
        **_: Any,
    ) -> None:
        super().__init__()
        self.l_max = l_max
        self.radial = RadialBasis(cutoff, n_radial)
        self.table: RadialTable | None = None
        embedding = torch.randn(1, n_elements, channels, generator=generator, dtype=torch.float64)
        self.embedding = nn.Parameter(embedding)
        self.layers = nn.ModuleList()
        for layer in range(n_layers):
            l_in = hidden_l_max if layer else 0
            l_out = hidden_l_max if layer + 1 < n_layers else 0
            radial_sizes = [n_radial, radial_width, radial_width]
            self.layers.append(_Layer(n_elements, channels, (l_in, l_max, l_out), body_order, radial_sizes, generator))
        self.readouts = nn.ModuleList(
            MLP([channels, 1] if layer + 1 < n_layers else [channels, max(channels // 4, 8), 1], generator)
            for layer in range(n_layers)
        )

    def forward(self, graph: Graph, species: Tensor, mean_neighbours: Tensor) -> Tensor:
        """Return what the last layers see of every atom, (N, F)."""
        return self.seen_by_last_layers(self.scalars(graph, species, mean_neighbours))

    def seen_by_last_layers(self, scalars: list[Tensor]) -> Tensor:
        """What the last, linear layers see of the scalars of every layer, (N, F)."""
        seen = [readout.hidden(each) for readout, each in zip(self.readouts, scalars, strict=True)]  # type: ignore[operator]
        return torch.cat(seen, dim=1)

    def scalars(self, graph: Graph, species: Tensor, mean_neighbours: Tensor) -> list[Tensor]:
        """Scalar features after every layer, (N, C) each."""
        vectors = graph.edge_vectors()
        dtype = self.embedding.dtype
        weights = self.radial_functions(torch.linalg.vector_norm(vectors, dim=-1), mean_neighbours)
        harmonics = spherical_harmonics(vectors.to(dtype), self.l_max)
        n_groups, n_elements, _ = self.embedding.shape
        if n_groups > 1:
            # Rows of the joined tables: every group has its own elements.
            blocks = species.view(n_groups, -1)
            species = (blocks + n_elements * torch.arange(n_groups, device=species.device).unsqueeze(1)).flatten()
        nodes = self.embedding.flatten(0, 1).index_select(0, species).unsqueeze(1)
        scalars = []
        for layer, of_layer in zip(self.layers, weights, strict=True):
            nodes = layer(nodes, species, graph, of_layer, harmonics)
            scalars.append(nodes[:, 0])
        return scalars

    def radial_functions(self, distances: Tensor, mean_neighbours: Tensor) -> list[Tensor]:
        """Weights of the paths of every layer, (E, P C) each, at distances (E,) float64."""
        if self.table is not None:
            return self.table(distances)  # type: ignore[no-any-return]
        dtype = self.embedding.dtype
        basis, envelope = self.radial(distances.to(dtype))
        envelope = envelope / mean_neighbours.to(dtype)
        return [layer.radial(basis, envelope) for layer in self.layers]  # type: ignore[operator]

    def noise_of_last_layers(self, features: Tensor) -> Tensor | None:
        """What noise adds to what the last layers make of features, (N,) in units of the scale, or `None` for none."""
        parts = features.split([readout.last_weights().shape[1] for readout in self.readouts], dim=1)  # type: ignore[operator]
        found = [readout.last_noise(part) for readout, part in zip(self.readouts, parts, strict=True)]  # type: ignore[operator]
        noises = [noise for noise in found if noise is not None]
        return torch.stack(noises).sum(dim=0).squeeze(1) if noises else None

    @property
    def n_features(self) -> int:
        """Number of features of an atom, F."""
        return self.last_weights().shape[1]

    def last_weights(self) -> Tensor:
        """Weights of the last layer, (G, F), in units of the scale."""
        return torch.cat([readout.last_weights() for readout in self.readouts], dim=1)  # type: ignore[operator]


class _Layer(nn.Module):
    """One message and the products that follow it."""

    def __init__(
        self,
        n_elements: int,
        channels: int,
        degrees: tuple[int, int, int],
        body_order: int,
        radial_sizes: list[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        l_in, l_max, l_out = degrees
        self.message = Coupling(l_in, l_max, l_max)
        self.radial = MLP([*radial_sizes, self.message.n_paths * channels], generator)
        self.before = DegreeLinear(l_in, channels, channels, generator)
        self.after = DegreeLinear(l_max, channels, channels, generator)
        # The last product needs only the degrees that leave the layer.
        out_degrees = [l_max] * (body_order - 3) + [l_out] * (body_order > 2)
        products = [Coupling(l_max, l_max, degree) for degree in out_degrees]
        self.products = nn.ModuleList(products)
        self.product_weights = nn.ParameterList(
            torch.randn(1, n_elements, product.n_paths, channels, generator=generator, dtype=torch.float64) / 2
            for product in products
        )
        self.mixers = nn.ModuleList(DegreeLinear(l_out, channels, channels, generator) for _ in range(body_order - 1))
        skip = torch.randn(1, n_elements, channels, channels, generator=generator, dtype=torch.float64)
        self.skip = nn.Parameter(skip / math.sqrt(channels))

    def forward(self, nodes: Tensor, species: Tensor, graph: Graph, radial: Tensor, harmonics: Tensor) -> Tensor:
        weights = radial.view(radial.shape[0], self.message.n_paths, nodes.shape[-1])
        sent = self.before(nodes).index_select(0, graph.senders)
        atomic = self.after(self.message.messages(sent, harmonics, weights, graph))
        out = self.mixers[0](atomic)
        power = atomic
        for product, per_element, mixer in zip(self.products, self.product_weights, self.mixers[1:], strict=True):
            power = product(power, atomic, per_element.flatten(0, 1).index_select(0, species))
            out = out + mixer(power)
        # The scalars keep what they were: a linear map of their own for each element.
        n_groups, n_elements, channels, _ = self.skip.shape
        maps = self.skip.transpose(1, 2).flatten(2)
        kept = torch.bmm(nodes[:, 0].unflatten(0, (n_groups, -1)), maps).view(-1, n_elements, channels)
        kept = kept.gather(1, (species % n_elements).view(-1, 1, 1).expand(-1, 1, channels))
        return torch.cat([out[:, :1] + kept, out[:, 1:]], dim=1) / math.sqrt(len(self.mixers) + 1)
