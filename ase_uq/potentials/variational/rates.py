"""Dropout rates of atoms and edges from what surrounds them, which no rotation changes.

=======================  =====================================================================
symbol                   variable
=======================  =====================================================================
p                        dropout probability, `max_dropout` times a sigmoid: a smooth cap
alpha                    p / (1 - p), what layers multiply their noise by
z, m                     whitened environment and its distance from the training set, see `environments`
=======================  =====================================================================

The logit of p is a small network of z, squashed, plus a positive multiple of m: away from the training set p rises to
its cap, whatever the network makes of what it has not seen. The atoms of an edge share their environments with it.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022 (BLIP): two small networks on raw inputs, elements and distances, a rate
for each row and layer. Those are `inputs="pair"` here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.blocks import RadialBasis
from ase_uq.potentials.elements import element_indices, species_of
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.variational.environments import DIMENSION, Environments

INPUTS = ("environment", "pair", "none")
START = 0.05  # of p, where nothing else is said

_EMBEDDING, _WIDTH, _N_RADIAL = 16, 64, 8
_SMALLEST = 1e-9  # of p: the noise of a well trained potential is small
# Of the logits over the parameters: where an optimiser moves weights by a thousandth, a rate moves by several times.
_GAIN = 2.0
# Of the logits over m at the start: noise that grows with the first power of the distance from the training set.
_SLOPE = 1.0


class RateNetwork(nn.Module):
    """alpha for every atom and edge, and every layer with noise.

    Parameters
    ----------
    elements, cutoff
        Of the potential; Å.
    n_node_layers, n_edge_layers
        Layers whose rows are atoms, and edges.
    max_dropout
        Upper limit of p, between 0 and 1.
    initial_dropout
        p of a typical atom of the training frames at the start, which for other inputs is p everywhere.
    inputs
        What rates depend on: "environment", "pair" (elements and distances alone), or "none" (variational dropout:
        every layer has a rate of its own).
    seed
        Of the initial weights.

    Raises
    ------
    InputError
        For probabilities out of range or inputs that do not exist.
    """

    indices: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float,
        *,
        n_node_layers: int,
        n_edge_layers: int,
        max_dropout: float = 0.8,
        initial_dropout: float | None = None,
        inputs: str = "environment",
        seed: int = 0,
    ) -> None:
        super().__init__()
        initial = min(START, 0.5 * max_dropout) if initial_dropout is None else initial_dropout
        if not 0.0 < max_dropout < 1.0:
            raise InputError(f"`max_dropout` must lie between 0 and 1, got {max_dropout}; 0.8 is usual.")
        if not _SMALLEST < initial < max_dropout:
            raise InputError(
                f"`initial_dropout` must lie between {_SMALLEST:g} and `max_dropout` {max_dropout}, got {initial}; "
                "5e-5 starts from a trained model as it is."
            )
        if inputs not in INPUTS:
            raise InputError(f"`inputs` must be one of {', '.join(INPUTS)}, got {inputs!r}; choose one.")
        self.elements, self.inputs = tuple(elements), inputs
        self.max_dropout, self.initial_dropout = max_dropout, initial
        self.register_buffer("indices", element_indices(elements), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        start = math.log(initial / (max_dropout - initial))
        n_elements, size = len(self.elements), DIMENSION if inputs == "environment" else 0
        self.radial = RadialBasis(cutoff, _N_RADIAL)
        self.environments = Environments(n_elements, cutoff, generator)
        self.embedding = nn.Parameter(torch.randn(n_elements, _EMBEDDING, generator=generator, dtype=torch.float64))
        self.node = _Logits(_EMBEDDING + size, n_node_layers, start, generator)
        self.edge = _Logits(2 * (_EMBEDDING + size) + _N_RADIAL, n_edge_layers, start, generator)

    def forward(self, graph: Graph) -> dict[str, Tensor]:
        """Return alpha of atoms (N, L) and edges (E, L), differentiable in the positions."""
        species, vectors = self.species(graph), graph.edge_vectors()
        atoms = self.embedding.index_select(0, species)
        dtype = atoms.dtype
        beyond = atoms.new_zeros(len(atoms), 1)
        if self.inputs == "environment":
            whitened = self.environments(species, graph, vectors)
            # Bounded: the network shapes the rates among the training frames, `beyond` those outside.
            atoms = torch.cat([atoms, whitened * torch.rsqrt(1.0 + whitened.square())], dim=1)
            beyond = self.environments.beyond(species, whitened)
        elif self.inputs == "none":
            atoms = torch.zeros_like(atoms)
        alpha = {"node": self._alpha(self.node(atoms, beyond))}
        if self.edge.n_out:
            basis, envelope = self.radial(torch.linalg.vector_norm(vectors, dim=-1).to(dtype))
            waves = basis * envelope if self.inputs != "none" else torch.zeros_like(basis)
            senders, receivers = (atoms.index_select(0, ends) for ends in (graph.senders, graph.receivers))
            both = 0.5 * (beyond.index_select(0, graph.senders) + beyond.index_select(0, graph.receivers))
            alpha["edge"] = self._alpha(self.edge(torch.cat([senders, receivers, waves], dim=1), both))
        return alpha

    def species(self, graph: Graph) -> Tensor:
        """Return the index of each atom's element, (N,)."""
        return species_of(graph.numbers, self.indices, self.elements)

    def learn(self, graphs: Sequence[Graph]) -> None:
        """Take the environments of training frames for those that are known."""
        self.environments.learn((self.species(graph), graph) for graph in graphs)

    @torch.no_grad()
    def shift_logits(self, shift: float) -> None:
        """Add to the logits of p everywhere, in place."""
        for each in (self.node, self.edge):
            each.bias.add_(shift / _GAIN)

    def _alpha(self, logits: Tensor) -> Tensor:
        p = _SMALLEST + (self.max_dropout - _SMALLEST) * torch.sigmoid(logits)
        return p / (1.0 - p)


class _Logits(nn.Module):
    """Two layers of SiLU and a positive slope; the last layer starts small, so that rates start nearly equal."""

    def __init__(self, n_in: int, n_out: int, start: float, generator: torch.Generator) -> None:
        super().__init__()
        draw = {"generator": generator, "dtype": torch.float64}
        self.n_out = n_out
        self.first = nn.Parameter(torch.randn(n_in, _WIDTH, **draw) / math.sqrt(n_in))  # type: ignore[call-overload]
        self.second = nn.Parameter(torch.randn(_WIDTH, n_out, **draw) * 0.1 / _GAIN / math.sqrt(_WIDTH))  # type: ignore[call-overload]
        self.first_bias = nn.Parameter(torch.zeros(_WIDTH, dtype=torch.float64))
        self.bias = nn.Parameter(torch.full((n_out,), start / _GAIN, dtype=torch.float64))
        self.slope = nn.Parameter(torch.full((n_out,), math.log(math.expm1(_SLOPE / _GAIN)), dtype=torch.float64))

    def forward(self, x: Tensor, beyond: Tensor) -> Tensor:
        hidden = nn.functional.silu(torch.addmm(self.first_bias, x, self.first))
        logits: Tensor = torch.addmm(self.bias, hidden, self.second) + nn.functional.softplus(self.slope) * beyond
        return _GAIN * logits
