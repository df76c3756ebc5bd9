"""`Potential`, the protocol of every potential, and `evaluate`, the one place where energies are differentiated.

References
----------
Stress as the strain derivative of the energy: Knuth et al., Comput. Phys. Commun. 190, 33 (2015),
doi:10.1016/j.cpc.2015.01.003, Eq. 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ase_uq.potentials.graph import Graph

# Voigt order xx, yy, zz, yz, xz, xy.
VOIGT_ROWS = (0, 1, 2, 1, 0, 0)
VOIGT_COLUMNS = (0, 1, 2, 2, 2, 1)


@runtime_checkable
class Potential(Protocol):
    """A differentiable map from a graph to the energies of M members.

    One whose members share nothing may bring its own way to evaluate them all, `evaluate_members(graph, stress=...)`.
    """

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        ...

    @property
    def n_members(self) -> int:
        """Number of members, M."""
        ...

    def energies(self, graph: Graph) -> Tensor:
        """Return total energies, (M, S) float64, eV, differentiable in positions and cells."""
        ...


@runtime_checkable
class FeaturePotential(Protocol):
    """An optional ability of single-member potentials: energies that are linear in last-layer features.

    `energies(graph)` = `summed_features(graph)` @ `readout()` + `reference_energies(graph)`.
    """

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        ...

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        ...

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        ...

    @property
    def n_features(self) -> int:
        """Number of features of an atom, F."""
        ...

    def features(self, graph: Graph) -> Tensor:
        """Return the features of every atom, (N, F)."""
        ...

    def summed_features(self, graph: Graph) -> Tensor:
        """Return the features of every structure, (S, F) float64."""
        ...

    def readout(self) -> Tensor:
        """Return the weights of the last layer, (F,) float64, eV."""
        ...

    def reference_energies(self, graph: Graph) -> Tensor:
        """Return what does not depend on positions, (S,) float64, eV."""
        ...

    def config(self) -> dict[str, Any]:
        """Return the arguments that construct the same architecture."""
        ...


@runtime_checkable
class SupportsInference(Protocol):
    """An optional ability: a copy with fixed weights that gives the same numbers, perhaps faster."""

    def for_inference(self) -> Any:
        """Return that copy; it cannot be trained, and what happens to the original does not reach it."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Raw `energies` (M, S) eV of the members, with derivatives of K combinations of them, by default each member.

    `forces` (K, N, 3) eV/Å, `stresses` (K, S, 6) eV/Å^3 or `None`.
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor | None


def evaluate(
    potential: Potential,
    graph: Graph,
    *,
    stress: bool = False,
    training: bool = False,
    combine: Callable[[Tensor], Tensor] | None = None,
) -> Evaluation:
    """Differentiate the energies of members, or combinations of them, by positions and, on request, by strain.

    Parameters
    ----------
    potential
        Any potential.
    graph
        One structure or many.
    stress
        Also return stresses; zero for structures that are not periodic.
    training
        Keep the graph of the derivatives, so that a loss on forces can be differentiated by the parameters.
    combine
        Maps the detached energies (M, S) to coefficients (K, M): sum_i c_ki E_i is differentiated, one backward pass
        for each k. Every member by itself when not given.

    Returns
    -------
    Evaluation
        Detached unless `training`.
    """
    own = getattr(potential, "evaluate_members", None)
    if own is not None and combine is None and not training:
        # Joined energies would send every member's backward pass through all the others.
        found: Evaluation = own(graph, stress=stress)
        return found
    positions = graph.positions.detach().requires_grad_(True)
    inputs = [positions]
    moved = replace(graph, positions=positions)
    if stress:
        strain = torch.zeros_like(graph.cells, requires_grad=True)
        inputs.append(strain)
        # The antisymmetric part is a rotation, which no energy feels; symmetrising keeps rounding out of the stress.
        moved = moved.strained(0.5 * (strain + strain.transpose(1, 2)))
    energies = potential.energies(moved)
    rows = energies if combine is None else combine(energies.detach()) @ energies
    gradients = [
        torch.autograd.grad(rows[k].sum(), inputs, create_graph=training, retain_graph=training or k + 1 < len(rows))
        for k in range(len(rows))
    ]
    forces = -torch.stack([gradient[0] for gradient in gradients])
    stresses = voigt(torch.stack([gradient[1] for gradient in gradients]), graph) if stress else None
    return Evaluation(energies if training else energies.detach(), forces, stresses)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Join evaluations of different members on the same graph."""
    stresses = [part.stresses for part in parts if part.stresses is not None]
    return Evaluation(
        energies=torch.cat([part.energies for part in parts]),
        forces=torch.cat([part.forces for part in parts]),
        stresses=torch.cat(stresses) if stresses else None,
    )


def voigt(virials: Tensor, graph: Graph) -> Tensor:
    """Turn strain derivatives (K, S, 3, 3) into stresses (K, S, 6); zero for structures that are not periodic."""
    volumes = torch.linalg.det(graph.cells).abs()
    inverse = torch.where(graph.periodic, 1.0 / volumes.clamp(min=1e-30), torch.zeros_like(volumes))
    return virials[:, :, VOIGT_ROWS, VOIGT_COLUMNS] * inverse[None, :, None]
