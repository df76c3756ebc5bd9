"""Last-layer prediction rigidity: the uncertainty of a trained potential, without training it again.

The energy is linear in the features f that the last layer sees. How far its weights w could move without the fit
to the training data getting worse is a Gaussian, and so is what it does to any prediction:

==========================  =====================================================================
symbol                      variable
==========================  =====================================================================
f_s                         `summed_features` of training structure s, less its constants, over its number of atoms
H = sum_s f_s f_s^T         `information`, (F, F)
C = u^2 (H + lambda 1)^-1   `covariance` = L L^T, up to the factor alpha^2
u                           unit that gives the training structures a std of 1 meV per atom on average
sigma^2 = alpha^2 f^T C f   variance of the energy
d_m                         `deviations[:, m]` of M members of the last layer, (F, M)
==========================  =====================================================================

The members are d = sqrt(M-1) L Q with Q (F, M) random, its rows orthonormal and with zero sum. So their mean is the
potential itself, and with M > F, the default, their covariance (divisor M-1) is C exactly: the variance of the energy,
and by the linear cumulant expansion the model error of an average, are those of infinitely many members.

Constants are the features of an average atom of each element, `centre` (Z, F), by least squares over the training
structures: they cancel in every force and average, and would be most of the spread of energies otherwise.

References
----------
Bigi, Chong, Ceriotti & Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), arXiv:2403.02251.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.units import kB
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.graph import build_graph
from ase_uq.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, FeaturePotential, ShallowEnsemble
from ase_uq.training.constants import composition_constants, element_counts

Array = NDArray[np.float64]

# eV per atom: the std of the training structures before calibration. Without a sensible size members would differ by
# so much that their mean lost digits.
TRAINING_STD = 1e-3
# First regulariser, of the mean diagonal of H; it grows tenfold until the matrix can be factorised.
FIRST_REGULARISER = 1e-10
# Of the features: what is left of them below is rounding.
_NOTHING = 1e-9


class LLPRUncertainty(MemberUncertainty):
    """Uncertainty of one trained potential from its last layer.

    Parameters
    ----------
    potential
        A trained potential with last-layer features; the mean of the members is this potential, to the last digit.
    covariance
        (F, F), eV^2 up to the factor alpha^2, see `LLPRUncertainty.fit`.
    centre
        (Z, F), what the members leave out for every atom of an element, see `ShallowEnsemble`; nothing by default.
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
        ensemble = ShallowEnsemble(potential, n_members, deviations=deviations)
        if centre is not None:
            ensemble.centre.copy_(centre)
        super().__init__(ensemble, alpha=alpha, calibration=calibration, training=training, **evaluation)
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
            For a potential without last-layer features, or no frames.
        """
        if isinstance(potential, ShallowEnsemble):
            potential = potential.potential
        elif isinstance(potential, DeepEnsemble):
            potential = potential.members[0]
        if not isinstance(potential, FeaturePotential):
            raise InputError(
                f"`potential` must have last-layer features, {type(potential).__name__} has none; "
                "use EquivariantPotential."
            )
        if not frames:
            raise InputError("`frames` must hold the structures the potential was trained on, got none; pass them.")
        found = []
        for done, atoms in enumerate(frames, 1):
            graph = build_graph(atoms, potential.cutoff)
            with torch.no_grad():
                found.append((element_counts(graph, potential.elements), potential.summed_features(graph)))
            if on_frame is not None:
                on_frame(done)
        counts, features = (torch.cat(parts) for parts in zip(*found, strict=True))
        centre = torch.from_numpy(composition_constants(counts.numpy(), features.numpy()))
        centred = (features - counts @ centre) / counts.sum(dim=1, keepdim=True)
        if not bool((centred.abs() > _NOTHING * features.abs().max()).any()):
            raise InputError(
                f"`frames` must hold structures that differ in more than composition, got {len(frames)}; pass at least "
                "two of a composition."
            )
        information = centred.T @ centred
        covariance = posterior_covariance(information)
        on_average = float((information * covariance).sum()) / len(frames)
        return cls(potential, covariance * TRAINING_STD**2 / on_average, centre=centre, **options)


def posterior_covariance(information: Tensor) -> Tensor:
    """Invert the information matrix (F, F), with as small a regulariser as makes it positive definite."""
    identity = torch.eye(len(information), dtype=information.dtype)
    regulariser = FIRST_REGULARISER * float(information.diagonal().mean())
    while True:
        factor, failed = torch.linalg.cholesky_ex(information + regulariser * identity)
        if not failed:
            return torch.cholesky_inverse(factor)
        regulariser *= 10.0


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
