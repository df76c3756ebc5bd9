"""BLIP: a potential with noise on its weights, and members drawn from it.

The noise acts on scalars, with rates that are invariant: every draw is exactly equivariant, and, with its random
numbers frozen in weight space, a fixed and smooth function of the positions.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022: Bayesian learned interatomic potentials.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.graph import Graph
from ase_uq.potentials.base import Evaluation, Potential, evaluate, joined
from ase_uq.potentials.equivariant import EquivariantPotential
from ase_uq.potentials.mace import MACEPotential, is_mace
from ase_uq.potentials.memory import MemoryCap
from ase_uq.potentials.noisy_layers import put_noise
from ase_uq.potentials.rates import RateNetwork
from ase_uq.potentials.variational_layers import (
    LAWS,
    PACE,
    Noise,
    NoisyMap,
    VariationalMLP,
    kl_of_rate,
    standard_draws,
)

DEFAULT_LAYERS = ("readout",)  # draws of ours then share the body and cost little; see benchmarks/README.md
Layers = Sequence[str] | Mapping[str, str]

# Of draws that do not share the body, as many go through it at once as have this many edges together: beyond, joining
# them saves nothing but takes memory.
MOST_EDGES = 20_000


class VariationalPotential(nn.Module):
    """A potential whose weights are distributions; see `make_variational`.

    Evaluated as it is, it is the potential of the mean weights. `noise.mode = "local"` gives fresh noise at every call,
    as training needs it; members for dynamics come from `sample_members`.
    """

    def __init__(
        self,
        potential: Any,
        *,
        layers: Layers = DEFAULT_LAYERS,
        prior_dropout: float = 0.5,
        max_dropout: float = 0.8,
        initial_dropout: float | None = None,
        inputs: str = "environment",
        centred: bool = True,
        law: str = "gaussian",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._options = {
            "layers": dict(layers) if isinstance(layers, Mapping) else list(layers),
            "prior_dropout": prior_dropout,
            "max_dropout": max_dropout,
            "initial_dropout": initial_dropout,
            "inputs": inputs,
            "centred": centred,
            "law": law,
            "seed": seed,
        }
        if not 0.0 < prior_dropout < 1.0:
            raise InputError(f"`prior_dropout` must lie between 0 and 1, got {prior_dropout}; 0.5 is usual.")
        if law not in LAWS:
            raise InputError(f"`law` must be one of {', '.join(LAWS)}, got {law!r}; choose one.")
        if law == "dropout" and (inputs != "none" or centred):
            raise InputError(
                f"the law 'dropout' needs inputs='none' and centred=False, got {inputs!r} and {centred}; masks know "
                "nothing of the atoms."
            )
        patterns = _patterns(potential, layers)
        self.prior_rate = prior_dropout / (1.0 - prior_dropout)
        self.noise = Noise(law=law)
        self.body: Any = copy.deepcopy(potential).requires_grad_(True)
        columns = put_noise(self.body, patterns, self.noise)
        if centred:
            for each in self.maps():
                each.centred(len(potential.elements))
        self.rates = RateNetwork(
            potential.elements,
            potential.cutoff,
            n_node_layers=columns["node"],
            n_edge_layers=columns["edge"],
            max_dropout=max_dropout,
            initial_dropout=initial_dropout,
            inputs=inputs,
            seed=seed,
        ).to(next(potential.parameters()).dtype)
        if law == "dropout":
            self.rates.requires_grad_(False)  # a choice, not a result

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return float(self.body.cutoff)

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        return tuple(self.body.elements)

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        scale: Tensor = self.body.scale
        return scale

    @property
    def n_members(self) -> int:
        """One."""
        return 1

    @property
    def shares_body(self) -> bool:
        """Whether draws differ in nothing before the readouts."""
        return isinstance(self.body, EquivariantPotential) and not any(
            isinstance(layer.radial, VariationalMLP) for layer in self.body.network.layers
        )

    def maps(self) -> list[NoisyMap]:
        """Return all maps with noise, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, NoisyMap)]

    def config(self) -> dict[str, Any]:
        """Return what builds the same architecture."""
        return {"potential": self.body.config(), **copy.deepcopy(self._options)}

    def energies(self, graph: Graph) -> Tensor:
        """Return the total energies of one draw, or of the mean weights, (1, S) float64, eV.

        While a stack of draws is frozen, the graph has a copy of the structures for each.
        """
        if self.noise.mode != "mean":
            self.set_rates(graph)
        if not isinstance(self.body, EquivariantPotential):
            found: Tensor = self.body.energies(graph)
            return found
        return graph.sum_over_atoms(self._of_atoms(self.scalars(graph), graph)).unsqueeze(0)

    def energies_from_one_body(self, graph: Graph, n_draws: int) -> Tensor:
        """Return the energies of frozen draws that share the body, (n_draws, S) float64, eV."""
        self.set_rates(graph)
        scalars = [each.repeat(n_draws, 1) for each in self.scalars(graph)]
        of_atoms = self._of_atoms(scalars, graph, n_draws).view(n_draws, -1)
        return graph.sum_over_atoms(of_atoms.T).T

    def set_rates(self, graph: Graph) -> None:
        """Work out the rates of the structures at hand; they do not depend on the draw."""
        self.noise.rates, self.noise.species = self.rates(graph), self.rates.species(graph)

    @torch.no_grad()
    def learn(self, graphs: Sequence[Graph]) -> None:
        """Take the environments of training frames for known, and what layers see there for the centres of noise."""
        self.rates.learn(graphs)
        nothing = [torch.zeros(1, *each.draw_shape) for each in self.maps()]
        self.noise.follows = True
        try:
            with self.frozen(nothing):
                for k, graph in enumerate(graphs):
                    self.noise.pace = 1.0 / (k + 1)
                    self.energies(graph)
        finally:
            self.noise.follows, self.noise.pace = False, PACE

    def scalars(self, graph: Graph) -> list[Tensor]:
        """Return the scalar features after every layer of the body, for rates that are there already."""
        found: list[Tensor] = self.body.network.scalars(graph, self.body.species(graph), self.body.mean_neighbours)
        return found

    @contextmanager
    def fresh(self, generator: torch.Generator) -> Iterator[None]:
        """Evaluate with noise that is new at every call and independent from row to row, as long as it lasts."""
        before, self.noise.mode, self.noise.generator = self.noise.mode, "local", generator
        try:
            yield
        finally:
            self.noise.mode, self.noise.generator = before, None

    @contextmanager
    def frozen(self, draws: Sequence[Tensor]) -> Iterator[None]:
        """Evaluate with random numbers (S, n_in, n_out) for every map, as long as it lasts."""
        before, self.noise.mode = self.noise.mode, "frozen"
        maps, weights = self.maps(), next(self.rates.parameters())
        try:
            for each, drawn in zip(maps, draws, strict=True):
                each.frozen = drawn.to(weights)
            yield
        finally:
            self.noise.mode = before
            for each in maps:
                each.frozen = None

    def draws(self, n_draws: int, generator: torch.Generator) -> list[Tensor]:
        """Return random numbers for every map, (n_draws, n_in, n_out) each, float64."""
        p = self.rates.initial_dropout
        return [standard_draws((n_draws, *each.draw_shape), self.noise.law, generator, p) for each in self.maps()]

    def _of_atoms(self, scalars: list[Tensor], graph: Graph, n_draws: int = 1) -> Tensor:
        # Energies of atoms from the scalars of the body: (N,), or draw after draw.
        features = self.body.network.seen_by_last_layers(scalars)
        energies: Tensor = features.to(torch.float64) @ self.body.readout()
        noise = self._last_noise(features)
        if noise is not None:
            energies = energies + noise.to(torch.float64) * self.scale
        shifts: Tensor = self.body.shifts.index_select(0, self.body.species(graph))
        return energies + shifts.repeat(n_draws)

    def _last_noise(self, features: Tensor) -> Tensor | None:
        # `readout()` has the mean weights of the last layers: their noise comes on top.
        if self.noise.mode == "mean":
            return None
        readouts: list[Any] = list(self.body.network.readouts)
        parts = features.split([readout.last_weights().shape[1] for readout in readouts], dim=1)
        noises: list[Tensor] = [
            readout.maps[-1].perturbation(part)
            for readout, part in zip(readouts, parts, strict=True)
            if hasattr(readout, "maps")
        ]
        return torch.stack(noises).sum(dim=0).squeeze(1) if noises else None


class VariationalEnsemble(nn.Module):
    """S draws of a variational potential, frozen in weight space, about the potential of the mean weights.

    Member s is E(theta) + E(theta_s) - mean of E(theta_s): where the noise is large the mean over draws is biased and
    scatters, while theta is what was trained. The variance over members is that of the draws.
    """

    def __init__(self, potential: VariationalPotential, n_members: int = 8, *, seed: int = 0) -> None:
        super().__init__()
        if n_members < 2:
            raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 8 or more is usual.")
        self.potential, self.seed, self._n_members = potential, seed, n_members
        dtype = next(potential.rates.parameters()).dtype
        for k, drawn in enumerate(potential.draws(n_members, torch.Generator().manual_seed(seed))):
            # Part of the state, and so of the file and its hash: generators differ between versions of torch.
            # The mean weights first.
            self.register_buffer(f"draws_{k}", torch.cat([torch.zeros_like(drawn[:1]), drawn]).to(dtype))
        self.memory_cap: MemoryCap | None = None

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.potential.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        return self.potential.elements

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        return self.potential.scale

    @property
    def n_members(self) -> int:
        """S."""
        return self._n_members

    @property
    def shares_body(self) -> bool:
        """Whether draws differ in nothing before the readouts."""
        return self.potential.shares_body

    @property
    def usual_forces_var(self) -> str:
        """What a long run takes where nothing is said: one backward pass for all draws, right on average over steps."""
        return "stochastic" if self.shares_body else "exact"

    @property
    def std_error(self) -> float:
        """How well S draws know the standard deviation of the noise: 1/sqrt(2 (S - 1)), relative."""
        return float((2.0 * (self.n_members - 1)) ** -0.5)

    def energies(self, graph: Graph) -> Tensor:
        """Return the energies of all draws, (S, structures) float64, eV."""
        if self.shares_body:
            with self.potential.frozen(self._draws()):
                return _about_the_first(self.potential.energies_from_one_body(graph, self.n_members + 1))
        parts = []
        for some in self._parts(graph):
            with self.potential.frozen(some):
                parts.append(self.potential.energies(graph.copies(len(some[0]))).view(len(some[0]), -1))
        return _about_the_first(torch.cat(parts))

    def evaluate_members(self, graph: Graph, *, stress: bool = False) -> Evaluation:
        """Evaluate all draws: in one pass through the body they share, or side by side as copies of the structures."""
        if self.shares_body:
            return evaluate(_Energies(self), graph, stress=stress)
        parts = []
        for some in self._parts(graph):
            with self.potential.frozen(some):
                n_draws = len(some[0])
                found = evaluate(self.potential, graph.copies(n_draws), stress=stress)
                parts.append(
                    Evaluation(
                        energies=found.energies.view(n_draws, -1),
                        forces=found.forces.view(n_draws, -1, 3),
                        stresses=None if found.stresses is None else found.stresses.view(n_draws, -1, 6),
                    )
                )
        found = joined(parts)
        return Evaluation(
            energies=_about_the_first(found.energies),
            forces=_about_the_first(found.forces),
            stresses=None if found.stresses is None else _about_the_first(found.stresses),
        )

    def for_inference(self) -> VariationalEnsemble:
        """Return a copy with fixed weights, and tabulated radial functions where they have no noise."""
        twin = copy.deepcopy(self).requires_grad_(False)
        if self.shares_body:
            twin.potential.body = self.potential.body.for_inference()
            # The copy of the body has brought a copy of the noise along; there must be one.
            for each in twin.potential.maps():
                each.noise = twin.potential.noise
        return twin

    def config(self) -> dict[str, Any]:
        """Return what builds the same architecture and the same draws."""
        return {"potential": self.potential.config(), "n_members": self.n_members, "seed": self.seed}

    def _draws(self) -> list[Tensor]:
        # (1 + S, n_in, n_out) each: the mean weights first.
        return [getattr(self, f"draws_{k}") for k in range(len(self.potential.maps()))]

    def _parts(self, graph: Graph) -> Iterator[list[Tensor]]:
        at_once = max(1, MOST_EDGES // max(1, len(graph.senders)))
        if self.memory_cap is not None:
            at_once = min(at_once, self.memory_cap.members_at_once(graph))
        for first in range(0, self.n_members + 1, at_once):
            yield [drawn[first : first + at_once] for drawn in self._draws()]


class _Energies:
    """The draws as a potential without a way of its own to evaluate them."""

    def __init__(self, ensemble: VariationalEnsemble) -> None:
        self.energies, self.cutoff, self.n_members = ensemble.energies, ensemble.cutoff, ensemble.n_members


def make_variational(
    module: nn.Module,
    *,
    layers: Layers = DEFAULT_LAYERS,
    prior_dropout: float = 0.5,
    max_dropout: float = 0.8,
    initial_dropout: float | None = None,
    inputs: str = "environment",
    centred: bool = True,
    law: str = "gaussian",
    seed: int = 0,
) -> VariationalPotential:
    """Put noise on the weights of a potential, which keep their values as means.

    Parameters
    ----------
    module
        Trained or not; it is copied. An `EquivariantPotential`, a model of MACE, or any module that is a `Potential` of
        one member with `elements` and a `scale` (see `ase_uq.potentials.base`) and has linear layers of torch or e3nn.
    layers
        Where the noise goes. For our potentials and MACE: "readout" (a rate for each atom; draws of ours share the
        body, and cost little), "last" (of the readouts the last layer alone), "radial" (the networks of distances, a
        rate for each edge), or some of them. For any module:
        a mapping of "node" and "edge" to regular expressions, found in the names of the layers that see a row for
        each atom, or edge.
    prior_dropout
        p_0 of the prior, N(0, rho theta^2) with rho = p_0/(1 - p_0).
    max_dropout, initial_dropout
        Cap and start of p; 0.1 and 5e-5 to fine-tune a trained potential without disturbing it.
    inputs
        What rates depend on: "environment" (of the atoms, and how far it is from those of the training set), "pair"
        (elements and distances alone, as in the paper), or "none" (one for each layer: variational dropout).
    centred
        Whether noise leaves an average atom alone: see `variational_layers`; without, as in the paper.
    law
        "gaussian", or "dropout" for Monte-Carlo dropout with p = `initial_dropout`, which wants `inputs="none"` and
        `centred=False`.
    seed
        Of the rate networks.

    Raises
    ------
    InputError
        For a module that is no potential or has no layer of a known kind, layers that do not exist, a pattern that
        matches none, or probabilities out of range.

    References
    ----------
    arXiv:2508.14022; arXiv:1506.02557 (`inputs="none"`); arXiv:1506.02142 (`law="dropout"`).

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_uq.graph import build_graph
    >>> body = EquivariantPotential(elements=["O", "H"], cutoff=4.0, channels=8)
    >>> members = sample_members(make_variational(body), n_members=4)
    >>> members.energies(build_graph(molecule("H2O"), 4.0)).shape
    torch.Size([4, 1])
    """
    potential: Any = MACEPotential(module) if is_mace(module) else module
    if (
        not isinstance(potential, Potential)
        or not isinstance(potential, nn.Module)
        or not all(hasattr(potential, name) for name in ("elements", "scale"))
        or potential.n_members != 1
    ):
        raise InputError(
            f"`module` must be a potential of one member with `elements` and `scale`, got {type(module).__name__}; "
            "give it these and `energies(graph)`, see ase_uq.potentials.Potential."
        )
    return VariationalPotential(
        potential,
        layers=layers,
        prior_dropout=prior_dropout,
        max_dropout=max_dropout,
        initial_dropout=initial_dropout,
        inputs=inputs,
        centred=centred,
        law=law,
        seed=seed,
    )


def sample_members(potential: VariationalPotential, n_members: int = 8, seed: int = 0) -> VariationalEnsemble:
    """Draw members: fixed functions of the positions, the same for the same seed.

    Noise is drawn for every weight, not for every atom: all atoms of all frames share a draw, which is what makes a
    member a potential. The mean of the members is the potential of the mean weights, and their variance, with divisor
    S - 1, that of independent draws.

    Parameters
    ----------
    potential
        Not copied.
    n_members
        S; the standard deviation over draws is known to 1/sqrt(2 (S - 1)), see `VariationalEnsemble.std_error`.
    seed
        Of the draws.
    """
    return VariationalEnsemble(potential, n_members, seed=seed)


def kl_divergence(potential: VariationalPotential, graph: Graph | None = None) -> Tensor:
    """Return the KL divergence of the weights from their prior, nats per weight, mean over the atoms and edges.

    Parameters
    ----------
    potential
        Variational.
    graph
        Structures whose rates are meant; those last evaluated with noise by default.

    References
    ----------
    arXiv:2508.14022; see `kl_of_rate`.
    """
    rates = potential.noise.rates if graph is None else potential.rates(graph)
    if not rates:
        raise InputError("`graph` must be given before anything was evaluated with noise; pass the structures meant.")
    total: Any = 0.0
    n_weights = 0
    for each in potential.maps():
        of_rows = kl_of_rate(rates[each.domain][:, each.column], potential.prior_rate)
        if not len(of_rows):
            continue  # atoms that see no other have no edges
        total, n_weights = total + each.n_weights * of_rows.mean(), n_weights + each.n_weights
    return torch.as_tensor(total) / max(1, n_weights)


def _about_the_first(values: Tensor) -> Tensor:
    # (1 + S, ...) to (S, ...).
    return values[1:] - values[1:].mean(dim=0) + values[0]


def _patterns(potential: Any, layers: Layers) -> list[tuple[str, ...]]:
    if isinstance(layers, Mapping):
        return sorted(layers.items())  # in a fixed order, which a file keeps
    named: Mapping[str, tuple[str, ...]] = getattr(potential, "NOISE", {})
    if not layers or not set(layers) <= set(named):
        known = f"some of {', '.join(named)}" if named else "a mapping of node and edge to patterns of names"
        raise InputError(f"`layers` must name {known}, got {list(layers)}; name at least one.")
    if {"last", "readout"} <= set(layers):
        raise InputError("`layers` must name last or readout, not both; the second contains the first.")
    return [named[name] for name in sorted(layers)]
