"""The noise of a variational potential by what its draws are worth: `DrawsScore`, and `fit_noise`, its size.

    loss = <(CRPS of forces + 3 CRPS of energies / sqrt(N)) / u>,      M draws of the weights a step

u is the rms force that is predicted for a frame, and a tenth of the scale: in absolute units, frames of high
temperature alone would say how much noise there is. The score (see `crps`) of a few independent draws needs no prior
and no weight between errors and noise. Energies are scored without constants: what a least-squares fit to the
compositions of the batch takes out of the labels and, alike, of every draw.

References
----------
arXiv:2605.19939: perturbations of the weights of a potential, trained by the CRPS of members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ase_uq.potentials import VariationalPotential
from ase_uq.potentials.base import Evaluation, by_copies, evaluate
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.variational.draws import SeparateDraws, SharingDraws
from ase_uq.training.batches import Batch
from ase_uq.training.constants import element_counts
from ase_uq.training.crps import fair_crps
from ase_uq.training.losses import Labels, Scored
from ase_uq.training.rows import RESOLUTION

DRAWS, ENERGY_WEIGHT = 2, 3.0
_EPOCHS_OF_A_SEED = 1_000_003  # further apart than any training is long
# To find the size of the noise: draws, rounds, and by how much one round may change it.
_SIZE_DRAWS, _SIZE_ROUNDS, _LARGEST_FACTOR, _HALVINGS = 16, 12, 100.0, 40
_SMALL, _CLOSE, _MOST_SHIFT = 0.02, 0.05, 20.0
_WITHIN_ONE = math.erf(0.5**0.5)
# Of the scale: frames with smaller forces do not count for more.
_CALMEST = 0.1


class DrawsScore:
    """Fair CRPS of forces and energies over frozen draws; in validation over draws that stay the same.

    Parameters
    ----------
    energy_weight
        Of energies, over the square root of atoms, against forces.
    n_draws
        M, of each step.
    seed
        Of the draws, which follow from the epoch: a training that was interrupted goes on with the same.
    """

    def __init__(self, *, energy_weight: float = ENERGY_WEIGHT, n_draws: int = DRAWS, seed: int = 0) -> None:
        self.energy_weight, self.n_draws, self.seed = energy_weight, n_draws, seed
        self.settings: dict[str, Any] = {"energy_score_weight": energy_weight, "draws": n_draws}
        self.generators = {True: torch.Generator(), False: torch.Generator()}

    def begin_epoch(self, epoch: int, *, progress: float) -> None:  # noqa: ARG002
        """Set the draws of an epoch, counted from 0."""
        self.generators[True].manual_seed(_EPOCHS_OF_A_SEED * self.seed + epoch)
        self.generators[False].manual_seed(_EPOCHS_OF_A_SEED * self.seed)

    def __call__(self, potential: VariationalPotential, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        found = evaluate_draws(potential, graph, self.n_draws, self.generators[training], training=training)
        counts = element_counts(graph, potential.elements)
        unit = _frame_unit(found.forces.detach().mean(dim=0), graph, potential.scale)
        energies = without_constants(torch.cat([found.energies, labels.energies.unsqueeze(0)]), counts)
        of_energies = fair_crps(energies[:-1], energies[-1]) / unit
        of_forces = fair_crps(found.forces, labels.forces).mean(dim=1) / unit.index_select(0, graph.structures)
        loss = of_forces.mean() + self.energy_weight * of_energies.mean()
        energy_error = found.energies.mean(dim=0) - labels.energies
        return Scored(loss, energy_error, found.forces.mean(dim=0) - labels.forces)


def evaluate_draws(
    potential: VariationalPotential,
    graph: Graph,
    n_draws: int,
    generator: torch.Generator,
    *,
    training: bool = False,
) -> Evaluation:
    """Return energies (M, S) and forces (M, N, 3) of K new draws, without a mean weight among them."""
    draws = potential.draws(n_draws, generator)
    if potential.shares_body:
        return evaluate(SharingDraws(potential, draws), graph, training=training)
    return by_copies(evaluate(SeparateDraws(potential, draws), graph.copies(n_draws), training=training), n_draws)


def without_constants(energies: Tensor, counts: Tensor) -> Tensor:
    """Take a least-squares fit to compositions out of energies (M, S), and divide them by the square root of atoms."""
    root = counts.sum(dim=1).sqrt()
    axes, sizes, _ = torch.linalg.svd(counts / root.unsqueeze(1), full_matrices=False)
    axes = axes[:, sizes > 1e-10 * sizes[0]]
    values = energies / root
    rest: Tensor = values - (values @ axes) @ axes.T
    return rest


def fit_noise(potential: VariationalPotential, batches: Sequence[Batch], *, seed: int = 0) -> None:
    """Shift the logits of all rates, in place, so that the noise has the size of the errors.

    Of the errors of force components and of energies, without constants, as many lie within one standard deviation as
    of a normal law; the share of forces, of which there are more, counts twice.

    Parameters
    ----------
    potential
        With noise that need not have been trained.
    batches
        Labelled frames, a few dozen, best of those that the weights have not seen.
    seed
        Of the draws.
    """
    low, high, stretch, before = -math.inf, math.inf, 1.0, 0.0
    shift = 0.0  # from where the logits began
    for _ in range(_SIZE_ROUNDS):
        factor = _missing(potential, batches, seed)
        if factor is None or abs(math.log(factor)) < _CLOSE:
            return
        step = 2.0 * math.log(factor)
        # Noise goes with the root of alpha, and that with p while it is small: then one round has done it. Near the cap
        # of p a shift does less, or nothing for a while.
        if factor < 0.9 * _LARGEST_FACTOR and max(1.0, factor**2) * _largest_rate(potential) < _SMALL:
            potential.rates.shift_logits(step)
            return
        low, high = (shift, high) if step > 0.0 else (low, shift)
        stretch = 2.0 * stretch if step * before > 0.0 else 1.0
        target = shift + stretch * step
        if not low < target < high:
            target = 0.5 * (low + high)
        if target > _MOST_SHIFT:
            return  # more noise than there can be
        potential.rates.shift_logits(target - shift)
        shift, before = target, step


def _missing(potential: VariationalPotential, batches: Sequence[Batch], seed: int) -> float | None:
    """Return the factor that the noise lacks, or `None` where no error says anything."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.cat([batch.labels.forces.flatten().square() for batch in batches])
    smallest = RESOLUTION * float(squares.mean().sqrt())
    found = [_errors_in_spreads(potential, batch, generator, smallest) for batch in batches]
    of_forces, of_energies = (torch.cat(parts) for parts in zip(*found, strict=True))
    kinds = [each for each in (of_forces, of_forces, of_energies) if len(each)]
    return size_of_errors(kinds) if kinds else None


def size_of_errors(kinds: Sequence[Tensor]) -> float:
    """Return the factor that puts a normal share of errors within one standard deviation, mean over kinds.

    Parameters
    ----------
    kinds
        |error| over standard deviation, of any length each.
    """
    low, high = -math.log(_LARGEST_FACTOR), math.log(_LARGEST_FACTOR)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        inside = sum(float((each < math.exp(middle)).double().mean()) for each in kinds) / len(kinds)
        low, high = (middle, high) if inside < _WITHIN_ONE else (low, middle)
    return math.exp(0.5 * (low + high))


def _largest_rate(potential: VariationalPotential) -> float:
    return max(float(rates.detach().max()) for rates in potential.noise.rates.values() if rates.numel())


def _errors_in_spreads(
    potential: VariationalPotential, batch: Batch, generator: torch.Generator, smallest: float
) -> tuple[Tensor, Tensor]:
    labels = batch.labels.forces.flatten()
    known = labels.abs() > smallest
    mean = evaluate(potential, batch.graph)
    draws = evaluate_draws(potential, batch.graph, _SIZE_DRAWS, generator)
    counts = element_counts(batch.graph, potential.elements)
    of_energies = without_constants(torch.cat([draws.energies, mean.energies - batch.labels.energies]), counts)
    energies = _ratio(of_energies[-1], of_energies[:-1])
    if batch.graph.n_structures <= int(torch.linalg.matrix_rank(counts)):
        energies = energies[:0]  # constants have taken all
    forces = _ratio((mean.forces[0].flatten() - labels)[known], draws.forces.flatten(1)[:, known])
    return forces.cpu(), energies.cpu()


def _ratio(errors: Tensor, draws: Tensor) -> Tensor:
    if not len(errors):
        return errors
    std = draws.std(dim=0)
    return errors[std > 0].abs() / std[std > 0]


def _frame_unit(forces: Tensor, graph: Graph, scale: Tensor) -> Tensor:
    squares = graph.sum_over_atoms(forces.square().mean(dim=1)) / graph.n_atoms
    return torch.sqrt(squares + (_CALMEST * scale) ** 2)
