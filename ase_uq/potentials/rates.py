"""Dropout rates of atoms and edges from what they are: elements and distances, which no rotation changes.

=======================  =====================================================================
symbol                   variable
=======================  =====================================================================
p                        dropout probability, `max_dropout` times a sigmoid: a smooth cap
alpha                    p / (1 - p), what layers multiply their noise by
=======================  =====================================================================

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022 (BLIP): two small networks on raw inputs, a rate for each row and layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.blocks import RadialBasis

_EMBEDDING, _WIDTH, _N_RADIAL = 16, 64, 8
_SMALLEST = 1e-6  # of p


class RateNetwork(nn.Module):
    """alpha for every atom and edge, and every layer with noise.

    Parameters
    ----------
    n_elements, cutoff
        Of the potential; Å.
    n_node_layers, n_edge_layers
        Layers whose rows are atoms, and edges.
    max_dropout
        Upper limit of p, between 0 and 1.
    initial_dropout
        p everywhere at the start; half of `max_dropout` by default.
    adaptive
        Whether rates depend on the input; without, each layer has one of its own (variational dropout).
    seed
        Of the initial weights.

    Raises
    ------
    InputError
        For probabilities out of range.
    """

    def __init__(
        self,
        n_elements: int,
        cutoff: float,
        *,
        n_node_layers: int,
        n_edge_layers: int,
        max_dropout: float = 0.8,
        initial_dropout: float | None = None,
        adaptive: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        initial = 0.5 * max_dropout if initial_dropout is None else initial_dropout
        if not 0.0 < max_dropout < 1.0:
            raise InputError(f"`max_dropout` must lie between 0 and 1, got {max_dropout}; 0.8 is usual.")
        if not _SMALLEST < initial < max_dropout:
            raise InputError(
                f"`initial_dropout` must lie between {_SMALLEST:g} and `max_dropout` {max_dropout}, got {initial}; "
                "5e-5 starts from a trained model as it is."
            )
        self.max_dropout, self.adaptive = max_dropout, adaptive
        generator = torch.Generator().manual_seed(seed)
        start = math.log(initial / (max_dropout - initial))
        self.radial = RadialBasis(cutoff, _N_RADIAL)
        self.embedding = nn.Parameter(torch.randn(n_elements, _EMBEDDING, generator=generator, dtype=torch.float64))
        self.node = _Logits(_EMBEDDING, n_node_layers, start, generator)
        self.edge = _Logits(2 * _EMBEDDING + _N_RADIAL, n_edge_layers, start, generator)

    def forward(self, species: Tensor, senders: Tensor, receivers: Tensor, distances: Tensor) -> dict[str, Tensor]:
        """Return alpha of atoms (N, L) and edges (E, L); `distances` (E,) keep their gradient."""
        elements = self.embedding.index_select(0, species)
        dtype = elements.dtype
        basis, envelope = self.radial(distances.to(dtype))
        pairs = torch.cat([elements.index_select(0, senders), elements.index_select(0, receivers)], dim=1)
        edges = torch.cat([pairs, basis * envelope], dim=1)
        if not self.adaptive:
            elements, edges = torch.zeros_like(elements), torch.zeros_like(edges)
        return {"node": self._alpha(self.node(elements)), "edge": self._alpha(self.edge(edges))}

    def _alpha(self, logits: Tensor) -> Tensor:
        p = self.max_dropout * torch.sigmoid(logits)
        p = p + _SMALLEST
        return p / (1.0 - p)


class _Logits(nn.Module):
    """Two layers of SiLU; the last starts small, so that rates start equal."""

    def __init__(self, n_in: int, n_out: int, start: float, generator: torch.Generator) -> None:
        super().__init__()
        draw = {"generator": generator, "dtype": torch.float64}
        self.first = nn.Parameter(torch.randn(n_in, _WIDTH, **draw) / math.sqrt(n_in))  # type: ignore[call-overload]
        self.second = nn.Parameter(torch.randn(_WIDTH, n_out, **draw) * 0.1 / math.sqrt(_WIDTH))  # type: ignore[call-overload]
        self.first_bias = nn.Parameter(torch.zeros(_WIDTH, dtype=torch.float64))
        self.bias = nn.Parameter(torch.full((n_out,), start, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.silu(torch.addmm(self.first_bias, x, self.first))
        return torch.addmm(self.bias, hidden, self.second)
