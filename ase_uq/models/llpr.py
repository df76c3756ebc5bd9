"""Last-layer prediction rigidity: the uncertainty of a trained potential, without training it again.

The energy is linear in the features f that the last layer sees. How far its weights w could move without the fit
to the training data getting worse is a Gaussian, and so is what it does to any prediction:

==========================  =====================================================================
symbol                      variable
==========================  =====================================================================
f_s                         `summed_features` of training structure s
c_z                         `centre[z]`, (Z, F): features of an average atom of each element
x_s                         `rows[s]`, (f_s - sum_i c_z(i)) over the number of atoms of s
H = sum_s x_s x_s^T         `information`, (F, F)
C = u^2 (H + lambda 1)^-1   `covariance` = L L^T, up to the factor alpha^2
gamma                       `determined`: tr H (H + lambda 1)^-1, weights that the structures determine
h_s                         `leverage[s]`: x_s^T (H + lambda 1)^-1 x_s; their sum is gamma
u                           unit: each training structure, left out in turn, gets 1 meV per atom (median)
sigma^2                     variance of the energy: alpha^2 x^T C x, x = f - sum_i c_z(i)
d_m                         `deviations[:, m]` of M members of the last layer, (F, M)
==========================  =====================================================================

Constants per element are fitted together with w by any training, so they are taken out: c_z by least squares from the
features, as `alignment` does it for energies. Where structures are fewer than weights, or all alike in some of them,
lambda decides. It is the smallest with which

* gamma is at most half of the number of different structures (less the constants). Then a structure knows as much
  about itself as the others know about it, h_s about 1/2, and a new structure is in the place of one left out: its
  std is right, or wrong by one factor for all, which alpha takes out. With a lambda that only makes H invertible, new
  structures would differ from the old ones by the noise in directions that nothing is known about;
* weights that no structure determines vary by their own size w, not more: with errors of u = 1 meV per atom,
  lambda = u^2 / <w^2>.

Left out, structure s has the variance h_s / (1 - h_s), in units of u^2.

The members are d = sqrt(M-1) L Q with Q (F, M) random, its rows orthonormal and with zero sum. So their mean is the
potential itself, and with M > F, the default, their covariance (divisor M-1) is C exactly: the variance of the energy,
and by the linear cumulant expansion the model error of an average, are those of infinitely many members.

References
----------
Bigi, Chong, Ceriotti & Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), arXiv:2403.02251.
Effective number of parameters: MacKay, Neural Comput. 4, 415 (1992), doi:10.1162/neco.1992.4.3.415, Eq. 4.8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.units import kB
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import FeaturePotential, ShallowEnsemble
from ase_uq.potentials.abilities import representative
from ase_uq.potentials.graph import build_graph

# eV per atom: the std of training structures left out, before calibration. Without a sensible size members would differ
# by so much that their mean lost digits.
TRAINING_STD = 1e-3
# Smallest regulariser, of the mean diagonal of H, for the sake of the arithmetic alone.
LEAST_REGULARISER = 1e-10
# Of the size of the features: differences below are the noise of a network in single precision.
RESOLUTION = 1e-6


class LLPRUncertainty(MemberUncertainty):
    """Uncertainty of one trained potential from its last layer.

    Parameters
    ----------
    potential
        A trained potential with last-layer features; the mean of the members is this potential, to the last digit.
    covariance
        (F, F), eV^2 up to the factor alpha^2, see `LLPRUncertainty.fit`.
    centre
        (Z, F), features of an average atom of each element, which members leave alone; zero by default.
    n_members
        M; by default one more than there are features, the fewest whose covariance is exact. Fewer have a part of it.
    seed
        Of the members.
    alpha, calibration, training, **evaluation
        As for `MemberUncertainty`; uncalibrated, the scale of the variance has no meaning.

    References
    ----------
    arXiv:2403.02251.
    """

    def __init__(
        self,
        potential: FeaturePotential,
        covariance: Tensor,
        *,
        centre: Tensor | None = None,
        n_members: int | None = None,
        seed: int = 0,
        alpha: float = 1.0,
        calibration: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        **evaluation: Any,
    ) -> None:
        n_members = potential.n_features + 1 if n_members is None else n_members
        deviations = posterior_members(covariance, n_members, seed=seed)
        exact = n_members > potential.n_features
        shallow = ShallowEnsemble(potential, n_members, deviations=deviations, exact_spread=exact)
        if centre is not None:
            shallow.centre.copy_(centre)
        super().__init__(shallow, alpha=alpha, calibration=calibration, training=training, **evaluation)
        self.covariance = covariance

    @classmethod
    def fit(
        cls,
        potential: Any,
        frames: Sequence[Atoms],
        *,
        on_frame: Callable[[int], None] | None = None,
        **options: Any,
    ) -> LLPRUncertainty:
        """Form the covariance from the structures a potential was trained on: one forward pass over them.

        Few structures are regularised as the module says; `training["determined"]` is then gamma.

        Parameters
        ----------
        potential
            A potential with features. Of a `ShallowEnsemble` its body is taken, of a `DeepEnsemble` its first member.
        frames
            Training structures; labels are not needed.
        on_frame
            Called with the number of frames done.
        **options
            The other arguments of the constructor.

        Raises
        ------
        InputError
            For a potential without last-layer features, no frames, or frames that do not differ in more than their
            compositions, from which nothing follows.
        """
        potential = representative(potential)
        if not isinstance(potential, FeaturePotential):
            raise InputError(
                f"`potential` must have last-layer features, {type(potential).__name__} has none; "
                "use EquivariantPotential."
            )
        if not frames:
            raise InputError("`frames` must hold the structures the potential was trained on, got none; pass them.")
        rows, centre, n_different, n_free = _rows(potential, frames, on_frame)
        information = rows.T @ rows
        regulariser = fitted_regulariser(
            information, n_free=n_free, least=(TRAINING_STD**2 / potential.readout().detach().square().mean()).item()
        )
        covariance = posterior_covariance(information, regulariser=regulariser)
        leverage = ((rows @ covariance) * rows).sum(dim=1)
        unit = TRAINING_STD**2 / (leverage / (1.0 - leverage)).median()
        told = {"n_different": n_different, "n_features": len(covariance), "determined": leverage.sum().item()}
        described = {**(options.pop("training", None) or {}), **told}
        return cls(potential, covariance * unit, centre=centre, training=described, **options)

    def state(self) -> dict[str, Any]:
        """Return what a file holds of it, the covariance too."""
        return {**super().state(), "covariance": self.covariance}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.covariance = state["covariance"]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say so where there are fewer different frames than weights of the last layer."""
        found = self.training or {}
        if "determined" not in found or found["n_different"] > found["n_features"]:
            return ()
        said = (
            f"{found['n_different']} different frames determine {found['determined']:.1f} of the {found['n_features']} "
            "weights of the last layer, and what is said of the others is a guess; pass all frames of the training, "
            "or use members."
        )
        return (said,)


def fitted_regulariser(information: Tensor, *, n_free: int, least: float = 0.0) -> float:
    """Return the smallest lambda, not below `least`, with which at most n_free / 2 weights are determined.

    Parameters
    ----------
    information
        (F, F), H.
    n_free
        Different structures less the constants that were fitted to them, at least 1.
    least
        In the unit of H.
    """
    values = torch.linalg.eigvalsh(information).clamp(min=0.0)
    if not math.isfinite(least):  # weights of zero, of a potential that was never trained
        least = 0.0
    least = max(least, LEAST_REGULARISER * values.mean().item())

    def excess(logarithm: float) -> float:
        return float((values / (values + math.exp(logarithm))).sum()) - 0.5 * n_free

    if excess(math.log(least)) <= 0.0:
        return least
    # At 2 F times the largest eigenvalue less than half a weight is determined.
    most = 2.0 * len(values) * values.max().item()
    return math.exp(float(brentq(excess, math.log(least), math.log(most))))


def posterior_covariance(information: Tensor, *, regulariser: float | None = None) -> Tensor:
    """Invert H + lambda 1 (F, F); without a lambda that of the arithmetic alone."""
    values, vectors = torch.linalg.eigh(information)
    if regulariser is None:
        regulariser = LEAST_REGULARISER * values.mean().item()
    covariance: Tensor = (vectors / (values.clamp(min=0.0) + regulariser)) @ vectors.T
    return covariance


def _rows(
    potential: FeaturePotential, frames: Sequence[Atoms], on_frame: Callable[[int], None] | None
) -> tuple[Tensor, Tensor, int, int]:
    """Return x (S, F), c (Z, F), and how many different structures there are, also less the constants."""
    features, counts = [], []
    for done, atoms in enumerate(frames, 1):
        with torch.no_grad():
            features.append(potential.summed_features(build_graph(atoms, potential.cutoff))[0] / len(atoms))
        counts.append([np.count_nonzero(atoms.symbols == symbol) / len(atoms) for symbol in potential.elements])
        if on_frame is not None:
            on_frame(done)
    values, parts = torch.stack(features).cpu(), np.array(counts)
    # Smallest norm where compositions do not tell the elements apart, and zero for elements that no frame has.
    centre, _, n_constants, _ = np.linalg.lstsq(parts, values.numpy(), rcond=1e-10)
    rows = values - torch.from_numpy(parts @ centre)
    tolerance = RESOLUTION * values.square().mean().sqrt().item()
    different = len(torch.unique((rows / tolerance).round(), dim=0))
    if different <= n_constants or rows.abs().max() < tolerance:
        raise InputError(
            f"`frames` must hold more different structures than there are compositions to fit constants to "
            f"({n_constants}), got {different} in {len(frames)} frames; pass all frames the potential was trained on."
        )
    return rows, torch.from_numpy(centre), different, different - int(n_constants)


def posterior_members(covariance: Tensor, n_members: int, *, seed: int = 0) -> Tensor:
    """Return deviations of the last layer, (F, M), with mean zero; for M > F with exactly this covariance."""
    if n_members < 2:
        raise InputError(f"`n_members` must be at least 2 to have a variance, got {n_members}; 32 or more is usual.")
    values, vectors = torch.linalg.eigh(covariance)
    factor = vectors * values.clamp(min=0.0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n_members, len(covariance), generator=generator, dtype=covariance.dtype)
    centred = drawn - drawn.mean(dim=0)
    if n_members > len(covariance):
        # Columns of a random orthonormal set that is orthogonal to the constant vector.
        centred = torch.linalg.qr(centred).Q * (n_members - 1) ** 0.5
    members: Tensor = factor @ centred.T
    return members


def model_error(
    observable: ArrayLike, *, features: ArrayLike, covariance: ArrayLike, alpha: float, temperature_K: float
) -> float:
    """Return the model error of an average in closed form, the limit of infinitely many members.

    sigma = alpha / (kB T) sqrt(c^T C c), c = cov(observable, f) along a run driven by the potential.

    Parameters
    ----------
    observable
        (T,).
    features
        (T, F), summed over the atoms of each frame.
    covariance
        (F, F).
    alpha
        Calibration factor.
    temperature_K
        Of the thermostat.

    References
    ----------
    The linear expansion of arXiv:2011.08828, Eq. 25, with the posterior of arXiv:2403.02251.
    """
    a, f = np.asarray(observable, dtype=np.float64), np.asarray(features, dtype=np.float64)
    c = (a - a.mean()) @ (f - f.mean(axis=0)) / len(a)
    return float(alpha / (kB * temperature_K) * np.sqrt(c @ np.asarray(covariance) @ c))
