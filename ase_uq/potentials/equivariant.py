"""`EquivariantPotential`: message passing with spherical tensors and many-body products on the atoms.

==========  ====================================================================
symbol      variable
==========  ====================================================================
h_i         `nodes`, (N, (hidden_l_max + 1)^2, C), starts from the element
A_i         `atomic`, neighbour density: sum_j R(r_ij) [h_j x Y(r_ij)], degrees up to l_max
B_i         `atomic` and its products with itself up to `body_order` - 1 factors
f_i         `features`, (N, F): all that the last, linear layer sees of the scalars of h_i
E_i         shift(element) + scale * f_i . w, with w = `readout`
==========  ====================================================================

Edges carry only one product each; the many-body products are taken on the atoms, of which there are far fewer.

References
----------
Batatia et al., arXiv:2206.07697 (products on the atoms); Batzner et al., arXiv:2101.03164 (equivariant messages,
shift per element and scale from the forces).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.blocks import MLP, Coupling, DegreeLinear, RadialBasis, spherical_harmonics
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.radial_table import RadialTable, needed_cells

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class EquivariantPotential(nn.Module):
    """One equivariant message-passing potential.

    Parameters
    ----------
    elements
        Chemical symbols it will know.
    cutoff
        Å.
    channels
        C, features per spherical component.
    l_max
        Highest degree of the neighbour density, 0 to 2.
    hidden_l_max
        Highest degree of the features that travel between layers, 0 to `l_max`.
    n_layers
        Message-passing steps.
    body_order
        2 (no products) to 4 (density, its square and its cube).
    n_radial, radial_width
        Bessel functions, and width of the two hidden layers of the radial network.
    dtype
        "float32" or "float64", of the network; distances are formed and energies summed in float64 either way.
    seed
        Of the initial weights.

    Raises
    ------
    InputError
        For a setting out of range or an unknown element symbol.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_uq.potentials.graph import build_graph
    >>> potential = EquivariantPotential(elements=["O", "H"], cutoff=4.0, channels=8)
    >>> potential.energies(build_graph(molecule("H2O"), potential.cutoff)).shape
    torch.Size([1, 1])
    """

    # Layers that can have noise: domain and pattern of names, see `make_variational`.
    NOISE: ClassVar[dict[str, tuple[str, ...]]] = {
        "last": ("node", r"^network\.readouts\.\d+$", "last"),
        "radial": ("edge", r"^network\.layers\.\d+\.radial$"),
        "readout": ("node", r"^network\.readouts\.\d+$"),
    }

    indices: Tensor
    shifts: Tensor
    scale: Tensor
    mean_neighbours: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 5.0,
        *,
        channels: int = 64,
        l_max: int = 2,
        hidden_l_max: int = 0,
        n_layers: int = 2,
        body_order: int = 4,
        n_radial: int = 8,
        radial_width: int = 64,
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._config = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self._config["elements"] = list(elements)
        self._check()
        self.elements = tuple(elements)
        self._cutoff = float(cutoff)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("indices", element_indices(elements), persistent=False)
        self.register_buffer("shifts", torch.zeros(len(elements), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("mean_neighbours", torch.full((), 12.0, dtype=torch.float64))
        self.network = _Network(len(elements), generator, **self._config).to(DTYPES[dtype])

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self._cutoff

    @property
    def n_members(self) -> int:
        """Always one: this potential is a single member."""
        return 1

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self._config)

    def set_reference(self, *, shifts: Sequence[float], scale: float, mean_neighbours: float) -> None:
        """Fix the constants of the training set: eV per element, eV/Å of the forces, neighbours per atom."""
        self.shifts.copy_(torch.as_tensor(shifts, dtype=torch.float64))
        self.scale.fill_(scale)
        self.mean_neighbours.fill_(mean_neighbours)

    def for_inference(self, n_cells: int | None = None) -> EquivariantPotential:
        """Return a copy with fixed weights and, in single precision, tabulated radial functions, see `RadialTable`.

        `n_cells` is how fine the table is to be, 0 for none; by default as fine as it needs to be.
        """
        n_cells = self.radial_cells() if n_cells is None else n_cells
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        if not n_cells:
            return twin
        network = twin.network
        table = RadialTable(self._radial_functions(), self.cutoff, n_cells, network.embedding.dtype)
        network.table = table.to(network.embedding.device)
        for layer in network.layers:
            layer.radial = None  # type: ignore[assignment]
        return twin

    def radial_cells(self) -> int:
        """Return the number of cells its table needs, or 0 if it has one, or is better without."""
        if self._config["dtype"] != "float32" or self.network.table is not None:
            return 0
        return needed_cells(self._radial_functions(), self.cutoff) or 0

    def _radial_functions(self) -> Callable[[Tensor], list[Tensor]]:
        exact = copy.deepcopy(self.network).to("cpu", torch.float64).requires_grad_(False)
        return lambda distances: exact.radial_functions(distances, self.mean_neighbours.cpu())

    @property
    def n_features(self) -> int:
        """Number of features of an atom, F."""
        return self.network.n_features

    def energies(self, graph: Graph) -> Tensor:
        """Return total energies, (1, S) float64, eV."""
        return (self.summed_features(graph) @ self.readout() + self.reference_energies(graph)).unsqueeze(0)

    def features(self, graph: Graph) -> Tensor:
        """Return what the last layer sees of every atom, (N, F), in the precision of the network."""
        features: Tensor = self.network(graph, self.species(graph), self.mean_neighbours)
        return features

    def summed_features(self, graph: Graph) -> Tensor:
        """Return the features of every structure, (S, F) float64; energies are linear in them."""
        # The network may be float32; distances, the sum over atoms and all that follows it are float64.
        return graph.sum_over_atoms(self.features(graph).to(torch.float64))

    def readout(self) -> Tensor:
        """Return the weights of the last layer, (F,) float64, eV."""
        return self.network.last_weights()[0].to(torch.float64) * self.scale

    @torch.no_grad()
    def move_readout(self, step: Tensor) -> None:
        """Add to the weights of the last layer, (F,) eV, in place."""
        parts = (step / self.scale).split([readout.last_weights().shape[1] for readout in self.network.readouts])  # type: ignore[operator]
        for readout, part in zip(self.network.readouts, parts, strict=True):
            readout.move_last(part)  # type: ignore[operator]

    def reference_energies(self, graph: Graph) -> Tensor:
        """Return the sum of the shifts of the elements, (S,) float64, eV."""
        return graph.sum_over_atoms(self.shifts.index_select(0, self.species(graph)))

    def species(self, graph: Graph) -> Tensor:
        """Return the index of each atom's element, (N,).

        Raises
        ------
        InputError
            For an element the potential does not know.
        """
        return species_of(graph.numbers, self.indices, self.elements)

    def _check(self) -> None:
        c = self._config
        rules = {
            "elements": (0 < len(set(c["elements"])) == len(c["elements"]), "distinct and not empty"),
            "cutoff": (0 < c["cutoff"] < math.inf, "a positive length in Å"),
            "l_max": (c["l_max"] in (0, 1, 2), "0, 1 or 2"),
            "hidden_l_max": (0 <= c["hidden_l_max"] <= c["l_max"], "between 0 and l_max"),
            "body_order": (c["body_order"] in (2, 3, 4), "2, 3 or 4"),
            "dtype": (c["dtype"] in DTYPES, "float32 or float64"),
            **{name: (c[name] >= 1, "at least 1") for name in ("channels", "n_layers", "n_radial", "radial_width")},
        }
        for name, (ok, rule) in rules.items():
            if not ok:
                raise InputError(f"`{name}` must be {rule}, got {c[name]!r}; change it.")


class _Network(nn.Module):
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

    @property
    def n_features(self) -> int:
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
