"""`RadialTable`: the radial networks of a trained potential as piecewise polynomials of the distance.

A radial network maps one number, the distance, to hundreds; evaluating it is what most of a step goes to. Tabulated, it
is six rows of a table a distance. The table is a quintic spline through values of the network in double precision; the
error of its slope is held at that of a network in single precision. Forces are the exact derivative of the spline.

======  ======================================================================
symbol  variable
======  ======================================================================
s       log(1 + r / 1 Å) / log(1 + r_cut / 1 Å): cells are equal in s, narrow at short distances
u       `offsets`, place within a cell, -1/2 to 1/2
c_k     `coefficients`, d^k R / du^k / k! at the middle of each cell; R(r) = sum_k c_k u^k
======  ======================================================================

References
----------
Splines in place of what a network does with a distance: arXiv:2310.02904.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor, nn

Functions = Callable[[Tensor], Sequence[Tensor]]

ORDER = 6
FEWEST, MOST = 512, 4096
# Of the largest slope. Networks in single precision are off by about as much.
TOLERANCE = 1e-6
# Å. Below it no trained potential means anything; the table goes on to zero.
CLOSEST = 0.1


def needed_cells(functions: Functions, cutoff: float) -> int | None:
    """Return the number of cells that keeps the error of slopes below the tolerance, or `None` where none does."""
    distances = torch.linspace(CLOSEST, cutoff, 4099, dtype=torch.float64)
    # In parts, so that looking takes no more memory than a step of dynamics.
    exact = np.concatenate([_slopes(functions, part) for part in distances.split(512)])
    if not np.isfinite(exact).all():
        return None
    s, along = _scaled(distances, cutoff).numpy(), (1.0 + distances.numpy()) * math.log1p(cutoff)
    cells = FEWEST
    while cells <= MOST:
        error = np.abs(_spline(functions, cutoff, cells)(s, 1) / along[:, None] - exact).max()
        if error <= TOLERANCE * np.abs(exact).max():
            return cells
        cells *= 2
    return None


class RadialTable(nn.Module):
    """Tabulated radial functions of all layers.

    Parameters
    ----------
    functions
        Maps distances (n_distances,) float64 to the functions of each layer, (n_distances, P) float64.
    cutoff
        Neighbour cut-off, Å.
    n_cells
        See `needed_cells`.
    dtype
        Of the result.
    """

    exponents: Tensor

    def __init__(self, functions: Functions, cutoff: float, n_cells: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.cutoff, self.n_cells, self.n_groups = cutoff, n_cells, 1
        middles = (np.arange(n_cells) + 0.5) / n_cells
        spline = _spline(functions, cutoff, n_cells)
        terms = [spline(middles, k) / (math.factorial(k) * n_cells**k) for k in range(ORDER)]
        rows = torch.from_numpy(np.stack(terms, axis=1)).flatten(0, 1).to(dtype)
        widths = [part.shape[1] for part in functions(torch.ones(1, dtype=torch.float64))]
        for layer, coefficients in enumerate(rows.split(widths, dim=1)):
            self.register_buffer(f"coefficients{layer}", coefficients.contiguous())
        self.n_layers = len(widths)
        self.register_buffer("exponents", torch.arange(ORDER), persistent=False)

    @staticmethod
    def joined(tables: Sequence[RadialTable]) -> RadialTable:
        """Return the table of G groups, see `blocks`, from those of each; they have equally many cells."""
        table = RadialTable.__new__(RadialTable)
        nn.Module.__init__(table)
        first = tables[0]
        table.cutoff, table.n_cells, table.n_layers = first.cutoff, first.n_cells, first.n_layers
        table.n_groups = len(tables)
        for layer in range(first.n_layers):
            table.register_buffer(f"coefficients{layer}", torch.cat([each.coefficients(layer) for each in tables]))
        table.register_buffer("exponents", first.exponents, persistent=False)
        return table

    def coefficients(self, layer: int) -> Tensor:
        """Return the rows of a layer, (G cells ORDER, P)."""
        return self.get_buffer(f"coefficients{layer}")

    def forward(self, distances: Tensor) -> list[Tensor]:
        """Return the functions of each layer, (E, P), at distances (E,) float64 in G equal blocks."""
        place = _scaled(distances, self.cutoff) * self.n_cells
        cells = place.detach().long().clamp(max=self.n_cells - 1)
        # Atoms on top of each other have no energy: not a number, as from the networks.
        offsets = torch.where(distances > 0.0, place - cells - 0.5, torch.nan).to(self.coefficients(0).dtype)
        if self.n_groups > 1:
            first = self.n_cells * torch.arange(self.n_groups, device=cells.device)
            cells = (cells.view(self.n_groups, -1) + first.unsqueeze(1)).flatten()
        rows = ORDER * cells.unsqueeze(1) + self.exponents
        powers = offsets.unsqueeze(1) ** self.exponents
        # A weighted sum of rows, without a copy of them.
        return [
            nn.functional.embedding_bag(rows, self.coefficients(layer), per_sample_weights=powers, mode="sum")
            for layer in range(self.n_layers)
        ]


def _scaled(distances: Tensor, cutoff: float) -> Tensor:
    return torch.log1p(distances) / math.log1p(cutoff)


def _slopes(functions: Functions, distances: Tensor) -> NDArray[np.float64]:
    # The derivative of each function, from one product with any vector v: it is linear in v.
    r = distances.clone().requires_grad_(True)
    values = torch.cat(list(functions(r)), dim=1)
    v = torch.zeros_like(values, requires_grad=True)
    (product,) = torch.autograd.grad(values, r, v, create_graph=True)
    (slopes,) = torch.autograd.grad(product.sum(), v)
    return slopes.numpy()


def _spline(functions: Functions, cutoff: float, n_cells: int) -> Callable[..., NDArray[np.float64]]:
    s = np.linspace(0.0, 1.0, n_cells + 1)
    distances = np.expm1(s * math.log1p(cutoff))
    # Bessel functions are 0 / 0 at zero, and the envelope is not to be cut off by rounding.
    distances = np.clip(distances, 1e-12, cutoff)
    with torch.no_grad():
        values = torch.cat(list(functions(torch.from_numpy(distances))), dim=1)
    spline: Callable[..., NDArray[np.float64]] = make_interp_spline(s, values.numpy(), k=ORDER - 1)
    return spline
