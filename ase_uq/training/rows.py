"""Rows of the last layer: how labels of force components and energies change with its weights.

=======  =====================================================================
symbol   variable
=======  =====================================================================
f_s      features of structure s, summed over its atoms, see `FeaturePotential`
w        weights of the last layer, (F,), eV
x        `forces.x` (R, F): dF_i/dw = -d f_s/d r_i; `energies.x` (S, F): f_s less its constants, over sqrt(N_s);
         `virials.x` (V, F): derivatives of f_s by the six strains, over N_s
r        `forces.error` (R,), `energies.error` (S,), `virials.error` (V,): label less prediction, likewise
=======  =====================================================================

Everything is linear in w, so that the errors of all other weights follow: r - x . dw. Constants per element (see
`constants`) are taken out of energies, since they are refitted anyway. Rows of a frame with a weight of its own are
multiplied by its root. Force components that vanish by symmetry, and
with them their rows, are left out. A few components of every structure are enough, drawn at random: many from one
structure know little more than a few.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ase_uq.potentials import FeaturePotential
from ase_uq.potentials.base import VOIGT_COLUMNS, VOIGT_ROWS
from ase_uq.potentials.graph import Graph
from ase_uq.training.batches import Batch, Batches
from ase_uq.training.constants import composition_constants, element_counts

# Components a structure, and all together for every weight of the last layer.
MOST_OF_A_STRUCTURE, ENOUGH = 24, 60
# Of the rms force: components below vanish by symmetry.
RESOLUTION = 1e-4


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one kind: `x` (R, F) and `error` (R,)."""

    x: Tensor
    error: Tensor

    @property
    def rms(self) -> float:
        """Root mean square of the errors."""
        return float(self.error.square().mean().sqrt())

    def moved(self, step: Tensor) -> Part:
        """Return the rows after a step (F,) of the last layer."""
        return replace(self, error=self.error - self.x @ step)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of force components, eV/Å, of energies, eV over the square root of atoms, and of virials, eV per atom.

    All float64; `sizes` (S,) are the numbers of atoms of the structures of the energies. There are no virials where no
    stress is known.
    """

    forces: Part
    energies: Part
    virials: Part
    sizes: Tensor

    def moved(self, step: Tensor) -> Rows:
        """Return the rows after a step (F,) of the last layer."""
        forces, energies, virials = (part.moved(step) for part in (self.forces, self.energies, self.virials))
        return Rows(forces, energies, virials, self.sizes)


def last_layer_rows(
    potential: FeaturePotential, data: Batches, *, seed: int = 0, seconds: float | None = None
) -> Rows | None:
    """Collect rows from frames: one backward pass for each component a structure, none for energies.

    Parameters
    ----------
    potential
        Of one member.
    data
        Labelled frames; seen in a random order, as far as the time goes.
    seed
        Of that order and of the components.
    seconds
        Time limit, after which no batch is begun; none by default.

    Returns
    -------
    Rows or None
        `None` where no force component is left.
    """
    generator = torch.Generator().manual_seed(seed)
    end = None if seconds is None else time.monotonic() + seconds
    n_each = max(2, min(MOST_OF_A_STRUCTURE, -(-ENOUGH * potential.n_features // max(1, len(data.frames)))))
    found: list[tuple[Tensor, ...]] = []
    n_rows = 0
    with _fixed(potential):
        for batch in data.shuffled(seed=seed, epoch=0):
            found.append(_of_batch(potential, batch, n_each, generator))
            n_rows += len(found[-1][0])
            if n_rows >= ENOUGH * potential.n_features or (end is not None and time.monotonic() > end):
                break
    x, error, strained, virial, counts, features, misses, weights = (
        torch.cat(parts) for parts in zip(*found, strict=True)
    )
    known = weights > 0.0
    if not len(error) or not bool(known.any()):
        return None
    counts, features, misses, weights = counts[known], features[known], misses[known], weights[known]
    sizes = counts.sum(dim=1)
    values = torch.cat([features, misses.unsqueeze(1)], dim=1).numpy()
    constants = torch.from_numpy(composition_constants(counts.numpy(), values, weights.numpy()))
    centred = (torch.from_numpy(values) - counts @ constants) * (weights / sizes).sqrt().unsqueeze(1)
    return Rows(Part(x, error), Part(centred[:, :-1], centred[:, -1]), Part(strained, virial), sizes)


def _of_batch(potential: FeaturePotential, batch: Batch, n_each: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    strain = torch.zeros_like(batch.graph.cells, requires_grad=True)
    positions = batch.graph.positions.detach().requires_grad_(True)
    graph = replace(batch.graph, positions=positions).strained(0.5 * (strain + strain.transpose(1, 2)))
    features = potential.summed_features(graph)
    # A copy of the weights for every structure, so that one pass gives a row for each.
    weights = potential.readout().detach().repeat(graph.n_structures, 1).requires_grad_(True)
    total = (features * weights).sum()
    gradient, virials = torch.autograd.grad(total, [positions, strain], create_graph=True)
    of_frames = batch.labels.weights
    roots = torch.ones(graph.n_structures, 3, dtype=torch.float64) if of_frames is None else of_frames.sqrt()
    roots = roots.to(positions.device)
    # Without forces they are zero here, and as good as those that vanish by symmetry.
    known = batch.labels.forces.flatten().abs()
    known = known > RESOLUTION * float(known.square().mean().sqrt())
    forces, errors = -gradient.flatten(), batch.labels.forces.flatten() + gradient.detach().flatten()
    found = []
    for chosen, new in _components(graph, n_each, generator):
        new = new & known[chosen]
        (row,) = torch.autograd.grad(forces[chosen].sum(), weights, retain_graph=True)
        root = roots[new, 1]
        found.append((row[new] * root.unsqueeze(1), errors[chosen][new] * root))
    of_virials = _of_virials(virials[:, VOIGT_ROWS, VOIGT_COLUMNS], weights, batch, roots[:, 2])
    with torch.no_grad():
        energies = (features * weights).sum(dim=1) + potential.reference_energies(graph)
    parts = (
        *(torch.cat(each) for each in zip(*found, strict=True)),
        *of_virials,
        element_counts(batch.graph, potential.elements),
        features,
        batch.labels.energies - energies,
        roots[:, 0].square(),
    )
    return tuple(part.detach().cpu() for part in parts)


def _of_virials(virials: Tensor, weights: Tensor, batch: Batch, roots: Tensor) -> tuple[Tensor, Tensor]:
    known = batch.labels.has_stress
    if not bool(known.any()):
        return weights.new_zeros(0, weights.shape[1]), weights.new_zeros(0)
    n_atoms = (batch.graph.n_atoms[known] / roots[known]).unsqueeze(1)  # of weighted rows
    labels = batch.labels.stresses * torch.linalg.det(batch.graph.cells).abs().unsqueeze(1)
    rows = [torch.autograd.grad(virials[:, k].sum(), weights, retain_graph=True)[0][known] for k in range(6)]
    errors = (labels - virials.detach())[known] / n_atoms
    return torch.cat([row / n_atoms for row in rows]), errors.T.flatten()


@contextmanager
def _fixed(potential: Any) -> Iterator[None]:
    # Derivatives by all other weights would be kept for nothing.
    weights = [weight for weight in potential.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _components(graph: Graph, n_each: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one component of each structure (S,), and whether it is a new one; `n_each` times."""
    sizes = 3 * graph.n_atoms.cpu()
    starts = torch.cumsum(sizes, 0) - sizes
    orders = [torch.randperm(int(size), generator=generator) for size in sizes]
    for k in range(min(n_each, int(sizes.max()))):
        known = k < sizes
        places = torch.stack([order[k % len(order)] for order in orders])
        device = graph.positions.device
        yield (starts + places).to(device), known.to(device)
