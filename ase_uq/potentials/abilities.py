"""What a potential may be able to do beside giving energies: small protocols, and `Abilities`, found once.

Whoever holds a potential asks for an ability when it is constructed and keeps the answer. A potential has an ability by
having the methods; there is nothing to inherit from, and nothing to register.

====================  ==============================================================================================
protocol              who asks
====================  ==============================================================================================
`KnowsElements`       models (to refuse other elements), memory caps
`KnowsScale`          noise, training
`HasAbilities`        models: what the spread of the members means, and what makes it cheap
`HasUnderlying`       training: whose constants are to be refitted
`HasRepresentative`   training and last-layer rigidity: which potential to start from
`RefitsReference`     training: constants per element
`RefitsReadout`       training: the last layer by least squares
`ReadsScalars`        noise: whether draws can share all that comes before the readouts
`NamesNoisyLayers`    noise: which layers it goes to
`SupportsInference`   models: copies that are evaluated
`Stackable`           deep ensembles: members side by side; see `ase_uq.potentials.stack`
`Compilable`          models: machine code
====================  ==============================================================================================

`Divisible`, members that are best evaluated apart, is beside `evaluate` in `ase_uq.potentials.base`, and
`NoisyPotential`, the noise of labels, in `ase_uq.potentials.label_noise`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ase_uq.potentials.base import FeaturePotential
from ase_uq.potentials.graph import Graph


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model needs to know of the members of a potential.

    Attributes
    ----------
    elements
        Chemical symbols it knows, or `None` if it does not say.
    shares_body
        Whether members differ in nothing but cheap last layers: derivatives of few combinations then cost little.
    pinned_mean
        Whether the mean over members is fixed by construction and carries nothing of their scatter; otherwise they are
        taken for independent.
    exact_spread
        Whether the members have the covariance of infinitely many.
    usual_forces_var
        How the variance of forces is found where nothing is said, by calculators and reruns.
    seed
        Of the draws that the members are, if they are draws.
    """

    elements: tuple[str, ...] | None = None
    shares_body: bool = False
    pinned_mean: bool = False
    exact_spread: bool = False
    usual_forces_var: str = "exact"
    seed: int | None = None


@runtime_checkable
class KnowsElements(Protocol):
    """A potential that knows some elements only."""

    @property
    def elements(self) -> tuple[str, ...] | None:
        """Chemical symbols, or `None` where it does not say."""
        ...


@runtime_checkable
class KnowsScale(Protocol):
    """A potential that knows how large forces are."""

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        ...


@runtime_checkable
class HasAbilities(Protocol):
    """A potential whose members are not just independent ones."""

    def abilities(self) -> Abilities:
        """Return what the potential can do."""
        ...


@runtime_checkable
class HasUnderlying(Protocol):
    """A potential with heads or noise on top of another."""

    def underlying(self) -> Any:
        """Return the potential beneath all heads and noise, whose energies of atoms are its own."""
        ...


@runtime_checkable
class HasRepresentative(Protocol):
    """A potential of several members that one of a single member can stand for."""

    def representative(self) -> Any:
        """Return a potential of one member: the body, that of the mean weights, or the first of independent ones."""
        ...


@runtime_checkable
class RefitsReference(Protocol):
    """A potential with energies of atoms that do not depend on positions."""

    def move_reference(self, step: Tensor) -> None:
        """Add to them, (Z,) eV in the order of `elements`, in place."""
        ...


@runtime_checkable
class RefitsReadout(FeaturePotential, Protocol):
    """A potential with last-layer features whose weights can be set."""

    def move_readout(self, step: Tensor) -> None:
        """Add to the weights of the last layer, (F,) eV, in place."""
        ...


@runtime_checkable
class ReadsScalars(Protocol):
    """A potential whose energies are read from invariant scalars of every atom.

    `energies(graph)` is the sum over atoms of `energies_of_scalars(scalars(graph), graph)`.
    """

    def readout_layers(self) -> Iterable[nn.Module]:
        """Return the modules that come after the scalars."""
        ...

    def scalars(self, graph: Graph) -> list[Tensor]:
        """Return the scalars, (N, C) each."""
        ...

    def energies_of_scalars(self, scalars: list[Tensor], graph: Graph) -> Tensor:
        """Return energies of atoms, (N,) float64, eV, or (n N,) for scalars of n copies, copy after copy."""
        ...


@runtime_checkable
class NamesNoisyLayers(Protocol):
    """A potential that has names for the layers that can have noise."""

    NOISE: ClassVar[dict[str, tuple[str, ...]]]
    """Name to domain and pattern, see `make_variational`."""


@runtime_checkable
class SupportsInference(Protocol):
    """A potential that makes a copy with fixed weights that gives the same numbers, perhaps faster."""

    def for_inference(self) -> Any:
        """Return that copy; it cannot be trained, and what happens to the original does not reach it."""
        ...


@runtime_checkable
class Stackable(Protocol):
    """A potential of one member that can be evaluated side by side with others of its class."""

    def likeness(self) -> object:
        """Return what must be equal for two of them to be stacked, or `None` while it cannot be."""
        ...

    def values_per_edge(self) -> int:
        """Return how many numbers an edge carries: large systems gain nothing from a stack."""
        ...

    @classmethod
    def stacked(cls, members: Sequence[Any]) -> Any:
        """Return members of one likeness as a potential of a single member, on a graph with a copy for each."""
        ...

    @classmethod
    def prepared(cls, members: Sequence[Any]) -> list[Any]:
        """Return copies for inference, see `SupportsInference`, that are as alike as the members are."""
        ...


@runtime_checkable
class Compilable(Protocol):
    """A potential whose energies can be traced once and for all, with its weights as arguments."""

    def compilable_parts(self) -> Sequence[Any]:
        """Return modules with `architecture()` that one package serves, whose members are together its own, or none."""
        ...

    def architecture(self) -> Mapping[str, Any]:
        """Return what the code depends on beside the names and shapes of the weights."""
        ...


def abilities_of(potential: Any) -> Abilities:
    """Return what a potential says of its members; without a word, they are independent."""
    if isinstance(potential, HasAbilities):
        return potential.abilities()
    return Abilities(elements=potential.elements if isinstance(potential, KnowsElements) else None)


def underlying(potential: Any) -> Any:
    """Return the potential that another is made of; one that says nothing is its own."""
    return potential.underlying() if isinstance(potential, HasUnderlying) else potential


def representative(potential: Any) -> Any:
    """Return a potential of one member that stands for one of several; another potential is its own."""
    return potential.representative() if isinstance(potential, HasRepresentative) else potential


def inference_copy(potential: Any) -> Any:
    """Return a copy with fixed weights, prepared for evaluation where the potential knows how."""
    if isinstance(potential, SupportsInference):
        return potential.for_inference()
    return copy.deepcopy(potential).requires_grad_(False)
