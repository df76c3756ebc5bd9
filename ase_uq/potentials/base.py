"""`Potential`, the protocol of every potential, and `evaluate`, the one place where energies are differentiated.

`evaluate` asks a potential for energies, or for parts to evaluate one by one; no potential ever calls `evaluate`.

References
----------
Stress as the strain derivative of the energy: Knuth et al., Comput. Phys. Commun. 190, 33 (2015),
doi:10.1016/j.cpc.2015.01.003, Eq. 4.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ase_uq.potentials.graph import Graph
from ase_uq.potentials.label_noise import LabelNoise

# Voigt order xx, yy, zz, yz, xz, xy.
VOIGT_ROWS = (0, 1, 2, 1, 0, 0)
VOIGT_COLUMNS = (0, 1, 2, 2, 2, 1)


@runtime_checkable
class Potential(Protocol):
    """A differentiable map from a graph to the energies of M members.

    What else a potential may be able to do is in `ase_uq.potentials.abilities`.
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


@runtime_checkable
class TrainablePotential(Protocol):
    """A potential of one member, a torch module, that can be trained from nothing and stored.

    Its class has a place in `ase_uq.potentials.architectures`. With last-layer features, see `FeaturePotential`, it can
    be the body of a shallow ensemble, too.
    """

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        ...

    @property
    def n_members(self) -> int:
        """Number of members, 1."""
        ...

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        ...

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å; what the network makes is multiplied by it."""
        ...

    @property
    def has_reference(self) -> bool:
        """Whether `set_reference` was called, or a state loaded from where it was."""
        ...

    def energies(self, graph: Graph) -> Tensor:
        """Return total energies, (1, S) float64, eV, differentiable in positions and cells."""
        ...

    def set_reference(self, *, shifts: Sequence[float], scale: float, mean_neighbours: float) -> None:
        """Fix the constants of the training set: eV for each element, eV/Å of the forces, neighbours per atom."""
        ...

    def config(self) -> dict[str, Any]:
        """Return the arguments that construct the same architecture, as JSON can hold them."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Construct that architecture; all but `elements` has a default, `seed` (of the weights) among it."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Raw `energies` (M, S) eV of the members, with derivatives of combinations of them, by default each member.

    `forces` (n_combinations, N, 3) eV/Å, `stresses` (n_combinations, S, 6) eV/Å^3 or `None`. `noise` is the aleatoric
    part, of all members alike, where a model asked for it and the potential has it.
    """

    energies: Tensor
    forces: Tensor
    stresses: Tensor | None
    noise: LabelNoise | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some members of a `Divisible` potential, to be evaluated together.

    Attributes
    ----------
    potential
        Of those members; or of a single one that tells copies of a structure apart, and takes each for one of them.
    n_copies
        How many copies of the structures it is to see: 1, or the number of these members.
    """

    potential: Potential
    n_copies: int = 1


@runtime_checkable
class Divisible(Protocol):
    """An optional ability: members that share nothing, or too little to be differentiated through each other."""

    def parts(self, graph: Graph, *, at_once: int | None = None) -> Sequence[Part]:
        """Return the members in parts of at most `at_once`; none where they are best evaluated as they are."""
        ...

    def joined(self, found: Sequence[Evaluation], graph: Graph) -> Evaluation:
        """Join what the parts gave, one row for each member."""
        ...

    def units(self) -> Sequence[Potential]:
        """Return the potentials of which one takes as much memory as a member does; none for the whole."""
        ...


def evaluate(
    potential: Potential,
    graph: Graph,
    *,
    stress: bool = False,
    training: bool = False,
    combine: Callable[[Tensor], Tensor] | None = None,
    at_once: int | None = None,
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
        Maps the detached energies (M, S) to coefficients (n_combinations, M): sum_i c_ki E_i is differentiated, one
        backward pass for each k. Every member by itself when not given.
    at_once
        How many members of a `Divisible` potential may be evaluated side by side; as many as pay by default.

    Returns
    -------
    Evaluation
        Detached unless `training`.
    """
    if combine is None and not training and _divides(type(potential)):
        # Joined energies would send every member's backward pass through all the others.
        divisible: Any = potential
        parts = divisible.parts(graph, at_once=at_once)
        if parts:
            found: Evaluation = divisible.joined([_of_part(part, graph, stress=stress) for part in parts], graph)
            return found
    return _differentiated(potential, graph, stress=stress, training=training, combine=combine)


@functools.cache
def _divides(kind: type) -> bool:
    # Asked at every step: looking for the methods of a protocol takes a hundred times as long.
    return issubclass(kind, Divisible)


def _of_part(part: Part, graph: Graph, *, stress: bool) -> Evaluation:
    if part.n_copies == 1:
        return evaluate(part.potential, graph, stress=stress)
    found = evaluate(part.potential, graph.copies(part.n_copies), stress=stress)
    return by_copies(found, part.n_copies)


def by_copies(found: Evaluation, n_copies: int) -> Evaluation:
    """Turn the evaluation of one member on copies of the structures into one of as many members."""
    return Evaluation(
        energies=found.energies.view(n_copies, -1),
        forces=found.forces.view(n_copies, -1, 3),
        stresses=None if found.stresses is None else found.stresses.view(n_copies, -1, 6),
    )


def _differentiated(
    potential: Potential,
    graph: Graph,
    *,
    stress: bool,
    training: bool,
    combine: Callable[[Tensor], Tensor] | None,
) -> Evaluation:
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
    """Turn strain derivatives (..., S, 3, 3) into stresses (..., S, 6); zero for structures that are not periodic."""
    volumes = torch.linalg.det(graph.cells).abs()
    inverse = torch.where(graph.periodic, 1.0 / volumes.clamp(min=1e-30), torch.zeros_like(volumes))
    return virials[:, :, VOIGT_ROWS, VOIGT_COLUMNS] * inverse[None, :, None]
