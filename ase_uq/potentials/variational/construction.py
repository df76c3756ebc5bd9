"""BLIP: noise on the weights of a potential (`make_variational`), and members drawn from it (`sample_members`).

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022: Bayesian learned interatomic potentials.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ase_uq.errors import InputError
from ase_uq.potentials.abilities import KnowsElements, KnowsScale
from ase_uq.potentials.base import Potential
from ase_uq.potentials.graph import Graph
from ase_uq.potentials.mace import MACEPotential, is_mace
from ase_uq.potentials.variational.ensemble import VariationalEnsemble
from ase_uq.potentials.variational.layers import kl_of_rate
from ase_uq.potentials.variational.potential import Layers, VariationalPotential

DEFAULT_LAYERS = ("readout",)  # draws of ours then share the body and cost little; see benchmarks/README.md


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
        Whether noise leaves an average atom alone (`ase_uq.potentials.variational.layers`); without, as in the paper.
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
    >>> from ase_uq.potentials.graph import build_graph
    >>> from ase_uq.potentials import EquivariantPotential
    >>> body = EquivariantPotential(elements=["O", "H"], cutoff=4.0, channels=8)
    >>> members = sample_members(make_variational(body), n_members=4)
    >>> members.energies(build_graph(molecule("H2O"), 4.0)).shape
    torch.Size([4, 1])
    """
    potential: Any = MACEPotential(module) if is_mace(module) else module
    known = (
        isinstance(potential, Potential) and isinstance(potential, KnowsElements) and isinstance(potential, KnowsScale)
    )
    if not (known and isinstance(potential, nn.Module) and potential.n_members == 1):
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
    M - 1, that of independent draws.

    Parameters
    ----------
    potential
        Not copied.
    n_members
        M; the standard deviation over draws is known to 1/sqrt(2 (M - 1)), see `VariationalEnsemble.std_error`.
    seed
        Of the draws.
    """
    return VariationalEnsemble(potential, n_members, seed=seed)


def kl_divergence(potential: VariationalPotential, graph: Graph | None = None) -> Tensor:
    """Return the KL divergence of the weights from their prior, nats per weight, mean over the atoms and edges.

    Parameters
    ----------
    potential
        A potential with noise on its weights.
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
