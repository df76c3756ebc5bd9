"""How good predictions and their uncertainties are on labelled structures.

=================================  ==============================================================
symbol                             variable
=================================  ==============================================================
e                                  `error`, prediction minus reference
alpha^2 s^2                        `var_epistemic`, as in `Prediction`: calibrated, divisor M-1
v                                  `var_aleatoric`, noise variance of the labels
sigma^2 = alpha^2 s^2 + v          what results report, `energy_var`; ranks are taken against it
t^2 = (alpha^2 + 1/M) s^2 + v      `predictive_scale` squared: the error of a mean of M members carries 1/M of s^2 more
p                                  expected coverage; the central interval is e within t Q((1 + p)/2)
=================================  ==============================================================

Conventions, the same for energies and forces:

* Intervals (coverage, miscalibration area) take Q from Student's t with M-1 degrees of freedom, because s is itself
  estimated from M members; from the normal distribution for a method without members. With label noise the sum is
  treated as one t variable of scale t: exact without noise, too wide in the tails where noise dominates.
* NLL is that of a normal distribution with variance t^2, with the 2 pi term, averaged: per structure for the *total*
  energy in eV, per component for forces in eV/Å. It is the score to compare methods by, not an interval.
* `mae`, `rmse` and ranks of energies are per atom; those of forces are per component, ranks per atom (norm of the
  error against norm of the component stds).
* Pooling structures of different size or origin raises a rank correlation although nothing is learnt about which
  structure of a kind is worse: large cells have both larger errors and larger spreads. Hence `spearman_within`.

References
----------
Kuleshov, Fenner and Ermon, arXiv:1807.00263: expected against observed coverage.
Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), arXiv:1912.10066: miscalibration area.
Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007): scoring rules.
arXiv:2011.08828: alpha; the 1/M term is the sampling error of the mean in its appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata, t

from ase_uq.errors import InputError

Array = NDArray[np.float64]

LEVEL_68 = float(2.0 * norm.cdf(1.0) - 1.0)  # one standard deviation of a normal distribution
LEVEL_95 = 0.95
# A point whose error and scale are both this far below the root mean square is exact by symmetry: 0/0.
NEGLIGIBLE = 1e-6
MIN_RANKED = 3
N_CURVE = 101


@dataclass(frozen=True, slots=True)
class GroupRank:
    """Rank correlation inside one group of points.

    Attributes
    ----------
    group
        Such as `"config_type=md_300K"`.
    n
        Points in it.
    spearman
        `None` with fewer than three points or without variation.
    """

    group: str
    n: int
    spearman: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one quantity; a number that cannot be given is `None`.

    Attributes
    ----------
    n
        Structures for energies, atoms for forces.
    mae, rmse
        eV per atom, or eV/Å per component.
    nll
        Mean Gaussian negative log-likelihood; `None` where a point with an error has no spread at all.
    coverage_68, coverage_95
        Share of points inside the central 68.27 % and 95 % intervals.
    miscalibration_area
        Area between the reliability curve and the diagonal, 0 (perfect) to 0.5.
    spearman
        Rank correlation of |error| with std over all points.
    spearman_within
        The same inside each group.
    n_exact
        Points left out of `nll` because error and spread are both zero to rounding.
    reliability
        (expected, observed) coverage, for plots.
    """

    n: int
    mae: float
    rmse: float
    nll: float | None = None
    coverage_68: float | None = None
    coverage_95: float | None = None
    miscalibration_area: float | None = None
    spearman: float | None = None
    spearman_within: tuple[GroupRank, ...] = ()
    n_exact: int = 0
    reliability: tuple[Array, Array] | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON, without the curve."""
        names = ("mae", "rmse", "nll", "coverage_68", "coverage_95", "miscalibration_area", "spearman", "n_exact")
        within = [{"group": rank.group, "n": rank.n, "spearman": rank.spearman} for rank in self.spearman_within]
        return {**{name: getattr(self, name) for name in names}, "spearman_within": within}


def energy_scores(
    *,
    error: ArrayLike,
    n_atoms: ArrayLike,
    var_epistemic: ArrayLike | None = None,
    var_aleatoric: ArrayLike | None = None,
    alpha: float = 1.0,
    n_members: int | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> Scores:
    """Score total energies.

    Parameters
    ----------
    error
        (S,), predicted minus reference total energy, eV.
    n_atoms
        (S,), atoms of each structure.
    var_epistemic, var_aleatoric
        (S,), the two variances of the total energy as in `Prediction`, eV^2; `None` where a method has none.
    alpha
        The calibration factor inside `var_epistemic`.
    n_members
        M; `None` for a method without members, whose intervals are normal.
    groups
        Name of a grouping -> (S,) labels, such as `{"config_type": [...], "composition": [...]}`.

    Raises
    ------
    InputError
        If a value is not finite, a variance negative, a shape wrong or there are no structures.

    Examples
    --------
    >>> scores = energy_scores(error=[0.1, -0.3], n_atoms=[1, 3], var_epistemic=[0.01, 0.09])
    >>> round(scores.mae, 12), scores.coverage_68
    (0.1, 1.0)
    """
    e = _values("error", error)
    sizes = _values("n_atoms", n_atoms, shape=e.shape)
    if e.ndim != 1 or (sizes < 1).any():
        raise InputError(
            f"`error` and `n_atoms` must have one value per structure, the latter at least 1, got shapes {e.shape} and "
            f"{sizes.shape}; give arrays of equal length."
        )
    spread = _Spread.of(e.shape, epistemic=var_epistemic, aleatoric=var_aleatoric, alpha=alpha, n_members=n_members)
    std = None if spread is None else np.sqrt(spread.var) / sizes
    return _scores(e, per_atom=e / sizes, rank_error=np.abs(e) / sizes, std=std, spread=spread, groups=groups)


def force_scores(
    *,
    error: ArrayLike,
    var_epistemic: ArrayLike | None = None,
    var_aleatoric: ArrayLike | None = None,
    alpha: float = 1.0,
    n_members: int | None = None,
    groups: Mapping[str, Sequence[Any]] | None = None,
) -> Scores:
    """Score forces; the atoms of all structures stand below one another.

    Parameters
    ----------
    error
        (N, 3), predicted minus reference force, eV/Å.
    var_epistemic, var_aleatoric
        (N, 3), the two variances of each component as in `Prediction`, (eV/Å)^2; `None` where a method has none.
    alpha, n_members
        As in `energy_scores`.
    groups
        Name of a grouping -> (N,) labels, such as `{"config_type": [...], "element": [...]}`.

    Raises
    ------
    InputError
        If a value is not finite, a variance negative, a shape wrong or there are no atoms.
    """
    e = _values("error", error)
    if e.ndim != 2 or e.shape[1] != 3:
        raise InputError(f"`error` must have the shape (N, 3), got {e.shape}; stack the atoms of all structures.")
    spread = _Spread.of(e.shape, epistemic=var_epistemic, aleatoric=var_aleatoric, alpha=alpha, n_members=n_members)
    std = None if spread is None else np.sqrt(spread.var.sum(axis=1))
    return _scores(e, per_atom=e, rank_error=np.linalg.norm(e, axis=1), std=std, spread=spread, groups=groups)


def predictive_scale(
    *,
    var_epistemic: ArrayLike,
    var_aleatoric: ArrayLike | None = None,
    alpha: float = 1.0,
    n_members: int | None = None,
) -> Array:
    """Scale of the error of a prediction: sqrt((alpha^2 + 1/M) s^2 + v), same shape and unit as a std.

    Parameters
    ----------
    var_epistemic, var_aleatoric, alpha, n_members
        alpha^2 s^2; v; the factor inside the former; M, or `None` to leave the 1/M out.
    """
    inflation = 1.0 if n_members is None else 1.0 + 1.0 / (n_members * alpha**2)
    noise = 0.0 if var_aleatoric is None else np.asarray(var_aleatoric, dtype=np.float64)
    return np.asarray(np.sqrt(inflation * np.asarray(var_epistemic, dtype=np.float64) + noise), dtype=np.float64)


def interval_confidence(*, error: ArrayLike, scale: ArrayLike, n_members: int | None = None) -> Array:
    """Level p of the smallest central interval that contains each error, in [0, 1], flattened.

    For a calibrated model the values are uniform. A point without scale has level 0 if it is exact and 1 if not.

    Parameters
    ----------
    error, scale
        Same shape; `scale` from `predictive_scale`.
    n_members
        M, for Student's t with M-1 degrees of freedom; `None` for the normal distribution.
    """
    e, s = np.abs(np.asarray(error, dtype=np.float64)).ravel(), np.asarray(scale, dtype=np.float64).ravel()
    z = np.divide(e, s, out=np.where(e > 0.0, np.inf, 0.0), where=s > 0.0)
    upper = norm.sf(z) if n_members is None else t.sf(z, df=n_members - 1)
    return np.asarray(1.0 - 2.0 * upper, dtype=np.float64)


def reliability_curve(confidence: ArrayLike, *, n_points: int = N_CURVE) -> tuple[Array, Array]:
    """Expected and observed coverage of central intervals.

    Parameters
    ----------
    confidence
        (n,), from `interval_confidence`.
    n_points
        Length of the two arrays returned, from 0 to 1 inclusive.

    References
    ----------
    arXiv:1807.00263.
    """
    u = np.sort(np.asarray(confidence, dtype=np.float64).ravel())
    expected = np.linspace(0.0, 1.0, n_points)
    return expected, np.searchsorted(u, expected, side="right") / len(u)


def miscalibration_area(confidence: ArrayLike) -> float:
    """Area between the reliability curve and the diagonal, integrated exactly over the steps of the curve.

    Parameters
    ----------
    confidence
        (n,), from `interval_confidence`.

    Examples
    --------
    >>> miscalibration_area([0.0, 0.0]), miscalibration_area([0.25, 0.75])
    (0.5, 0.125)
    """
    u = np.sort(np.asarray(confidence, dtype=np.float64).ravel())
    edges = np.concatenate([[0.0], u, [1.0]])
    observed = np.arange(len(u) + 1) / len(u)

    # The integral of |observed - p| over a step has the antiderivative (p - observed) |p - observed| / 2.
    def antiderivative(p: Array) -> Array:
        return 0.5 * (p - observed) * np.abs(p - observed)

    return float((antiderivative(edges[1:]) - antiderivative(edges[:-1])).sum())


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Spearman's rank correlation; `None` with fewer than three points or where one side does not vary."""
    a, b = rankdata(np.ravel(x)), rankdata(np.ravel(y))
    if len(a) < MIN_RANKED or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@dataclass(frozen=True, slots=True)
class _Spread:
    var: Array  # sigma^2, what results report
    scale: Array  # t, what intervals and the NLL use
    n_members: int | None

    @classmethod
    def of(
        cls,
        shape: tuple[int, ...],
        *,
        epistemic: ArrayLike | None,
        aleatoric: ArrayLike | None,
        alpha: float,
        n_members: int | None,
    ) -> _Spread | None:
        if epistemic is None and aleatoric is None:
            return None
        if not (np.isfinite(alpha) and alpha > 0.0):
            raise InputError(f"`alpha` must be a positive number, got {alpha}; use 1.0 when uncalibrated.")
        if n_members is not None and n_members < 2:
            raise InputError(f"`n_members` must be at least 2, got {n_members}; use None for a method without members.")
        # Noise alone has no members behind it: its intervals are normal.
        members = None if epistemic is None else n_members
        model = np.zeros(shape) if epistemic is None else _values("var_epistemic", epistemic, shape=shape)
        noise = np.zeros(shape) if aleatoric is None else _values("var_aleatoric", aleatoric, shape=shape)
        for name, values in (("var_epistemic", model), ("var_aleatoric", noise)):
            if (values < 0.0).any():
                raise InputError(f"`{name}` must not be negative, got {values.min()}; give variances.")
        scale = predictive_scale(var_epistemic=model, var_aleatoric=noise, alpha=alpha, n_members=members)
        return cls(var=model + noise, scale=scale, n_members=members)


def _scores(
    error: Array,
    *,
    per_atom: Array,
    rank_error: Array,
    std: Array | None,
    spread: _Spread | None,
    groups: Mapping[str, Sequence[Any]] | None,
) -> Scores:
    n, mae, rmse = len(error), float(np.abs(per_atom).mean()), float(np.sqrt((per_atom**2).mean()))
    if spread is None or std is None:
        return Scores(n=n, mae=mae, rmse=rmse)
    confidence = interval_confidence(error=error, scale=spread.scale, n_members=spread.n_members)
    nll, n_exact = _gaussian_nll(error.ravel(), spread.scale.ravel())
    return Scores(
        n=n,
        mae=mae,
        rmse=rmse,
        nll=nll,
        coverage_68=float((confidence <= LEVEL_68).mean()),
        coverage_95=float((confidence <= LEVEL_95).mean()),
        miscalibration_area=miscalibration_area(confidence),
        spearman=spearman(rank_error, std),
        spearman_within=_within(rank_error, std, groups or {}),
        n_exact=n_exact,
        reliability=reliability_curve(confidence),
    )


def _gaussian_nll(error: Array, scale: Array) -> tuple[float | None, int]:
    exact = (np.abs(error) <= NEGLIGIBLE * _rms(error)) & (scale <= NEGLIGIBLE * _rms(scale))
    e, s = error[~exact], scale[~exact]
    n_exact = int(exact.sum())
    # Without spread an error is infinitely surprising, which is no number.
    if len(e) == 0 or (s == 0.0).any():
        return None, n_exact
    value = float((0.5 * np.log(2.0 * np.pi) + np.log(s) + 0.5 * (e / s) ** 2).mean())
    return (value if np.isfinite(value) else None), n_exact


def _within(error: Array, std: Array, groups: Mapping[str, Sequence[Any]]) -> tuple[GroupRank, ...]:
    ranks = []
    for grouping, given in groups.items():
        labels = np.array([str(label) for label in given])
        if len(labels) != len(error):
            raise InputError(
                f"`groups[{grouping!r}]` must have one label per point, got {len(labels)} for {len(error)}; "
                "add the missing ones."
            )
        for label in np.unique(labels):
            inside = labels == label
            value = spearman(error[inside], std[inside])
            ranks.append(GroupRank(group=f"{grouping}={label}", n=int(inside.sum()), spearman=value))
    return tuple(ranks)


def _rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


def _values(name: str, given: ArrayLike, *, shape: tuple[int, ...] | None = None) -> Array:
    values = np.asarray(given, dtype=np.float64)
    if values.size == 0 or (shape is not None and values.shape != shape):
        raise InputError(
            f"`{name}` must have {'at least one value' if shape is None else f'the shape {shape} of the errors'}, got "
            f"shape {values.shape}; give one value per point."
        )
    if len(bad := np.argwhere(~np.isfinite(values))):
        index = tuple(int(i) for i in bad[0])
        raise InputError(f"`{name}` must be finite, got {values[index]} at index {index}; remove that structure.")
    return values
