"""BLIP: a message-passing potential with noise on its weights, and members drawn from it.

The noise sits on the radial networks and on the readouts, which are scalars: every draw is exactly equivariant, and,
with its random numbers frozen in weight space, a fixed and smooth function of the positions.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022: Bayesian learned interatomic potentials.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.graph import Graph
from ase_uq.potentials.base import Evaluation, evaluate, joined
from ase_uq.potentials.blocks import MLP
from ase_uq.potentials.equivariant import DTYPES, EquivariantPotential
from ase_uq.potentials.rates import RateNetwork
from ase_uq.potentials.variational_layers import Noise, VariationalMap, VariationalMLP

LAYERS = ("radial", "readout")
DEFAULT_LAYERS = ("readout",)  # draws then share the body and cost little; see benchmarks/README.md


class VariationalPotential(nn.Module):
    """An `EquivariantPotential` whose weights are distributions; see `make_variational`.

    Evaluated as it is, it is the potential of the mean weights. `noise.mode = "local"` gives fresh noise at every call,
    as training needs it; members for dynamics come from `sample_members`.
    """

    def __init__(
        self,
        potential: EquivariantPotential,
        *,
        layers: Sequence[str] = DEFAULT_LAYERS,
        prior_dropout: float = 0.5,
        max_dropout: float = 0.8,
        initial_dropout: float | None = None,
        adaptive: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._config = {
            "potential": potential.config(),
            "layers": list(layers),
            "prior_dropout": prior_dropout,
            "max_dropout": max_dropout,
            "initial_dropout": initial_dropout,
            "adaptive": adaptive,
            "seed": seed,
        }
        if not set(layers) <= set(LAYERS) or not layers:
            raise InputError(f"`layers` must name some of {', '.join(LAYERS)}, got {list(layers)}; name at least one.")
        if not 0.0 < prior_dropout < 1.0:
            raise InputError(f"`prior_dropout` must lie between 0 and 1, got {prior_dropout}; 0.5 is usual.")
        self.prior_rate = prior_dropout / (1.0 - prior_dropout)
        self.noise = Noise()
        self.body = copy.deepcopy(potential).requires_grad_(True)
        network, columns = self.body.network, {"node": 0, "edge": 0}
        if "radial" in layers:
            for layer in network.layers:
                layer.radial = self._replaced(layer.radial, "edge", columns)  # type: ignore[arg-type]
        if "readout" in layers:
            for k, readout in enumerate(network.readouts):
                network.readouts[k] = self._replaced(readout, "node", columns)  # type: ignore[arg-type]
        self.rates = RateNetwork(
            len(potential.elements),
            potential.cutoff,
            n_node_layers=max(columns["node"], 1),
            n_edge_layers=max(columns["edge"], 1),
            max_dropout=max_dropout,
            initial_dropout=initial_dropout,
            adaptive=adaptive,
            seed=seed,
        ).to(DTYPES[potential.config()["dtype"]])

    def _replaced(self, mlp: MLP, domain: str, columns: dict[str, int]) -> VariationalMLP:
        swapped = VariationalMLP(mlp, self.noise, domain, columns[domain])
        columns[domain] += len(swapped.maps)
        return swapped

    @property
    def cutoff(self) -> float:
        """Neighbour cut-off, Å."""
        return self.body.cutoff

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols it knows."""
        return self.body.elements

    @property
    def scale(self) -> Tensor:
        """Force scale of the training set, eV/Å."""
        return self.body.scale

    @property
    def n_members(self) -> int:
        """One."""
        return 1

    def maps(self) -> list[VariationalMap]:
        """Return all maps with noise, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, VariationalMap)]

    def config(self) -> dict[str, Any]:
        """Return what builds the same architecture."""
        return copy.deepcopy(self._config)

    def energies(self, graph: Graph) -> Tensor:
        """Return the total energies of one draw, or of the mean weights, (1, S) float64, eV."""
        self.set_rates(graph)
        return self.energies_at_rates(graph)

    def set_rates(self, graph: Graph) -> None:
        """Work out the rates of the structures at hand; they do not depend on the draw."""
        distances = torch.linalg.vector_norm(graph.edge_vectors(), dim=-1)
        self.noise.rates = self.rates(self.body.species(graph), graph.senders, graph.receivers, distances)

    def scalars(self, graph: Graph) -> list[Tensor]:
        """Return the scalar features after every layer of the body, for rates that are there already."""
        body = self.body
        found: list[Tensor] = body.network.scalars(graph, body.species(graph), body.mean_neighbours)
        return found

    def energies_at_rates(self, graph: Graph, scalars: list[Tensor] | None = None) -> Tensor:
        """Return energies (1, S) for rates, and perhaps scalars, that are there already."""
        features = self.body.network.seen_by_last_layers(self.scalars(graph) if scalars is None else scalars)
        summed = graph.sum_over_atoms(features.to(torch.float64))
        energies = summed @ self.body.readout() + self.body.reference_energies(graph)
        noise = self._last_noise(features)
        if noise is not None:
            energies = energies + graph.sum_over_atoms(noise.to(torch.float64)) * self.scale
        return energies.unsqueeze(0)

    def kl_divergence(self) -> Tensor:
        """KL divergence from the prior, nats per weight, for the structures last evaluated."""
        maps = self.maps()
        sizes = [each.weight.numel() for each in maps]
        total = sum(size * each.kl_divergence(self.prior_rate) for size, each in zip(sizes, maps, strict=True))
        return torch.as_tensor(total) / sum(sizes)

    def _last_noise(self, features: Tensor) -> Tensor | None:
        # The last layer is linear in the features and applied to their sum: its noise is that of every atom.
        readouts: list[Any] = list(self.body.network.readouts)
        if self.noise.mode == "mean" or not isinstance(readouts[0], VariationalMLP):
            return None
        parts = features.split([readout.last_weights().shape[1] for readout in readouts], dim=1)
        noises = [readout.maps[-1].perturbation(part) for readout, part in zip(readouts, parts, strict=True)]
        return torch.stack(noises).sum(dim=0).squeeze(1)


class VariationalEnsemble(nn.Module):
    """S draws of a variational potential, frozen in weight space; see `sample_members`."""

    def __init__(self, potential: VariationalPotential, n_members: int = 8, *, seed: int = 0) -> None:
        super().__init__()
        if n_members < 2:
            raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 8 or more is usual.")
        self.potential, self.seed, self._n_members = potential, seed, n_members
        generator = torch.Generator().manual_seed(seed)
        for k, each in enumerate(potential.maps()):
            drawn = torch.randn(n_members, *each.weight.shape, generator=generator, dtype=torch.float64)
            # The mean over draws is then the potential of the mean weights to first order in the noise, and their
            # variance with divisor S - 1 that of independent draws.
            drawn = drawn - drawn.mean(dim=0)
            # Part of the state, and so of the file and its hash: generators differ between versions of torch.
            self.register_buffer(f"draws_{k}", drawn.to(each.weight.dtype))

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
        return "radial" not in self.potential.config()["layers"]

    def energies(self, graph: Graph) -> Tensor:
        """Return the energies of all draws, (S, structures) float64, eV."""
        self.potential.set_rates(graph)
        scalars = self.potential.scalars(graph) if self.shares_body else None
        return torch.cat([self._energies_of(s, graph, scalars) for s in range(self.n_members)])

    def evaluate_members(self, graph: Graph, *, stress: bool = False) -> Evaluation:
        """Evaluate all draws: together where they share the body, else one after another."""
        if self.shares_body:
            return evaluate(_Draws(self), graph, stress=stress)
        return joined([evaluate(_Draws(self, s), graph, stress=stress) for s in range(self.n_members)])

    def for_inference(self) -> VariationalEnsemble:
        """Return a copy with fixed weights, and tabulated radial functions where they have no noise."""
        twin = copy.deepcopy(self).requires_grad_(False)
        if self.shares_body:
            twin.potential.body = self.potential.body.for_inference()
            # The copy of the body has brought copies of the noise along; there must be one.
            for each in twin.potential.maps():
                each.noise = twin.potential.noise
        return twin

    def config(self) -> dict[str, Any]:
        """Return what builds the same architecture and the same draws."""
        return {"potential": self.potential.config(), "n_members": self.n_members, "seed": self.seed}

    def _energies_of(self, s: int, graph: Graph, scalars: list[Tensor] | None) -> Tensor:
        noise, maps = self.potential.noise, self.potential.maps()
        before, noise.mode = noise.mode, "frozen"
        try:
            for k, each in enumerate(maps):
                each.frozen = getattr(self, f"draws_{k}")[s]
            return self.potential.energies_at_rates(graph, scalars)
        finally:
            noise.mode = before


class _Draws:
    """All draws, or one of them, as a potential without a way of its own to be evaluated."""

    def __init__(self, ensemble: VariationalEnsemble, s: int | None = None) -> None:
        self.ensemble, self.s, self.cutoff = ensemble, s, ensemble.cutoff
        self.n_members = ensemble.n_members if s is None else 1

    def energies(self, graph: Graph) -> Tensor:
        if self.s is None:
            return self.ensemble.energies(graph)
        self.ensemble.potential.set_rates(graph)
        return self.ensemble._energies_of(self.s, graph, None)


def make_variational(
    potential: EquivariantPotential,
    *,
    layers: Sequence[str] = DEFAULT_LAYERS,
    prior_dropout: float = 0.5,
    max_dropout: float = 0.8,
    initial_dropout: float | None = None,
    adaptive: bool = True,
    seed: int = 0,
) -> VariationalPotential:
    """Put noise on the weights of a potential, which keep their values as means.

    Parameters
    ----------
    potential
        Trained or not; it is copied.
    layers
        Where the noise goes: "readout" (a rate for each atom; draws share the body, and cost little), "radial" (the
        networks of distances, a rate for each edge), or both.
    prior_dropout
        p_0 of the prior, N(0, rho theta^2) with rho = p_0/(1 - p_0).
    max_dropout, initial_dropout
        Cap and start of p; 0.1 and 5e-5 to fine-tune a trained potential without disturbing it.
    adaptive
        Rates from elements and distances; without, one for each layer.
    seed
        Of the rate networks.

    Raises
    ------
    InputError
        For layers that do not exist or probabilities out of range.

    References
    ----------
    arXiv:2508.14022.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_uq.graph import build_graph
    >>> body = EquivariantPotential(elements=["O", "H"], cutoff=4.0, channels=8)
    >>> members = sample_members(make_variational(body), n_members=4)
    >>> members.energies(build_graph(molecule("H2O"), 4.0)).shape
    torch.Size([4, 1])
    """
    if not isinstance(potential, EquivariantPotential):
        raise InputError(
            f"`potential` must be an EquivariantPotential, got {type(potential).__name__}; foreign modules come later."
        )
    return VariationalPotential(
        potential,
        layers=layers,
        prior_dropout=prior_dropout,
        max_dropout=max_dropout,
        initial_dropout=initial_dropout,
        adaptive=adaptive,
        seed=seed,
    )


def sample_members(potential: VariationalPotential, n_members: int = 8, seed: int = 0) -> VariationalEnsemble:
    """Draw members: fixed functions of the positions, the same for the same seed.

    Noise is drawn for every weight, not for every atom: all atoms of all frames share a draw, which is what makes a
    member a potential. The draws are centred; their variance, with divisor S - 1, is that of independent ones.

    Parameters
    ----------
    potential
        Not copied.
    n_members
        S; the standard deviation over draws is known to 1/sqrt(2 (S - 1)).
    seed
        Of the draws.
    """
    return VariationalEnsemble(potential, n_members, seed=seed)
