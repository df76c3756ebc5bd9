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
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.equivariant_network import Network
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.radial_table import RadialTable, needed_cells
from ase_uq.potentials.stack import MemberStack

DTYPES = {"float32": torch.float32, "float64": torch.float64}


# Far beyond any model that anybody would train.
LARGEST = {"channels": 4096, "n_layers": 32, "n_radial": 1024, "radial_width": 4096}
LARGEST_CUTOFF = 100.0  # Å


class EquivariantPotential(nn.Module):
    """One equivariant message-passing potential.

    Parameters
    ----------
    elements
        Chemical symbols it will know.
    cutoff
        Neighbour cut-off, Å.
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
        self.network = Network(len(elements), generator, **self._config).to(DTYPES[dtype])

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

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> EquivariantPotential:
        """Construct a potential of the same architecture, with the initial weights of its seed."""
        return cls(**config)

    def set_reference(self, *, shifts: Sequence[float], scale: float, mean_neighbours: float) -> None:
        """Fix the constants of the training set: eV per element, eV/Å of the forces, neighbours per atom."""
        self.shifts.copy_(torch.as_tensor(shifts, dtype=torch.float64))
        self.scale.fill_(scale)
        self.mean_neighbours.fill_(mean_neighbours)

    @property
    def has_reference(self) -> bool:
        """Whether it has constants of a training set: no shift and a scale of one are those of a new potential."""
        return bool(self.shifts.any()) or float(self.scale) != 1.0

    @torch.no_grad()
    def move_reference(self, step: Tensor) -> None:
        """Add to the energies of atoms, (Z,) eV, in place."""
        self.shifts.add_(step.to(self.shifts))

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

    @classmethod
    def prepared(cls, members: Sequence[EquivariantPotential]) -> list[EquivariantPotential]:
        """Return copies for inference with equally fine tables, or none where one member is better without."""
        cells = [member.radial_cells() for member in members]
        return [member.for_inference(max(cells) if all(cells) else 0) for member in members]

    def architecture(self) -> dict[str, Any]:
        """Return the constructor's arguments without the seed, of which nothing is left in the code."""
        return {**self._config, "seed": None}

    def likeness(self) -> object:
        """Return what members of a stack have in common, or `None` while weights may change."""
        # A subclass may do anything with the same arguments.
        if type(self) is not EquivariantPotential or any(parameter.requires_grad for parameter in self.parameters()):
            return None
        cells = None if self.network.table is None else self.network.table.n_cells
        return self.architecture(), float(self.mean_neighbours), cells

    def values_per_edge(self) -> int:
        """Number of channels, C: what a member keeps of an edge."""
        return int(self._config["channels"])

    @classmethod
    def stacked(cls, members: Sequence[EquivariantPotential]) -> MemberStack:
        """Return members side by side."""
        return MemberStack(members)

    def compilable_parts(self) -> list[EquivariantPotential]:
        """Return itself, or nothing while weights may change."""
        return [] if self.likeness() is None else [self]

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

    def readout_layers(self) -> list[nn.Module]:
        """Return the networks that make features of the scalars of each layer, with the last weights."""
        return list(self.network.readouts)

    def scalars(self, graph: Graph) -> list[Tensor]:
        """Return the scalar features after every layer, (N, C) each."""
        return self.network.scalars(graph, self.species(graph), self.mean_neighbours)

    def energies_of_scalars(self, scalars: list[Tensor], graph: Graph) -> Tensor:
        """Return energies of atoms from scalars of the graph, (N,) float64, eV, or of n copies of it, (n N,)."""
        features = self.network.seen_by_last_layers(scalars)
        energies = features.to(torch.float64) @ self.readout()
        noise = self.network.noise_of_last_layers(features)
        if noise is not None:
            energies = energies + noise.to(torch.float64) * self.scale
        shifts = self.shifts.index_select(0, self.species(graph))
        return energies + shifts.repeat(len(energies) // len(shifts))

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

    @staticmethod
    def fewest_features(config: Mapping[str, Any]) -> int:
        """Return how many features these arguments lead to."""
        c = {**_DEFAULTS, **config}
        return int((c["n_layers"] - 1) * c["channels"] + max(c["channels"] // 4, 8))

    @staticmethod
    def fewest_weights(config: Mapping[str, Any]) -> int:
        """Return how many weights these arguments need at least, without making any."""
        c = {**_DEFAULTS, **config}
        z, channels, width = len(c["elements"]), c["channels"], c["radial_width"]
        of_layer = (z + 2) * channels**2 + (c["n_radial"] + width + channels) * width
        return int(z * channels + c["n_layers"] * of_layer)

    def _check(self) -> None:
        c = self._config
        _check_types(c)
        rules = {
            "elements": (0 < len(set(c["elements"])) == len(c["elements"]), "distinct and not empty"),
            "cutoff": (0 < c["cutoff"] <= LARGEST_CUTOFF, f"a positive length, at most {LARGEST_CUTOFF:g} Å"),
            "l_max": (c["l_max"] in (0, 1, 2), "0, 1 or 2"),
            "hidden_l_max": (0 <= c["hidden_l_max"] <= c["l_max"], "between 0 and l_max"),
            "body_order": (c["body_order"] in (2, 3, 4), "2, 3 or 4"),
            "dtype": (c["dtype"] in DTYPES, "float32 or float64"),
            **{name: (1 <= c[name] <= most, f"at least 1, at most {most}") for name, most in LARGEST.items()},
        }
        for name, (ok, rule) in rules.items():
            if not ok:
                raise InputError(f"`{name}` must be {rule}, got {c[name]!r:.80}; change it.")


_DEFAULTS: dict[str, Any] = {
    name: each.default
    for name, each in signature(EquivariantPotential).parameters.items()
    if each.default is not each.empty
}


def _check_types(config: Mapping[str, Any]) -> None:
    numbers = ("l_max", "hidden_l_max", "body_order", "seed", *LARGEST)
    elements = config["elements"]
    rules = {
        "elements": (all(isinstance(each, str) for each in elements), "chemical symbols"),
        "cutoff": (isinstance(config["cutoff"], (int, float)), "a number of Å"),
        "dtype": (isinstance(config["dtype"], str), "float32 or float64"),
        **{name: (isinstance(config[name], Integral), "a whole number") for name in numbers},
    }
    for name, (ok, rule) in rules.items():
        if not ok or isinstance(config[name], bool):
            raise InputError(f"`{name}` must be {rule}, got {config[name]!r:.80}; change it.")
