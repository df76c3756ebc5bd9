"""The calibration factor alpha of a model with members, from structures it was not trained on.

The error of the mean, divided by the raw spread of the members, is a Student's t variable with M-1 degrees of freedom,
stretched by c: members scatter alpha times too little, and the mean of M independent members carries a 1/M share of
that scatter. A mean that is pinned by construction (shallow ensembles, LLPR, draws about mean weights) carries none.

=============================  ==============================================================
symbol                         variable
=============================  ==============================================================
M                              `n_members`
Ebar, s                        `mean`, `std`: raw mean and spread (divisor M-1), alpha not applied
E_i                            `members`
z = (y_ref - Ebar) / s         `z`; a ratio, so that energies of structures of any size are pooled as they are
m                              `mean_share`: 1/M, or 0 where the mean is pinned
alpha^2 = c^2 - m              `student_t`: c maximises the likelihood of z / c under Student's t
Eq. 6                          `moment`: alpha^2 = -m + (M-3)/(M-1) mean(z^2)
=============================  ==============================================================

Energies of one composition share a constant, which cancels in every force and average: where `members` and
`compositions` are given, it is taken out of errors and members alike before anything is fitted
(`ase_uq.validation.centring`).

Eq. 6 needs the second moment of t, and its own error bar needs the fourth, which exists for M >= 6 only: with 200
structures and M = 4 it scatters by 25 % and more, the t fit by 7 %. Hence the t fit is the default.

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 3 to 6 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.validation.centring import Centring
from ase_uq.validation.doubts import Findings, sentences
from ase_uq.validation.inputs import calibration_inputs, group_indices, noise_variances
from ase_uq.validation.noisy_scale import NoisyScale
from ase_uq.validation.resolution import zero_by_symmetry
from ase_uq.validation.student_t import (
    Method,
    clustered_variance,
    effective_number,
    inefficiency_in_order,
    relative_error,
    scale_squared,
    scale_variance,
    student_t_scale,
)

MIN_MEMBERS = 4  # the factor (M-3)/(M-1) of Eq. 6 is positive from here on
MIN_STRUCTURES = 10  # alpha is then known to about 30 % at best
# Of c: the smallest alpha ever returned. Where the error of the mean explains all errors alpha is not known from zero.
# A spread that shrinks to nothing would tell nobody anything, and this one makes intervals 4 % wider.
ALPHA_FLOOR = 0.3
# A spread this far below the typical one is rounding noise around a zero that symmetry or a shared constant forces.
NEGLIGIBLE_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Calibration:
    """alpha, and what it was fitted on.

    Attributes
    ----------
    alpha
        Factor to be applied to the members around their mean, never below `ALPHA_FLOOR` times the ratio of errors to
        spread.
    alpha_std_error
        Its standard error: the larger of that from the scatter of groups, or structures, and of that which the
        correlations of the members leave; the true value lies within twice of it in 95 % of cases. `None` with fewer
        than two groups.
    method
        The estimator behind `alpha`: `"student_t"` or `"moment"`.
    n_structures
        Structures given, the masked ones included.
    n_members
        M; `None` for a width without members.
    n_masked
        Structures, or components of forces, left out because their members agree to rounding.
    alpha_student_t, alpha_moment
        Both estimates.
    mean_share
        Share of the members' variance that their mean carries, 1/M or 0.
    dof
        Degrees of freedom of the spread; `None` where it is exact.
    centred
        What was taken out of errors and members: the constant of each "composition", of each "element", or "none".
    alpha_raw
        The estimate with constants left in; `None` where none were taken out.
    warnings
        One sentence each.
    """

    alpha: float
    alpha_std_error: float | None
    method: Method
    n_structures: int
    n_members: int | None
    n_masked: int
    alpha_student_t: float
    alpha_moment: float
    mean_share: float
    dof: float | None
    centred: str = "none"
    alpha_raw: float | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON and for the model file."""
        return {**asdict(self), "warnings": list(self.warnings)}


def calibrate(
    *,
    reference: ArrayLike,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    members: ArrayLike | None = None,
    n_members: int | None = None,
    mean_share: float | None = None,
    dof: float | None = None,
    noise: ArrayLike | None = None,
    compositions: Sequence[Any] | ArrayLike | None = None,
    method: Method = "student_t",
    groups: Sequence[Any] | None = None,
    kinds: Mapping[str, Sequence[Any]] | None = None,
    resolution: float | None = None,
    values: str = "structures",
) -> Calibration:
    """Fit the calibration factor alpha of a model with members.

    Parameters
    ----------
    reference
        (S,), reference total energies, eV. The structures must be new to every member, and independent.
    mean, std
        (S,), uncalibrated mean and spread (divisor M-1), eV. They follow from `members` where those are given.
    members
        (M, S), uncalibrated member energies, eV. Needed to take out constants, and for an error bar of alpha that
        knows how the members correlate.
    n_members
        M, the members behind `mean` and `std`; at least 4. A width without members has none, and an infinite `dof`.
    mean_share
        Share of the members' variance that their mean carries: 1/M where it is that of M independent members (the
        default), 0 where it is pinned by construction.
    dof
        Degrees of freedom of the spread: M - 1 by default; infinite where the members have an exact covariance.
    noise
        (S,), eV^2, variances that a model has beside its spread, which no factor touches: alpha is what the errors have
        beyond them, see `ase_uq.validation.noisy_scale`, by either method.
    compositions
        (S,) labels, or (S, Z) counts of elements: what is constant within a composition is taken out, see
        `ase_uq.validation.centring`. Needs `members`.
    method
        `"student_t"`, or `"moment"` for Eq. 6.
    groups
        (S,), labels such as the trajectory a frame is from. Structures of one group are correlated, and the error bar
        is taken between groups. Without it structures are taken in their order, and neighbours may be correlated.
    kinds
        Name of a grouping -> (S,) labels: kinds that want an alpha of their own are named in a warning.
    resolution
        Values whose mean and spread are both at most this are zero by symmetry and left out. By default 1e-4 of the
        root mean square of `reference` over the others; for energies of structures, whose zero is arbitrary, only a
        spread a million times below the typical one counts as none.
    values
        What there is one of for each entry, for the warnings.

    Raises
    ------
    InputError
        If a value is not finite or a spread negative, shapes differ, M < 4, or fewer than `MIN_STRUCTURES` have a
        spread.

    References
    ----------
    arXiv:2011.08828, Eq. 6; the t fit is the maximum-likelihood form of its error model for finite M.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members = rng.normal(size=(4, 2000)) + 20.0 * rng.normal(size=(4, 1))  # with a constant each
    >>> fit = calibrate(reference=2.0 * rng.normal(size=2000), members=members, compositions=["H2O"] * 2000)
    >>> bool(abs(fit.alpha - 2.0) < 3.0 * fit.alpha_std_error), round(fit.alpha_raw, 1) < 0.5
    (True, True)
    """
    if method not in get_args(Method):
        raise InputError(f"`method` must be one of {', '.join(get_args(Method))}, got {method!r}; choose one of them.")
    without = n_members is None and members is None and dof is not None and np.isinf(dof)
    y, centre, s, deviations, m = calibration_inputs(reference, mean, std, members, np.inf if without else n_members)
    share, nu = 1.0 / m if mean_share is None else float(mean_share), m - 1.0 if dof is None else float(dof)
    if m < MIN_MEMBERS and not np.isinf(nu):
        raise InputError(
            f"`n_members` must be at least {MIN_MEMBERS} to calibrate, got {m}; "
            "train more members, or use the model uncalibrated."
        )
    if compositions is not None and deviations is None:
        raise InputError("`compositions` needs `members` (M, S), got none; constants of members lie in them.")
    if compositions is not None and len(np.asarray(compositions)) != len(y):
        raise InputError(
            f"`compositions` must have one entry a structure, {len(y)}, got {len(np.asarray(compositions))}; "
            "give the formula of each."
        )
    labels = group_indices(groups, len(y))
    centring = Centring.none(len(y)) if compositions is None else Centring.within(compositions, fewest=MIN_STRUCTURES)
    error, raw_error, raw_s = centring.of(y - centre), y - centre, s
    raw_v = noise_variances(noise, y)
    if deviations is not None:
        deviations = centring.of(deviations)
        s = np.sqrt((deviations**2).sum(axis=0) / (m - 1.0))
    used = _resolved(s, centre, y, resolution, values) & centring.left
    if used.sum() < MIN_STRUCTURES:
        raise InputError(
            f"`std` must be above zero in at least {MIN_STRUCTURES} {values} to calibrate, got {int(used.sum())} "
            f"of {len(s)}; add validation structures."
        )
    z, weights = error[used] / s[used], 1.0 - centring.leverage[used]
    law: dict[str, Any] = {"dof": nu, "method": method}
    noisy = None
    if raw_v.any():
        noisy = NoisyScale.fit(error[used], s[used], centring.variance_of(raw_v)[used], weights=weights)
        z, scales = noisy.scaled, dict.fromkeys(get_args(Method), noisy.c_squared)
    else:
        scales = {name: scale_squared(z**2, dof=nu, method=name, weights=weights) for name in get_args(Method)}
    alphas = {name: _clamped(value, share) for name, value in scales.items()}
    of_kind = {name: np.array([str(x) for x in given])[used] for name, given in (kinds or {}).items()}
    correlated = 1.0 if groups is not None else _in_order(z, of_kind, nu)
    variance = _variance_of_log_scale(
        z, labels[used], weights, None if deviations is None else deviations[:, used], correlated, noisy, **law
    )
    std_error = None if variance is None else _error_of_alpha(scales[method], share, variance)
    raw = None
    if centring.kind != "none":
        known = raw_s > 0.0
        raw = _clamped(_raw_scale(raw_error[known], raw_s[known], raw_v[known], **law), share)
    findings = Findings(
        z=z,
        alphas=alphas,
        scales=scales,
        method=method,
        n_members=None if without else int(m),
        noise=noisy,
        dof=nu,
        mean_share=share,
        std_error=std_error,
        n_masked=int((~used).sum()),
        values=values,
        centred=centring.kind,
        alpha_raw=raw,
        correlated=correlated,
        one_composition=compositions is None or centring.kind != "none",
        kinds=of_kind,
        weights=weights,
    )
    return Calibration(
        alpha=alphas[method],
        alpha_std_error=std_error,
        method=method,
        n_structures=len(y),
        n_members=findings.n_members,
        n_masked=findings.n_masked,
        alpha_student_t=alphas["student_t"],
        alpha_moment=alphas["moment"],
        mean_share=share,
        dof=None if np.isinf(nu) else nu,
        centred=centring.kind,
        alpha_raw=raw,
        warnings=tuple(sentences(findings)),
    )


def _resolved(s: Array, centre: Array, y: Array, resolution: float | None, values: str) -> NDArray[np.bool_]:
    positive = s[s > 0.0]
    typical = float(np.median(positive)) if len(positive) else 0.0
    if resolution is not None or values == "structures":
        zero = zero_by_symmetry(mean=centre, std=s, resolution=resolution or 0.0)
    else:
        zero = zero_by_symmetry(mean=centre, std=s, reference=y)
    return np.asarray((s > NEGLIGIBLE_SPREAD * typical) & ~zero)


def _clamped(scale_squared: float, share: float) -> float:
    return float(np.sqrt(max(scale_squared - share, ALPHA_FLOOR**2 * scale_squared, 1e-300)))


def _variance_of_log_scale(
    z: Array,
    labels: NDArray[np.intp],
    weights: Array,
    deviations: Array | None,
    correlated: float,
    noisy: NoisyScale | None,
    *,
    dof: float,
    method: Method,
) -> float | None:
    if noisy is None:
        # The moment is the scale of normal variables.
        variance = clustered_variance(z, labels, weights=weights, dof=dof if method == "student_t" else np.inf)
    else:
        variance = noisy.variance(labels)
    if variance is None:
        return None
    variance *= correlated
    if deviations is None:
        return variance
    n = effective_number(deviations, weights=weights, exact=np.isinf(dof))
    # What is noise in the errors says nothing of c.
    share = 1.0 if noisy is None else noisy.share
    return max(variance, scale_variance(n, dof=dof) / share**2)


def _raw_scale(error: Array, spread: Array, noise: Array, *, dof: float, method: Method) -> float:
    if noise.any():
        return NoisyScale.fit(error, spread, noise, weights=np.ones_like(error)).c_squared
    return scale_squared((error / spread) ** 2, dof=dof, method=method)


def _error_of_alpha(scale_squared: float, share: float, variance: float) -> float:
    """Half of the larger distance from alpha to the ends of its interval of two standard errors."""
    alpha, k = _clamped(scale_squared, share), relative_error(max(variance, 1e-12))
    ends = [_clamped(scale_squared * max(1.0 + sign * 2.0 * k, 0.0) ** 2, share) for sign in (1.0, -1.0)]
    # At its floor alpha may be anything from zero on.
    clipped = scale_squared - share < alpha**2 * (1.0 - 1e-9)
    return max(ends[0] - alpha, alpha if clipped else alpha - ends[1], 2.0 * k * alpha) / 2.0


def _in_order(z: Array, kinds: Mapping[str, NDArray[Any]], dof: float) -> float:
    """Inefficiency in the order of the file; of a file sorted by kind only what is left inside of kinds."""
    labels = next(iter(kinds.values()), np.zeros(len(z)))
    parts = [z[labels == label] for label in np.unique(labels)]
    return float(np.average([inefficiency_in_order(part, dof=dof) for part in parts], weights=[len(p) for p in parts]))


__all__ = ["MIN_MEMBERS", "MIN_STRUCTURES", "Calibration", "calibrate", "student_t_scale"]
