"""`VariationalPotential`: a potential with noise on its weights.

The noise acts on scalars, with rates that are invariant: with its random numbers frozen in weight space, it is exactly
equivariant, and a fixed and smooth function of the positions.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022: Bayesian learned interatomic potentials.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import NamesNoisyLayers, ReadsScalars
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.variational.layers import LAWS, PACE, Noise, NoisyMap, standard_draws
from ase_uq.potentials.variational.placement import put_noise
from ase_uq.potentials.variational.rates import RateNetwork

Layers = Sequence[str] | Mapping[str, str]
_LONGEST, _MOST_REPEATS, _NESTED = 500, 4, re.compile(r"\)[*+{]")


class VariationalPotential(nn.Module):
    """A potential whose weights are distributions; see `make_variational`, which has defaults for its options.

    Evaluated as it is, it is the potential of the mean weights. `noise.mode = "local"` gives fresh noise at every call,
    as training needs it; members for dynamics come from `sample_members`.
    """

    def __init__(
        self,
        potential: Any,
        *,
        layers: Layers,
        prior_dropout: float,
        max_dropout: float,
        initial_dropout: float | None,
        inputs: str,
        centred: bool,
        law: str,
        seed: int,
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
        self._reads_scalars = isinstance(self.body, ReadsScalars)
        self._shares_body = self._reads_scalars and self._noise_is_in_readouts()
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
        """Always one: the mean weights are a single potential until members are drawn."""
        return 1

    @property
    def shares_body(self) -> bool:
        """Whether draws differ in nothing before the readouts."""
        return self._shares_body

    def underlying(self) -> Any:
        """Return the body."""
        return self.body

    def maps(self) -> list[NoisyMap]:
        """Return all maps with noise, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, NoisyMap)]

    def config(self) -> dict[str, Any]:
        """Return the body and the options of the noise, see `ase_uq.potentials.stored`."""
        return {"potential": self.body, **copy.deepcopy(self._options)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VariationalPotential:
        """Put noise on the weights of a body that has none yet."""
        return cls(**config)

    def energies(self, graph: Graph) -> Tensor:
        """Return the total energies of one draw, or of the mean weights, (1, S) float64, eV.

        While a stack of draws is frozen, the graph has a copy of the structures for each.
        """
        if self.noise.mode != "mean":
            self.set_rates(graph)
        if not self._reads_scalars:
            found: Tensor = self.body.energies(graph)
            return found
        return graph.sum_over_atoms(self.body.energies_of_scalars(self.body.scalars(graph), graph)).unsqueeze(0)

    def energies_from_one_body(self, graph: Graph, n_draws: int) -> Tensor:
        """Return the energies of frozen draws that share the body, (n_draws, S) float64, eV."""
        self.set_rates(graph)
        scalars = [each.repeat(n_draws, 1) for each in self.body.scalars(graph)]
        of_atoms = self.body.energies_of_scalars(scalars, graph).view(n_draws, -1)
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
        before, weights = (self.noise.mode, self.noise.draws), next(self.rates.parameters())
        pairs = zip(self.maps(), draws, strict=True)
        self.noise.draws = {(each.domain, each.column): drawn.to(weights) for each, drawn in pairs}
        self.noise.mode = "frozen"
        try:
            yield
        finally:
            self.noise.mode, self.noise.draws = before

    def draws(self, n_draws: int, generator: torch.Generator) -> list[Tensor]:
        """Return random numbers for every map, (n_draws, n_in, n_out) each, float64."""
        p = self.rates.initial_dropout
        return [standard_draws((n_draws, *each.draw_shape), self.noise.law, generator, p) for each in self.maps()]

    def _noise_is_in_readouts(self) -> bool:
        readouts = {id(module) for layer in self.body.readout_layers() for module in layer.modules()}
        return all(id(each) in readouts for each in self.maps())


def _patterns(potential: Any, layers: Layers) -> list[tuple[str, ...]]:
    if isinstance(layers, Mapping):
        for pattern in layers.values():
            _check_pattern(pattern)
        return sorted(layers.items())  # in a fixed order, which a file keeps
    named = potential.NOISE if isinstance(potential, NamesNoisyLayers) else {}
    if not layers or not set(layers) <= set(named):
        known = f"some of {', '.join(named)}" if named else "a mapping of node and edge to patterns of names"
        raise InputError(f"`layers` must name {known}, got {list(layers)}; name at least one.")
    if {"last", "readout"} <= set(layers):
        raise InputError("`layers` must name last or readout, not both; the second contains the first.")
    return [named[name] for name in sorted(layers)]


def _check_pattern(pattern: Any) -> None:
    # A file may bring it: one with repeats in repeats takes for ever on a name of forty letters.
    repeats = [] if not isinstance(pattern, str) else re.findall(r"(?<!\\)[*+{]", pattern)
    if (
        not isinstance(pattern, str)
        or len(pattern) > _LONGEST
        or len(repeats) > _MOST_REPEATS
        or _NESTED.search(pattern)
    ):
        raise InputError(
            f"`layers` must be patterns of at most {_LONGEST} letters and {_MOST_REPEATS} repeats, none of a group, "
            f"got {pattern!r:.80}; name layers more plainly."
        )
