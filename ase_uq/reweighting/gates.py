"""When not to believe a reweighed average: every gate is a number, a limit and a sentence.

============================  ===========================================================
symbol                        variable
============================  ===========================================================
max_i sd(h_i)                 `max_std_h`, in units of kT
exp(-var h)                   share of frames that direct weights leave for Gaussian h
T/g                           `independent`, independent frames
T/(2 tau)                     `own`, `others`, tau being the slowest relaxation time seen
tr(P C)/(M - 1)               `noise`
delta                         `second_order`, the first neglected term
k                             `pareto_k`, shape of the tail of direct weights
(skew^2 + 1) / kurtosis       `bimodality`; 5/9 for a uniform density, 1 for two points
============================  ===========================================================

References
----------
Ceriotti, Brain, Riordan and Manolopoulos, Proc. R. Soc. A 468, 2 (2012): weights decay with the variance of h.
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 25.
Vehtari et al., J. Mach. Learn. Res. 25, 72 (2024), arXiv:1507.02646: limits of k.
Pfister, Schwarz, Janczyk, Dale and Freeman, Front. Psychol. 4, 700 (2013): the coefficient of bimodality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ase_uq.reweighting.gate import YES_OR_NO, Gate
from ase_uq.reweighting.pareto import limit as pareto_limit
from ase_uq.reweighting.statistics import MOST_SKEWED

DIRECT_STD_H = 1.0  # exp(-1): a third of the frames is left
CEA_STD_H = (1.0, 2.0)
GAP_STD_H = 2.0  # inside a bin
MODEL_FRAMES = 100.0  # T/g below which sampling noise is a large part of the members' spread
SAMPLING_FRAMES = 50.0  # T/g below which g itself is not known
OTHER_LENGTHS = 20.0  # the same of motions that may or may not be part of the observable
MATERIAL_SHARE = 1.0 / 3.0  # of the spread between members
SIGNIFICANT = 3.0  # standard errors
DRIVER_STD_H = 0.01  # kT; far above rounding, far below anything that moves an average
FLOAT32_STEP = 0.05  # kT
SHAPED_STD_H = 0.5  # kT; what is narrower moves no average, whatever its shape
SKEWNESS = 1.0  # kT, times sd(h): a third of the second cumulant then lies in the next one
BIMODALITY = 0.6
THIN_SHARE = 0.1  # of a member's weight in bins of fewer than `THIN_FRAMES`
THIN_FRAMES = 10.0
END_FRAMES = 60.0  # a bin at the end of the run's range that was widened until it held 20, and not one full of frames
END_RATIO = 3.0  # a member's share of it over the run's own
BLURRED_SHARE = 0.1
_UNRESOLVED = "share of sampling noise in the spread of members"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A correction per member that should be small: root mean squares of it, and of its ratio to its own error."""

    size: float
    significance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """The numbers the gates look at; what is `None` is not known and not judged.

    Attributes
    ----------
    method
        "cea", "direct" or "gap".
    n_members, n_frames
        M and T.
    independent
        Independent frames behind the reported mean, T/g, or what weights of a bias leave.
    own, others
        Length of the run over twice the slowest relaxation time: seen in the observable and its products with energy
        differences, and in the energy of the run, energy differences or the thermostat.
    plateau
        Whether blocking found one.
    max_std_h, std_mean_h
        Largest standard deviation of h_i along the run ("gap": inside bins), and that of the mean over members; kT.
    spread, noise, sampling
        Spread of the members' means (variance), the part of it that is sampling noise, and the sampling error.
    rare
        Skewness of the observable where it makes the sampling error uncertain.
    mean_shift
        Reported mean minus the plain average, where the two are the same quantity.
    ess
        Effective number of frames of direct reweighting.
    second_order, disagreement
        The first term that was left out, and expansion minus direct weights.
    energy_step
        Resolution of the energies handed in, kT.
    skewness, skewed_std_h, bimodality
        Of h_i, the worst members, and the width of the first; zero where h_i is narrow.
    pareto_k
        Shape of the tail of the weights, the worst member.
    negative
        How far below zero a member's mean lies although no frame does, in units of the spread.
    thin_share, blurred_share
        "gap": largest part of a member's weight in bins of few frames; part of the variance that lies inside bins.
    end_share
        "gap" of a scalar: largest part of a member's weight in the first or last bin, if it has few frames.
    weight_frames
        Kish's effective number of frames of the weights of a biased run.
    """

    method: str
    n_members: int
    n_frames: int
    independent: float
    plateau: bool
    max_std_h: float
    std_mean_h: float
    spread: float
    noise: float
    own: float = np.inf
    others: float = np.inf
    sampling: float = 0.0
    rare: float = 0.0
    mean_shift: float | None = None
    ess: float | None = None
    second_order: Discrepancy | None = None
    disagreement: Discrepancy | None = None
    energy_step: float = 0.0
    skewness: float = 0.0
    skewed_std_h: float = 0.0
    bimodality: float = 0.0
    pareto_k: float | None = None
    negative: float | None = None
    thin_share: float | None = None
    end_share: float | None = None
    blurred_share: float | None = None
    weight_frames: float | None = None


def gates_for(numbers: Diagnostics) -> tuple[Gate, ...]:
    """All gates, the most serious first."""
    n = numbers
    return (*_overlap(n), *_weights(n), *_expansion(n), *_shape(n), *_length(n), *_members(n))


def worst_of(entries: Sequence[tuple[Gate, ...]]) -> tuple[Gate, ...]:
    """Join the gates of the entries of a vector: of each kind the worst, with the number of entries it failed for.

    Where a shift goes through zero no model error is resolved: of a vector that is worth a word only for most entries.
    """
    joined = []
    for gates in zip(*entries, strict=True):
        worst = max(gates, key=lambda gate: (gate.failed, gate.severity))
        failed = [gate for gate in gates if gate.failed]
        if worst.name == _UNRESOLVED and 2 * len(failed) <= len(gates) > 1:
            worst, failed = replace(worst, failed=False), []
        if len(failed) > 0 and len({gate.sentence for gate in gates}) > 1:
            where = f" (That is the worst entry; the same holds for {len(failed)} of {len(gates)}.)"
            worst = replace(worst, sentence=worst.sentence + where)
        joined.append(worst)
    return tuple(joined)


def _at_most(name: str, value: float, limit: float, unit: str, sentence: str) -> Gate:
    return Gate(name, value, limit, unit, False, bool(value > limit), sentence)


def _at_least(name: str, value: float, limit: float, unit: str, sentence: str) -> Gate:
    return Gate(name, value, limit, unit, True, bool(value < limit), sentence)


def _overlap(n: Diagnostics) -> Iterator[Gate]:
    name = "members against the driving energy, sd of h"
    width = f"the energies of the members move against the driving energy by up to {n.max_std_h:.2g} kT along the run"
    if n.method == "gap":
        sentence = (
            f"inside a bin the energies of the members still move against the driving energy by up to "
            f"{n.max_std_h:.2g} kT (limit {GAP_STD_H:g} kT): the mean gap holds only where that width is the same in "
            "all bins; take a collective variable that follows the disagreement."
        )
        yield _at_most(
            "members against the driving energy inside a bin, sd of h", n.max_std_h, GAP_STD_H, "kT", sentence
        )
    elif n.method == "direct":
        sentence = (
            f"{width}, so that direct weights keep about {np.exp(-(n.max_std_h**2)):.2g} of the frames (limit "
            f"{DIRECT_STD_H:g} kT): these averages are not reliable; use method 'cea'."
        )
        yield _at_most(name, n.max_std_h, DIRECT_STD_H, "kT", sentence)
    elif n.max_std_h > CEA_STD_H[1]:
        sentence = (
            f"{width} (limit {CEA_STD_H[1]:g} kT): the cumulant expansion holds only if observable and energies are "
            "jointly Gaussian; distrust `std_model` for anything else."
        )
        yield _at_most(name, n.max_std_h, CEA_STD_H[1], "kT", sentence)
    else:
        sentence = (
            f"{width} (limit {CEA_STD_H[0]:g} kT): the cumulant expansion is good only as far as observable and "
            "energies are close to jointly Gaussian."
        )
        yield _at_most(name, n.max_std_h, CEA_STD_H[0], "kT", sentence)


def _weights(n: Diagnostics) -> Iterator[Gate]:
    if n.weight_frames is not None:
        sentence = (
            f"the weights of the biased run leave only {n.weight_frames:.3g} effective frames (fewer than "
            f"{SAMPLING_FRAMES:g}): a few frames decide the average; run longer or bias less."
        )
        yield _at_least("frames that the bias leaves", n.weight_frames, SAMPLING_FRAMES, "", sentence)
    if n.method != "direct":
        return
    if n.ess is not None:
        sentence = (
            f"direct weights leave only {n.ess:.3g} effective frames (fewer than {SAMPLING_FRAMES:g}): "
            "a few frames decide the average; use method 'cea' or run longer."
        )
        yield _at_least("effective frames of direct weights (Kish)", n.ess, SAMPLING_FRAMES, "", sentence)
    if n.pareto_k is not None and np.isfinite(n.pareto_k):
        most = pareto_limit(n.n_frames)
        sentence = (
            f"the tail of the direct weights is heavy (Pareto k = {n.pareto_k:.2f}, limit {most:.2f}): the average "
            "rests on the largest few, and its error bar too; use method 'cea'."
        )
        yield _at_most("tail of the direct weights, Pareto k", n.pareto_k, most, "", sentence)


def _expansion(n: Diagnostics) -> Iterator[Gate]:
    spread = float(np.sqrt(n.spread))
    if n.method in ("cea", "gap") and n.second_order is not None:
        what = "cumulant expansion" if n.method == "cea" else "expansion inside the bins"
        sentence = (
            f"the next term of the {what} shifts the members by {n.second_order.size:.2g}, against a "
            f"spread of {spread:.2g} between them: the expansion has not converged for this observable."
        )
        yield _correction("next term of the expansion against the error", n.second_order, n, sentence)
    if n.method in ("cea", "gap") and n.disagreement is not None:
        what, cure = (
            ("cumulant expansion", "(several states?); use method 'gap', or treat each state by itself.")
            if n.method == "cea"
            else (
                "mean gaps",
                "inside the bins; use method 'direct', or a collective variable that tells states apart.",
            )
        )
        sentence = (
            f"{what} and direct weights differ by {n.disagreement.size:.2g} per member, against a spread of "
            f"{spread:.2g} and {n.disagreement.significance:.0f} times their sampling error, although enough frames "
            f"carry weight: the energies are not Gaussian {cure}"
        )
        yield _correction("expansion minus direct weights against the error", n.disagreement, n, sentence)
    if n.negative is not None:
        sentence = (
            f"a member's mean is negative by {n.negative:.2g} times the spread although no frame is: the expansion "
            "cannot describe so rare an event; never take its logarithm, and use method 'gap'."
        )
        yield _at_most("mean below zero where no frame is, in spreads", n.negative, 0.0, "", sentence)
    if n.thin_share is not None:
        sentence = (
            f"{n.thin_share:.0%} of a member's weight lies in bins of fewer than {THIN_FRAMES:g} frames (limit "
            f"{THIN_SHARE:.0%}): the run hardly visits what that member prefers; sample there, with a bias."
        )
        yield _at_most("weight in bins of few frames", n.thin_share, THIN_SHARE, "", sentence)
    if n.end_share is not None:
        sentence = (
            f"{n.end_share:.0%} of a member's weight lies in a few frames at the end of the range of the run (limit "
            f"{THIN_SHARE:.0%}): that member goes where the run does not; sample there, with a bias."
        )
        yield _at_most("weight at the end of the run's range", n.end_share, THIN_SHARE, "", sentence)
    if n.blurred_share is not None:
        sentence = (
            f"{n.blurred_share:.0%} of the variance of the observable lies inside the bins (limit "
            f"{BLURRED_SHARE:.0%}), where the mean gap sees no difference: about that share of every shift is lost; "
            "run longer for narrower bins, or use method 'cea'."
        )
        yield _at_most("variance inside the bins", n.blurred_share, BLURRED_SHARE, "", sentence)


def _correction(name: str, found: Discrepancy, n: Diagnostics, sentence: str) -> Gate:
    # What is significant but small against the whole error changes no bar; what is large but insignificant is noise.
    error = float(np.hypot(np.sqrt(n.spread), n.sampling))
    exceeds_noise = found.significance > SIGNIFICANT
    ratio = found.size / error if error > 0 and exceeds_noise else 0.0
    failed = exceeds_noise and found.size > MATERIAL_SHARE * error
    return Gate(f"{name}, where above its noise", ratio, MATERIAL_SHARE, "", False, bool(failed), sentence)


def _shape(n: Diagnostics) -> Iterator[Gate]:
    if n.method == "gap":
        return
    sentence = (
        f"the energies of a member are skewed against the driving energy (skewness {n.skewness:.2g} at a width of "
        f"{n.skewed_std_h:.2g} kT): they are far from Gaussian, and the cumulant expansion may miss their tail; "
        "compare with method 'direct', or use 'gap' along a collective variable."
    )
    yield _at_most("skewness of h, times its width", abs(n.skewness) * n.skewed_std_h, SKEWNESS, "kT", sentence)
    sentence = (
        f"the energies of a member form two groups against the driving energy (coefficient of bimodality "
        f"{n.bimodality:.2f}, limit {BIMODALITY:g}): the run moves between two states that members weigh differently; "
        "use method 'gap', or treat each state by itself."
    )
    yield _at_most("two groups in h, coefficient of bimodality", n.bimodality, BIMODALITY, "", sentence)


def _length(n: Diagnostics) -> Iterator[Gate]:
    independent = n.independent
    length = min(independent, n.own)
    motion = (
        "" if length == independent else ", of the slowest motion in the observable or in its product with an energy"
    )
    sentence = (
        f"the run is only {length:.3g} correlation lengths long (fewer than {SAMPLING_FRAMES:g}){motion}: "
        "`std_sampling` is itself a rough lower estimate; run longer."
    )
    yield _at_least("length of the run in correlation lengths", length, SAMPLING_FRAMES, "", sentence)
    sentence = (
        f"the energies or the thermostat relax so slowly that the run is only {n.others:.3g} of their correlation "
        f"lengths long (fewer than {OTHER_LENGTHS:g}): what follows them is missing from `std_sampling`; run longer."
    )
    yield _at_least("length of the run for the slowest energy", n.others, OTHER_LENGTHS, "", sentence)
    sentence = (
        f"a few rare events carry most of the variance (skewness {n.rare:.2g} of averages over short blocks, limit "
        f"{MOST_SKEWED:g}): `std_sampling` knows nothing of those that have not happened yet; run longer."
    )
    yield _at_most("skewness of the observable", n.rare, MOST_SKEWED, "", sentence)
    sentence = (
        f"blocking finds no plateau in {n.n_frames} frames: blocks are still correlated, and `std_sampling` is a "
        "lower bound; run longer."
    )
    yield _at_least("blocking has a plateau", float(n.plateau), 1.0, YES_OR_NO, sentence)
    share = min(n.noise / n.spread, 1.0) if n.spread > 0 else 0.0
    sentence = (
        f"there are only {independent:.3g} independent frames (fewer than {MODEL_FRAMES:g}): much of the spread "
        f"between members may be sampling noise (estimated share of its variance: {share:.0%})."
    )
    yield _at_least("independent frames for the model error", independent, MODEL_FRAMES, "", sentence)


def _members(n: Diagnostics) -> Iterator[Gate]:
    sentence = (
        f"the members' means spread by {np.sqrt(n.spread):.2g} where sampling noise alone gives "
        f"{np.sqrt(n.noise):.2g}: the model error is not resolved; take {np.sqrt(n.spread):.2g} as an upper bound."
    )
    share = min(n.noise / n.spread, 1.0) if n.spread > 0 else 0.0
    unresolved = 0 < n.spread <= 2.0 * n.noise
    yield Gate(_UNRESOLVED, share, 0.5, "", False, unresolved, sentence)
    shift = (
        "" if n.mean_shift is None else f", and the reported mean is {n.mean_shift:+.2g} away from the plain average"
    )
    sentence = (
        f"the mean of the members is not the energy that drove the run: they move against each other by "
        f"{n.std_mean_h:.2g} kT{shift}."
    )
    yield _at_most("mean of the members against the driving energy", n.std_mean_h, DRIVER_STD_H, "kT", sentence)
    sentence = (
        f"the spread of {n.n_members} members is known to {1 / np.sqrt(2 * (n.n_members - 1)):.0%} at best: "
        "use at least 4 members."
    )
    yield _at_least("members", n.n_members, 4, "", sentence)
    sentence = (
        f"the energies came in single precision, which resolves them to {n.energy_step:.2g} kT: "
        "pass them in double precision, or their differences from the driving energy."
    )
    yield _at_most("resolution of the energies", n.energy_step, FLOAT32_STEP, "kT", sentence)
