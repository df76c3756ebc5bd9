"""Building blocks of equivariant potentials, on e3nn's spherical harmonics and coupling coefficients.

All weights have a leading axis of G groups. Rows (atoms, edges) come in G equal blocks, one for each; with G = 1 this
is an ordinary network, with G = M one of M members on M copies of a graph. Products are taken row by row and need not
know.

Features are arrays (rows, (l_max + 1)^2, C): component lm = l^2 + l + m in e3nn's real basis, channels last. Degree l
has parity (-1)^l throughout, so every product is kept or dropped by the parity of l1 + l2 + l3.

======  ==================================================
symbol  variable
======  ==================================================
G       groups: members side by side, each with weights of its own
R(r)    `RadialBasis`, Bessel functions times an envelope
Y_lm    `spherical_harmonics`, component normalisation
C_ijk   `o3.wigner_3j(l1, l2, l3)`, real coupling coefficients
======  ==================================================

References
----------
Bessel basis and polynomial envelope: Gasteiger et al., arXiv:2003.03123, Eqs. 7 and 8.
Products of atomic bases: Batatia et al., arXiv:2206.07697, Eqs. 8 to 10.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from ase_uq.potentials.graph import Graph
from ase_uq.potentials.spherical import o3


def spherical_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """Return Y_lm of the directions of `vectors`, (E, (l_max + 1)^2), component normalisation."""
    harmonics: Tensor = o3.spherical_harmonics(
        list(range(l_max + 1)), vectors, normalize=True, normalization="component"
    )
    return harmonics


class RadialBasis(nn.Module):
    """Bessel functions of the distance, and an envelope with two vanishing derivatives at the cut-off."""

    frequencies: Tensor

    def __init__(self, cutoff: float, n_radial: int, power: int = 5) -> None:
        super().__init__()
        self.cutoff, self.power = cutoff, power
        self.register_buffer(
            "frequencies", math.pi * torch.arange(1, n_radial + 1, dtype=torch.float64), persistent=False
        )

    def forward(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the basis (E, n_radial), of order one, and the envelope (E, 1), for distances (E,)."""
        x = (distances / self.cutoff).unsqueeze(-1)
        basis = torch.sin(self.frequencies * x) / (2.0 * x)
        return basis, self._envelope(x)

    def _envelope(self, x: Tensor) -> Tensor:
        p = self.power
        value = 1.0 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        return torch.where(x < 1.0, value, torch.zeros_like(value))


class Coupling(nn.Module):
    """Equivariant product of two features, channel by channel, summed into target rows.

    out[k, c] = sum over paths p: w[p, c] sum_ij C_p[i, j, k] a[i, c] b[j, c], for atoms (`forward`) or, with a b that
    has no channels, summed over the edges of each atom (`messages`).

    The non-zero coefficients of all paths are one flat list, so that the number of tensor operations does not grow with
    the number of paths, which is what a small system pays for.
    """

    pair_path: Tensor
    pair_a: Tensor
    term_pair: Tensor
    term_b: Tensor
    term_out: Tensor
    coefficients: Tensor
    contraction: Tensor

    def __init__(self, l_a: int, l_b: int, l_out: int) -> None:
        super().__init__()
        paths = [
            (la, lb, lo)
            for la in range(l_a + 1)
            for lb in range(l_b + 1)
            for lo in range(abs(la - lb), min(la + lb, l_out) + 1)
            if (la + lb + lo) % 2 == 0
        ]
        self.n_paths = len(paths)
        self.n_out = (l_out + 1) ** 2
        fan_in = [sum(1 for path in paths if path[2] == lo) for lo in range(l_out + 1)]
        pair_path, pair_a, terms, coefficients = [], [], [], []
        for p, (la, lb, lo) in enumerate(paths):
            # Unit variance out for unit variance in, whatever the number of paths that end in this degree.
            tensor = o3.wigner_3j(la, lb, lo, dtype=torch.float64) * math.sqrt((2 * lo + 1) / fan_in[lo])
            for i in range(2 * la + 1):
                pair_path.append(p)
                pair_a.append(la**2 + i)
                for j, k in torch.nonzero(tensor[i].abs() > 1e-12).tolist():
                    terms.append((len(pair_a) - 1, lb**2 + j, lo**2 + k))
                    coefficients.append(tensor[i, j, k].item())
        columns = (pair_path, pair_a, *zip(*terms, strict=True))
        contraction = torch.zeros((l_b + 1) ** 2, len(pair_a), self.n_out, dtype=torch.float64)
        for (pair, component_b, component_out), value in zip(terms, coefficients, strict=True):
            contraction[component_b, pair, component_out] = value
        self.register_buffer("contraction", contraction.flatten(1), persistent=False)
        # Not persistent: they follow from the degrees and have no place in a model file.
        for name, column in zip(("pair_path", "pair_a", "term_pair", "term_b", "term_out"), columns, strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)
        values = torch.tensor(coefficients, dtype=torch.float64).unsqueeze(-1)
        self.register_buffer("coefficients", values, persistent=False)

    def forward(self, a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        """Couple `a` (R, n_a, C) with `b` (R, n_b, C) by weights (R, P, C), row by row; returns (R, n_out, C)."""
        terms = self._weighted(a, weights).index_select(1, self.term_pair)
        terms = terms * (b.index_select(1, self.term_b) * self.coefficients)
        return terms.new_zeros(terms.shape[0], self.n_out, terms.shape[2]).index_add(1, self.term_out, terms)

    def messages(self, a: Tensor, b: Tensor, weights: Tensor, graph: Graph) -> Tensor:
        """Couple what edges carry, `a` (E, n_a, C) with `b` (E, n_b) by weights (E, P, C), and sum over the neighbours.

        Returns (N, n_out, C).
        """
        # For each atom one matrix product over all pairs of all its neighbours: the sum over edges is inside it.
        matrices = (b @ self.contraction).view(b.shape[0], self.pair_a.shape[0], self.n_out)
        return torch.bmm(graph.table(matrices).transpose(1, 2), graph.table(self._weighted(a, weights)))

    def _weighted(self, a: Tensor, weights: Tensor) -> Tensor:
        if a.shape[1] == 1:
            return weights * a  # a scalar has one component in every path
        return weights.index_select(1, self.pair_path) * a.index_select(1, self.pair_a)


class DegreeLinear(nn.Module):
    """Mix channels within each degree l, without a bias: the linear map that commutes with rotations.

    `weights` is (G, L, C, C'), L the number of degrees.
    """

    degrees: Tensor

    def __init__(self, l_max: int, channels_in: int, channels_out: int, generator: torch.Generator) -> None:
        super().__init__()
        weights = torch.randn(l_max + 1, channels_in, channels_out, generator=generator, dtype=torch.float64)
        self.weights = nn.Parameter((weights / math.sqrt(channels_in)).unsqueeze(0))
        degrees = torch.repeat_interleave(torch.arange(l_max + 1), 2 * torch.arange(l_max + 1) + 1)
        self.register_buffer("degrees", degrees, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (G N, >= (l_max + 1)^2, C) to (G N, (l_max + 1)^2, C')."""
        # One batched product over the components: a slice for each degree costs more than it saves in arithmetic.
        n_groups, n_components = len(self.weights), len(self.degrees)
        blocks = features[:, :n_components].unflatten(0, (n_groups, -1)).transpose(1, 2).flatten(0, 1)
        mixed = torch.bmm(blocks, self.weights.index_select(1, self.degrees).flatten(0, 1))
        out: Tensor = mixed.unflatten(0, (n_groups, n_components)).transpose(1, 2).flatten(0, 1)
        return out


class MLP(nn.Module):
    """Dense layers with SiLU between them, scaled so that unit variance stays unit variance.

    Weights are (G, n_in, n_out), biases (G, 1, n_out).
    """

    def __init__(self, sizes: list[int], generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            (torch.randn(n_in, n_out, generator=generator, dtype=torch.float64) / math.sqrt(n_in)).unsqueeze(0)
            for n_in, n_out in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(1, 1, n_out, dtype=torch.float64) for n_out in sizes[1:-1])

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        """Map (G R, sizes[0]) to (G R, sizes[-1]), times a factor (G R, 1)."""
        # Before the last layer, which has no bias and mostly more outputs than inputs.
        return self._grouped(self.hidden(x) * factor, self.weights[-1])

    def hidden(self, x: Tensor) -> Tensor:
        """Map (G R, sizes[0]) to (G R, sizes[-2]): what the last, linear layer sees."""
        for weight, bias in zip(self.weights[:-1], self.biases, strict=True):
            # 1.6766 restores the second moment that SiLU takes from a unit Gaussian.
            x = nn.functional.silu(self._grouped(x, weight, bias)) * 1.6766
        return x

    def last_weights(self) -> Tensor:
        """Return the weights of the last layer for a single output, (G, sizes[-2])."""
        last: Tensor = self.weights[-1]
        return last.squeeze(-1)

    def move_last(self, step: Tensor) -> None:
        """Add to the weights of the last layer for a single output, (n_in,), in place."""
        self.weights[-1].add_(step.to(self.weights[-1]).view_as(self.weights[-1]))

    def last_noise(self, hidden: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return what noise on the last weights adds to the output, (R, n_out): there is none."""
        return None

    @staticmethod
    def _grouped(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if len(weight) == 1:
            return x @ weight[0] if bias is None else torch.addmm(bias[0], x, weight[0])
        blocks = x.unflatten(0, (len(weight), -1))
        return (torch.bmm(blocks, weight) if bias is None else torch.baddbmm(bias, blocks, weight)).flatten(0, 1)
