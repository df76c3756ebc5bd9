"""What a calibration has to say in words: one sentence for each thing that one factor cannot mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ase_uq.arrays import Array
from ase_uq.validation.noisy_scale import NoisyScale
from ase_uq.validation.student_t import Method, inefficiency_in_order, scale_squared, scale_variance

POORLY_KNOWN = 0.2  # relative standard error of alpha from which on the user is told
ONE_SIDED = 0.9  # share of errors with one sign from which on an offset is suspected
DISAGREEMENT = 1.5  # ratio of two estimates of alpha from which on the model of one alpha is doubted
_FALSE_ALARMS = 0.05  # probability that kinds which want one factor are told apart, over all pairs of a grouping
_FEWEST_OF_A_KIND = 10
_FEWEST_SIGNS = 20
_CORRELATED = 2.0  # inefficiency along the file from which on the user is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found on the way to alpha; names as in `ase_uq.validation.calibration`."""

    z: Array
    alphas: Mapping[Method, float]
    scales: Mapping[Method, float]
    method: Method
    n_members: int | None
    noise: NoisyScale | None
    dof: float
    mean_share: float
    std_error: float | None
    n_masked: int
    values: str
    centred: str
    alpha_raw: float | None
    correlated: float
    one_composition: bool
    kinds: Mapping[str, NDArray[Any]]
    weights: Array


def sentences(f: Findings) -> Iterator[str]:
    """All of them, the gravest first."""
    yield from _scatter(f)
    yield from _constants(f)
    yield from _precision(f)
    yield from _one_factor(f)


def _scatter(f: Findings) -> Iterator[str]:
    squared = f.scales[f.method] - f.mean_share
    if squared < f.alphas[f.method] ** 2 * (1.0 - 1e-9):
        yield (
            f"The members scatter more than the errors explain (alpha^2 = {squared:.3g}); alpha was set to its "
            f"floor {f.alphas[f.method]:.2g}, 0.3 of the ratio of errors to spread. Are the validation structures part "
            "of the training set?"
        )
    if f.noise is not None and f.noise.at_floor:
        yield (
            "The noise of the model explains the errors without any spread of its members; alpha was set to its floor "
            f"{f.alphas[f.method]:.2g}, 0.3 of the ratio of errors to spread. Is the noise that of these labels?"
        )
    if f.n_masked:
        yield (
            f"{f.n_masked} of {f.n_masked + len(f.z)} {f.values} have no spread between members and were left out: "
            "zeros that symmetry forces."
        )


def _constants(f: Findings) -> Iterator[str]:
    alpha = f.alphas[f.method]
    if f.alpha_raw is not None and max(f.alpha_raw, alpha) > DISAGREEMENT * min(f.alpha_raw, alpha):
        whose = "the labels or the mean" if f.alpha_raw > alpha else "the members"
        yield (
            f"With the constants of each {f.centred} left in, alpha would be {f.alpha_raw:.2f} instead of {alpha:.2f}: "
            f"{whose} differ by constants, which cancel in forces and averages. Energies themselves carry them."
        )
    if not f.one_composition:
        yield "Too few structures share a composition to take out its constant; alpha contains the constants."
    n_one_sided = int(max((f.z > 0).sum(), (f.z < 0).sum()))
    if n_one_sided >= ONE_SIDED * len(f.z) and len(f.z) >= _FEWEST_SIGNS:
        yield (
            f"{n_one_sided} of {len(f.z)} errors have the same sign: an offset is being calibrated as if it were "
            "noise. Check the zero of the labels, and the domain."
        )


def _precision(f: Findings) -> Iterator[str]:
    alpha = f.alphas[f.method]
    if f.correlated > _CORRELATED:
        yield (
            f"Neighbouring {f.values} have correlated errors (one in {f.correlated:.0f} is independent), as in frames "
            "of one trajectory: alpha holds for what that trajectory visited."
        )
    if f.std_error is None:
        yield "All structures are of one group, so alpha has no error bar."
    elif f.std_error > POORLY_KNOWN * alpha:
        yield (
            f"alpha = {alpha:.2f} is known to ± {f.std_error:.2f} only; more independent validation structures "
            "would help."
        )
    if f.method == "moment" and f.n_members is not None and f.n_members < 6:
        yield f"With {f.n_members} members the moment estimate has no finite error bar; use the Student's t fit."


def _one_factor(f: Findings) -> Iterator[str]:
    if (f.n_members is None or f.n_members >= 6) and max(f.alphas.values()) > DISAGREEMENT * min(f.alphas.values()):
        yield (
            f"The two estimates of alpha differ ({f.alphas['student_t']:.2f} from the t fit, {f.alphas['moment']:.2f} "
            f"from the moment): one factor does not describe all of these {f.values}."
        )
    for grouping, labels in f.kinds.items():
        pairs = list(combinations(sorted(_scales_by_kind(f, labels), key=lambda kind: -kind[1]), 2))
        # Many pairs differ somewhere by chance: each is asked for more.
        significant = norm.isf(0.5 * _FALSE_ALARMS / max(len(pairs), 1))
        apart = [
            (high, low)
            for high, low in pairs
            if high[1] - low[1] > max(np.log(DISAGREEMENT), significant * np.hypot(high[2], low[2]))
        ]
        if apart:
            (most, top, _), (least, bottom, _) = max(apart, key=lambda pair: pair[0][1] - pair[1][1])
            yield (
                f"Kinds of {grouping} want different factors: errors of {most} are {np.exp(top):.2g} times the spread, "
                f"those of {least} {np.exp(bottom):.2g} times. One alpha fits neither; calibrate on what you will run."
            )


def _scales_by_kind(f: Findings, labels: NDArray[Any]) -> list[tuple[str, float, float]]:
    """Name, log c and its standard error of every kind with enough values."""
    found = []
    for label in np.unique(labels):
        inside = labels == label
        n = float(f.weights[inside].sum())
        if n < _FEWEST_OF_A_KIND:
            continue
        c_squared = scale_squared(f.z[inside] ** 2, dof=f.dof, weights=f.weights[inside])
        if c_squared > 0.0:
            correlated = max(f.correlated, inefficiency_in_order(f.z[inside], dof=f.dof))
            error = float(np.sqrt(correlated * scale_variance(n, dof=f.dof)))
            found.append((str(label), 0.5 * float(np.log(c_squared)), error))
    return found
